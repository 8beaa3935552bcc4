//! Window operators.
//!
//! - [`tumbling`]: event-time windows that follow each other, one table per window.
//! - [`sliding`]: event-time windows that overlap, made of panes that they share.
//! - [`generic`]: everything else: sessions, count and global windows, processing time,
//!   triggers, evictors. Its state is a row of [`slots`] per key, its timers stand in
//!   [`timers`], what it keeps of a window and emits is a [`body`].
//!
//! All judge lateness alike: a row is late when all its windows are gone, and a window
//! goes when the watermark reaches its end plus the allowed lateness. Late rows go to
//! the late side output, or are counted and dropped.

mod ahead;
pub(crate) mod body;
pub(crate) mod generic;
mod held;
pub(crate) mod sliding;
pub(crate) mod slots;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
pub(crate) mod tumbling;

use crate::api::join::Either;
use crate::data::{Fail, Res, Ts, UserError};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::side::Sides;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::MaxParallelism;
use std::sync::Arc;

/// Name of the state of windows made of panes.
pub const PANES: &str = "panes";

/// Name of the state of windows kept by key.
pub const WINDOWS: &str = "windows";

/// Where rows go that came too late.
pub(crate) struct LateRows {
    /// The side output, if there is one.
    pub tag: Option<&'static str>,
    /// The one for rows of the second stream of two.
    pub second: Option<&'static str>,
    /// Counts those that have none, or that nobody reads.
    pub metrics: Arc<NodeMetrics>,
}

impl LateRows {
    #[cold]
    pub fn take<T: 'static>(&self, sides: &mut Sides, ts: Ts, row: T) -> Res {
        self.take_to(self.tag, sides, ts, row)
    }

    /// As [`LateRows::take`], of two streams.
    #[cold]
    pub fn take_either<A: 'static, B: 'static>(
        &self,
        sides: &mut Sides,
        ts: Ts,
        row: Either<A, B>,
    ) -> Res {
        match row {
            Either::Left(row) => self.take_to(self.tag, sides, ts, row),
            Either::Right(row) => self.take_to(self.second, sides, ts, row),
        }
    }

    fn take_to<T: 'static>(
        &self,
        tag: Option<&'static str>,
        sides: &mut Sides,
        ts: Ts,
        row: T,
    ) -> Res {
        let taken = match tag {
            Some(tag) => sides.emit(tag, ts, row)?,
            None => false,
        };
        if !taken {
            self.metrics.late_dropped.add(1);
        }
        Ok(())
    }
}

/// A row that event time cannot put anywhere.
#[cold]
pub(crate) fn no_timestamp() -> Fail {
    Box::new(UserError(
        "a row without a timestamp came to windows of event time: give its source watermarks \
         that know the rows' timestamps, or use windows of processing time"
            .to_owned(),
    ))
}

/// Sorts by key group, hash, and, where hashes collide, key bytes: an order that does
/// not depend on how the state came about, nor on the parallelism.
pub(crate) fn sort_by_key<K: Key, V>(max: MaxParallelism, rows: &mut [(u64, K, V)]) {
    let order = |hash: u64| (max.group(hash), hash);
    rows.sort_unstable_by(|a, b| {
        order(a.0).cmp(&order(b.0)).then_with(|| key_bytes(&a.1).cmp(&key_bytes(&b.1)))
    });
}

pub(crate) fn key_bytes<K: Key>(key: &K) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.write(&mut bytes);
    bytes
}
