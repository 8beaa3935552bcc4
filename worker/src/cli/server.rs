//! The running job's side of the control socket.

use crate::cli::place::Place;
use crate::cli::savepoint;
use crate::cli::socket::{self, Request, Response, Socket};
use crate::cli::view::{Doing, View};
use millrace_connectors::DeadLetterFile;
use millrace_engine::coordinator::StopMode;
use millrace_engine::job::Handle;
use millrace_engine::runtime::source::wall_clock;
use millrace_engine::store::Opener;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a savepoint that is being taken is looked for.
const POLL: Duration = Duration::from_millis(30);
/// How long the process stays to tell others how it ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// A job in this process: what it is asked, and how it is looked at.
pub struct Running {
    handle: Handle,
    name: String,
    storage: Option<String>,
    opener: Arc<dyn Opener>,
    dead_letters: Arc<DeadLetterFile>,
    begun: Instant,
    stopping: AtomicBool,
    over: AtomicBool,
    ending: Mutex<Ending>,
    changed: Condvar,
}

#[derive(Default)]
struct Ending {
    /// How the job ended.
    outcome: Option<Result<String, String>>,
    /// Connections that wait for an answer.
    waiting: usize,
}

impl Running {
    /// A job that is about to run.
    pub fn new(
        handle: Handle,
        name: &str,
        storage: Option<String>,
        opener: Arc<dyn Opener>,
        dead_letters: Arc<DeadLetterFile>,
    ) -> Self {
        Self {
            handle,
            name: name.to_owned(),
            storage,
            opener,
            dead_letters,
            begun: Instant::now(),
            stopping: AtomicBool::new(false),
            over: AtomicBool::new(false),
            ending: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The job now.
    pub fn view(&self) -> View {
        let now = Instant::now();
        let mut view = View::of(self.handle.status(), now);
        view.name.clone_from(&self.name);
        view.storage.clone_from(&self.storage);
        view.process = std::process::id();
        view.at_ms = wall_clock();
        view.up_ms = u64::try_from((now - self.begun).as_millis()).unwrap_or(u64::MAX);
        view.dead_letters = self.dead_letters.count();
        if self.stopping.load(Ordering::Relaxed) {
            view.state = Doing::Stopping;
        }
        if self.over.load(Ordering::Relaxed) {
            view.state = Doing::Ended;
        }
        view
    }

    /// It no longer runs.
    pub fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Stops it with a last checkpoint; whether it was asked for the first time.
    pub fn stop(&self, mode: StopMode) -> bool {
        let first = !self.stopping.swap(true, Ordering::Relaxed);
        if first {
            self.handle.stop(mode);
        }
        first
    }

    fn ending(&self) -> MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has ended: tells who waits for that, and stays until they know.
    pub fn ended(&self, outcome: Result<String, String>) {
        self.ending().outcome = Some(outcome);
        self.changed.notify_all();
        let ending = self.ending();
        let wait = self.changed.wait_timeout_while(ending, FAREWELL, |e| e.waiting > 0);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    fn take(&self, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(Box::new(self.view())),
            Request::Stop { drain } => {
                self.stop(if drain { StopMode::Drain } else { StopMode::Suspend });
                let ending = self.ending();
                let wait = self.changed.wait_while(ending, |e| e.outcome.is_none());
                match wait.unwrap_or_else(PoisonError::into_inner).outcome.clone() {
                    Some(Ok(how)) => Response::Stopped(how),
                    Some(Err(why)) => Response::Failed(why),
                    None => Response::Failed("the job's end is unknown".to_owned()),
                }
            }
            Request::Savepoint { id, target } => self.savepoint(&id, target),
        }
    }

    fn savepoint(&self, id: &str, target: String) -> Response {
        let target = Place { location: target, opener: Arc::clone(&self.opener) };
        // Before it is asked for: what ends after this is an answer.
        let before = self.handle.status();
        match savepoint::existing(id, &target, before.job.as_ref()) {
            Ok(Some(path)) => return Response::Savepoint(path),
            Ok(None) => {}
            Err(why) => return Response::Refused(why),
        }
        self.handle.savepoint(id, Path::new(&target.location));
        loop {
            let ended = self.ending().outcome.is_some();
            let status = self.handle.status();
            let new = status.savepoints.into_iter().skip(before.savepoints.len());
            if let Some((_, result)) = new.into_iter().find(|(ended, _)| ended == id) {
                return match result {
                    Ok(path) => Response::Savepoint(path),
                    Err(why) => Response::Failed(why),
                };
            }
            if ended {
                let why = "the job ended before the savepoint was taken: ask again with the \
                           same id, which exports its last checkpoint";
                return Response::Failed(why.to_owned());
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Answers what comes in on the socket, until the process ends.
pub fn serve(running: &Arc<Running>, storage: &Path) -> io::Result<Socket> {
    let (socket, listener) = Socket::bind(storage)?;
    let running = Arc::clone(running);
    let thread = std::thread::Builder::new().name("millrace-control".to_owned());
    thread.spawn(move || accept(&running, &listener))?;
    Ok(socket)
}

fn accept(running: &Arc<Running>, listener: &UnixListener) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of file descriptors, say: not a reason to spin.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let running = Arc::clone(running);
        let thread = std::thread::Builder::new().name("millrace-asked".to_owned());
        if let Err(error) = thread.spawn(move || converse(&running, &stream)) {
            tracing::warn!(%error, "cannot answer on the control socket");
        }
    }
}

fn converse(running: &Running, stream: &UnixStream) {
    running.ending().waiting += 1;
    let response = match socket::read_request(stream) {
        Ok(Some(request)) => Some(running.take(request)),
        Ok(None) => None,
        Err(error) => Some(Response::Refused(format!("not a request: {error}"))),
    };
    // Who has asked may be gone.
    let _ = response.map(|response| socket::answer(stream, &response));
    running.ending().waiting -= 1;
    running.changed.notify_all();
}
