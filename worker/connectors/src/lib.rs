//! Sources, sinks and formats.
//!
//! - [`format`]: CSV and JSON lines, as bytes.
//! - [`file`]: reads files and writes them exactly once.

pub mod file;
pub mod format;
