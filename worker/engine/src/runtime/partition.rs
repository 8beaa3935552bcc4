//! The end of a chain at an exchange: rows are scattered to the next operator's subtasks.

use crate::data::{AnyBatch, Fun, Packet, Res, TS_MIN, Ts};
use crate::runtime::BATCH_ROWS;
use crate::runtime::channel::{Channel, Element};
use crate::runtime::emit::End;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroup, MaxParallelism};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

mod broadcast;

pub use broadcast::Broadcast;

/// Chooses a destination for a row, and gives its key hash if the edge is keyed.
pub trait Route<T>: Send {
    /// (destination, hash; 0 if the edge is not keyed)
    fn route(&mut self, value: &T) -> (usize, u64);
}

/// One outgoing channel with its buffers.
pub(crate) struct Destination<T> {
    pub(crate) buffer: Packet<T>,
    channel: Arc<Channel>,
    /// Full batches for which the channel had no room, oldest first.
    overflow: VecDeque<Box<dyn AnyBatch>>,
    recycled: Vec<Box<dyn AnyBatch>>,
    watermark: Ts,
}

impl<T: Send + 'static> Destination<T> {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Self {
            buffer: Packet::default(),
            channel,
            overflow: VecDeque::new(),
            recycled: Vec::new(),
            watermark: TS_MIN,
        }
    }

    /// Sends the buffer; it may land in the overflow.
    pub(crate) fn send(&mut self) {
        if self.buffer.is_vacant() {
            return;
        }
        if self.buffer.rows.is_empty() && self.overflow.is_empty() {
            // Only watermarks: the last one says it all.
            if let Some((_, watermark)) = self.buffer.marks.last() {
                self.channel.send_control(Element::Watermark(*watermark));
            }
            self.buffer.marks.clear();
            return;
        }
        let mut next = self.empty();
        let Some(packet) = next.as_any_mut().downcast_mut::<Packet<T>>() else { return };
        std::mem::swap(packet, &mut self.buffer);
        self.offer(next);
    }

    /// An emptied packet that came back, or a new one.
    fn empty(&mut self) -> Box<dyn AnyBatch> {
        // A channel may carry packets of two types: an emptied one of the other is let go.
        let empty = self.recycled.pop().filter(|batch| {
            let batch: &dyn Any = batch.as_any();
            batch.is::<Packet<T>>()
        });
        empty.unwrap_or_else(|| Box::new(Packet::<T>::default()))
    }

    /// Sends a batch; it may land in the overflow.
    fn offer(&mut self, next: Box<dyn AnyBatch>) {
        if self.overflow.is_empty() {
            match self.channel.try_send(next) {
                Ok(recycled) => self.recycled.extend(recycled),
                Err(batch) => self.overflow.push_back(batch),
            }
        } else {
            self.overflow.push_back(next);
        }
    }

    /// Sends what had no room, as far as there is some now.
    fn retry(&mut self) {
        while let Some(batch) = self.overflow.pop_front() {
            match self.channel.try_send(batch) {
                Ok(recycled) => self.recycled.extend(recycled),
                Err(batch) => {
                    self.overflow.push_front(batch);
                    break;
                }
            }
        }
    }

    /// Whether something waits for room, or would have to.
    pub(crate) fn is_full(&self) -> bool {
        !self.overflow.is_empty() || self.channel.is_full()
    }

    /// Whether more was forced into the channel than there is room for.
    fn is_over(&self) -> bool {
        self.channel.is_over()
    }

    /// Tells its receiver, behind all there is.
    pub(crate) fn control(&mut self, element: Element) {
        self.force();
        self.channel.send_control(element);
    }

    /// Sends all there is, whether there is room or not: before a barrier or the end.
    pub(crate) fn force(&mut self) {
        self.send();
        while let Some(batch) = self.overflow.pop_front() {
            self.recycled.extend(self.channel.force_send(batch));
        }
    }
}

/// Scatters rows by a [`Route`].
pub struct Scatter<T, R> {
    route: R,
    destinations: Vec<Destination<T>>,
    blocked: bool,
    /// A barrier has forced more into channels than there is room for.
    over: bool,
}

impl<T: Send + 'static, R: Route<T>> Scatter<T, R> {
    /// To `channels`, one per downstream subtask.
    pub fn new(route: R, channels: Vec<Arc<Channel>>) -> Self {
        let destinations = channels.into_iter().map(Destination::new).collect();
        Self { route, destinations, blocked: false, over: false }
    }

    /// Sends all that is buffered, whether there is room or not.
    pub(crate) fn force(&mut self) {
        self.destinations.iter_mut().for_each(Destination::force);
        self.blocked = false;
    }

    #[inline(never)]
    fn full(&mut self, index: usize) {
        let destination = &mut self.destinations[index];
        destination.send();
        self.blocked |= !destination.overflow.is_empty();
    }

    fn control(&mut self, element: impl Fn() -> Element) {
        for destination in &mut self.destinations {
            destination.force();
            destination.channel.send_control(element());
        }
        self.over = false;
        self.blocked = false;
    }
}

impl<T: Send + 'static, R: Route<T>> End<T> for Scatter<T, R> {
    #[inline]
    fn push(&mut self, ts: Ts, value: T) -> Res {
        let (index, hash) = self.route.route(&value);
        let rows = &mut self.destinations[index].buffer.rows;
        rows.push((ts, hash, value));
        if rows.len() >= BATCH_ROWS {
            self.full(index);
        }
        Ok(())
    }

    fn mark(&mut self, watermark: Ts) -> Res {
        for destination in &mut self.destinations {
            if watermark == TS_MIN {
                destination.channel.send_control(Element::Watermark(TS_MIN));
            } else if watermark > destination.watermark {
                destination.watermark = watermark;
                destination.buffer.mark(watermark);
            }
        }
        Ok(())
    }

    #[inline]
    fn blocked(&self) -> bool {
        self.blocked
    }

    fn idle(&mut self, idle: bool) -> Res {
        self.control(|| Element::Idle(idle));
        Ok(())
    }

    fn barrier(&mut self, barrier: &Barrier, _parts: &mut SnapshotParts) -> Res {
        self.control(|| Element::Barrier(barrier.clone()));
        // One checkpoint after the other must not pile up rows; a barrier that never
        // overtakes has waited for room.
        self.over =
            barrier.unaligned_at.is_some() && self.destinations.iter().any(Destination::is_over);
        self.blocked = self.over;
        Ok(())
    }

    fn end(&mut self) -> Res {
        self.control(|| Element::End);
        Ok(())
    }

    fn flush(&mut self, all: bool) -> Res {
        self.over = self.over && self.destinations.iter().any(Destination::is_over);
        self.blocked = self.over;
        for destination in &mut self.destinations {
            destination.retry();
            if all && destination.overflow.is_empty() {
                destination.send();
            }
            self.blocked |= !destination.overflow.is_empty();
        }
        Ok(())
    }

    fn force(&mut self) -> Res {
        Scatter::force(self);
        Ok(())
    }

    fn gives_way(&self) -> bool {
        self.destinations.iter().all(|d| d.channel.flight().is_some())
    }
}

/// By key group.
pub struct ByKey<F> {
    hash: F,
    max: MaxParallelism,
    owners: Vec<u16>,
}

impl<F> ByKey<F> {
    /// To the owners of key groups among `parallelism` subtasks; `hash` gives a row's key hash.
    pub fn new(hash: F, max: MaxParallelism, parallelism: u16) -> Self {
        let owners = (0..max.get()).map(|g| max.owner(KeyGroup(g), parallelism)).collect();
        Self { hash, max, owners }
    }
}

impl<T, F: FnMut(&T) -> u64 + Send> Route<T> for ByKey<F> {
    #[inline]
    fn route(&mut self, value: &T) -> (usize, u64) {
        let hash = (self.hash)(value);
        let owner = self.owners[usize::from(self.max.group(hash).0)];
        (usize::from(owner), hash)
    }
}

/// One after the other.
pub struct RoundRobin {
    next: usize,
    count: usize,
}

impl RoundRobin {
    /// Over `count` destinations, beginning with `first`.
    pub fn new(first: usize, count: usize) -> Self {
        Self { next: first % count.max(1), count }
    }
}

impl<T> Route<T> for RoundRobin {
    #[inline]
    fn route(&mut self, _: &T) -> (usize, u64) {
        let index = self.next;
        self.next = if index + 1 == self.count { 0 } else { index + 1 };
        (index, 0)
    }
}

/// At random.
pub struct AtRandom {
    rng: fastrand::Rng,
    count: usize,
}

impl AtRandom {
    /// Over `count` destinations.
    pub fn new(seed: u64, count: usize) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), count }
    }
}

impl<T> Route<T> for AtRandom {
    fn route(&mut self, _: &T) -> (usize, u64) {
        (self.rng.usize(0..self.count), 0)
    }
}

/// By a function of the user: any number, taken modulo the parallelism.
pub struct Custom<F> {
    choose: F,
    count: usize,
}

impl<F> Custom<F> {
    /// Over `count` destinations.
    pub fn new(choose: F, count: usize) -> Self {
        Self { choose, count }
    }
}

impl<T, F: FnMut(&T, usize) -> usize + Send> Route<T> for Custom<F> {
    fn route(&mut self, value: &T) -> (usize, u64) {
        ((self.choose)(value, self.count) % self.count, 0)
    }
}

/// The hash of a row's key, for [`ByKey`].
pub fn hash_by<T, K: Key>(key: impl Fn(&T) -> K + Fun) -> impl FnMut(&T) -> u64 + Fun {
    move |value| key(value).hash64()
}
