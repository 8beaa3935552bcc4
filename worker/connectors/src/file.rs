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

pub use sink::{Compression, FileSink, Rolling};
pub use source::FileSource;

use std::path::{Path, PathBuf};

/// The place `name` in a place: of a directory as [`Path::join`] has it, of
/// `s3://bucket/prefix?endpoint=…` before what follows the `?`.
pub fn join(place: impl AsRef<Path>, name: &str) -> PathBuf {
    let place = place.as_ref();
    match place.to_str() {
        Some(text) => millrace_engine::store::opener::join(text, name).into(),
        None => place.join(name),
    }
}
