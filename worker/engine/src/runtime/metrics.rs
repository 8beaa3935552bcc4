//! Counters of a running job. Written by slots with relaxed stores, read by whoever shows them.

use crate::data::{TS_MIN, Ts};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that is set.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// A gauge that shows `value`.
    pub fn new(value: i64) -> Self {
        Self(AtomicI64::new(value))
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it shows.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One subtask of a node of the graph.
#[derive(Debug)]
pub struct NodeMetrics {
    /// Rows taken.
    pub rows_in: Counter,
    /// Rows given.
    pub rows_out: Counter,
    /// Rows that came too late and had no side output to go to.
    pub late_dropped: Counter,
    /// Watermark.
    pub watermark: Gauge,
    /// Nanoseconds in which it worked.
    pub busy_ns: Counter,
    /// Milliseconds in which it waited for room downstream.
    pub blocked_ms: Counter,
    /// When the wait that is going on began; 0: none.
    blocked_from: Gauge,
    /// Approximate bytes of keyed state.
    pub state_bytes: Gauge,
    /// Entries of keyed state.
    pub state_entries: Gauge,
}

impl Default for NodeMetrics {
    fn default() -> Self {
        Self {
            rows_in: Counter::default(),
            rows_out: Counter::default(),
            late_dropped: Counter::default(),
            watermark: Gauge::new(TS_MIN),
            busy_ns: Counter::default(),
            blocked_ms: Counter::default(),
            blocked_from: Gauge::new(0),
            state_bytes: Gauge::new(0),
            state_entries: Gauge::new(0),
        }
    }
}

impl NodeMetrics {
    /// It waits for room, at this moment (milliseconds since the epoch).
    pub fn blocked_since(&self, now: Ts) {
        if self.blocked_from.get() == 0 {
            self.blocked_from.set(now);
        }
    }

    /// It does not wait (any more).
    pub fn unblocked(&self, now: Ts) {
        let from = self.blocked_from.get();
        if from != 0 {
            self.blocked_from.set(0);
            self.blocked_ms.add(u64::try_from(now - from).unwrap_or(0));
        }
    }

    /// The watermark, if there has been one.
    pub fn watermark(&self) -> Option<Ts> {
        Some(self.watermark.get()).filter(|w| *w != TS_MIN)
    }
}
