//! Writes files.
/// Placeholder.
pub struct FileSink;
