//! The engine's halves: the same work as in [`crate::plain`], as a job at
//! parallelism 2 with a checkpoint each second to a local directory.
//!
//! Here are the three that are a rate beside a plain loop; each of the others has
//! a room of its own. Rows come from [`crate::events::event`], results end in
//! [`crate::events::digest`], and a [`Rate`]'s checksum must be that of the plain
//! half: the table refuses a row whose checksums differ.

pub mod apart;
mod checkpoint;
mod csv;
mod digesting;
mod latency;
mod loaded;
mod looking;
mod manifest;
mod pace;
mod running;
#[cfg(feature = "rocksdb")]
mod spilled;

pub use apart::{bytes_per_key, idle};
pub use checkpoint::{CheckpointCost, Stall, cost as checkpoint_cost};
pub use csv::rate as csv;
pub use latency::p99_ms as latency_p99_ms;
pub use manifest::measure as manifest;
#[cfg(feature = "rocksdb")]
pub use spilled::{Skew, spilled};

use crate::events::{Event, WINDOW_MS, digest, event};
use crate::measure::{Rate, Runs};
use crate::plain;
use anyhow::{Result, anyhow};
use digesting::Digesting;
use millrace::prelude::*;
use millrace_engine::coordinator::{CheckpointPolicy, Outcome};
use millrace_engine::job::{self, Handle, JobOptions};
use std::path::Path;
use std::time::Duration;

/// Cores, and so subtasks.
const PARALLELISM: u16 = 2;

/// From one checkpoint to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// A job's options as the table wants them: checkpoint each second to a directory.
fn options(storage: &Path, parallelism: u16) -> JobOptions {
    let mut options = JobOptions::new("bench", storage);
    options.parallelism = parallelism;
    options.checkpoints =
        CheckpointPolicy { interval: Some(INTERVAL), ..CheckpointPolicy::default() };
    options
}

/// The rate of a job that is built anew for each run and ends in `sum`.
fn rate(
    runs: Runs,
    rows: u64,
    parallelism: u16,
    build: impl Fn(&Env, u64, Digesting),
) -> Result<Rate> {
    rate_on(runs, rows, parallelism, None, build)
}

/// The same, with its slots spread over workers that reach each other over loopback.
fn rate_on(
    runs: Runs,
    rows: u64,
    parallelism: u16,
    workers: Option<u16>,
    build: impl Fn(&Env, u64, Digesting),
) -> Result<Rate> {
    let rows = runs.rows(rows);
    let run = || -> Result<u64> {
        let (env, sum) = (Env::new(), Digesting::default());
        build(&env, rows, sum.clone());
        let storage = tempfile::tempdir()?;
        let mut options = options(storage.path(), parallelism);
        options.loopback = workers;
        let outcome = job::run(&Handle::new(env.into_graph()), options);
        match outcome? {
            Outcome::Finished => Ok(sum.total()),
            other => Err(anyhow!("the job ended as {other:?}")),
        }
    };
    let (time, checksum) = runs.median(run);
    let mrows_per_s = rows as f64 / 1e6 / time.as_secs_f64();
    Ok(Rate { rows, mrows_per_s, checksum: checksum? })
}

fn events(env: &Env, rows: u64, keys: u64, splits: u32) -> DataStream<Event> {
    let source = Generator::new(move |i| event(i, keys)).count(rows).splits(splits);
    env.source("events", source, Watermarks::monotonous(|event: &Event| event.ts))
}

/// generate -> key_by -> 1 s tumbling event-time count -> digest.
pub fn window_count(runs: Runs, rows: u64, keys: u64) -> Result<Rate> {
    window_count_on(runs, rows, keys, None)
}

/// The same on that many workers.
pub fn window_count_on(runs: Runs, rows: u64, keys: u64, workers: Option<u16>) -> Result<Rate> {
    rate_on(runs, rows, PARALLELISM, workers, |env, rows, sum| {
        events(env, rows, keys, PARALLELISM.into())
            .key_by(|event| event.key)
            .window(TumblingWindows::of(Duration::from_millis(WINDOW_MS.unsigned_abs())))
            .aggregate("count", Count, |key, window, n| digest(*key, window.start, n))
            .sink("sum", sum);
    })
}

/// generate -> key_by -> reduce (sum of values), every update -> digest.
pub fn running_reduce(runs: Runs, rows: u64, keys: u64) -> Result<Rate> {
    rate(runs, rows, PARALLELISM, |env, rows, sum| {
        events(env, rows, keys, PARALLELISM.into())
            .map(|event| (event.key, event.value))
            .key_by(|row| row.0)
            .reduce("sum-by-key", |sum, row| sum.1 += row.1)
            .map(|(key, value)| digest(key, 0, value))
            .sink("sum", sum);
    })
}

/// generate -> map -> filter -> map (`plain::chain_*`) -> wrapping sum; no
/// shuffle. At parallelism 1, for the plain loop has one thread.
pub fn chain(runs: Runs, rows: u64, keys: u64) -> Result<Rate> {
    rate(runs, rows, 1, |env, rows, sum| {
        events(env, rows, keys, 1)
            .map(plain::chain_first)
            .filter(plain::chain_keep)
            .map(plain::chain_last)
            .sink("sum", sum);
    })
}
