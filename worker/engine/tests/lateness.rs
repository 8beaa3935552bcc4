//! Which rows are late: the same after a restart as without one.
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
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// One split of rows, so far as they are there already.
#[derive(Clone)]
struct Disorder(Arc<AtomicI64>);

#[derive(Clone, Serialize, Deserialize)]
struct Position(Ts);

impl Split for Position {
    fn id(&self) -> String {
        "only".to_owned()
    }
}

struct DisorderReader(Arc<AtomicI64>, Option<(Lane, Position)>);

impl Source for Disorder {
    type Out = Ts;
    type Split = Position;
    type Reader = DisorderReader;

    fn discover(&mut self, _: &[Position]) -> Res<Vec<Position>> {
        Ok(vec![Position(0)])
    }

    fn reader(&self, _: SourceCx) -> Res<DisorderReader> {
        Ok(DisorderReader(Arc::clone(&self.0), None))
    }
}

impl Reader<Ts, Position> for DisorderReader {
    fn assign(&mut self, lane: Lane, split: Position) -> Res {
        self.1 = Some((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, Ts>) -> Res<Next> {
        let Some((lane, position)) = &mut self.1 else { return Ok(Next::Wait) };
        let until = self.0.load(Ordering::SeqCst).min(position.0 + 500);
        if position.0 == until {
            return Ok(Next::Wait);
        }
        for n in position.0..until {
            // Each seventh row is 30 late.
            out.emit(*lane, if n % 7 == 0 { (n - 30).max(0) } else { n });
        }
        position.0 = until;
        Ok(Next::More)
    }

    fn positions(&mut self) -> Res<Vec<(Lane, Position)>> {
        Ok(self.1.iter().cloned().collect())
    }
}

const LATE: OutputTag<Ts> = OutputTag::new("late");
const MIDDLE: Ts = 500;
/// Far enough for whole batches, which are not held back for company.
const END: Ts = 20_000;

/// The late rows of the second half. `barrier`: whether a checkpoint is the first that happens
/// after a restart in the middle, at this parallelism; `behind`: whether there is an operator
/// between source and window that keeps subtasks apart.
fn late(restart: Option<(bool, u16)>, behind: bool) -> Vec<Ts> {
    let there = Arc::new(AtomicI64::new(MIDDLE));
    let source = Disorder(Arc::clone(&there));
    let (mut harness, (late, _counts)) = Harness::at_parallelism(2, |t| {
        let rows = t.env().source("rows", source, Watermarks::monotonous(|ts: &Ts| *ts)).erase();
        let rows = if behind { rows.union(vec![]).erase() } else { rows };
        let counts = rows
            .key_by(|ts| ts % 5)
            .window(TumblingWindows::of(Duration::from_millis(10)))
            .late_to(&LATE)
            .aggregate("count", Count, |key, _, n| (*key, n));
        (t.output(counts.side_output(&LATE)), t.output(counts))
    })
    .unwrap();
    harness.run_until(|| late.take().last().is_some_and(|last| *last > MIDDLE - 50)).unwrap();
    harness.run().unwrap();
    let snapshot = harness.snapshot().unwrap();
    late.take();
    there.store(END, Ordering::SeqCst);
    if let Some((barrier, parallelism)) = restart {
        harness.restore(&snapshot, parallelism).unwrap();
        if barrier {
            harness.snapshot_at_once().unwrap();
        }
    }
    harness.nudge();
    harness.run().unwrap();
    let mut rows = late.take();
    rows.sort_unstable();
    rows
}

#[test]
fn which_rows_are_late_does_not_depend_on_restarts() {
    for behind in [false, true] {
        let calm = late(None, behind);
        assert!(calm.len() > 50, "{calm:?}");
        for parallelism in [2, 3, 1] {
            for barrier in [false, true] {
                let found = late(Some((barrier, parallelism)), behind);
                assert_eq!(found, calm, "{parallelism} subtasks, barrier {barrier}");
            }
        }
    }
}
