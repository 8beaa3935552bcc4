//! The Millrace engine.
//!
//! Rooms, from the bottom up:
//! - [`data`]: timestamps, errors, batches.
//! - [`connector`]: the traits that sources and sinks implement.
//! - [`store`]: the object store that keeps a job's progress.
//! - [`coordinator`]: decides what runs, is complete, is committed, is deleted.

pub mod connector;
pub mod coordinator;
pub mod data;
pub mod store;
