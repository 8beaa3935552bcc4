//! Every row to every destination.

use super::{RoundRobin, Scatter};
use crate::data::{Packet, Res, TS_MIN, Ts};
use crate::exchange::codec::Shared;
use crate::runtime::BATCH_ROWS;
use crate::runtime::channel::Channel;
use crate::runtime::emit::End;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use std::sync::Arc;

/// Gathers rows once. Destinations in this process get copies; those elsewhere share a
/// batch, which is encoded once.
pub struct Broadcast<T> {
    buffer: Packet<T>,
    watermark: Ts,
    /// With buffers that stay empty.
    inner: Scatter<T, RoundRobin>,
}

impl<T: Clone + Send + 'static> Broadcast<T> {
    /// To `channels`, one per downstream subtask.
    pub fn new(channels: Vec<Arc<Channel>>) -> Self {
        let inner = Scatter::new(RoundRobin::new(0, channels.len()), channels);
        Self { buffer: Packet::default(), watermark: TS_MIN, inner }
    }

    /// Sends what was gathered; it may land in the overflow.
    fn spread(&mut self) {
        if self.buffer.rows.is_empty() {
            // Only watermarks: the last one says it all.
            if let Some((_, watermark)) = self.buffer.marks.pop() {
                for destination in &mut self.inner.destinations {
                    destination.buffer.mark(watermark);
                    destination.send();
                }
            }
            return self.buffer.marks.clear();
        }
        let count = self.inner.destinations.len();
        let leaving = self.inner.destinations.iter().filter(|d| d.channel.leaves()).count();
        let shared = (leaving > 1).then(|| match leaving == count {
            true => Shared::new(std::mem::take(&mut self.buffer)),
            false => Shared::new(self.buffer.clone()),
        });
        for (index, destination) in self.inner.destinations.iter_mut().enumerate() {
            if let Some(shared) = shared.as_ref().filter(|_| destination.channel.leaves()) {
                destination.offer(Box::new(shared.again()));
                // What comes back is only a share.
                destination.recycled.clear();
                continue;
            }
            let mut next = destination.empty();
            let Some(packet) = next.as_any_mut().downcast_mut::<Packet<T>>() else { continue };
            if index + 1 == count {
                std::mem::swap(packet, &mut self.buffer);
            } else {
                packet.rows.extend_from_slice(&self.buffer.rows);
                packet.marks.extend_from_slice(&self.buffer.marks);
            }
            destination.offer(next);
        }
        self.buffer.clear();
    }

    fn waits(&self) -> bool {
        self.inner.destinations.iter().any(|d| !d.overflow.is_empty())
    }
}

impl<T: Clone + Send + 'static> End<T> for Broadcast<T> {
    fn push(&mut self, ts: Ts, value: T) -> Res {
        self.buffer.rows.push((ts, 0, value));
        if self.buffer.rows.len() >= BATCH_ROWS {
            self.spread();
            self.inner.blocked |= self.waits();
        }
        Ok(())
    }

    fn mark(&mut self, watermark: Ts) -> Res {
        if watermark == TS_MIN {
            return self.inner.mark(watermark);
        }
        if watermark > self.watermark {
            self.watermark = watermark;
            self.buffer.mark(watermark);
        }
        Ok(())
    }

    fn blocked(&self) -> bool {
        self.inner.blocked
    }

    fn idle(&mut self, idle: bool) -> Res {
        self.spread();
        self.inner.idle(idle)
    }

    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        self.spread();
        self.inner.barrier(barrier, parts)
    }

    fn end(&mut self) -> Res {
        self.spread();
        self.inner.end()
    }

    fn flush(&mut self, all: bool) -> Res {
        self.inner.flush(all)?;
        // While one has no room, the others get no more either.
        if all && !self.waits() {
            self.spread();
            self.inner.blocked |= self.waits();
        }
        Ok(())
    }

    fn force(&mut self) -> Res {
        self.spread();
        self.inner.force();
        Ok(())
    }
}
