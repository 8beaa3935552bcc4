//! What a process in a pod does besides: it leaves with a checkpoint when it is told to go.

use millrace_cluster::process::Process;
use millrace_engine::coordinator::{Event, JobState};
use millrace_engine::job::Handle;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Kubernetes' grace, less what it takes to end.
const GRACE: Duration = Duration::from_secs(50);
const POLL: Duration = Duration::from_millis(50);

/// Ends the process that leads a job when it is told to: at once if no task runs, else when
/// a checkpoint is complete, so that little is read again.
pub fn leave_with_checkpoint(handle: Handle) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM])?;
    let thread = std::thread::Builder::new().name("millrace-signals".to_owned());
    thread.spawn(move || {
        let _ = signals.forever().next();
        tracing::info!("told to go: taking a checkpoint first");
        let begun = Instant::now();
        let newest = |handle: &Handle| -> Option<(JobState, u64)> {
            let (tell, told) = sync_channel(1);
            handle.look(move |status| {
                let newest = status.last_checkpoint.map_or(0, |(report, _)| report.checkpoint.0);
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

/// Serves whoever leads the job until this process is told to go, and has left behind a
/// checkpoint if it runs tasks.
pub fn serve_until_told(process: Process) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM])?;
    let leaving = process.leaving();
    process.serve(move || {
        let _ = signals.forever().next();
        leaving.ask();
        let begun = Instant::now();
        while !leaving.may_go() && begun.elapsed() < GRACE {
            std::thread::sleep(POLL);
        }
    });
    Ok(())
}
