//! Files: a source that reads them once or watches a directory, and a sink that
//! writes each row to them exactly once.

mod input;
mod place;
#[cfg(feature = "s3")]
mod s3;
pub mod sink;
pub mod source;
#[cfg(feature = "zip")]
mod zip;

pub use sink::FileSink;
pub use source::FileSource;
