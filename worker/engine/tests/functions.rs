//! Functions of every kind in a job with threads: stopped, and gone on with at another
//! parallelism, each result comes once.
#![allow(clippy::unwrap_used)]

use millrace_engine::api::broadcast::{BroadcastMap, BroadcastProcess, ProcessCx};
use millrace_engine::api::env::Env;
use millrace_engine::api::process::{Cx, KeyedProcess, Timer};
use millrace_engine::api::stream::DataStream;
use millrace_engine::connector::*;
use millrace_engine::coordinator::{CheckpointPolicy, Outcome, StopMode};
use millrace_engine::data::{Res, Rows, Ts};
use millrace_engine::job::{Handle, JobOptions, run};
use millrace_engine::state::{State, Value, Visit, VisitMut};
use millrace_engine::time::Watermarks;
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Numbers from 0, some at a time.
#[derive(Clone)]
struct Numbers(u64);

#[derive(Clone, Serialize, Deserialize)]
struct Position(u64);

impl Split for Position {
    fn id(&self) -> String {
        "all".to_owned()
    }
}

struct NumbersReader {
    split: Option<(Lane, Position)>,
    count: u64,
}

impl Source for Numbers {
    type Out = u64;
    type Split = Position;
    type Reader = NumbersReader;

    fn discover(&mut self, _: &[Position]) -> Res<Vec<Position>> {
        Ok(vec![Position(0)])
    }

    fn reader(&self, _: SourceCx) -> Res<NumbersReader> {
        Ok(NumbersReader { split: None, count: self.0 })
    }
}

impl Reader<u64, Position> for NumbersReader {
    fn assign(&mut self, lane: Lane, split: Position) -> Res {
        self.split = Some((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, u64>) -> Res<Next> {
        let Some((lane, split)) = &mut self.split else { return Ok(Next::Wait) };
        let n = 50.min(self.count - split.0);
        out.extend(*lane, split.0..split.0 + n);
        split.0 += n;
        if split.0 == self.count {
            out.finish(*lane);
            self.split = None;
        }
        Ok(Next::Until(Instant::now() + Duration::from_millis(2)))
    }

    fn positions(&mut self) -> Res<Vec<(Lane, Position)>> {
        Ok(self.split.iter().cloned().collect())
    }
}

/// Keeps what was committed.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(u64, Ts)>>>);

struct KeptWriter(Vec<(u64, Ts)>);

impl Sink<(u64, Ts)> for Kept {
    type Commit = Vec<(u64, Ts)>;
    type Writer = KeptWriter;
    type Committer = Kept;

    fn writer(&self, _: SinkCx) -> Res<KeptWriter> {
        Ok(KeptWriter(Vec::new()))
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Kept> {
        Ok(self.clone())
    }
}

impl Writer<(u64, Ts), Vec<(u64, Ts)>> for KeptWriter {
    fn write(&mut self, rows: &mut Rows<(u64, Ts)>) -> Res {
        self.0.append(&mut rows.values);
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<Vec<(u64, Ts)>>> {
        let rows = std::mem::take(&mut self.0);
        Ok(Box::new(move || Ok(Prepared { commit: vec![rows], open: vec![] })))
    }
}

impl Committer<Vec<(u64, Ts)>> for Kept {
    fn commit(&mut self, rows: &Vec<(u64, Ts)>) -> Res<Committed> {
        let mut all = self.0.lock().unwrap();
        if !rows.is_empty() && rows.iter().all(|r| all.contains(r)) {
            return Ok(Committed::Before);
        }
        all.extend(rows);
        Ok(Committed::Done)
    }

    fn abort_others(&mut self, _: Attempt, _: &[Vec<(u64, Ts)>]) -> Res {
        Ok(())
    }
}

#[derive(Default)]
struct Count {
    rows: Value<u64>,
}

impl State for Count {
    fn visit<V: Visit>(&self, visitor: &mut V) -> Res {
        visitor.field("rows", &self.rows)
    }

    fn visit_mut<V: VisitMut>(&mut self, visitor: &mut V) -> Res {
        visitor.field("rows", &mut self.rows)
    }
}

/// Emits (number, time) for every number once, by a timer: of the clock for every third.
#[derive(Clone)]
struct Echo;

impl KeyedProcess<u64, u64> for Echo {
    type Out = (u64, Ts);
    type State = Count;

    fn process(&mut self, n: u64, st: &mut Count, cx: &mut Cx<'_, u64, Self::Out>) -> Res {
        *st.rows.or_insert(0) += 1;
        match n % 3 {
            // In the past: it fires at once, and names its number.
            0 => cx.register(Timer::Processing(n as Ts)),
            _ => cx.register(Timer::Event(n as Ts + 20)),
        }
        Ok(())
    }

    fn on_timer(&mut self, t: Timer, _: &mut Count, cx: &mut Cx<'_, u64, Self::Out>) -> Res {
        cx.emit(match t {
            Timer::Processing(at) => (at as u64, 0),
            Timer::Event(at) => (at as u64 - 20, 1),
        });
        Ok(())
    }
}

#[derive(Default)]
struct Names {
    names: BroadcastMap<u64, u64>,
}

impl State for Names {
    fn visit<V: Visit>(&self, visitor: &mut V) -> Res {
        visitor.field("names", &self.names)
    }

    fn visit_mut<V: VisitMut>(&mut self, visitor: &mut V) -> Res {
        visitor.field("names", &mut self.names)
    }
}

/// Fails if shared state has been lost: the names come in order.
#[derive(Clone)]
struct Check;

impl BroadcastProcess<(u64, Ts), u64> for Check {
    type Out = (u64, Ts);
    type Shared = Names;

    fn process(&mut self, row: (u64, Ts), _: &Names, cx: &mut ProcessCx<'_, Self::Out>) -> Res {
        cx.emit(row);
        Ok(())
    }

    fn broadcast(
        &mut self,
        name: u64,
        shared: &mut Names,
        _: &mut ProcessCx<'_, Self::Out>,
    ) -> Res {
        let known = shared.names.len() as u64;
        shared.names.put(name, name);
        if known == name { Ok(()) } else { Err(format!("{known} names before {name}").into()) }
    }
}

#[cfg(feature = "async")]
fn ask(rows: DataStream<(u64, Ts)>) -> DataStream<(u64, Ts)> {
    use millrace_engine::api::async_io::AsyncOptions;
    rows.async_map("ask", AsyncOptions::unordered().capacity(20), |row| async move {
        tokio::time::sleep(Duration::from_micros(row.0 % 10 * 300)).await;
        Ok(row)
    })
}

#[cfg(not(feature = "async"))]
fn ask(rows: DataStream<(u64, Ts)>) -> DataStream<(u64, Ts)> {
    rows
}

fn job(count: u64, kept: Kept) -> Handle {
    let env = Env::new();
    let time = Watermarks::bounded(Duration::from_millis(5), |n: &u64| *n as Ts)
        .align("numbers", Duration::from_secs(2));
    let names = env.source("names", Numbers(count / 2), time.clone()).broadcast();
    let echoed =
        env.source("numbers", Numbers(count), time).key_by(|n| n % 50).process("echo", Echo);
    ask(echoed.connect_broadcast(names).process("check", Check)).sink("kept", kept);
    Handle::new(env.into_graph())
}

#[test]
fn every_result_comes_once_whatever_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, count) = (Kept::default(), 10_000);
    let mut last = None;
    for (round, parallelism) in [2u16, 3, 1, 2].into_iter().enumerate() {
        let handle = job(count, kept.clone());
        let stopper = handle.clone();
        if round < 3 {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(120));
                stopper.stop(StopMode::Suspend);
            });
        }
        let mut options = JobOptions::new("functions", dir.path());
        options.parallelism = parallelism;
        options.checkpoints = CheckpointPolicy {
            interval: Some(Duration::from_millis(25)),
            ..CheckpointPolicy::default()
        };
        let outcome = run(&handle, options).unwrap();
        last = Some(outcome.clone());
        if outcome == Outcome::Finished || outcome == Outcome::FinishedBefore {
            break;
        }
    }
    assert!(matches!(last, Some(Outcome::Finished | Outcome::FinishedBefore)), "{last:?}");
    let mut rows = kept.0.lock().unwrap().clone();
    rows.sort();
    let expected: Vec<(u64, Ts)> = (0..count).map(|n| (n, Ts::from(n % 3 != 0))).collect();
    assert_eq!(rows.len(), expected.len());
    assert_eq!(rows, expected);
}
