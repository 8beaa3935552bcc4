//! Processes of their own: this program, started again as one of a job's.

use super::*;
use millrace_cluster::process::Process;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What tells a process that it is one of a job's: ordinal, workers, and the job's directory.
const PART: &str = "MILLRACE_TEST_PART";

/// No test, but the main function of such a process.
#[test]
fn a_process_of_a_job() {
    let Ok(part) = std::env::var(PART) else { return };
    let words: Vec<&str> = part.splitn(3, ' ').collect();
    let (ordinal, workers) = (words[0].parse().unwrap(), words[1].parse().unwrap());
    let place = PathBuf::from(words[2]);
    end_with_parent();
    let leader = place.join("leader");
    let storage = place.join("storage");
    let spec = spec(&storage, (ordinal, workers), Leader::In(leader.clone()));
    let process = Process::start(spec).unwrap();
    publish(&metrics_of(&place, ordinal), &process.metrics().unwrap().to_string());
    if ordinal != 0 {
        return process.serve(|| std::thread::sleep(Duration::MAX));
    }
    let address = process.address().to_owned();
    publish(&leader, &address);
    let ended = process.lead(lead(workers, &address));
    panic!("it stays until it is killed: {ended:?}");
}

/// The file in which a process says where it tells whether its tasks run.
fn metrics_of(place: &Path, ordinal: u16) -> PathBuf {
    place.join(format!("metrics-{ordinal}"))
}

/// A file that is there whole or not at all.
fn publish(path: &Path, text: &str) {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).unwrap();
    std::fs::rename(&partial, path).unwrap();
}

/// What stands in a file that another process publishes.
async fn published(path: &Path) -> String {
    let begun = Instant::now();
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) => return text,
            Err(error) => assert!(begun.elapsed() < LONG, "no {}: {error}", path.display()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whoever kills a test leaves no processes behind.
fn end_with_parent() {
    let parent = std::os::unix::process::parent_id();
    std::thread::spawn(move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(Duration::from_millis(200));
        }
        std::process::exit(1);
    });
}

struct Part {
    child: Child,
    /// See [`metrics_of`].
    metrics: PathBuf,
}

impl Part {
    /// Where it tells whether its tasks run.
    async fn metrics(&self) -> SocketAddr {
        published(&self.metrics).await.parse().unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Job {
    parts: Vec<Part>,
    control: Control,
    begun: api::Status,
    place: tempfile::TempDir,
}

fn start(place: &Path, ordinal: u16, workers: u16) -> Part {
    let metrics = metrics_of(place, ordinal);
    // There may be one of a process whose place it takes.
    let _ = std::fs::remove_file(&metrics);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "processes::a_process_of_a_job", "--nocapture"]);
    command.env(PART, format!("{ordinal} {workers} {}", place.display()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    Part { child, metrics }
}

async fn job(workers: u16) -> Job {
    let place = tempfile::tempdir().unwrap();
    let parts: Vec<Part> =
        (0..workers).map(|ordinal| start(place.path(), ordinal, workers)).collect();
    let address = published(&place.path().join("leader")).await;
    let mut control = Control::of(&address);
    let begun = control.runs_after(0).await;
    Job { parts, control, begun, place }
}

impl Job {
    /// These processes are those that they were, and live.
    fn are_the_same(&mut self, status: &api::Status, ordinals: &[u16]) {
        for ordinal in ordinals {
            let before = nonce(&self.begun, u32::from(*ordinal));
            assert_eq!(nonce(status, u32::from(*ordinal)), before, "worker {ordinal}");
            let ended = self.parts[usize::from(*ordinal)].child.try_wait().unwrap();
            assert_eq!(ended, None, "worker {ordinal} has ended");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_live_are_used_again_when_another_was_killed() {
    let mut job = job(3).await;
    job.parts[2].child.kill().unwrap();
    job.parts[2].child.wait().unwrap();
    let waits = |s: &api::Status| s.state() == api::State::WaitingForWorkers;
    job.control.until("it waits", waits).await;
    job.parts[2] = start(job.place.path(), 2, 3);
    let again = job.control.runs_after(job.begun.attempt).await;
    assert_ne!(nonce(&again, 2), nonce(&job.begun, 2));
    assert_eq!(again.restarts, 1);
    job.are_the_same(&again, &[0, 1]);
    for part in &job.parts {
        until_runs(part.metrics().await, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_coordinator_stands_still_workers_stop_and_run_again_when_it_is_back() {
    let mut job = job(2).await;
    job.parts[0].signal("-STOP");
    until_runs(job.parts[1].metrics().await, false).await;
    job.parts[0].signal("-CONT");
    let again = job.control.runs_after(job.begun.attempt).await;
    job.are_the_same(&again, &[0, 1]);
    until_runs(job.parts[1].metrics().await, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_worker_stands_still_the_job_restarts_and_has_it_again_when_it_is_back() {
    let mut job = job(2).await;
    job.parts[1].signal("-STOP");
    job.control.lost(1, &format!("silent for {SILENCE:?}")).await;
    let waits = |s: &api::Status| s.state() == api::State::WaitingForWorkers;
    job.control.until("it waits", waits).await;
    assert!(!runs(job.parts[0].metrics().await), "an attempt's tasks stop everywhere");
    job.parts[1].signal("-CONT");
    let again = job.control.runs_after(job.begun.attempt).await;
    job.are_the_same(&again, &[0, 1]);
}
