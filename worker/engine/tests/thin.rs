//! The thinnest job through everything: a source, a keyed window, a sink, checkpoints,
//! a stop, and a resume at another parallelism.
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

use millrace_engine::api::env::Env;
use millrace_engine::api::window::{Count, TumblingWindows};
use millrace_engine::connector::*;
use millrace_engine::coordinator::{CheckpointPolicy, Outcome, StopMode};
use millrace_engine::data::{Res, Rows};
use millrace_engine::job::{Handle, JobOptions, run};
use millrace_engine::time::Watermarks;
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Numbers `0..count` in `splits` splits, at a pace.
#[derive(Clone)]
struct Numbers {
    count: u64,
    splits: u64,
    pause: Duration,
}

#[derive(Clone, Serialize, Deserialize)]
struct Range {
    id: u64,
    next: u64,
    end: u64,
}

impl Split for Range {
    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl Source for Numbers {
    type Out = u64;
    type Split = Range;
    type Reader = NumbersReader;

    fn discover(&mut self, _: &[Range]) -> Res<Vec<Range>> {
        let share = self.count / self.splits;
        Ok((0..self.splits)
            .map(|id| Range { id, next: id * share, end: (id + 1) * share })
            .collect())
    }

    fn reader(&self, _: SourceCx) -> Res<NumbersReader> {
        Ok(NumbersReader { splits: Vec::new(), pause: self.pause })
    }
}

struct NumbersReader {
    splits: Vec<(Lane, Range)>,
    pause: Duration,
}

impl Reader<u64, Range> for NumbersReader {
    fn assign(&mut self, lane: Lane, split: Range) -> Res {
        self.splits.push((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, u64>) -> Res<Next> {
        let Some((lane, split)) = self.splits.first_mut() else { return Ok(Next::Wait) };
        let n = (out.room() as u64).min(split.end - split.next);
        out.extend(*lane, split.next..split.next + n);
        split.next += n;
        if split.next == split.end {
            out.finish(*lane);
            self.splits.remove(0);
        }
        Ok(if self.pause.is_zero() { Next::More } else { Next::Until(Instant::now() + self.pause) })
    }

    fn positions(&mut self) -> Res<Vec<(Lane, Range)>> {
        Ok(self.splits.clone())
    }
}

type Row = (u64, i64, u64);

/// Rows become visible at commit.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<Row>>>);

struct CollectWriter(Vec<Row>);

impl Sink<Row> for Collected {
    type Commit = Vec<Row>;
    type Writer = CollectWriter;
    type Committer = Collected;

    fn writer(&self, _: SinkCx) -> Res<CollectWriter> {
        Ok(CollectWriter(Vec::new()))
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Collected> {
        Ok(self.clone())
    }
}

impl Writer<Row, Vec<Row>> for CollectWriter {
    fn write(&mut self, rows: &mut Rows<Row>) -> Res {
        self.0.append(&mut rows.values);
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<Vec<Row>>> {
        let rows = std::mem::take(&mut self.0);
        Ok(Box::new(move || Ok(Prepared { commit: vec![rows], open: vec![] })))
    }
}

impl Committer<Vec<Row>> for Collected {
    fn commit(&mut self, rows: &Vec<Row>) -> Res<Committed> {
        let mut all = self.0.lock().unwrap();
        if rows.iter().any(|r| all.contains(r)) {
            return Ok(Committed::Before);
        }
        all.extend(rows);
        Ok(Committed::Done)
    }

    fn abort_others(&mut self, _: Attempt, _: &[Vec<Row>]) -> Res {
        Ok(())
    }
}

const KEYS: u64 = 7;
const SIZE: i64 = 100;

fn job(numbers: Numbers, sink: Collected) -> Handle {
    let env = Env::new();
    env.source(
        "numbers",
        numbers,
        Watermarks::bounded(Duration::from_millis(5), |n: &u64| *n as i64),
    )
    .key_by(|n| n % KEYS)
    .window(TumblingWindows::of(Duration::from_millis(SIZE as u64)))
    .aggregate("counts", Count, |key, window, n| (*key, window.start, n))
    .sink("out", sink);
    Handle::new(env.into_graph())
}

fn expected(count: u64) -> BTreeMap<(u64, i64), u64> {
    let mut counts = BTreeMap::new();
    for n in 0..count {
        *counts.entry((n % KEYS, (n as i64).div_euclid(SIZE) * SIZE)).or_insert(0) += 1;
    }
    counts
}

fn as_map(sink: &Collected) -> BTreeMap<(u64, i64), u64> {
    let rows = sink.0.lock().unwrap();
    let map: BTreeMap<_, _> = rows.iter().map(|(k, w, n)| ((*k, *w), *n)).collect();
    assert_eq!(map.len(), rows.len(), "a window was emitted twice");
    map
}

fn options(dir: &std::path::Path, parallelism: u16) -> JobOptions {
    let mut options = JobOptions::new("thin", dir);
    options.parallelism = parallelism;
    options.checkpoints = CheckpointPolicy {
        interval: Some(Duration::from_millis(20)),
        ..CheckpointPolicy::default()
    };
    options
}

#[test]
fn a_bounded_job_gives_every_window_once() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Collected::default();
    let count = 200_000;
    let numbers = Numbers { count, splits: 1, pause: Duration::ZERO };
    let outcome = run(&job(numbers, sink.clone()), options(dir.path(), 2)).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    assert_eq!(as_map(&sink), expected(count));
}

#[test]
fn a_stopped_job_goes_on_at_another_parallelism() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Collected::default();
    let count = 100_000;
    for (round, parallelism) in [2u16, 3, 1, 2, 4, 1].into_iter().enumerate() {
        let numbers = Numbers { count, splits: 4, pause: Duration::from_millis(2) };
        let handle = job(numbers, sink.clone());
        let stopper = handle.clone();
        if round < 5 {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(60));
                stopper.stop(StopMode::Suspend);
            });
        }
        let outcome = run(&handle, options(dir.path(), parallelism)).unwrap();
        if outcome == Outcome::Finished || outcome == Outcome::FinishedBefore {
            break;
        }
        assert_eq!(outcome, Outcome::Suspended);
    }
    assert_eq!(as_map(&sink), expected(count));
}
