//! What a process in a pod does besides: it leaves with a checkpoint when it is told to go,
//! and ends itself when it is stuck.

use millrace_cluster::process::Process;
use millrace_engine::coordinator::{Event, JobState};
use millrace_engine::job::Handle;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Kubernetes' grace, less what it takes to end.
const GRACE: Duration = Duration::from_secs(50);
const POLL: Duration = Duration::from_millis(50);

/// Between two looks of the watchdog, and how long one may take.
const WATCH: Duration = Duration::from_secs(5);
const STUCK: Duration = Duration::from_secs(30);

/// Being told to go. Made before anything else: the first process of a container does not
/// hear of a signal that came before it listened, and no second one follows.
pub struct Told(Signals);

impl Told {
    /// Listens.
    pub fn listen() -> std::io::Result<Self> {
        Signals::new([SIGTERM]).map(Self)
    }

    fn wait(&mut self) {
        let _ = self.0.forever().next();
    }
}

/// Ends the process that leads a job when it is told to: at once if no task runs, else when
/// a checkpoint is complete, so that little is read again.
pub fn leave_with_checkpoint(handle: Handle, mut told: Told) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("millrace-signals".to_owned());
    thread.spawn(move || {
        told.wait();
        tracing::info!("told to go: taking a checkpoint first");
        let begun = Instant::now();
        let newest = |handle: &Handle| -> Option<(JobState, u64)> {
            let (tell, told) = sync_channel(1);
            handle.look(move |status| {
                let newest = status.last_checkpoint.map_or(0, |report| report.checkpoint.0);
                let _ = tell.send((status.state, newest));
            });
            told.recv_timeout(Duration::from_secs(1)).ok()
        };
        let Some((mut state, before)) = newest(&handle) else { std::process::exit(0) };
        handle.event(Event::RequestCheckpoint);
        let mut now = before;
        while state == JobState::Running && now == before && begun.elapsed() < GRACE {
            std::thread::sleep(POLL);
            (state, now) = newest(&handle).unwrap_or((JobState::Stopping, now));
        }
        std::process::exit(0);
    })?;
    Ok(())
}

/// Ends the process if who leads the job in it does not answer for long: nobody else could
/// tell, and whoever watches over the process starts it again.
pub fn watch_over(handle: Handle) -> std::io::Result<()> {
    std::thread::Builder::new().name("millrace-watchdog".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(WATCH);
            let (tell, told) = sync_channel(1);
            handle.look(move |_| {
                let _ = tell.send(());
            });
            match told.recv_timeout(STUCK) {
                Ok(()) => {}
                // The job has ended.
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::error!(
                        "the coordinator is stuck for {STUCK:?}: the process ends itself"
                    );
                    std::process::abort();
                }
            }
        }
    })?;
    Ok(())
}

/// Serves whoever leads the job until this process is told to go, and has left behind a
/// checkpoint if it runs tasks.
pub fn serve_until_told(process: Process, mut told: Told) {
    let mut leaving = process.leaving();
    process.serve(move || {
        told.wait();
        leaving.ask();
        let begun = Instant::now();
        while !leaving.may_go() && begun.elapsed() < GRACE {
            std::thread::sleep(POLL);
        }
    });
}
