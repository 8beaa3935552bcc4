//! The dataflow runtime of one process.
//!
//! A **slot** is one thread that runs one subtask of every operator to
//! completion, downstream first ([`slot`]). A **task** is a head (a source's
//! reader, or an operator behind an exchange) with the stages chained to it,
//! which are called directly ([`emit`]). Tasks are joined by **channels**, one
//! per (upstream subtask, downstream subtask, edge) ([`channel`]); a task's
//! [`gate`] merges its channels: watermarks, idleness, barrier alignment, end.
//!
//! Nothing on a slot blocks. Room is tested before each call into an operator;
//! what one call emits beyond it is kept privately until there is room again.

pub mod alignment;
pub mod channel;
pub(crate) mod combine;
pub mod emit;
pub mod event_time;
pub mod flight;
pub mod gate;
pub mod idleness;
pub mod memory;
pub mod metrics;
pub mod operator;
pub mod partition;
pub mod pool;
pub mod side;
pub mod signal;
pub mod sink;
pub mod slot;
pub mod slot_snapshot;
pub mod snapshot;
pub mod source;
pub mod task;

/// Rows in a full batch.
pub const BATCH_ROWS: usize = 1024;

/// Rows that a reader emits in one poll: what they pass through stays in the first cache.
pub const SOURCE_ROWS: usize = 512;

/// Batches that a channel holds before its sender waits.
pub const CHANNEL_BATCHES: usize = 8;
