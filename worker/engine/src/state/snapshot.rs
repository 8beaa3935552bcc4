//! The seam between state and checkpoints: what every kind of state table does
//! at a barrier, while it drains, and at a restore. Pure.

use super::delta::{DeltaWriter, StateSchema};
use super::kept::Kept;
use super::reader::Block;
use crate::data::{Res, Ts};
use millrace_protocol::ids::CheckpointId;
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::shape::ShapeError;
use thiserror::Error;

/// A snapshot to begin: what a barrier says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// The checkpoint it is for.
    pub checkpoint: CheckpointId,
    /// The checkpoint it builds on: what changed since then is written. `None`:
    /// it builds on nothing, and everything is written.
    pub base: Option<CheckpointId>,
    /// Key groups to be written whole whatever changed, so that older files are
    /// no longer needed for them. See [`fold`](super::fold).
    pub fold: KeyGroupRange,
}

/// A snapshot that cannot begin: a fault of the runtime, not of the user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// One at a time.
    #[error("checkpoint {next} begins while {draining} is being written")]
    StillDraining {
        /// The one to begin.
        next: CheckpointId,
        /// The one that drains.
        draining: CheckpointId,
    },
    /// The base is none of this attempt, or was aborted.
    #[error("checkpoint {checkpoint} builds on {base}, which this state does not know")]
    UnknownBase {
        /// The one to begin.
        checkpoint: CheckpointId,
        /// What it should build on.
        base: CheckpointId,
    },
    /// A pane is half consumed.
    #[error("checkpoint {checkpoint} begins in the middle of a firing")]
    Firing {
        /// The one to begin.
        checkpoint: CheckpointId,
    },
}

/// How much state there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Keys (of all namespaces).
    pub keys: u64,
    /// Approximate bytes of memory.
    pub memory: u64,
    /// Approximate bytes in the tier.
    pub spilled: u64,
}

impl Sizes {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            memory: self.memory + other.memory,
            spilled: self.spilled + other.spilled,
        }
    }
}

/// A table of state, as checkpoints know it.
///
/// A snapshot is [begun](StateTable::begin) at a barrier and drained in turns,
/// between which the operator goes on writing; what is drained is the state at
/// the barrier. At most one drains at a time.
pub trait StateTable {
    /// The types, as they stand in files and are compared at a restore.
    fn schema(&self) -> Result<StateSchema, ShapeError>;

    /// A barrier: from here on writes belong to the next checkpoint.
    fn begin(&mut self, spec: &SnapshotSpec) -> Res;

    /// Writes on, looking at about `budget` entries; answers whether the
    /// snapshot is complete. The caller has opened this table's section in `out`.
    fn drain(&mut self, out: &mut DeltaWriter, budget: usize) -> Res<bool>;

    /// Whether a snapshot has begun and is not drained.
    fn is_draining(&self) -> bool;

    /// The checkpoint is complete: it may be the base of later ones.
    fn completed(&mut self, checkpoint: CheckpointId);

    /// The checkpoint is given up: its changes belong to the next. Stops a drain.
    fn aborted(&mut self, checkpoint: CheckpointId);

    /// Takes all rows out, if they are just those of a checkpoint whose snapshot is drained:
    /// to be called when nothing is written any more, as the last thing. `None`: they are
    /// not, or not all of them are in memory.
    fn keep(&mut self, _checkpoint: CheckpointId) -> Option<Box<dyn Kept>> {
        None
    }

    /// At a restore, before anything is loaded: takes over rows that were kept of the very
    /// checkpoint that is restored. They are of this table's groups, and of none that is
    /// adopted or loaded besides. Fails, and takes nothing, if they are of another type.
    fn adopt(&mut self, _kept: Box<dyn Kept>) -> Res {
        Err("this state takes over no rows from memory".into())
    }

    /// At a restore, before some groups are loaded: about so many of their entries of a
    /// namespace come. Makes room for them at once, instead of bit by bit.
    fn expect(&mut self, _namespace: i64, _groups: KeyGroupRange, _entries: u64) {}

    /// At a restore: applies a block of a file. Files come oldest first.
    fn load(&mut self, block: &Block<'_>) -> Res;

    /// The restore is done; the state is that of `checkpoint`, which may be a
    /// base. (`None`: the next snapshot must build on nothing.)
    fn restored(&mut self, checkpoint: Option<CheckpointId>);

    /// Removes rows that expired, looking at about `budget` of them.
    fn sweep(&mut self, now: Ts, budget: usize) -> usize;

    /// How much there is.
    fn sizes(&self) -> Sizes;
}
