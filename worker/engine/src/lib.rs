//! The Millrace engine.
//!
//! Rooms, from the bottom up:
//! - [`data`]: timestamps, errors, batches.
//! - [`connector`]: the traits that sources and sinks implement.

pub mod connector;
pub mod data;
