//! From source to sink through a shuffle, at a rate far below what is possible.

use super::looking::{Look, Looking};
use super::running::Running;
use super::{INTERVAL, PARALLELISM};
use crate::events::event;
use crate::measure::{Runs, median};
use anyhow::{Result, ensure};
use millrace::prelude::*;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const ROWS_PER_S: u64 = 100_000;
const KEYS: u64 = 1_000;
/// Rows due before this do not count.
const WARM_UP: Duration = Duration::from_secs(2);

/// p99 milliseconds of the median run.
///
/// A row's clock starts when it is due by the rate, not when the source comes
/// round to make it: a source that is held up would otherwise hide it.
pub fn p99_ms(runs: Runs) -> Result<f64> {
    let time = Duration::from_secs_f64((10.0 * runs.scale).clamp(2.0, 10.0));
    let run = || {
        let histogram = Arc::new(Mutex::new(Histogram::default()));
        let mut job = Running::start(build(&histogram), Some(INTERVAL))?;
        job.wait(WARM_UP + time)?;
        let seen = histogram.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!(
            "  p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
            seen.percentile_ms(0.5),
            seen.percentile_ms(0.99),
            seen.percentile_ms(0.999)
        );
        let wanted = ROWS_PER_S as f64 * time.as_secs_f64();
        ensure!(seen.rows as f64 > 0.9 * wanted, "{} rows where {wanted} were due", seen.rows);
        Ok(seen.percentile_ms(0.99))
    };
    let p99s: Vec<f64> = (0..runs.count.max(1)).map(|_| run()).collect::<Result<_>>()?;
    Ok(median(p99s))
}

fn build(histogram: &Arc<Mutex<Histogram>>) -> Env {
    let begun = Instant::now();
    // Each split is due from its first row on.
    let starts: Arc<[OnceLock<Duration>; PARALLELISM as usize]> = Arc::default();
    let make = move |i: u64| {
        let start = starts[(i % u64::from(PARALLELISM)) as usize].get_or_init(|| begun.elapsed());
        (event(i, KEYS).key, start.as_nanos() as u64 + i * (1_000_000_000 / ROWS_PER_S))
    };
    let env = Env::new();
    let source = Generator::new(make).rate(ROWS_PER_S).splits(PARALLELISM.into());
    let histogram = Arc::clone(histogram);
    env.source("events", source, Watermarks::none())
        .key_by(|row| row.0)
        .reduce("latest", |latest, row| *latest = row)
        .sink("latency", Looking(move || Clock { begun, histogram: Arc::clone(&histogram) }));
    env
}

/// Looks at one subtask's rows: (key, nanoseconds from `begun` to when it was due).
struct Clock {
    begun: Instant,
    histogram: Arc<Mutex<Histogram>>,
}

impl Look<(u64, u64)> for Clock {
    fn batch(&mut self, rows: &[(u64, u64)]) {
        let now = self.begun.elapsed().as_nanos() as u64;
        let mut histogram = self.histogram.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |due: &&(u64, u64)| due.1 >= WARM_UP.as_nanos() as u64;
        rows.iter().filter(count).for_each(|row| histogram.note(now.saturating_sub(row.1)));
    }
}

/// Latencies in steps of 10 us; the last step holds all above.
#[derive(Debug)]
struct Histogram {
    steps: Vec<u64>,
    rows: u64,
}

const STEP_NS: u64 = 10_000;

impl Default for Histogram {
    fn default() -> Self {
        Self { steps: vec![0; 100_000], rows: 0 }
    }
}

impl Histogram {
    fn note(&mut self, ns: u64) {
        let last = self.steps.len() - 1;
        self.steps[((ns / STEP_NS) as usize).min(last)] += 1;
        self.rows += 1;
    }

    /// The upper end of the step in which the share `p` is reached.
    fn percentile_ms(&self, p: f64) -> f64 {
        let wanted = (self.rows as f64 * p).ceil() as u64;
        let mut below = 0;
        let step = self.steps.iter().position(|rows| {
            below += rows;
            below >= wanted
        });
        (step.unwrap_or(0) + 1) as f64 * STEP_NS as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_upper_ends_of_steps() {
        let mut histogram = Histogram::default();
        (0..100).for_each(|i| histogram.note(i * 1_000_000));
        assert_eq!(histogram.percentile_ms(0.5), 49.01);
        assert_eq!(histogram.percentile_ms(0.99), 98.01);
        histogram.note(u64::MAX);
        assert_eq!(histogram.percentile_ms(1.0), 1_000.0);
    }
}
