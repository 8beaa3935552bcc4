//! Rows in flight: what an unaligned barrier overtakes becomes part of the checkpoint.
//!
//! A slot writes all of it into one object, batch after batch in the form of the edge's
//! codec. Where a batch stands in it is an item of a list state of the operator that would
//! have received it; there is one such list for each edge into an operator. At restore a
//! subtask reads, of a keyed edge, the batches that may hold rows of its key groups, and of
//! any other every so-manieth batch.

mod restore;
mod seal;
#[cfg(test)]
mod tests;

pub use restore::{Restored, restored};
pub use seal::{Sealed, check};

use crate::data::AnyBatch;
use crate::exchange::codec::Codec;
use crate::graph::Partitioning;
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::ShapeBytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the names of these states begin with.
pub const IN_FLIGHT: &str = "in flight ";

/// Bytes of rows that are kept together; a larger row is alone.
const PIECE: usize = 1 << 20;

/// Most bytes of a slot in a checkpoint. They lie in memory until they are written.
const MOST: usize = 256 << 20;

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
    /// Why they cannot become part of a checkpoint.
    refused: Option<String>,
}

impl Recorded {
    /// Adds the rows of a batch.
    pub fn add(&mut self, flight: &Flight, phase: Phase, batch: &dyn AnyBatch) {
        let total = batch.rows();
        if total == 0 || self.refused.is_some() {
            return;
        }
        let list = self
            .lists
            .entry((flight.uid.clone(), flight.state.clone()))
            .or_insert_with(|| List { shape: flight.shape.clone(), batches: Vec::new() });
        let mut from = 0;
        let mut added = 0;
        while from < total {
            let mut bytes = Vec::new();
            match flight.codec.encode(batch, from, PIECE, &mut bytes) {
                Ok(next) => from = next,
                Err(error) => {
                    return self.refuse(format!(
                        "rows on their way to operator {} cannot be kept in a checkpoint: {error}; \
                         take aligned checkpoints only",
                        flight.uid
                    ));
                }
            }
            added += bytes.len();
            let (up, groups) = (flight.up, flight.groups);
            list.batches.push(Batch { phase, up, groups, bytes });
        }
        self.grown(added);
    }

    /// Adds what was recorded elsewhere.
    pub fn append(&mut self, other: Self) {
        if let Some(why) = other.refused {
            return self.refuse(why);
        }
        if self.refused.is_some() {
            return;
        }
        for (name, mut list) in other.lists {
            match self.lists.get_mut(&name) {
                Some(known) => known.batches.append(&mut list.batches),
                None => {
                    self.lists.insert(name, list);
                }
            }
        }
        self.grown(other.bytes);
    }

    fn grown(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes > MOST {
            self.refuse(format!(
                "more than {} MiB of rows are in flight to a slot: let barriers wait longer \
                 before they overtake rows, or use more slots",
                MOST >> 20
            ));
        }
    }

    /// Nothing of it can become part of a checkpoint.
    pub fn refuse(&mut self, why: String) {
        self.lists.clear();
        self.refused = Some(why);
    }
}
