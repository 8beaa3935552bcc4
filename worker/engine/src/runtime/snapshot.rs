//! Barriers, and what the tasks of a slot contribute to a checkpoint.

use crate::coordinator::BarrierKind;
use crate::data::{Res, Ts};
use millrace_protocol::ids::{Attempt, CheckpointId, Uid};
use millrace_protocol::manifest::{Redistribution, ShapeBytes};
use serde::{Deserialize, Serialize};

/// The in-band marker of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// The attempt it belongs to.
    pub attempt: Attempt,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The newest complete checkpoint: what changed since then belongs into this one.
    pub base: Option<CheckpointId>,
    /// Why.
    pub kind: BarrierKind,
}

/// Small state of an operator's subtask: a list of items under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListBlob {
    /// The operator.
    pub uid: Uid,
    /// The state's name within it.
    pub state: String,
    /// How items are given out at restore.
    pub redistribution: Redistribution,
    /// The items' shape, as traced by their writer.
    pub shape: ShapeBytes,
    /// The items.
    pub items: Vec<Vec<u8>>,
}

/// What a sink's subtask hands over: run in the side pool, then part of the acknowledgement.
pub type PrepareJob = Box<dyn FnOnce() -> Res<PreparedBytes> + Send>;

/// Committables of a sink's subtask as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreparedBytes {
    /// Committed once the checkpoint is complete.
    pub commit: Vec<Vec<u8>>,
    /// Committed only at a restore from this checkpoint.
    pub open: Vec<Vec<u8>>,
    /// Shape of the committables.
    pub shape: ShapeBytes,
}

/// What the tasks of a slot put into a checkpoint at its barrier; keyed tables
/// follow by draining.
#[derive(Default)]
pub struct SnapshotParts {
    /// Small states.
    pub lists: Vec<ListBlob>,
    /// Watermarks: (operator, watermark of this subtask).
    pub watermarks: Vec<(Uid, Ts)>,
    /// Sinks' sealing work.
    pub prepare: Vec<(Uid, PrepareJob)>,
}
