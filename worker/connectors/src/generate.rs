//! Rows made from their index: for benchmarks, tests and demonstrations.
//!
//! With `n` splits, split `i` makes the rows of the indices `i`, `i + n`,
//! `i + 2n`, ..., so that splits advance together in whatever grows with the
//! index. The position is the index, so a restored source goes on exactly.

use millrace_engine::connector::{Lane, Next, Reader, Source, SourceCx, SourceOut, Split};
use millrace_engine::data::{Fun, Res};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The shortest nap of a generator with a rate: rows come in small bursts.
const NAP: Duration = Duration::from_millis(1);

/// A source of rows made from their index.
///
/// ```
/// use millrace_connectors::Generator;
///
/// let clicks = Generator::new(|i| (i % 1_000, i)).count(1_000_000).rate(50_000).splits(4);
/// ```
#[derive(Debug, Clone)]
pub struct Generator<M> {
    make: M,
    count: Option<u64>,
    rate: Option<u64>,
    splits: u32,
}

impl<M> Generator<M> {
    /// Makes a row from each index, from 0 on, for ever and as fast as it can.
    pub fn new<T>(make: M) -> Self
    where
        M: Fn(u64) -> T + Fun,
    {
        Self { make, count: None, rate: None, splits: 1 }
    }

    /// Ends after this many rows.
    pub fn count(mut self, rows: u64) -> Self {
        self.count = Some(rows);
        self
    }

    /// At most this many rows a second, over all splits. After a pause (of the
    /// input's consumer, say) it catches up.
    pub fn rate(mut self, rows_per_second: u64) -> Self {
        self.rate = Some(rows_per_second.max(1));
        self
    }

    /// Number of splits: at least the parallelism, to occupy every subtask.
    pub fn splits(mut self, splits: u32) -> Self {
        self.splits = splits.max(1);
        self
    }
}

/// Every `step`th index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratorSplit {
    /// The first index.
    pub first: u32,
    /// Number of splits, and the distance of indices.
    pub step: u32,
    /// Rows made so far: the next index is `first + step * made`.
    pub made: u64,
    /// Rows in all.
    pub rows: Option<u64>,
}

impl Split for GeneratorSplit {
    fn id(&self) -> String {
        format!("{}/{}", self.first, self.step)
    }
}

impl<T: Send + 'static, M: Fn(u64) -> T + Fun> Source for Generator<M> {
    type Out = T;
    type Split = GeneratorSplit;
    type Reader = GeneratorReader<M>;

    fn discover(&mut self, known: &[GeneratorSplit]) -> Res<Vec<GeneratorSplit>> {
        if !known.is_empty() {
            return Ok(Vec::new());
        }
        let step = self.splits;
        let rows = |first: u32| {
            let of = |count: u64| count.saturating_sub(first.into()).div_ceil(step.into());
            self.count.map(of)
        };
        let split = |first| GeneratorSplit { first, step, made: 0, rows: rows(first) };
        Ok((0..step).map(split).collect())
    }

    fn reader(&self, _: SourceCx) -> Res<Self::Reader> {
        Ok(GeneratorReader {
            make: self.make.clone(),
            rate: self.rate.map(|rate| rate as f64 / f64::from(self.splits)),
            lanes: VecDeque::new(),
        })
    }
}

/// Makes the rows of the splits assigned to one subtask, in turns.
pub struct GeneratorReader<M> {
    make: M,
    /// Rows a second of each split.
    rate: Option<f64>,
    lanes: VecDeque<Made>,
}

struct Made {
    lane: Lane,
    split: GeneratorSplit,
    /// When this reader began, and with which row: what the rate is reckoned from.
    since: Option<(Instant, u64)>,
}

impl Made {
    /// How many rows may be made now, and when there will be more.
    fn due(&mut self, rate: f64, now: Instant) -> (u64, Instant) {
        let (start, first) = *self.since.get_or_insert((now, self.split.made));
        let due = first + (now.duration_since(start).as_secs_f64() * rate) as u64 + 1;
        let next = start + Duration::from_secs_f64((due - first) as f64 / rate);
        (due.saturating_sub(self.split.made), next.max(now + NAP))
    }
}

impl<T, M: Fn(u64) -> T> Reader<T, GeneratorSplit> for GeneratorReader<M> {
    fn assign(&mut self, lane: Lane, split: GeneratorSplit) -> Res {
        self.lanes.push_back(Made { lane, split, since: None });
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, T>) -> Res<Next> {
        let now = self.rate.map(|rate| (rate, Instant::now()));
        let mut wake: Option<Instant> = None;
        let mut share = out.room() as u64;
        if self.rate.is_some() {
            // Every split gets its turn: a rate is kept by each.
            share = share.div_ceil(self.lanes.len().max(1) as u64);
        }
        for _ in 0..self.lanes.len() {
            let Some(mut made) = self.lanes.pop_front() else { break };
            let GeneratorSplit { first, step, made: from, rows } = made.split;
            let mut n = share.min(out.room() as u64).min(rows.map_or(u64::MAX, |rows| rows - from));
            if let Some((rate, now)) = now {
                let (due, next) = made.due(rate, now);
                if due <= n {
                    n = due;
                    wake = Some(wake.map_or(next, |wake| wake.min(next)));
                } else {
                    wake = Some(now);
                }
            }
            let (first, step, make) = (u64::from(first), u64::from(step), &self.make);
            if n > 0 {
                out.extend(made.lane, (from..from + n).map(|i| make(first + step * i)));
                made.split.made += n;
            }
            if rows == Some(made.split.made) {
                out.finish(made.lane);
            } else {
                self.lanes.push_back(made);
            }
            if out.is_full() {
                return Ok(Next::More);
            }
        }
        Ok(match (self.lanes.is_empty(), wake, now) {
            (true, ..) => Next::Wait,
            (_, Some(wake), Some((_, now))) if wake > now => Next::Until(wake),
            _ => Next::More,
        })
    }

    fn positions(&mut self) -> Res<Vec<(Lane, GeneratorSplit)>> {
        Ok(self.lanes.iter().map(|made| (made.lane, made.split.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_engine::connector::{DeadLetters, SourceBuffer};
    use millrace_protocol::ids::{Subtask, Uid};
    use std::sync::Arc;

    struct None;
    impl DeadLetters for None {
        fn put(&self, _: &Uid, _: &str, _: u64, _: &str, _: &[u8]) {}
    }

    #[test]
    fn a_rate_is_kept_over_all_splits() {
        let mut source = Generator::new(|i| i).rate(20_000).splits(3);
        let cx = SourceCx {
            uid: "generated".into(),
            subtask: Subtask(0),
            parallelism: 1,
            waker: Arc::new(|| ()),
            dead_letters: Arc::new(None),
        };
        let mut reader = source.reader(cx).unwrap();
        for (i, split) in source.discover(&[]).unwrap().into_iter().enumerate() {
            reader.assign(Lane(i as u32), split).unwrap();
        }
        let mut buffer = SourceBuffer::<u64>::default();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            match reader.poll(&mut buffer.out(usize::MAX >> 32)).unwrap() {
                Next::Until(wake) => std::thread::sleep(wake - Instant::now()),
                other => panic!("{other:?}"),
            }
        }
        let rows = buffer.values.len() as f64 / start.elapsed().as_secs_f64();
        assert!((15_000.0..=21_000.0).contains(&rows), "{rows} rows/s");
    }
}
