//! Sources, sinks and formats.
//!
//! - [`mod@format`]: CSV and JSON lines, as bytes.
//! - [`mod@file`]: reads files and writes them exactly once.
//! - [`generate`]: rows made from their index, at a rate.
//! - [`collection`]: rows from memory, and to memory.
//! - [`mod@print`], [`blackhole`]: to the terminal, and to nowhere.
//! - [`dead_letters`]: the file that rows go to which could not be read.
//! - [`rfc3339`]: times as text in fields of rows.
//! - `contract` (feature `testing`): what every source and sink must pass.

pub mod blackhole;
pub mod collection;
#[cfg(feature = "testing")]
pub mod contract;
pub mod dead_letters;
pub mod file;
pub mod format;
pub mod generate;
pub mod print;
pub mod rfc3339;

pub use blackhole::Blackhole;
pub use collection::{Collected, Collection};
pub use dead_letters::DeadLetterFile;
pub use generate::Generator;
pub use print::Print;
