//! The command line of small real programs (`examples/`), as processes.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod checkpoints;
mod commands;
mod common;
mod files;
mod logs;
