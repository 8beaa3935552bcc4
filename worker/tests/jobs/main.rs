//! Whole jobs: graph, runtime, coordinator, state and store together, in this process.
//!
//! Seeds are printed; `MILLRACE_SEED=n cargo test -p millrace --test jobs NAME` repeats a run
//! as far as threads allow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(missing_docs, reason = "tests")]

mod bounded;
mod broadcast;
mod common;
mod connectors;
mod copies;
mod ends;
mod evolution;
mod faults;
mod full_disk;
mod golden;
mod graphs;
mod idle;
mod names;
mod older;
mod poison;
mod refusals;
mod rescale;
mod spilling;
mod unaligned;
