//! What checkpoints of a large state cost: throughput, stalls, bytes.

use super::INTERVAL;
use super::loaded::{ENTRY_BYTES, Load};
use super::running::Running;
use crate::measure::{Runs, median, percentile};
use anyhow::{Result, ensure};
use millrace_engine::coordinator::CheckpointReport;
use std::time::{Duration, Instant};

/// What checkpoints of 10 M keys cost.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointCost {
    /// Rows by changed entries between two checkpoints, as it came out.
    pub updates_per_entry: f64,
    /// With a checkpoint each second.
    pub stall: Stall,
    /// Without checkpoints: what the rest of the engine does, and the machine.
    pub stall_without: Stall,
    /// M rows/s with a checkpoint each second.
    pub with: f64,
    /// M rows/s of the same run without.
    pub without: f64,
    /// Delta bytes written, folding apart, by bytes of entries that changed.
    pub delta_ratio: f64,
    /// Entries written although they had not changed, by those that had.
    pub folded_ratio: f64,
}

/// p99 over subtasks and seconds of the longest pause between two batches that
/// reached the sink, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    /// As it was.
    pub all_ms: f64,
    /// Without the time in which the slot was ready and other threads had the core.
    pub own_ms: f64,
}

const KEYS: u64 = 10_000_000;

/// Running reduce over 10 M keys, updated so often between two checkpoints that
/// each changed entry has seen `updates_per_entry`.
pub fn cost(runs: Runs, updates_per_entry: f64) -> Result<CheckpointCost> {
    let keys = runs.rows(KEYS);
    let time = Duration::from_secs_f64((15.0 * runs.scale).clamp(3.0, 15.0));
    let load = Load::new(keys, updates_per_entry);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..runs.count.max(1) {
        // In turns, so that what else the machine does falls on both.
        without.push(watch(load, None, time)?);
        with.push(watch(load, Some(INTERVAL), time)?);
    }
    let rate = |seen: &[Seen]| median(seen.iter().map(|s| s.rows_per_s).collect()) / 1e6;
    let p99 = |seen: &[Seen], of: fn(&(Duration, Duration)) -> Duration| {
        let all = seen.iter().flat_map(|s| &s.pauses).map(|p| of(p).as_secs_f64());
        percentile(all.collect(), 0.99) * 1e3
    };
    let stall = |seen: &[Seen]| Stall { all_ms: p99(seen, |p| p.0), own_ms: p99(seen, |p| p.1) };
    for (what, seen) in [("with", &with), ("without", &without)] {
        let pauses: usize = seen.iter().map(|s| s.pauses.len()).sum();
        let disturbed: usize = seen.iter().map(|s| s.disturbed).sum();
        eprintln!(
            "  {what}: {pauses} seconds; {disturbed} more in which the hypervisor had a core"
        );
    }
    let taken: Vec<Taken> = with.iter().flat_map(|s| &s.checkpoints).copied().collect();
    ensure!(!taken.is_empty(), "no checkpoint was completed in {time:?}");
    let sum = |of: fn(&Taken) -> f64| taken.iter().map(of).sum::<f64>();
    let changed = sum(|t| t.changed);
    let (bytes, entries) = (sum(|t| t.report.bytes as f64), sum(|t| t.report.entries as f64));
    eprintln!(
        "  {} checkpoints took {:.2} s each, {:.1} MB and {:.2} M entries",
        taken.len(),
        sum(|t| t.report.took.as_secs_f64()) / taken.len() as f64,
        bytes / 1e6 / taken.len() as f64,
        entries / 1e6 / taken.len() as f64,
    );
    Ok(CheckpointCost {
        updates_per_entry: sum(|t| t.rows as f64) / changed,
        stall: stall(&with),
        stall_without: stall(&without),
        with: rate(&with),
        without: rate(&without),
        // Entries of one shape take the same bytes, folded or changed.
        delta_ratio: bytes / (entries * ENTRY_BYTES as f64),
        folded_ratio: entries / changed - 1.0,
    })
}

/// What was seen of a run.
struct Seen {
    rows_per_s: f64,
    /// As they were, and without waits for a core.
    pauses: Vec<(Duration, Duration)>,
    /// Seconds left out of them, since the hypervisor had a core.
    disturbed: usize,
    checkpoints: Vec<Taken>,
}

/// A checkpoint with the number of rows since the one before, and of entries that
/// those changed.
#[derive(Clone, Copy)]
struct Taken {
    rows: u64,
    changed: f64,
    report: CheckpointReport,
}

/// Lets the job load its state, settle, and run for `time`.
fn watch(load: Load, interval: Option<Duration>, time: Duration) -> Result<Seen> {
    let (mut job, pace) = load.start(interval)?;
    let newest = |job: &Running| job.status().checkpoint.map(|(report, _)| report);
    let mut last = newest(&job);
    if interval.is_some() {
        // The first two still write what was loaded.
        for _ in 0..3 {
            job.until(|job| newest(job).map(|r| r.checkpoint) != last.map(|r| r.checkpoint))?;
            last = newest(&job);
        }
    } else {
        job.wait(Duration::from_secs(1))?;
    }
    let (begun, first) = (Instant::now(), pace.rows());
    let mut rows_then = first;
    let mut checkpoints = Vec::new();
    job.until(|job| {
        if let Some(report) = newest(job)
            && last.is_some_and(|last| last.checkpoint != report.checkpoint)
        {
            let rows = pace.rows();
            let changed = load.changed(rows_then, rows);
            checkpoints.push(Taken { rows: rows - rows_then, changed, report });
            (rows_then, last) = (rows, Some(report));
        }
        begun.elapsed() >= time
    })?;
    let ended = Instant::now();
    let rows_per_s = (pace.rows() - first) as f64 / (ended - begun).as_secs_f64();
    let (pauses, disturbed) = pace.pauses(begun, ended);
    Ok(Seen { rows_per_s, pauses, disturbed, checkpoints })
}
