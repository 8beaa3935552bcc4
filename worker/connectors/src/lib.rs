//! Sources, sinks and formats.
//!
//! - [`format`]: CSV and JSON lines, as bytes.

pub mod format;
