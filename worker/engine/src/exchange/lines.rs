//! Which channels of this worker lead to which other, and what wakes their connections.

use super::codec::Codec;
use super::{Side, Wire};
use crate::runtime::channel::{Channel, TaskWaker};
use crate::runtime::flight::Flight;
use crate::runtime::signal::Signal;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Number of a channel: the same at both ends, as both processes count the same graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u32);

/// A channel between two workers: how it is known and what it carries.
pub struct Line {
    /// Its number.
    pub id: ChannelId,
    /// How its batches travel.
    pub codec: Arc<dyn Codec>,
    /// For errors: the edge and both subtasks.
    pub edge: String,
    /// What its rows are if barriers may overtake them.
    pub flight: Option<Flight>,
}

/// The channels of an attempt that leave this worker or come from others.
#[derive(Default)]
pub struct Lines {
    pub(crate) outgoing: BTreeMap<u16, Side>,
    pub(crate) incoming: BTreeMap<u16, Side>,
}

impl Lines {
    /// Room for so many channels to and from each worker, by ordinal.
    #[must_use]
    pub fn new(outgoing: &BTreeMap<u16, usize>, incoming: &BTreeMap<u16, usize>) -> Self {
        let side = |(ordinal, count): (&u16, &usize)| {
            let signal = Arc::new(Signal::new(*count));
            (*ordinal, Side { signal, wires: Vec::with_capacity(*count) })
        };
        Self {
            outgoing: outgoing.iter().map(side).collect(),
            incoming: incoming.iter().map(side).collect(),
        }
    }

    /// Adds a channel from a task of this worker to worker `to`.
    pub fn add_outgoing(&mut self, to: u16, sender: TaskWaker, line: Line) -> Arc<Channel> {
        let side = side_of(&mut self.outgoing, to);
        let waker = TaskWaker { signal: Arc::clone(&side.signal), task: side.wires.len() };
        side.add(Channel::new(sender, waker).leaving(), line)
    }

    /// Adds a channel from worker `from` to a task of this one.
    pub fn add_incoming(&mut self, from: u16, receiver: TaskWaker, line: Line) -> Arc<Channel> {
        let side = side_of(&mut self.incoming, from);
        let waker = TaskWaker { signal: Arc::clone(&side.signal), task: side.wires.len() };
        side.add(Channel::new(waker, receiver), line)
    }
}

fn side_of(sides: &mut BTreeMap<u16, Side>, ordinal: u16) -> &mut Side {
    sides
        .entry(ordinal)
        .or_insert_with(|| Side { signal: Arc::new(Signal::new(0)), wires: Vec::new() })
}

impl Side {
    fn add(&mut self, channel: Channel, line: Line) -> Arc<Channel> {
        let Line { id, codec, edge, flight } = line;
        let channel = Arc::new(channel.carrying(flight));
        self.wires.push(Wire { id, channel: Arc::clone(&channel), codec, edge });
        channel
    }
}
