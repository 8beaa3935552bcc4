//! Rows in flight: what an unaligned barrier overtakes is kept as a list state of the
//! operator that would have received it.
//!
//! There is one list for each edge into an operator, with a batch an item, in the form of
//! the edge's codec. At restore all subtasks read all items: of a keyed edge each takes
//! the rows of its key groups, of any other every so-manieth batch. What an item begins
//! with gives their order.

use crate::data::{AnyBatch, Fail, Res, UserError};
use crate::exchange::codec::Codec;
use crate::graph::{BuildCx, NodeId, Partitioning};
use crate::runtime::snapshot::ListBlob;
use millrace_protocol::ids::Uid;
use millrace_protocol::manifest::{Redistribution, ShapeBytes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the names of these states begin with.
pub const IN_FLIGHT: &str = "in flight ";

/// Bytes of rows in an item; a larger row has one of its own.
const ITEM: usize = 1 << 20;

/// Phase, upstream subtask and number in front of an item.
const HEAD: usize = 7;

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
    /// How batches become bytes.
    pub codec: Arc<dyn Codec>,
    /// The subtask that sends them.
    pub up: u16,
}

impl Flight {
    /// Whether barriers may overtake the rows of such an edge. Rows that belong to a
    /// certain subtask could not be given to others after a rescale.
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

struct List {
    shape: ShapeBytes,
    items: Vec<Vec<u8>>,
}

/// Rows that a barrier overtook.
#[derive(Default)]
pub struct Recorded {
    lists: BTreeMap<(Uid, String), List>,
}

impl Recorded {
    /// Adds the rows of a batch.
    pub fn add(&mut self, flight: &Flight, phase: Phase, batch: &dyn AnyBatch) -> Res {
        let total = batch.rows();
        if total == 0 {
            return Ok(());
        }
        let name = (flight.uid.clone(), flight.state.clone());
        let list = self
            .lists
            .entry(name)
            .or_insert_with(|| List { shape: flight.codec.shape(), items: Vec::new() });
        let mut from = 0;
        while from < total {
            let mut item = vec![phase as u8];
            item.extend_from_slice(&flight.up.to_be_bytes());
            item.extend_from_slice(&(list.items.len() as u32).to_be_bytes());
            from = flight.codec.encode(batch, from, ITEM, &mut item).map_err(|error| {
                Fail::from(format!(
                    "rows in flight cannot be kept in a checkpoint: {error}; take aligned \
                     checkpoints only"
                ))
            })?;
            list.items.push(item);
        }
        Ok(())
    }

    /// Adds what was recorded elsewhere.
    pub fn append(&mut self, other: Self) {
        for (name, mut list) in other.lists {
            match self.lists.get_mut(&name) {
                Some(known) => known.items.append(&mut list.items),
                None => {
                    self.lists.insert(name, list);
                }
            }
        }
    }

    /// As list states.
    pub fn into_lists(self) -> impl Iterator<Item = ListBlob> {
        self.lists.into_iter().map(|((uid, state), list)| ListBlob {
            uid,
            state,
            redistribution: Redistribution::Union,
            shape: list.shape,
            items: list.items,
        })
    }
}

/// A batch that a checkpoint held.
pub struct Restored {
    /// What it is.
    pub flight: Arc<Flight>,
    /// The rows, without marks.
    pub batch: Box<dyn AnyBatch>,
}

/// The rows in flight that a subtask of `node` takes over, in their order.
pub fn restored(cx: &BuildCx<'_>, node: NodeId) -> Res<Vec<Restored>> {
    let mut all = Vec::new();
    if cx.attempt.restore.is_fresh() {
        return Ok(all);
    }
    let (restore, parallelism) = (&cx.attempt.restore, cx.parallelism(node));
    let (max, groups) = (cx.attempt.max_parallelism, cx.key_groups(node));
    for edge in cx.graph.edges().iter().filter(|e| e.to == node) {
        let Some(flight) = cx.graph.flight(edge.id, 0).map(Arc::new) else { continue };
        let mut items = restore.list(&flight.uid, &flight.state, cx.subtask, parallelism)?;
        if items.is_empty() {
            continue;
        }
        if restore.list_shape(&flight.uid, &flight.state) != flight.codec.shape() {
            return Err(UserError(format!(
                "the checkpoint holds rows on their way to operator {:?}, and their type has \
                 changed: start from a savepoint, which holds no such rows",
                cx.graph.node(node).name
            ))
            .into());
        }
        items.sort_by(|a, b| a.get(..HEAD).cmp(&b.get(..HEAD)));
        for (index, item) in items.iter().enumerate() {
            if !flight.keyed && index % usize::from(parallelism.max(1)) != usize::from(cx.subtask) {
                continue;
            }
            let damaged = |error| Fail::from(format!("rows in flight are damaged: {error}"));
            let bytes = item.get(HEAD..).unwrap_or_default();
            let mut batch = flight.codec.decode(bytes, None).map_err(damaged)?;
            let mine = |hash| groups.contains(max.group(hash));
            let keyed = flight.keyed;
            flight.codec.strip(batch.as_mut(), &mut |hash| !keyed || mine(hash));
            if batch.rows() > 0 {
                all.push(Restored { flight: Arc::clone(&flight), batch });
            }
        }
    }
    Ok(all)
}
