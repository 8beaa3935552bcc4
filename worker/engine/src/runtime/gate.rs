//! A gate merges the channels of a task: watermarks, idleness, alignment, end.
//!
//! - The task's watermark is the minimum over channels that are neither idle nor
//!   ended; it never goes back.
//! - No row is given out before every channel has said something. So a bounded
//!   source whose reader got no split says its end before the others' rows are
//!   judged for lateness, and the outcome does not depend on thread timing.
//! - After a barrier on a channel nothing more is taken from it until all channels
//!   have delivered that barrier. A higher checkpoint id cancels a lower one.
//! - Ended channels still deliver barriers.
//! - A barrier that may overtake rows is taken as soon as it is in all channels, wherever
//!   in them, and at the front of those that cannot be overtaken. What is before it is
//!   recorded, and worked on as ever; so are rows restored from such a record, which go
//!   before all others. As nothing comes before a barrier once it is in its channel, it is
//!   known beforehand how much there is to record: too much is worked on first.

use crate::data::{AnyBatch, TS_MAX, TS_MIN, Ts};
use crate::runtime::channel::{Channel, Element};
use crate::runtime::flight::{Flight, Phase, Recorded, Restored, Tries, Unfit};
use crate::runtime::snapshot::Barrier;
use millrace_protocol::ids::CheckpointId;
use std::collections::VecDeque;
use std::sync::Arc;

/// The inlet of rows that come from a checkpoint.
pub const FROM_CHECKPOINT: usize = usize::MAX;

/// One incoming channel.
struct Inlet {
    input: usize,
    channel: Arc<Channel>,
    watermark: Ts,
    heard: bool,
    idle: bool,
    ended: bool,
    /// The barrier it waits with.
    barrier: Option<Barrier>,
    /// An element that was taken while listening for the first word of all channels.
    held: Option<Element>,
}

impl Inlet {
    /// Whether a checkpoint's barrier is here, and has nothing before it that it may not
    /// overtake.
    fn has(&self, checkpoint: CheckpointId) -> bool {
        let is_it = |b: &Barrier| b.checkpoint == checkpoint;
        let held = matches!(&self.held, Some(Element::Barrier(b)) if is_it(b));
        held || self.barrier.as_ref().is_some_and(is_it)
            || self.channel.announced().as_ref().is_some_and(is_it)
    }
}

/// What a task is to do next.
pub enum Event {
    /// Rows of an input. Marks in the batch are the task's watermarks, not the channel's.
    /// Give the emptied batch to [`Gate::recycle`].
    Batch {
        /// Which input of the operator.
        input: usize,
        /// Which channel it came from.
        inlet: usize,
        /// The rows.
        batch: Box<dyn AnyBatch>,
    },
    /// The task's watermark advanced.
    Watermark(Ts),
    /// All inputs are idle (true), or not any more.
    Idle(bool),
    /// A barrier has arrived on all channels.
    Barrier(Barrier),
    /// All channels of an input have ended.
    InputEnded(usize),
    /// All channels have ended.
    Ended,
}

/// Rewrites the marks of a typed batch: see [`Gate::poll`].
pub type Marks = fn(&mut dyn AnyBatch) -> Option<&mut Vec<(u32, Ts)>>;

/// The merged inputs of a task.
pub struct Gate {
    inlets: Vec<Inlet>,
    inputs: usize,
    next: usize,
    watermark: Ts,
    idle: bool,
    all_heard: bool,
    ended_inputs: Vec<bool>,
    all_ended_told: bool,
    greeted: bool,
    queued: Vec<Event>,
    marks: Vec<Marks>,
    /// The last barrier that was given out.
    passed: Option<CheckpointId>,
    /// Of a barrier that had too much to overtake.
    tries: Tries,
    /// Restored rows in flight.
    restored: VecDeque<Restored>,
    /// What the last of them was that was given out.
    given: Option<Arc<Flight>>,
    /// The watermark is a checkpoint's, and the channels have not come to it again.
    unconfirmed: bool,
}

impl Gate {
    /// `channels` as (input, channel); `marks` per input finds the marks of its batches.
    pub fn new(channels: Vec<(usize, Arc<Channel>)>, marks: Vec<Marks>) -> Self {
        let inputs = marks.len();
        let inlets = channels
            .into_iter()
            .map(|(input, channel)| Inlet {
                input,
                channel,
                watermark: TS_MIN,
                heard: false,
                idle: false,
                ended: false,
                barrier: None,
                held: None,
            })
            .collect();
        Self {
            inlets,
            inputs,
            next: 0,
            watermark: TS_MIN,
            idle: false,
            all_heard: false,
            ended_inputs: vec![false; inputs],
            all_ended_told: false,
            greeted: false,
            queued: Vec::new(),
            marks,
            passed: None,
            tries: Tries::default(),
            restored: VecDeque::new(),
            given: None,
            unconfirmed: false,
        }
    }

    /// The watermark that a checkpoint holds for this task: it does not go back behind it.
    pub fn restore(&mut self, watermark: Ts) {
        self.watermark = self.watermark.max(watermark);
        self.unconfirmed = self.watermark != TS_MIN;
    }

    /// The rows in flight that a checkpoint holds for this task.
    pub fn restore_rows(&mut self, rows: Vec<Restored>) {
        self.restored.extend(rows);
    }

    /// The marks of a batch.
    pub fn marks<'a>(&self, input: usize, batch: &'a mut dyn AnyBatch) -> &'a [(u32, Ts)] {
        let marks = self.marks.get(input).and_then(|of| of(batch));
        marks.map_or(&[], |marks| marks.as_slice())
    }

    /// The barrier that may now overtake rows, if there is one.
    pub fn overtaking(&self, now: Ts) -> Option<Barrier> {
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
        let waits = |inlet: &Inlet| [inlet.barrier.clone(), inlet.channel.announced()];
        let new = |b: &Barrier| Some(b.checkpoint) > self.passed && b.unaligned_at.is_some();
        self.inlets.iter().flat_map(waits).flatten().filter(new).max_by_key(|b| b.checkpoint)
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

    /// The merged watermark.
    pub fn watermark(&self) -> Ts {
        self.watermark
    }

    /// Whether all channels have ended.
    pub fn ended(&self) -> bool {
        self.inlets.iter().all(|i| i.ended)
    }

    /// Gives an emptied batch back to where it came from.
    pub fn recycle(&self, inlet: usize, batch: Box<dyn AnyBatch>) {
        if let Some(inlet) = self.inlets.get(inlet) {
            inlet.channel.recycle(batch);
        }
    }

    /// The next event, if there is one.
    pub fn poll(&mut self) -> Option<Event> {
        if !self.greeted {
            self.listen();
            if self.all_heard {
                self.greeted = true;
                // Pass the greeting on, so that tasks behind this one begin too, unless it is
                // said here how far these need not wait for this one.
                let tells = |e: &Event| matches!(e, Event::Watermark(_) | Event::Idle(true));
                if !self.queued.iter().any(tells) {
                    return Some(Event::Watermark(TS_MIN));
                }
            }
        }
        // Before what was heard, which is younger than they are.
        if let Some(Restored { flight, batch }) = self.restored.pop_front() {
            let input = flight.input;
            self.given = Some(flight);
            return Some(Event::Batch { input, inlet: FROM_CHECKPOINT, batch });
        }
        if let Some(event) = self.queued.pop() {
            return Some(event);
        }
        if !self.greeted {
            return None;
        }
        let count = self.inlets.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            loop {
                let inlet = &mut self.inlets[index];
                if inlet.barrier.is_some() {
                    break;
                }
                let element = match inlet.held.take() {
                    Some(held) => held,
                    None => match inlet.channel.receive() {
                        Some(element) => element,
                        None => break,
                    },
                };
                if let Some(event) = self.accept(index, element) {
                    // The next poll begins behind this channel: a bounded turn for each.
                    self.next = (index + 1) % count;
                    return Some(event);
                }
            }
        }
        None
    }

    /// Waits for the first element of every channel.
    fn listen(&mut self) {
        for inlet in &mut self.inlets {
            if inlet.heard {
                continue;
            }
            if let Some(element) = inlet.channel.receive() {
                inlet.heard = true;
                // An end or idleness counts at once: it must be known before the first row.
                inlet.held = Some(element);
            }
        }
        self.all_heard = self.inlets.iter().all(|i| i.heard);
        if self.all_heard {
            let mut ended = false;
            for index in 0..self.inlets.len() {
                let inlet = &mut self.inlets[index];
                match inlet.held {
                    Some(Element::Watermark(w)) => {
                        inlet.held = None;
                        inlet.watermark = w;
                        // A bounded reader without splits says MAX, then End.
                    }
                    Some(Element::Idle(idle)) => {
                        inlet.held = None;
                        inlet.idle = idle;
                    }
                    Some(Element::End) => {
                        inlet.held = None;
                        inlet.ended = true;
                        ended = true;
                    }
                    _ => {}
                }
            }
            self.refresh();
            if ended {
                self.note_ends();
            }
        }
    }

    fn accept(&mut self, index: usize, element: Element) -> Option<Event> {
        match element {
            Element::Batch(mut batch) => {
                let input = self.inlets[index].input;
                if self.inlets[index].idle {
                    self.inlets[index].idle = false;
                    self.refresh();
                }
                self.rewrite_marks(index, batch.as_mut());
                let event = Event::Batch { input, inlet: index, batch };
                if self.queued.is_empty() {
                    Some(event)
                } else {
                    // What `refresh` queued (not idle any more) goes first.
                    self.queued.insert(0, event);
                    self.queued.pop()
                }
            }
            Element::Watermark(w) => {
                let inlet = &mut self.inlets[index];
                inlet.watermark = inlet.watermark.max(w);
                inlet.idle = false;
                self.refresh();
                self.queued.pop()
            }
            Element::Idle(idle) => {
                self.inlets[index].idle = idle;
                self.refresh();
                self.queued.pop()
            }
            Element::End => {
                self.inlets[index].ended = true;
                self.refresh();
                self.note_ends();
                self.queued.pop()
            }
            Element::Barrier(barrier) => {
                if Some(barrier.checkpoint) <= self.passed {
                    return None;
                }
                // A higher id cancels a lower one that is still being aligned.
                let newest = self
                    .inlets
                    .iter()
                    .filter_map(|i| i.barrier.as_ref().map(|b| b.checkpoint))
                    .max();
                if newest.is_some_and(|n| n > barrier.checkpoint) {
                    return None;
                }
                for inlet in &mut self.inlets {
                    if inlet.barrier.as_ref().is_some_and(|b| b.checkpoint < barrier.checkpoint) {
                        inlet.barrier = None;
                    }
                }
                self.inlets[index].barrier = Some(barrier.clone());
                if self.inlets.iter().all(|i| i.barrier.is_some()) {
                    for inlet in &mut self.inlets {
                        inlet.barrier = None;
                    }
                    self.passed = Some(barrier.checkpoint);
                    return Some(Event::Barrier(barrier));
                }
                None
            }
        }
    }

    /// Lowest watermark of all channels but `except` that hold others back.
    fn minimum(&self, except: Option<usize>) -> Option<Ts> {
        self.inlets
            .iter()
            .enumerate()
            .filter(|(i, inlet)| Some(*i) != except && !inlet.idle && !inlet.ended)
            .map(|(_, inlet)| inlet.watermark)
            .min()
    }

    /// Channel marks become task marks: the minimum with the other channels.
    fn rewrite_marks(&mut self, index: usize, batch: &mut dyn AnyBatch) {
        let input = self.inlets[index].input;
        let Some(marks) = (self.marks[input])(batch) else { return };
        if marks.is_empty() {
            return;
        }
        let others = self.minimum(Some(index)).unwrap_or(TS_MAX);
        let (mut own, mut merged) = (self.inlets[index].watermark, self.watermark);
        marks.retain_mut(|mark| {
            own = own.max(mark.1);
            let candidate = own.min(others);
            let advanced = candidate > merged || self.unconfirmed && candidate == merged;
            self.unconfirmed &= !advanced;
            if advanced {
                merged = candidate;
                mark.1 = candidate;
            }
            advanced
        });
        self.inlets[index].watermark = own;
        self.watermark = merged;
    }

    /// Recomputes watermark and idleness; queues what changed, to be popped from the back.
    fn refresh(&mut self) {
        let all_ended = self.inlets.iter().all(|i| i.ended);
        let merged = match self.minimum(None) {
            Some(w) => Some(w),
            None if all_ended => self.inlets.iter().map(|i| i.watermark).min(),
            None => None,
        };
        let idle = merged.is_none();
        if idle != self.idle {
            self.idle = idle;
            self.queued.insert(0, Event::Idle(idle));
        }
        if let Some(w) = merged
            && (w > self.watermark || self.unconfirmed && w == self.watermark)
        {
            // Those behind this task hear again what it had told them.
            self.unconfirmed = false;
            self.watermark = w;
            self.queued.insert(0, Event::Watermark(w));
        }
    }

    fn note_ends(&mut self) {
        for input in 0..self.inputs {
            if !self.ended_inputs[input]
                && self.inlets.iter().filter(|i| i.input == input).all(|i| i.ended)
            {
                self.ended_inputs[input] = true;
                self.queued.insert(0, Event::InputEnded(input));
            }
        }
        if !self.all_ended_told && self.ended() {
            self.all_ended_told = true;
            self.queued.insert(0, Event::Ended);
        }
    }
}
