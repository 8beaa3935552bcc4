//! A checkpoint that comes before a source has found its splits: whose rows are late.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, reason = "tests")]

use millrace_engine::api::tags::OutputTag;
use millrace_engine::api::window::{Count, TumblingWindows};
use millrace_engine::connector::{Lane, Next, Reader, Source, SourceCx, SourceOut, Split};
use millrace_engine::data::{Res, Ts};
use millrace_engine::testing::Harness;
use millrace_engine::time::Watermarks;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const ROWS: Ts = 5_000;

/// Two splits of the same rows, which are found when that is allowed; the second has its
/// rows when the first was read.
#[derive(Clone, Default)]
struct Slow(Arc<Known>);

#[derive(Default)]
struct Known {
    found: AtomicBool,
    read: AtomicUsize,
    second: AtomicBool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Half(u8, Ts);

impl Split for Half {
    fn id(&self) -> String {
        self.0.to_string()
    }
}

struct Halves(Arc<Known>, Vec<(Lane, Half)>);

impl Source for Slow {
    type Out = Ts;
    type Split = Half;
    type Reader = Halves;

    fn discover(&mut self, _: &[Half]) -> Res<Vec<Half>> {
        while !self.0.found.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(vec![Half(0, 0), Half(1, 0)])
    }

    fn reader(&self, _: SourceCx) -> Res<Halves> {
        Ok(Halves(Arc::clone(&self.0), Vec::new()))
    }
}

impl Reader<Ts, Half> for Halves {
    fn assign(&mut self, lane: Lane, split: Half) -> Res {
        self.1.push((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, Ts>) -> Res<Next> {
        for (lane, Half(which, at)) in &mut self.1 {
            if *at < ROWS && (*which == 0 || self.0.second.load(Ordering::SeqCst)) {
                (*at..*at + 500).for_each(|ts| out.emit(*lane, ts));
                *at += 500;
                self.0.read.fetch_add(500, Ordering::SeqCst);
                return Ok(Next::More);
            }
        }
        Ok(Next::Wait)
    }

    fn positions(&mut self) -> Res<Vec<(Lane, Half)>> {
        Ok(self.1.clone())
    }
}

const LATE: OutputTag<Ts> = OutputTag::new("late");

#[test]
fn a_subtask_whose_split_is_not_found_yet_is_waited_for_behind_a_barrier_too() {
    for barrier in [false, true] {
        let source = Slow::default();
        let known = Arc::clone(&source.0);
        let (mut harness, (late, counts)) = Harness::at_parallelism(2, |t| {
            let rows = t.env().source("rows", source, Watermarks::monotonous(|ts: &Ts| *ts));
            let counts = rows
                .key_by(|ts| ts % 5)
                .window(TumblingWindows::of(Duration::from_millis(10)))
                .late_to(&LATE)
                .aggregate("count", Count, |key, _, n| (*key, n));
            (t.output(counts.side_output(&LATE)), t.output(counts))
        })
        .unwrap();
        if barrier {
            harness.snapshot_at_once().unwrap();
        }
        known.found.store(true, Ordering::SeqCst);
        let read = |rows: Ts| known.read.load(Ordering::SeqCst) >= rows as usize;
        harness.run_until(|| read(ROWS)).unwrap();
        harness.run().unwrap();
        assert_eq!(counts.take(), [], "barrier {barrier}: windows that lack the second's rows");
        known.second.store(true, Ordering::SeqCst);
        harness.nudge();
        harness.run_until(|| read(2 * ROWS)).unwrap();
        harness.run().unwrap();
        assert_eq!(late.take(), Vec::<Ts>::new(), "barrier {barrier}");
        let counts = counts.take();
        assert!(counts.len() > 2_000 && counts.iter().all(|(_, n)| *n == 4), "{counts:?}");
    }
}
