//! `run --workers N`: starts the processes of a job on this machine and watches over them as
//! Kubernetes would. A process that dies is started again; everything else is the job's own
//! affair.

use crate::cli::cluster::files::Files;
use crate::cli::options::RunOptions;
use crate::cli::place::Place;
use crate::cli::progress::Progress;
use crate::cli::savepoint::look;
use crate::cli::screen::Screen;
use crate::cli::trouble::Trouble;
use crate::cli::view::{Doing, View};
use crate::cli::{FAILED, USER_ERROR, run};
use millrace_cluster::token::Token;
use millrace_engine::coordinator::RestoreChoice;
use millrace_protocol::config::{
    CONFIG_FORMAT, CheckpointSettings, DesiredState, ExchangeSecurity, Live, OnExistingState,
    RestartSettings, RestoreFrom, Revision,
};
use millrace_protocol::ids::JobUid;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How often processes are looked after.
const POLL: Duration = Duration::from_millis(20);
/// How often the wanted number is looked for.
const WANTED: Duration = Duration::from_millis(200);
/// How long a process may take to leave when it is told to.
const LEAVE: Duration = Duration::from_secs(40);
/// A process that lived so long is started again at once.
const SOUND: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs the job in `workers` processes until it ends.
pub fn supervise(options: &RunOptions, screen: &Screen, workers: u16) -> Result<(), Trouble> {
    let scratch = run::Scratch::new(options, &crate::cli::program_name());
    let place = match &options.storage {
        Some(location) => Place::new(location, &options.server).absolute()?,
        None => Place::from(scratch.directory()),
    };
    let here = place.here();
    std::fs::create_dir_all(&here)
        .map_err(|e| Trouble::user(format!("cannot make {}: {e}", here.display())))?;
    let storage = here.canonicalize().map_err(Trouble::failed)?;
    let files = Files::of(&storage);
    let (revision, live) = configuration(options, &place, workers)?;
    files.write(&revision, &live, &Token::random())?;
    if options.storage.is_none() {
        tracing::info!(
            directory = %storage.display(),
            "state is kept only while the job runs; --storage DIR keeps it"
        );
    }
    let program = std::env::current_exe().map_err(Trouble::failed)?;
    let mut watcher = Watcher {
        program,
        files,
        arguments: std::env::args().skip(1).collect(),
        workers: Vec::new(),
        looked: Instant::now(),
        storage: storage.clone(),
        stopping: false,
        location: place.location.clone(),
        heartbeat_timeout: options.heartbeat_timeout,
        led: false,
    };
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Trouble::failed)?;
    let seen = storage.clone();
    let view = move || look(&seen).ok().flatten().unwrap_or_else(|| starting(&seen));
    let progress = Progress::start(options.progress, screen.clone(), view)
        .map_err(|e| Trouble::failed(format!("cannot start a thread: {e}")))?;
    watcher.want(usize::from(workers));
    let end = loop {
        for signal in signals.pending() {
            if watcher.stopping {
                screen.leave();
                watcher.kill();
                drop(scratch);
                std::process::exit(128 + signal);
            }
            tracing::info!("stopping with a last checkpoint; once more to exit at once");
            watcher.stop();
        }
        if let Some(end) = watcher.look_after() {
            break end;
        }
        std::thread::sleep(POLL);
    };
    drop(progress);
    watcher.leave();
    watcher.files.remove();
    match end.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(USER_ERROR) => {
            Err(Trouble::user("the job cannot run: see above"))
        }
        _ => Err(Trouble::failed("the job failed: see above")),
    }
}

/// What is shown while nobody answers.
fn starting(storage: &Path) -> View {
    View {
        name: crate::cli::program_name(),
        storage: Some(storage.display().to_string()),
        process: std::process::id(),
        state: Doing::Starting,
        ..View::default()
    }
}

fn absolute(directory: &Path) -> Result<String, Trouble> {
    let bad = |why: &str| Trouble::user(format!("cannot use {}: {why}", directory.display()));
    let absolute = std::path::absolute(directory).map_err(|error| bad(&error.to_string()))?;
    absolute.to_str().map(str::to_owned).ok_or_else(|| bad("its name is not UTF-8"))
}

fn configuration(
    options: &RunOptions,
    place: &Place,
    workers: u16,
) -> Result<(Revision, Live), Trouble> {
    options.state.check()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = options
        .parallelism
        .unwrap_or_else(|| workers.max(u16::try_from(cores).unwrap_or(u16::MAX)));
    let slots = options.slots_per_worker.unwrap_or_else(|| wanted.div_ceil(workers));
    if u32::from(wanted) > u32::from(slots) * u32::from(workers) {
        return Err(Trouble::user(format!(
            "{workers} workers of {slots} slots cannot run a parallelism of {wanted}: give more \
             --workers, more --slots-per-worker, or a lower --parallelism"
        )));
    }
    let exchange = match &options.exchange_tls {
        None => ExchangeSecurity::Plaintext,
        Some(directory) => ExchangeSecurity::Mutual { directory: absolute(directory)? },
    };
    let revision = Revision {
        format: CONFIG_FORMAT,
        name: crate::cli::program_name(),
        job: JobUid(format!("{:016x}", fastrand::u64(..))),
        cluster: String::new(),
        args: Vec::new(),
        max_parallelism: options.max_parallelism,
        slots_per_worker: slots,
        storage: place.storage(),
        backend: options.state.backend.into(),
        exchange,
        drop_state: Vec::new(),
        on_existing_state: OnExistingState::Resume,
    };
    let generation = u64::try_from(millrace_engine::runtime::source::wall_clock()).unwrap_or(0);
    // Obeyed once: the number grows with every run.
    let restore = match run::origin(&options.from, place.opener.as_ref())? {
        RestoreChoice::Latest => None,
        RestoreChoice::None => Some(RestoreFrom { nonce: generation, path: None }),
        RestoreChoice::Path(path) => Some(RestoreFrom { nonce: generation, path: Some(path) }),
    };
    let live = Live {
        format: CONFIG_FORMAT,
        // Above that of every earlier run.
        generation,
        revision: revision.hash().map_err(Trouble::failed)?,
        workers,
        parallelism: wanted,
        desired: DesiredState::Running,
        checkpoint: CheckpointSettings::default(),
        restart: RestartSettings::default(),
        restore,
        begun: false,
    };
    Ok((revision, live))
}

/// A process to be.
struct Kept {
    child: Option<Child>,
    begun: Instant,
    pause: Duration,
    next: Instant,
    /// It is told to go, and not started again.
    leaving: bool,
}

struct Watcher {
    program: PathBuf,
    files: Files,
    arguments: Vec<String>,
    /// By ordinal.
    workers: Vec<Kept>,
    looked: Instant,
    storage: PathBuf,
    stopping: bool,
    /// The storage as its user wrote it, a path made absolute.
    location: String,
    /// Silence of a process for so long means that it is lost.
    heartbeat_timeout: Option<Duration>,
    /// Whether a process has led the job before.
    led: bool,
}

impl Watcher {
    /// More processes, up to `count`.
    fn want(&mut self, count: usize) {
        let now = Instant::now();
        for kept in self.workers.iter_mut().take(count) {
            kept.leaving = false;
        }
        while self.workers.len() < count {
            self.workers.push(Kept {
                child: None,
                begun: now,
                pause: FIRST_PAUSE,
                next: now,
                leaving: false,
            });
        }
    }

    /// Starts what is missing. How the job ended, if the process that leads it said so.
    fn look_after(&mut self) -> Option<ExitStatus> {
        let now = Instant::now();
        for ordinal in 0..self.workers.len() {
            if let Some(end) = self.reap(ordinal, now) {
                return Some(end);
            }
            let kept = &self.workers[ordinal];
            if kept.child.is_none() && !kept.leaving && now >= kept.next {
                self.begin(ordinal, now);
            }
        }
        if now.duration_since(self.looked) >= WANTED && !self.stopping {
            self.looked = now;
            self.follow();
        }
        None
    }

    fn reap(&mut self, ordinal: usize, now: Instant) -> Option<ExitStatus> {
        let kept = &mut self.workers[ordinal];
        let status = match kept.child.as_mut()?.try_wait() {
            Ok(status) => status?,
            Err(error) => {
                tracing::error!(worker = ordinal, %error, "cannot look after a process");
                return None;
            }
        };
        kept.child = None;
        let said = [0, i32::from(FAILED), i32::from(USER_ERROR)];
        if ordinal == 0 && status.code().is_some_and(|code| said.contains(&code)) {
            return Some(status);
        }
        if status.code() == Some(i32::from(USER_ERROR)) {
            return Some(status);
        }
        if !kept.leaving {
            if now.duration_since(kept.begun) >= SOUND {
                kept.pause = FIRST_PAUSE;
            }
            kept.next = now + kept.pause;
            tracing::warn!(worker = ordinal, %status, "a process died and is started again");
            kept.pause = (kept.pause * 2).min(LONGEST_PAUSE);
        }
        None
    }

    fn begin(&mut self, ordinal: usize, now: Instant) {
        let mut command = Command::new(&self.program);
        command.arg("worker").arg("--index").arg(ordinal.to_string());
        command.arg("--config").arg(self.files.revision());
        command.arg("--live").arg(self.files.live());
        command.arg("--token-file").arg(self.files.token());
        command.arg("--leader-file").arg(self.files.leader());
        if ordinal == 0 && std::mem::replace(&mut self.led, true) {
            // The process before it is known to be dead.
            command.arg("--confirmed");
        }
        command.arg("--storage-location").arg(&self.location);
        command.args(["--listen", "127.0.0.1:0", "--exchange", "127.0.0.1:0", "--supervised"]);
        let arguments = serde_json::to_string(&self.arguments).unwrap_or_default();
        if let Some(timeout) = self.heartbeat_timeout {
            command.arg("--heartbeat-timeout").arg(format!("{}ms", timeout.as_millis()));
        }
        command.arg("--run-arguments").arg(arguments);
        // Ctrl-C is for this process, which passes on what it means.
        command.process_group(0);
        let kept = &mut self.workers[ordinal];
        kept.begun = now;
        match command.spawn() {
            Ok(child) => kept.child = Some(child),
            Err(error) => {
                tracing::error!(worker = ordinal, %error, "cannot start a process");
                kept.next = now + kept.pause;
            }
        }
    }

    /// Follows the wanted number: more at once, fewer when none of those above it is used.
    fn follow(&mut self) {
        let Ok(live) = self.files.read_live() else { return };
        let wanted = usize::from(live.workers);
        if wanted > self.workers.iter().filter(|kept| !kept.leaving).count() {
            return self.want(wanted);
        }
        if self.workers.iter().skip(wanted).all(|kept| kept.leaving) {
            return;
        }
        let Ok(Some(view)) = look(&self.storage) else { return };
        let used = view.workers.iter().any(|w| usize::from(w.ordinal) >= wanted && w.used > 0);
        if view.generation.is_some_and(|g| g >= live.generation) && !used {
            for kept in self.workers.iter_mut().skip(wanted) {
                kept.leaving = true;
                signal(kept.child.as_ref(), Signal::TERM);
            }
        }
    }

    /// Asks the process that leads the job to stop with a last checkpoint.
    fn stop(&mut self) {
        self.stopping = true;
        signal(self.workers.first().and_then(|kept| kept.child.as_ref()), Signal::TERM);
    }

    /// Ends what is left, with patience.
    fn leave(&mut self) {
        for kept in &mut self.workers {
            kept.leaving = true;
            signal(kept.child.as_ref(), Signal::TERM);
        }
        let begun = Instant::now();
        for child in self.workers.iter_mut().filter_map(|kept| kept.child.as_mut()) {
            while begun.elapsed() < LEAVE && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(POLL);
            }
        }
        self.kill();
    }

    fn kill(&mut self) {
        for kept in &mut self.workers {
            if let Some(child) = &mut kept.child {
                // One that has ended is no error.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn signal(child: Option<&Child>, signal: Signal) {
    let pid = child.and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::warn!(%error, "cannot signal a process");
    }
}
