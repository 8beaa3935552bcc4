//! Barriers, and what the tasks of a slot contribute to a checkpoint.

use crate::coordinator::BarrierKind;
use crate::data::{Res, Ts};
use crate::runtime::event_time::EventTime;
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
    /// Wall-clock time from which it may overtake rows, which then become part of the
    /// checkpoint; `None`: never. Clocks that differ make it earlier or later, not wrong.
    pub unaligned_at: Option<Ts>,
}

impl Barrier {
    /// Whether it may overtake rows now.
    pub fn may_overtake(&self, now: Ts) -> bool {
        self.unaligned_at.is_some_and(|at| at <= now)
    }
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
    /// How far event time had come in this subtask, by operator.
    pub event_times: Vec<(Uid, EventTime)>,
    /// Sinks' sealing work.
    pub prepare: Vec<(Uid, PrepareJob)>,
}
