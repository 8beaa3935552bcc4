//! CSV file -> parse -> window -> file.

use super::options;
use crate::events::WINDOW_MS;
use crate::measure::{Rate, Runs};
use crate::plain::Departure;
use anyhow::{Result, bail};
use millrace::prelude::*;
use millrace_engine::coordinator::Outcome;
use millrace_engine::job::{self, Handle};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// Event time of an hour's window holds 72,000 departures.
const WINDOW: Duration = Duration::from_millis(3_600 * WINDOW_MS.unsigned_abs());

/// As in the flights example: departures are handed in late. Two hours also make
/// watermarks a second apart, not one at every row.
const OUT_OF_ORDERNESS: Duration = Duration::from_secs(2 * 3_600);

/// A window's row in the output.
#[derive(Debug, Serialize, Deserialize)]
struct Hour {
    origin: String,
    start: Ts,
    flights: u64,
    cancelled: u64,
    /// Sum of what [`crate::plain::parse_departures`] sums up of each row.
    checksum: u64,
}

impl Hour {
    fn of(origin: &str, window: Window, (flights, cancelled, checksum): Sums) -> Self {
        Self { origin: origin.to_owned(), start: window.start, flights, cancelled, checksum }
    }
}

#[derive(Debug, Clone, Copy)]
struct Flights;

/// Flights, cancelled ones, checksum.
type Sums = (u64, u64, u64);

impl Aggregate<Departure> for Flights {
    type Acc = Sums;
    type Out = Sums;

    fn create(&self) -> Sums {
        (0, 0, 0)
    }

    fn add(&self, sums: &mut Sums, row: &Departure) {
        sums.0 += 1;
        sums.1 += u64::from(row.dep_delay.is_none());
        sums.2 = sums.2.wrapping_add(row.scheduled_ms as u64 ^ u64::from(row.flight));
    }

    fn merge(&self, sums: &mut Sums, other: &Sums) {
        *sums = (sums.0 + other.0, sums.1 + other.1, sums.2.wrapping_add(other.2));
    }

    fn result(&self, sums: &Sums) -> Sums {
        *sums
    }
}

/// At parallelism 1, for parsing alone has one thread. The checksum is that of the
/// files that were written.
pub fn rate(runs: Runs, rows: u64, file: &Path) -> Result<Rate> {
    let (time, checksum) = runs.median(|| run(file));
    let mrows_per_s = rows as f64 / 1e6 / time.as_secs_f64();
    Ok(Rate { rows, mrows_per_s, checksum: checksum? })
}

fn run(file: &Path) -> Result<u64> {
    let (env, storage, out) = (Env::new(), tempfile::tempdir()?, tempfile::tempdir()?);
    let departures = FileSource::<Departure, _>::csv(file);
    let scheduled = Watermarks::bounded(OUT_OF_ORDERNESS, |row: &Departure| row.scheduled_ms);
    env.source("departures", departures, scheduled)
        .key_by_ref(|row| &row.origin)
        .window(TumblingWindows::of(WINDOW))
        .aggregate("hours", Flights, |key, window, sums| Hour::of(key, window, sums))
        .sink("out", FileSink::csv(out.path()));
    match job::run(&Handle::new(env.into_graph()), options(storage.path(), 1))? {
        Outcome::Finished => read_back(out.path()),
        other => bail!("the job ended as {other:?}"),
    }
}

/// The sum of the checksums of all windows: a few dozen rows.
fn read_back(dir: &Path) -> Result<u64> {
    let mut sum = 0_u64;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            for hour in csv::Reader::from_path(path)?.deserialize::<Hour>() {
                sum = sum.wrapping_add(hour?.checksum);
            }
        }
    }
    Ok(sum)
}
