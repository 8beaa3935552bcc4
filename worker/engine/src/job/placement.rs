//! Which worker runs which slot, and the channels that lead from one to another. Pure.

use crate::exchange::{ChannelId, Line, Lines, Listener, Peer, Token};
use crate::graph::{Edge, EdgeId, Graph, joined};
use crate::runtime::channel::{Channel, TaskWaker};
use millrace_protocol::keygroup::MaxParallelism;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where an attempt's slots run, as one worker sees it.
#[derive(Clone)]
pub struct Placement {
    /// The ordinal of each slot's worker.
    pub workers: Vec<u16>,
    /// This worker.
    pub me: Peer,
    /// The others.
    pub peers: Vec<Peer>,
    /// Where they connect to.
    pub listener: Arc<Listener>,
    /// The attempt's secret.
    pub token: Token,
}

/// Whether a slot is this worker's.
pub(super) fn is_local(placement: Option<&Placement>, slot: u16) -> bool {
    worker_of(placement, slot).is_none()
}

/// The other worker that runs a slot.
fn worker_of(placement: Option<&Placement>, slot: u16) -> Option<u16> {
    let placement = placement?;
    let worker = placement.workers.get(usize::from(slot)).copied();
    worker.filter(|worker| *worker != placement.me.ordinal)
}

/// A channel with at least one end here.
struct Join<'a> {
    edge: &'a Edge,
    id: ChannelId,
    up: u16,
    down: u16,
    /// Workers of the two ends, if others.
    from: Option<u16>,
    to: Option<u16>,
}

/// Channels by edge, upstream and downstream subtask.
pub(super) type Channels = HashMap<(EdgeId, u16, u16), Arc<Channel>>;

/// Makes the channels that this worker has an end of; those with the other end elsewhere
/// also stand among the lines.
pub(super) fn wire(
    graph: &Graph,
    parallelisms: &[u16],
    max: MaxParallelism,
    placement: Option<&Placement>,
    waker: impl Fn(&Edge, End, u16) -> TaskWaker,
) -> (Channels, Lines) {
    let joins = joins(graph, parallelisms, placement);
    let count = |of: fn(&Join<'_>) -> Option<u16>| {
        let mut counts = BTreeMap::new();
        joins.iter().filter_map(of).for_each(|w| *counts.entry(w).or_insert(0) += 1);
        counts
    };
    let mut lines = Lines::new(&count(|j| j.to), &count(|j| j.from));
    let mut channels = Channels::with_capacity(joins.len());
    for join in joins {
        let Join { edge, id, up, down, .. } = join;
        let groups = max.range(down, parallelisms[edge.to.0 as usize]);
        let flight = || graph.flight(edge.id, up, groups);
        let line = || Line {
            id,
            codec: Arc::clone(graph.codec(edge.id)),
            edge: format!(
                "{:?}/{up} -> {:?}/{down}",
                graph.node(edge.from).name,
                graph.node(edge.to).name
            ),
            flight: flight(),
        };
        let channel = match (join.from, join.to) {
            (None, Some(to)) => lines.add_outgoing(to, waker(edge, End::Sender, up), line()),
            (Some(from), _) => lines.add_incoming(from, waker(edge, End::Receiver, down), line()),
            (None, None) => {
                let (sender, receiver) =
                    (waker(edge, End::Sender, up), waker(edge, End::Receiver, down));
                Arc::new(Channel::new(sender, receiver).carrying(flight()))
            }
        };
        channels.insert((edge.id, up, down), channel);
    }
    (channels, lines)
}

/// An end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Upstream.
    Sender,
    /// Downstream.
    Receiver,
}

fn joins<'a>(
    graph: &'a Graph,
    parallelisms: &[u16],
    placement: Option<&Placement>,
) -> Vec<Join<'a>> {
    let mut joins = Vec::new();
    // Every worker counts all channels, so that a number means the same to all.
    let mut next = 0;
    for edge in graph.edges() {
        let (ups, downs) = (parallelisms[edge.from.0 as usize], parallelisms[edge.to.0 as usize]);
        for up in 0..ups {
            let from = worker_of(placement, up);
            for down in 0..downs {
                if !joined(edge.partitioning, up, ups, down, downs) {
                    continue;
                }
                let id = ChannelId(next);
                next += 1;
                let to = worker_of(placement, down);
                if from.is_none() || to.is_none() {
                    joins.push(Join { edge, id, up, down, from, to });
                }
            }
        }
    }
    joins
}
