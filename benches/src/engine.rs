//! The engine's halves: the same work as in [`crate::plain`], as a job at
//! parallelism 2 with a checkpoint each second to a local directory.
//!
//! This is the one place to edit when a half is built. A function returns
//! `None` while there is none; its row then shows a dash. Rows come from
//! [`crate::events::event`], results end in [`crate::events::digest`], and a
//! [`Rate`]'s checksum must be that of the plain half: the table refuses a row
//! whose checksums differ.

mod digesting;

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

/// A job's options as the table wants them: checkpoint each second to a directory.
fn options(storage: &Path, parallelism: u16) -> JobOptions {
    let mut options = JobOptions::new("bench", storage.to_owned());
    options.parallelism = parallelism;
    options.checkpoints =
        CheckpointPolicy { interval: Some(Duration::from_secs(1)), ..CheckpointPolicy::default() };
    options
}

/// The rate of a job that is built anew for each run and ends in `sum`.
fn rate(
    runs: Runs,
    rows: u64,
    parallelism: u16,
    build: impl Fn(&Env, u64, Digesting),
) -> Result<Option<Rate>> {
    let rows = runs.rows(rows);
    let run = || -> Result<u64> {
        let (env, sum) = (Env::new(), Digesting::default());
        build(&env, rows, sum.clone());
        let storage = tempfile::tempdir()?;
        let outcome =
            job::run(&Handle::new(env.into_graph()), options(storage.path(), parallelism));
        match outcome? {
            Outcome::Finished => Ok(sum.total()),
            other => Err(anyhow!("the job ended as {other:?}")),
        }
    };
    let (time, checksum) = runs.median(run);
    let mrows_per_s = rows as f64 / 1e6 / time.as_secs_f64();
    Ok(Some(Rate { rows, mrows_per_s, checksum: checksum? }))
}

fn events(env: &Env, rows: u64, keys: u64, splits: u32) -> DataStream<Event> {
    let source = Generator::new(move |i| event(i, keys)).count(rows).splits(splits);
    env.source("events", source, Watermarks::monotonous(|event: &Event| event.ts))
}

/// generate -> key_by -> 1 s tumbling event-time count -> digest.
pub fn window_count(runs: Runs, rows: u64, keys: u64) -> Result<Option<Rate>> {
    rate(runs, rows, PARALLELISM, |env, rows, sum| {
        events(env, rows, keys, PARALLELISM.into())
            .key_by(|event| event.key)
            .window(TumblingWindows::of(Duration::from_millis(WINDOW_MS.unsigned_abs())))
            .aggregate("count", Count, |key, window, n| digest(*key, window.start, n))
            .sink("sum", sum);
    })
}

/// generate -> key_by -> reduce (sum of values), every update -> digest.
pub fn running_reduce(runs: Runs, rows: u64, keys: u64) -> Result<Option<Rate>> {
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
pub fn chain(runs: Runs, rows: u64, keys: u64) -> Result<Option<Rate>> {
    rate(runs, rows, 1, |env, rows, sum| {
        events(env, rows, keys, 1)
            .map(plain::chain_first)
            .filter(plain::chain_keep)
            .map(plain::chain_last)
            .sink("sum", sum);
    })
}

/// CSV file of `plain::Departure` -> parse -> window -> file. At parallelism 1;
/// the checksum is that of `plain::parse_departures`.
pub fn csv(_runs: Runs, _rows: u64, _file: &Path) -> Result<Option<Rate>> {
    Ok(None)
}

/// What checkpoints of 10 M keys cost.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointCost {
    /// p99 of how long a slot did nothing but the checkpoint, in milliseconds.
    pub stall_p99_ms: f64,
    /// M rows/s with a checkpoint each second.
    pub with: f64,
    /// M rows/s of the same run without.
    pub without: f64,
    /// Delta bytes written, folding apart, by bytes of entries that changed.
    pub delta_ratio: f64,
}

/// Running reduce over 10 M keys, updated so often between two checkpoints that
/// each changed entry has seen `updates_per_entry`.
pub fn checkpoint_cost(_runs: Runs, _updates_per_entry: f64) -> Result<Option<CheckpointCost>> {
    Ok(None)
}

/// p99 milliseconds from source to sink through a shuffle, at 100 K events/s.
pub fn latency_p99_ms(_runs: Runs) -> Result<Option<f64>> {
    Ok(None)
}

/// What an idle job takes.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Resident MiB.
    pub resident_mib: f64,
    /// Percent of one core.
    pub core_percent: f64,
}

/// An idle job in a process of its own, watched for some seconds.
pub fn idle() -> Result<Option<Idle>> {
    Ok(None)
}

/// Resident bytes a key of value state (u64 -> u64) with `keys` keys.
pub fn bytes_per_key(_keys: u64) -> Result<Option<f64>> {
    Ok(None)
}
