//! Splits and inputs that have nothing: whom they hold back, and until when.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, reason = "tests")]

use millrace_engine::api::tags::OutputTag;
use millrace_engine::api::window::{Count, TumblingWindows};
use millrace_engine::connector::{Lane, Next, Reader, Source, SourceCx, SourceOut, Split};
use millrace_engine::data::{Res, TS_MIN, Ts};
use millrace_engine::testing::Harness;
use millrace_engine::time::Watermarks;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How a reader reads several splits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// One after the other, slowly, to the end of each.
    InTurn,
    /// All that there is of each, and waits for more.
    AtOnce,
}

/// Rows by split, so far as they are there.
type Rows = Arc<Mutex<Vec<VecDeque<Ts>>>>;

#[derive(Clone)]
struct Scripted(How, Rows);

#[derive(Clone, Serialize, Deserialize)]
struct Part(usize);

impl Split for Part {
    fn id(&self) -> String {
        self.0.to_string()
    }
}

struct ScriptedReader(Scripted, VecDeque<(Lane, Part)>);

impl Source for Scripted {
    type Out = Ts;
    type Split = Part;
    type Reader = ScriptedReader;

    fn discover(&mut self, _: &[Part]) -> Res<Vec<Part>> {
        Ok((0..self.1.lock().unwrap().len()).map(Part).collect())
    }

    fn reader(&self, _: SourceCx) -> Res<ScriptedReader> {
        Ok(ScriptedReader(self.clone(), VecDeque::new()))
    }
}

impl Reader<Ts, Part> for ScriptedReader {
    fn assign(&mut self, lane: Lane, split: Part) -> Res {
        self.1.push_back((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, Ts>) -> Res<Next> {
        let mut rows = self.0.1.lock().unwrap();
        if self.0.0 == How::InTurn {
            let Some((lane, part)) = self.1.front() else { return Ok(Next::Wait) };
            std::thread::sleep(Duration::from_millis(2));
            let left = &mut rows[part.0];
            let some = left.len().min(10);
            out.extend(*lane, left.drain(..some));
            if left.is_empty() {
                out.finish(*lane);
                self.1.pop_front();
            }
            return Ok(Next::More);
        }
        let mut any = false;
        for (lane, part) in &self.1 {
            let left = &mut rows[part.0];
            any |= !left.is_empty();
            match left.is_empty() {
                true => out.quiet(*lane),
                false => out.extend(*lane, left.drain(..)),
            }
        }
        Ok(if any { Next::More } else { Next::Wait })
    }

    fn positions(&mut self) -> Res<Vec<(Lane, Part)>> {
        Ok(self.1.iter().cloned().collect())
    }
}

fn times(idle_after: u64) -> Watermarks<Ts> {
    Watermarks::monotonous(|ts: &Ts| *ts).idle_after(Duration::from_millis(idle_after))
}

const LATE: OutputTag<Ts> = OutputTag::new("late");

/// The splits behind the first have rows that nobody has asked for.
#[test]
fn a_split_that_waits_for_others_to_be_read_is_not_idle() {
    let splits: Vec<VecDeque<Ts>> = (0..4).map(|_| (0..100).collect()).collect();
    let source = Scripted(How::InTurn, Arc::new(Mutex::new(splits)));
    let (mut harness, (late, counts)) = Harness::new(|t| {
        let counts = t
            .env()
            .source("rows", source, times(1))
            .key_by(|_| 0u64)
            .window(TumblingWindows::of(Duration::from_millis(10)))
            .late_to(&LATE)
            .aggregate("count", Count, |_, w, n| (w.start, n));
        (t.output(counts.side_output(&LATE)), t.output(counts))
    })
    .unwrap();
    let mut fired = Vec::new();
    harness
        .run_until(|| {
            fired.extend(counts.take());
            fired.len() >= 10
        })
        .unwrap();
    assert_eq!(late.take(), Vec::<Ts>::new());
    let windows: Vec<(Ts, u64)> = (0..10).map(|w| (10 * w, 40)).collect();
    assert_eq!(fired, windows);
}

/// One partition has nothing while another has rows all the time.
#[test]
fn a_quiet_split_beside_a_busy_one_becomes_idle_and_comes_back() {
    const IDLE: u64 = 30;
    let rows: Rows = Arc::new(Mutex::new(vec![VecDeque::new(), VecDeque::new()]));
    let source = Scripted(How::AtOnce, Arc::clone(&rows));
    let (mut harness, out) =
        Harness::new(|t| t.output(t.env().source("rows", source, times(IDLE)))).unwrap();
    let put = |split: usize, ts: Ts| rows.lock().unwrap()[split].push_back(ts);
    let mut ts = 0;
    harness
        .run_until(|| {
            ts += 1;
            put(1, ts);
            out.watermark() > 1
        })
        .unwrap();
    // Its row holds the watermark again, until it has been quiet for as long.
    harness.run().unwrap();
    let (passed, begun) = (out.watermark(), Instant::now());
    put(0, passed);
    put(1, passed + 1_000_000);
    harness.run().unwrap();
    let held = out.watermark() == passed;
    assert!(held || begun.elapsed() >= Duration::from_millis(IDLE));
    let mut ts = passed + 1_000_000;
    harness
        .run_until(|| {
            ts += 1;
            put(1, ts);
            out.watermark() > passed + 1_000_000
        })
        .unwrap();
}

/// All splits of one source are quiet: its streams no longer hold others back.
#[test]
fn a_source_that_waits_holds_others_back_for_as_long_as_was_said() {
    let rows: Rows = Arc::new(Mutex::new(vec![VecDeque::from([5])]));
    let source = Scripted(How::AtOnce, rows);
    let (mut harness, (input, out)) = Harness::new(|t| {
        let (input, other) = t.input::<Ts>("other");
        let union = t.env().source("rows", source, times(20)).union(vec![other]);
        (input, t.output(union))
    })
    .unwrap();
    input.push(1, 1).watermark(700);
    harness.run_until(|| out.watermark() == 700).unwrap();
    assert_eq!(out.take().len(), 2);
}

#[test]
fn an_idle_input_of_the_harness_holds_nobody_back() {
    let (mut harness, (one, two, out)) = Harness::new(|t| {
        let (one, first) = t.input::<Ts>("one");
        let (two, second) = t.input::<Ts>("two");
        (one, two, t.output(first.erase().union(vec![second])))
    })
    .unwrap();
    one.push(3, 3).watermark(10);
    harness.run().unwrap();
    assert_eq!(out.watermark(), TS_MIN);
    two.idle(true);
    harness.run().unwrap();
    assert_eq!(out.watermark(), 10);
    // Its watermark is as low as it was: that of the others stands still.
    two.idle(false);
    one.watermark(20);
    harness.run().unwrap();
    assert_eq!(out.watermark(), 10);
    two.watermark(15);
    harness.run().unwrap();
    assert_eq!(out.watermark(), 15);
}
