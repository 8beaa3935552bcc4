//! The engine's halves: the same work as in [`crate::plain`], as a job at
//! parallelism 2 with a checkpoint each second to a local directory.
//!
//! This is the one place to edit when a half is built. A function returns
//! `None` while there is none; its row then shows a dash. Rows come from
//! [`crate::events::event`], results end in [`crate::events::digest`], and a
//! [`Rate`]'s checksum must be that of the plain half: the table refuses a row
//! whose checksums differ.

use crate::measure::{Rate, Runs};
use anyhow::Result;
use std::path::Path;

/// generate -> key_by -> 1 s tumbling event-time count -> digest.
pub fn window_count(_runs: Runs, _rows: u64, _keys: u64) -> Result<Option<Rate>> {
    Ok(None)
}

/// generate -> key_by -> reduce (sum of values), every update -> digest.
pub fn running_reduce(_runs: Runs, _rows: u64, _keys: u64) -> Result<Option<Rate>> {
    Ok(None)
}

/// generate -> map -> filter -> map (`plain::chain_*`) -> wrapping sum; no
/// shuffle. At parallelism 1, for the plain loop has one thread.
pub fn chain(_runs: Runs, _rows: u64, _keys: u64) -> Result<Option<Rate>> {
    Ok(None)
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
