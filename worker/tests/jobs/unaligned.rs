//! Checkpoints while what stands at the end of a job is slow: barriers overtake rows, and
//! the rows that they overtook are not lost.

use crate::common::{assert_same, multiset, options, run_watched};
use millrace::connectors::collection::{CollectCommit, CollectSink};
use millrace::connectors::{Collected, Generator};
use millrace::engine::connector::{Pending, Sink, SinkCx, Writer};
use millrace::engine::coordinator::{Outcome, RestartPolicy};
use millrace::engine::data::Rows;
use millrace::engine::job::{Handle, JobOptions};
use millrace::prelude::*;
use millrace::protocol::ids::{JobUid, Uid};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROWS: u64 = 150_000;
const KEYS: u64 = 97;

/// Key, and how many of it there have been.
type Row = (u64, u64);

/// A sink that takes a batch a second as long as it is told to be slow.
#[derive(Clone)]
struct Slow(CollectSink<Row>, Arc<AtomicBool>);

struct SlowWriter {
    inner: <CollectSink<Row> as Sink<Row>>::Writer,
    slow: Arc<AtomicBool>,
    next: Instant,
}

impl Sink<Row> for Slow {
    type Commit = CollectCommit<Row>;
    type Writer = SlowWriter;
    type Committer = <CollectSink<Row> as Sink<Row>>::Committer;

    fn writer(&self, cx: SinkCx) -> Res<SlowWriter> {
        let (slow, next) = (Arc::clone(&self.1), Instant::now());
        Ok(SlowWriter { inner: self.0.writer(cx)?, slow, next })
    }

    fn committer(&self, job: &JobUid, uid: &Uid) -> Res<Self::Committer> {
        self.0.committer(job, uid)
    }
}

impl Writer<Row, CollectCommit<Row>> for SlowWriter {
    fn has_room(&mut self) -> bool {
        !self.slow.load(Ordering::SeqCst) || Instant::now() >= self.next
    }

    fn write(&mut self, rows: &mut Rows<Row>) -> Res {
        self.next = Instant::now() + Duration::from_secs(1);
        self.inner.write(rows)
    }

    fn prepare(&mut self, last: bool) -> Res<Pending<CollectCommit<Row>>> {
        self.inner.prepare(last)
    }
}

/// Counts by key, behind an exchange and in front of another to the sink.
fn job(out: &Collected<Row>, slow: &Arc<AtomicBool>) -> Handle {
    let env = Env::new();
    let source = Generator::new(|i| i).count(ROWS).splits(3);
    env.source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
        .map(|i| (i % KEYS, 1))
        .key_by(|r: &Row| r.0)
        .reduce("counts", |acc: &mut Row, row| acc.1 += row.1)
        .rebalance()
        .sink("out", Slow(out.sink(), Arc::clone(slow)));
    Handle::new(env.into_graph())
}

/// Runs the job slowly until a checkpoint is complete, or for so long; then cancels it.
/// Whether there was one.
fn completes(handle: &Handle, options: JobOptions, within: Duration) -> bool {
    let (job, begun) = (handle.clone(), Instant::now());
    let thread = std::thread::spawn(move || {
        // The first may be of a time when nothing was in the way.
        let older = |job: &Handle| job.status().checkpoint.map_or(0, |c| c.0.checkpoint.0);
        let full = |job: &Handle| {
            let nodes = job.status().nodes;
            nodes.iter().filter(|n| n.name == "counts").map(|n| n.rows_in).sum::<u64>() > 10_000
        };
        while !full(&job) && begun.elapsed() < within {
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = older(&job);
        while older(&job) < before + 2 && begun.elapsed() < within {
            std::thread::sleep(Duration::from_millis(5));
        }
        let complete = older(&job) >= before + 2;
        job.cancel();
        complete
    });
    assert_eq!(run_watched(handle, options).unwrap(), Outcome::Suspended);
    thread.join().unwrap()
}

fn slow_options(dir: &std::path::Path, parallelism: u16, loopback: Option<u16>) -> JobOptions {
    let mut options = options(dir, parallelism);
    options.loopback = loopback;
    options.checkpoints.interval = Some(Duration::from_millis(300));
    options.checkpoints.tolerated_failures = u32::MAX;
    options.restart = RestartPolicy::None;
    options
}

#[test]
fn barriers_overtake_what_waits_for_a_slow_sink() {
    for (loopback, after) in [(None, 0), (Some(2), 0), (None, 50), (Some(2), 50)] {
        let dir = tempfile::tempdir().unwrap();
        let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
        let mut options = slow_options(dir.path(), 2, loopback);
        options.checkpoints.unaligned_after = Some(Duration::from_millis(after));
        let what = format!("loopback {loopback:?}, after {after} ms");
        let complete = completes(&job(&out, &slow), options, Duration::from_secs(30));
        assert!(complete, "no checkpoint: {what}");
        slow.store(false, Ordering::SeqCst);
        // The rows in flight come from the checkpoint, at another parallelism.
        let mut options = slow_options(dir.path(), 3, None);
        options.checkpoints.unaligned_after = Some(Duration::ZERO);
        assert_eq!(run_watched(&job(&out, &slow), options).unwrap(), Outcome::Finished);
        let counts = (0..ROWS).map(|i| (i % KEYS, i / KEYS + 1));
        assert_same(&multiset(out.rows()), &multiset(counts), &what);
    }
}

#[test]
fn aligned_barriers_wait_for_a_slow_sink() {
    let dir = tempfile::tempdir().unwrap();
    let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
    let options = slow_options(dir.path(), 2, None);
    // Thousands of rows stand before the barrier.
    assert!(!completes(&job(&out, &slow), options, Duration::from_secs(5)));
}
