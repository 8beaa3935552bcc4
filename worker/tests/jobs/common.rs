//! Running a job under a watchdog, and a job to run.

use millrace::connectors::{Collected, Generator};
use millrace::engine::api::window::{Count, TumblingWindows};
use millrace::engine::coordinator::{CheckpointPolicy, Outcome, RestartPolicy, StopMode};
use millrace::engine::job::{Handle, JobError, JobOptions, run};
use millrace::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A job that takes longer is stuck.
fn limit() -> Duration {
    let given = std::env::var("MILLRACE_LIMIT").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(given.unwrap_or(60))
}

/// The seed of a test, printed: tests show what was printed if they fail.
pub fn seed() -> u64 {
    let given = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    seed
}

/// Runs a job; one that hangs fails the test with what the job was doing.
pub fn run_watched(handle: &Handle, options: JobOptions) -> Result<Outcome, JobError> {
    let (done, ended) = channel();
    let job = handle.clone();
    let thread = std::thread::spawn(move || {
        let _ = done.send(run(&job, options));
    });
    match ended.recv_timeout(limit()) {
        Ok(outcome) => {
            thread.join().unwrap();
            outcome
        }
        Err(RecvTimeoutError::Timeout) => panic!("the job hangs: {:#?}", handle.status()),
        Err(RecvTimeoutError::Disconnected) => panic!("the job's thread panicked"),
    }
}

/// Runs a job and asks it to stop after a while; it may have ended before.
pub fn run_and_stop(
    handle: &Handle,
    options: JobOptions,
    after: Duration,
    how: How,
) -> Result<Outcome, JobError> {
    let stopper = handle.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(after);
        match how {
            How::Suspend => stopper.stop(StopMode::Suspend),
            How::Cancel => stopper.cancel(),
        }
    });
    let outcome = run_watched(handle, options);
    thread.join().unwrap();
    outcome
}

/// Runs a job and suspends it once an operator has taken so many rows, over all subtasks.
pub fn run_until(handle: &Handle, options: JobOptions, operator: &str, rows: u64) {
    let outcome = stop_after(handle, options, (operator, rows), StopMode::Suspend);
    assert_eq!(outcome, Outcome::Suspended);
}

/// Runs a job and stops it once an operator has taken so many rows.
pub fn stop_after(
    handle: &Handle,
    options: JobOptions,
    (operator, rows): (&str, u64),
    mode: StopMode,
) -> Outcome {
    let (job, name) = (handle.clone(), operator.to_owned());
    let thread = std::thread::spawn(move || {
        until(&job, &name, rows);
        job.stop(mode);
    });
    let outcome = run_watched(handle, options).unwrap();
    thread.join().unwrap();
    outcome
}

/// Waits until an operator has taken so many rows, over all subtasks.
pub fn until(job: &Handle, operator: &str, rows: u64) {
    let begun = Instant::now();
    let taken = || -> u64 {
        let nodes = job.status().nodes;
        nodes.iter().filter(|node| node.name == operator).map(|node| node.rows_in).sum()
    };
    while taken() < rows && begun.elapsed() < limit() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How a job is stopped.
#[derive(Debug, Clone, Copy)]
pub enum How {
    /// With a checkpoint.
    Suspend,
    /// At once: it goes on from its last checkpoint.
    Cancel,
}

/// Options for short tests: many checkpoints, quick restarts.
pub fn options(storage: &Path, parallelism: u16) -> JobOptions {
    let mut options = JobOptions::new("test", storage);
    options.parallelism = parallelism;
    options.checkpoints = CheckpointPolicy {
        interval: Some(Duration::from_millis(10)),
        ..CheckpointPolicy::default()
    };
    options.restart = RestartPolicy::FixedDelay { attempts: 1000, delay: Duration::from_millis(1) };
    // For trying them all between workers.
    let given = std::env::var("MILLRACE_LOOPBACK").ok().and_then(|s| s.parse().ok());
    options.loopback = given;
    options
}

/// A multiset of rows.
pub fn multiset<T: Ord>(rows: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut set = BTreeMap::new();
    for row in rows {
        *set.entry(row).or_insert(0) += 1;
    }
    set
}

/// Fails with the first differences.
pub fn assert_same<T: Ord + std::fmt::Debug>(
    found: &BTreeMap<T, usize>,
    expected: &BTreeMap<T, usize>,
    what: &str,
) {
    if found == expected {
        return;
    }
    let lacking: Vec<_> =
        expected.iter().filter(|(row, n)| found.get(row) != Some(n)).take(5).collect();
    let strange: Vec<_> =
        found.iter().filter(|(row, n)| expected.get(row) != Some(n)).take(5).collect();
    panic!(
        "{what}: {} rows instead of {}; expected {lacking:?}, found {strange:?}",
        found.values().sum::<usize>(),
        expected.values().sum::<usize>(),
    );
}

/// What the job of [`Counts`] gives: windows `("window", key, start, rows)` and running
/// counts `("running", key, 0, rows so far)`.
pub type Out = (String, u64, i64, u64);

/// A generated source, a keyed window and a running reduce, both to one kind of sink.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub rows: u64,
    pub keys: u64,
    /// Rows a second; 0: as fast as it can.
    pub rate: u64,
}

pub const WINDOW: u64 = 100;

impl Counts {
    /// The job, with a function that each row goes through.
    pub fn build<S: millrace::engine::connector::Sink<Out> + Sync>(
        self,
        sink: S,
        check: impl Fn(u64) -> Res<u64> + Clone + Send + 'static,
    ) -> Handle {
        let env = Env::new();
        let mut source = Generator::new(|i| i).count(self.rows).splits(4);
        if self.rate > 0 {
            source = source.rate(self.rate);
        }
        let keys = self.keys;
        let rows = env
            .source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
            .try_map(check)
            .erase();
        rows.clone()
            .key_by(move |i| i % keys)
            .window(TumblingWindows::of(Duration::from_millis(WINDOW)))
            .aggregate("windows", Count, |key, w, n| ("window".to_owned(), *key, w.start, n))
            .sink("windows out", sink.clone());
        rows.map(move |i| (i % keys, 1u64))
            .key_by(|r| r.0)
            .reduce("running", |acc, row| acc.1 += row.1)
            .map(|(key, n)| ("running".to_owned(), key, 0, n))
            .sink("running out", sink);
        Handle::new(env.into_graph())
    }

    /// With a sink in memory.
    pub fn job(self, out: &Collected<Out>) -> Handle {
        self.build(out.sink(), Ok)
    }

    /// What must come out.
    pub fn expected(self) -> BTreeMap<Out, usize> {
        let mut windows: BTreeMap<(u64, i64), u64> = BTreeMap::new();
        let mut running: BTreeMap<u64, u64> = BTreeMap::new();
        let mut out = Vec::new();
        for i in 0..self.rows {
            let key = i % self.keys;
            *windows.entry((key, (i / WINDOW * WINDOW) as i64)).or_insert(0) += 1;
            let n = running.entry(key).or_insert(0);
            *n += 1;
            out.push(("running".to_owned(), key, 0, *n));
        }
        out.extend(windows.into_iter().map(|((k, start), n)| ("window".to_owned(), k, start, n)));
        multiset(out)
    }
}
