//! The Millrace engine.
//!
//! Rooms, from the bottom up:
//! - [`data`]: timestamps, errors, batches; [`time`]: timestamps and watermarks.
//! - [`connector`]: the traits that sources and sinks implement.
//! - [`state`]: keyed state: tables, snapshots, checkpoint files.
//! - [`store`]: the object store that keeps a job's progress.
//! - [`coordinator`]: decides what runs, is complete, is committed, is deleted.
//! - [`graph`]: the dataflow graph; [`api`]: what programs are written with;
//!   [`operators`]: what stands behind an exchange.
//! - [`runtime`]: slots, tasks, channels; [`exchange`]: channels between workers.
//! - [`job`]: the shell that runs a job in this process.
//! - [`testing`]: a harness that runs a piece of dataflow step by step, for tests.

pub mod api;
pub mod connector;
pub mod coordinator;
pub mod data;
pub mod exchange;
pub mod graph;
pub mod job;
pub mod operators;
pub mod runtime;
pub mod state;
pub mod store;
pub mod testing;
pub mod time;

/// Runs the snippets of the page on windows.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/windows.md")]
pub struct WindowsPage;
