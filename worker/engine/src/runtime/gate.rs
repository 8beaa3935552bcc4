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
//! - A barrier that may overtake rows is taken as soon as one channel has it and all
//!   channels that cannot be overtaken have delivered it. What the other channels hold
//!   and bring before it is recorded, and worked on as ever; so are rows restored from
//!   such a record, which go before all others.

use crate::data::{AnyBatch, TS_MAX, TS_MIN, Ts};
use crate::runtime::channel::{Channel, Element};
use crate::runtime::flight::{Flight, Phase, Recorded, Restored};
use crate::runtime::snapshot::Barrier;
use millrace_protocol::ids::CheckpointId;
use std::collections::VecDeque;
use std::sync::Arc;

/// The inlet of rows that come from a checkpoint.
pub const FROM_CHECKPOINT: usize = usize::MAX;

/// No such barrier is to come here: [`Gate::overtaking`] looks.
const MUST_NOT: &str = "a barrier overtook rows that it must not";

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
    /// Its rows are recorded until the barrier comes.
    recording: bool,
}

impl Inlet {
    /// The channel's next element, which is recorded if the barrier has overtaken it.
    fn receive(&self, recorded: &mut Recorded) -> Option<Element> {
        let element = self.channel.receive()?;
        if self.recording
            && let (Element::Batch(batch), Some(flight)) = (&element, self.channel.flight())
        {
            recorded.add(flight, Phase::Received, batch.as_ref());
        }
        Some(element)
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
    /// What that barrier overtook.
    recorded: Recorded,
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
                recording: false,
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
            recorded: Recorded::default(),
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
        let is_newest = |b: &Barrier| b.checkpoint == newest.checkpoint;
        let may = |inlet: &Inlet| {
            inlet.channel.flight().is_some() || inlet.barrier.as_ref().is_some_and(is_newest)
        };
        let ready = newest.may_overtake(now) && self.greeted && self.inlets.iter().all(may);
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

    /// The task takes a barrier before all channels have delivered it. `current`: what is
    /// left of the batch that it works on, and where that came from.
    pub fn overtake(&mut self, barrier: &Barrier, current: Option<(usize, &dyn AnyBatch)>) {
        self.passed = Some(barrier.checkpoint);
        self.recorded = Recorded::default();
        let Self { inlets, recorded, given, restored, queued, .. } = self;
        let mut record = |inlet: usize, batch: &dyn AnyBatch| {
            let (flight, phase) = match inlets.get(inlet) {
                Some(inlet) => (inlet.channel.flight(), Phase::Received),
                None => (given.as_deref(), Phase::Restored),
            };
            match flight {
                Some(flight) => recorded.add(flight, phase, batch),
                None => recorded.refuse(MUST_NOT.to_owned()),
            }
        };
        if let Some((inlet, batch)) = current {
            record(inlet, batch);
        }
        for event in queued.iter().rev() {
            if let Event::Batch { inlet, batch, .. } = event {
                record(*inlet, batch.as_ref());
            }
        }
        for (index, inlet) in inlets.iter().enumerate() {
            if let Some(Element::Batch(batch)) = &inlet.held {
                record(index, batch.as_ref());
            }
        }
        for Restored { flight, batch } in restored.iter() {
            recorded.add(flight, Phase::Restored, batch.as_ref());
        }
        let is_it = |b: &Barrier| b.checkpoint == barrier.checkpoint;
        for inlet in inlets {
            let here = match &inlet.held {
                Some(Element::Barrier(held)) => is_it(held),
                _ => false,
            };
            inlet.recording = !here && !inlet.barrier.take().is_some_and(|b| is_it(&b));
        }
        self.catch_up();
    }

    /// Records what channels hold before a barrier that has come there meanwhile.
    pub fn catch_up(&mut self) {
        let Some(passed) = self.passed else { return };
        for inlet in self.inlets.iter_mut().filter(|i| i.recording) {
            let announced = inlet.channel.announced().map(|b| b.checkpoint);
            if announced == Some(passed) {
                inlet.channel.overtake(passed, Phase::Received, &mut self.recorded);
                inlet.recording = false;
            }
        }
    }

    /// A checkpoint was given up: nothing has to be recorded for it.
    pub fn aborted(&mut self, checkpoint: CheckpointId) {
        if self.passed == Some(checkpoint) {
            self.recorded = Recorded::default();
            self.inlets.iter_mut().for_each(|inlet| inlet.recording = false);
        }
    }

    /// What a checkpoint's barrier overtook, once all channels have delivered it.
    pub fn recorded(&mut self, checkpoint: CheckpointId) -> Option<Recorded> {
        if self.passed != Some(checkpoint) {
            return Some(Recorded::default());
        }
        let all = !self.inlets.iter().any(|i| i.recording);
        all.then(|| std::mem::take(&mut self.recorded))
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
                // Pass the greeting on, so that tasks behind this one begin too.
                return Some(Event::Watermark(TS_MIN));
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
                    // Recorded when the barrier overtook it.
                    Some(held) => held,
                    None => match inlet.receive(&mut self.recorded) {
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
                    if Some(barrier.checkpoint) == self.passed {
                        self.inlets[index].recording = false;
                    }
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
                        inlet.recording = false;
                    }
                    self.passed = Some(barrier.checkpoint);
                    self.recorded = Recorded::default();
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
