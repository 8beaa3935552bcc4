//! The Millrace engine.
//!
//! Rooms, from the bottom up:
//! - [`data`]: timestamps, errors, batches.
//! - [`connector`]: the traits that sources and sinks implement.
//! - [`state`]: keyed state, its snapshots, and the files they are written to.

pub mod connector;
pub mod data;
pub mod state;
