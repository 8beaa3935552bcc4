//! Evictors: which of a window's rows are left out. Pure.

use crate::api::window::assign::Window;
use crate::data::{Fun, Ts};
use crate::time::millis;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The rows of a window with their timestamps, in order of arrival (in windows that
/// merged: session after session).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Elements<T> {
    ts: Vec<Ts>,
    rows: Vec<T>,
}

impl<T> Default for Elements<T> {
    fn default() -> Self {
        Self { ts: Vec::new(), rows: Vec::new() }
    }
}

impl<T> Elements<T> {
    /// The rows.
    pub fn rows(&self) -> &[T] {
        &self.rows
    }

    /// Their timestamps.
    pub fn ts(&self) -> &[Ts] {
        &self.ts
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Appends a row.
    pub fn push(&mut self, ts: Ts, row: T) {
        self.ts.push(ts);
        self.rows.push(row);
    }

    /// Moves the rows of `other` behind these.
    pub fn append(&mut self, mut other: Self) {
        self.ts.append(&mut other.ts);
        self.rows.append(&mut other.rows);
    }

    /// Keeps the last `n` rows.
    pub fn keep_last(&mut self, n: usize) {
        let from = self.len().saturating_sub(n);
        self.ts.drain(..from);
        self.rows.drain(..from);
    }

    /// Keeps the rows for which `f(timestamp, row)` holds.
    pub fn retain(&mut self, mut f: impl FnMut(Ts, &T) -> bool) {
        let keep: Vec<bool> = self.ts.iter().zip(&self.rows).map(|(ts, row)| f(*ts, row)).collect();
        let (mut a, mut b) = (keep.iter(), keep.iter());
        self.ts.retain(|_| a.next().copied().unwrap_or(true));
        self.rows.retain(|_| b.next().copied().unwrap_or(true));
    }
}

/// What an evictor knows.
#[derive(Debug, Clone, Copy)]
pub struct EvictorCx {
    /// The window.
    pub window: Window,
    /// No earlier event time is expected.
    pub watermark: Ts,
    /// The clock: milliseconds since the epoch.
    pub processing_time: Ts,
}

/// Removes rows from a window when it fires. What is removed is gone for later firings.
pub trait Evictor<T>: Fun {
    /// Before the window function sees the rows.
    fn evict_before(&mut self, rows: &mut Elements<T>, cx: &EvictorCx);

    /// After it.
    fn evict_after(&mut self, _rows: &mut Elements<T>, _cx: &EvictorCx) {}
}

/// Keeps the last `n` rows.
#[derive(Debug, Clone, Copy)]
pub struct CountEvictor {
    keep: usize,
    after: bool,
}

impl CountEvictor {
    /// Keeps the last `n` rows, counted before the window function.
    pub fn of(n: usize) -> Self {
        Self { keep: n, after: false }
    }

    /// Evicts after the window function instead.
    pub fn after(mut self) -> Self {
        self.after = true;
        self
    }
}

impl<T> Evictor<T> for CountEvictor {
    fn evict_before(&mut self, rows: &mut Elements<T>, _: &EvictorCx) {
        if !self.after {
            rows.keep_last(self.keep);
        }
    }

    fn evict_after(&mut self, rows: &mut Elements<T>, _: &EvictorCx) {
        if self.after {
            rows.keep_last(self.keep);
        }
    }
}

/// Keeps the rows that are less than `size` older than the window's youngest.
#[derive(Debug, Clone, Copy)]
pub struct TimeEvictor {
    size: Ts,
    after: bool,
}

impl TimeEvictor {
    /// Keeps rows with timestamps above the highest less `size`.
    pub fn of(size: Duration) -> Self {
        Self { size: millis(size), after: false }
    }

    /// Evicts after the window function instead.
    pub fn after(mut self) -> Self {
        self.after = true;
        self
    }

    fn evict<T>(self, rows: &mut Elements<T>) {
        if let Some(max) = rows.ts().iter().max() {
            let cut = max.saturating_sub(self.size);
            rows.retain(|ts, _| ts > cut);
        }
    }
}

impl<T> Evictor<T> for TimeEvictor {
    fn evict_before(&mut self, rows: &mut Elements<T>, _: &EvictorCx) {
        if !self.after {
            self.evict(rows);
        }
    }

    fn evict_after(&mut self, rows: &mut Elements<T>, _: &EvictorCx) {
        if self.after {
            self.evict(rows);
        }
    }
}

/// Keeps the rows whose distance from the last one is below a threshold.
#[derive(Debug, Clone, Copy)]
pub struct DeltaEvictor<F> {
    threshold: f64,
    delta: F,
    after: bool,
}

impl<F> DeltaEvictor<F> {
    /// Keeps rows with `delta(row, last) < threshold`.
    pub fn of<T>(threshold: f64, delta: F) -> Self
    where
        F: Fn(&T, &T) -> f64 + Fun,
    {
        Self { threshold, delta, after: false }
    }

    /// Evicts after the window function instead.
    pub fn after(mut self) -> Self {
        self.after = true;
        self
    }

    fn evict<T>(&self, rows: &mut Elements<T>)
    where
        F: Fn(&T, &T) -> f64,
    {
        let Some(last) = rows.rows.last() else { return };
        let keep: Vec<bool> =
            rows.rows.iter().map(|row| (self.delta)(row, last) < self.threshold).collect();
        let mut keep = keep.into_iter();
        rows.retain(|_, _| keep.next().unwrap_or(true));
    }
}

impl<T, F: Fn(&T, &T) -> f64 + Fun> Evictor<T> for DeltaEvictor<F> {
    fn evict_before(&mut self, rows: &mut Elements<T>, _: &EvictorCx) {
        if !self.after {
            self.evict(rows);
        }
    }

    fn evict_after(&mut self, rows: &mut Elements<T>, _: &EvictorCx) {
        if self.after {
            self.evict(rows);
        }
    }
}

/// Leaves every row: for windows that are kept as rows without an evictor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeepAll;

impl<T> Evictor<T> for KeepAll {
    fn evict_before(&mut self, _: &mut Elements<T>, _: &EvictorCx) {}
}
