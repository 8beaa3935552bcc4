//! Rows in flight: what an unaligned barrier overtakes becomes part of the checkpoint.
//!
//! A slot writes all of it into one object, batch after batch in the form of the edge's
//! codec. Where a batch stands in it is an item of a list state of the operator that would
//! have received it; there is one such list for each edge into an operator. At restore a
//! subtask reads, of a keyed edge, the batches that may hold rows of its key groups, and of
//! any other every so-manieth batch.
//!
//! A slot has room for a certain number of bytes of them. Rows that do not fit are not
//! overtaken: the barrier stays behind them, as an aligned one does, until so many have been
//! worked on that the rest fits. So whatever there is in flight, a checkpoint completes no
//! later than an aligned one.

mod restore;
mod seal;
#[cfg(test)]
mod tests;

pub use restore::{Restored, restored};
pub use seal::{Sealed, check};

use crate::data::AnyBatch;
use crate::exchange::codec::Codec;
use crate::graph::Partitioning;
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::ShapeBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// What the names of these states begin with.
pub const IN_FLIGHT: &str = "in flight ";

/// Bytes of rows that are kept together; a larger row is alone.
const PIECE: usize = 1 << 20;

/// Most bytes of a slot in a checkpoint, unless the job says otherwise. They lie in memory
/// until they are written.
pub const MOST: usize = 256 << 20;

/// What one of `slots` in a process that has so much memory may hold of them: at most `most`,
/// and all together an eighth of the memory.
#[must_use]
pub fn room(most: usize, memory: Option<u64>, slots: usize) -> usize {
    let share = memory.map(|bytes| bytes / 8 / slots.max(1) as u64);
    share.and_then(|bytes| usize::try_from(bytes).ok()).map_or(most, |bytes| most.min(bytes))
}

/// What rows of a channel are to whom they go.
pub struct Flight {
    /// The operator that receives them.
    pub uid: Uid,
    /// The list state.
    pub state: String,
    /// Which input of it.
    pub input: usize,
    /// Whether rows belong to key groups.
    pub keyed: bool,
    /// The key groups of the subtask that receives them.
    pub groups: KeyGroupRange,
    /// How batches become bytes.
    pub codec: Arc<dyn Codec>,
    /// The traced shape of the rows.
    pub shape: ShapeBytes,
    /// The subtask that sends them.
    pub up: u16,
}

impl Flight {
    /// Whether barriers may overtake the rows of such an edge, if the shape of these can be
    /// traced: else another program's could be taken for them. Rows that belong to a certain
    /// subtask could not be given to others after a rescale.
    pub fn may_be(partitioning: Partitioning) -> bool {
        matches!(partitioning, Partitioning::Key | Partitioning::Rebalance | Partitioning::Shuffle)
    }
}

/// Where rows were when the barrier overtook them. Of one channel those of an earlier
/// phase were sent before those of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Restored, and not worked on since.
    Restored = 0,
    /// At their receiver, or on their way to it.
    Received = 1,
    /// Still in their sender's process.
    Sent = 2,
}

struct Batch {
    phase: Phase,
    up: u16,
    groups: KeyGroupRange,
    bytes: Vec<u8>,
}

struct List {
    shape: ShapeBytes,
    batches: Vec<Batch>,
}

/// Rows that a barrier overtook.
#[derive(Default)]
pub struct Recorded {
    lists: BTreeMap<(Uid, String), List>,
    bytes: usize,
}

/// Why rows are not overtaken: the barrier waits behind them, as an aligned one does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// There is no room for them.
    #[error("there is room for {0} bytes only")]
    Room(usize),
    /// They cannot be written.
    #[error("rows on their way to operator {uid} cannot be kept in a checkpoint: {why}")]
    Rows {
        /// Whom they go to.
        uid: Uid,
        /// What is wrong with them.
        why: String,
    },
}

impl Recorded {
    /// Bytes of rows.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the rows of a batch as long as there are `room` bytes at most. If they do not
    /// fit, a part of them may have been added.
    pub fn add(
        &mut self,
        flight: &Flight,
        phase: Phase,
        batch: &dyn AnyBatch,
        room: usize,
    ) -> Result<(), Unfit> {
        let total = batch.rows();
        if total == 0 {
            return Ok(());
        }
        let list = self
            .lists
            .entry((flight.uid.clone(), flight.state.clone()))
            .or_insert_with(|| List { shape: flight.shape.clone(), batches: Vec::new() });
        let mut from = 0;
        while from < total {
            let mut bytes = Vec::new();
            from = flight
                .codec
                .encode(batch, from, PIECE, &mut bytes)
                .map_err(|error| Unfit::Rows { uid: flight.uid.clone(), why: error.to_string() })?;
            self.bytes += bytes.len();
            if self.bytes > room {
                return Err(Unfit::Room(room));
            }
            let (up, groups) = (flight.up, flight.groups);
            list.batches.push(Batch { phase, up, groups, bytes });
        }
        Ok(())
    }

    /// Adds what was recorded elsewhere.
    pub fn append(&mut self, other: Self) {
        for (name, mut list) in other.lists {
            match self.lists.get_mut(&name) {
                Some(known) => known.batches.append(&mut list.batches),
                None => {
                    self.lists.insert(name, list);
                }
            }
        }
        self.bytes += other.bytes;
    }
}

/// When to look again whether rows that did not fit do now: to record them to find out
/// costs as much as there are.
#[derive(Debug, Default)]
pub struct Tries(Option<(CheckpointId, usize)>);

impl Tries {
    /// Whether `rows` before the barrier are fewer by a quarter than those that did not fit.
    pub fn again(&self, checkpoint: CheckpointId, rows: usize) -> bool {
        self.0.is_none_or(|(of, tried)| of != checkpoint || rows <= tried / 4 * 3)
    }

    /// So many did not fit; true if that is news.
    pub fn failed(&mut self, checkpoint: CheckpointId, rows: usize) -> bool {
        self.0.replace((checkpoint, rows)).is_none_or(|(of, _)| of != checkpoint)
    }
}
