//! How a barrier overtakes what a gate holds.
//!
//! It may as soon as it is in all channels: nothing comes before it any more, and what is
//! there can be recorded as a whole, or left where it is.

use super::{Event, Gate, Inlet};
use crate::data::{AnyBatch, Ts};
use crate::runtime::channel::Element;
use crate::runtime::flight::{Flight, Phase, Recorded, Unfit};
use crate::runtime::snapshot::Barrier;
use millrace_protocol::ids::CheckpointId;

impl Inlet {
    /// Whether a checkpoint's barrier is here, and has nothing before it that it may not
    /// overtake.
    fn has(&self, checkpoint: CheckpointId) -> bool {
        self.barriers().any(|b| b.checkpoint == checkpoint)
    }

    /// Those that are here: what the channel waits with, its first word, the newest in it.
    fn barriers(&self) -> impl Iterator<Item = Barrier> {
        let held = match &self.held {
            Some(Element::Barrier(barrier)) => Some(barrier.clone()),
            _ => None,
        };
        self.barrier.clone().into_iter().chain(held).chain(self.channel.announced())
    }
}

impl Gate {
    /// The barrier that may now overtake rows, if there is one.
    ///
    /// Listens for the first words of the channels: a task that has no room to work on what it
    /// was restored with does not poll.
    pub fn overtaking(&mut self, now: Ts) -> Option<Barrier> {
        self.greet();
        let newest = self.waiting()?;
        let ready = newest.may_overtake(now)
            && self.greeted
            && self.inlets.iter().all(|inlet| inlet.has(newest.checkpoint));
        ready.then_some(newest)
    }

    /// When a barrier that waits may overtake rows, if that is to come.
    pub fn overtakes_at(&self, now: Ts) -> Option<Ts> {
        self.waiting()?.unaligned_at.filter(|at| *at > now)
    }

    /// The newest barrier that waits here and was not given out.
    fn waiting(&self) -> Option<Barrier> {
        let new = |b: &Barrier| Some(b.checkpoint) > self.passed && b.unaligned_at.is_some();
        self.inlets.iter().flat_map(Inlet::barriers).filter(new).max_by_key(|b| b.checkpoint)
    }

    /// The task takes a barrier that is in all channels before what stands in front of it
    /// there, and gets that, unless it is more than `room` bytes. `current`: what is left of
    /// the batch that it works on, and where that came from.
    pub fn overtake(
        &mut self,
        barrier: &Barrier,
        current: Option<(usize, &dyn AnyBatch)>,
        room: usize,
    ) -> Option<Recorded> {
        let checkpoint = barrier.checkpoint;
        let rows = self.here(current).map(|(_, batch)| batch.rows()).sum::<usize>()
            + self.inlets.iter().map(|i| i.channel.rows_before(checkpoint)).sum::<usize>();
        if !self.tries.again(checkpoint, rows) {
            return None;
        }
        match self.record(checkpoint, current, room) {
            Ok(recorded) => {
                self.take_barriers(checkpoint);
                Some(recorded)
            }
            Err(why) => {
                if self.tries.failed(checkpoint, rows) {
                    let to = self.inlets.iter().find_map(|i| i.channel.flight());
                    let operator = to.map(|flight| flight.uid.to_string());
                    tracing::info!(%checkpoint, operator, rows, %why, "a barrier waits for rows");
                }
                None
            }
        }
    }

    /// Batches that were taken from their channels, or restored, and not worked on.
    fn here<'a>(
        &'a self,
        current: Option<(usize, &'a dyn AnyBatch)>,
    ) -> impl Iterator<Item = (Option<(&'a Flight, Phase)>, &'a dyn AnyBatch)> {
        let of = |inlet: usize| match self.inlets.get(inlet) {
            Some(inlet) => inlet.channel.flight().map(|flight| (flight, Phase::Received)),
            None => self.given.as_deref().map(|flight| (flight, Phase::Restored)),
        };
        let queued = self.queued.iter().rev().filter_map(|event| match event {
            Event::Batch { inlet, batch, .. } => Some((*inlet, batch.as_ref())),
            _ => None,
        });
        let held = self.inlets.iter().enumerate().filter_map(|(index, inlet)| match &inlet.held {
            Some(Element::Batch(batch)) => Some((index, batch.as_ref())),
            _ => None,
        });
        let received = current.into_iter().chain(queued).chain(held);
        let restored = self.restored.iter();
        let restored = restored.map(|r| (Some((&*r.flight, Phase::Restored)), r.batch.as_ref()));
        received.map(move |(inlet, batch)| (of(inlet), batch)).chain(restored)
    }

    fn record(
        &self,
        checkpoint: CheckpointId,
        current: Option<(usize, &dyn AnyBatch)>,
        room: usize,
    ) -> Result<Recorded, Unfit> {
        let mut recorded = Recorded::default();
        for (of, batch) in self.here(current) {
            // Of a channel that cannot be overtaken the barrier has come, and all is done.
            if let Some((flight, phase)) = of {
                recorded.add(flight, phase, batch, room)?;
            }
        }
        for inlet in &self.inlets {
            inlet.channel.record(checkpoint, &mut recorded, room)?;
        }
        Ok(recorded)
    }

    /// The barrier was taken: it does not come again.
    fn take_barriers(&mut self, checkpoint: CheckpointId) {
        self.passed = Some(checkpoint);
        for inlet in &mut self.inlets {
            inlet.barrier = None;
            inlet.channel.take_barrier(checkpoint);
        }
    }
}
