use crate::connector::{Lane, Next, Reader, Source, SourceCx, SourceOut, Split};
use crate::data::{Res, Ts};
use crate::testing::Harness;
use crate::time::Watermarks;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Splits that count up to `end`, as far as `allowed` says.
#[derive(Clone)]
struct Numbers {
    splits: u64,
    end: Ts,
    /// By split; those beyond have no limit.
    allowed: Vec<Arc<AtomicI64>>,
    pauses: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Count {
    id: u64,
    next: Ts,
}

impl Split for Count {
    fn id(&self) -> String {
        self.id.to_string()
    }
}

struct NumbersReader {
    source: Numbers,
    splits: Vec<(Lane, Count)>,
}

impl Source for Numbers {
    type Out = (u64, Ts);
    type Split = Count;
    type Reader = NumbersReader;

    fn discover(&mut self, _: &[Count]) -> Res<Vec<Count>> {
        Ok((0..self.splits).map(|id| Count { id, next: 0 }).collect())
    }

    fn reader(&self, _: SourceCx) -> Res<NumbersReader> {
        Ok(NumbersReader { source: self.clone(), splits: Vec::new() })
    }
}

impl Reader<(u64, Ts), Count> for NumbersReader {
    fn assign(&mut self, lane: Lane, split: Count) -> Res {
        self.splits.push((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, (u64, Ts)>) -> Res<Next> {
        let mut any = false;
        let Numbers { end, allowed, pauses, .. } = &self.source;
        for (lane, split) in &mut self.splits {
            if *pauses && out.is_paused(*lane) {
                continue;
            }
            let limit = allowed.get(split.id as usize).map_or(*end, |a| a.load(Ordering::SeqCst));
            for _ in 0..10 {
                if split.next < limit {
                    out.emit(*lane, (split.id, split.next));
                    split.next += 1;
                    any = true;
                }
            }
            if split.next == *end {
                out.finish(*lane);
            }
        }
        self.splits.retain(|(_, s)| s.next < *end);
        Ok(if any { Next::More } else { Next::Wait })
    }

    fn positions(&mut self) -> Res<Vec<(Lane, Count)>> {
        Ok(self.splits.clone())
    }

    fn pauses(&self) -> bool {
        self.source.pauses
    }
}

const END: Ts = 5000;
const DRIFT: Ts = 100;
/// Rows of a lane in one poll.
const STEP: Ts = 10;

fn watermarks() -> Watermarks<(u64, Ts)> {
    Watermarks::monotonous(|r: &(u64, Ts)| r.1).align("both", Duration::from_millis(DRIFT as u64))
}

fn highest(rows: &[(u64, Ts)], id: u64) -> Ts {
    rows.iter().filter(|r| r.0 == id).map(|r| r.1).max().unwrap_or(-1)
}

#[test]
fn a_fast_source_waits_for_a_slow_one() {
    let allowed = Arc::new(AtomicI64::new(50));
    let slow = Numbers { splits: 1, end: END, allowed: vec![Arc::clone(&allowed)], pauses: false };
    let fast = Numbers { allowed: Vec::new(), ..slow.clone() };
    let (mut harness, (fast, slow)) = Harness::new(|t| {
        let fast = t.env().source("fast", fast, watermarks());
        (t.output(fast), t.output(t.env().source("slow", slow, watermarks())))
    })
    .unwrap();
    let (mut fasts, mut slows) = (Vec::new(), Vec::new());
    while allowed.load(Ordering::SeqCst) < END {
        let expected = allowed.load(Ordering::SeqCst);
        harness
            .run_until(|| {
                fasts.extend(fast.take());
                slows.extend(slow.take());
                highest(&slows, 0) + 1 == expected && highest(&fasts, 0) >= expected + DRIFT - 1
            })
            .unwrap();
        assert!(highest(&fasts, 0) <= expected + DRIFT + STEP, "{}", highest(&fasts, 0));
        allowed.fetch_add(450, Ordering::SeqCst);
        harness.nudge();
    }
    harness
        .run_until(|| {
            fasts.extend(fast.take());
            fast.watermark() == Ts::MAX && slow.watermark() == Ts::MAX
        })
        .unwrap();
    assert_eq!(fasts.len() as Ts, END);
}

#[test]
fn a_reader_that_can_leaves_out_the_split_that_is_ahead() {
    for pauses in [true, false] {
        let allowed = Arc::new(AtomicI64::new(50));
        let source = Numbers { splits: 2, end: END, allowed: vec![Arc::clone(&allowed)], pauses };
        let (mut harness, out) =
            Harness::new(|t| t.output(t.env().source("numbers", source, watermarks()))).unwrap();
        let mut rows = Vec::new();
        harness
            .run_until(|| {
                rows.extend(out.take());
                highest(&rows, 0) == 49 && highest(&rows, 1) >= if pauses { 150 } else { END - 1 }
            })
            .unwrap();
        assert!(!pauses || highest(&rows, 1) <= 50 + DRIFT + STEP, "{}", highest(&rows, 1));
        allowed.store(END, Ordering::SeqCst);
        harness.nudge();
        harness.run_until(|| out.watermark() == Ts::MAX).unwrap();
        rows.extend(out.take());
        assert_eq!(rows.len() as Ts, 2 * END);
    }
}
