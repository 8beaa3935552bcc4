//! A gate merges the channels of a task: watermarks, idleness, alignment, end.
//!
//! - The task's watermark is the minimum over channels that are neither idle nor
//!   ended; it never goes back. While one is idle it is not the end of time, whatever the
//!   others say: an end follows its watermark by a moment.
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

mod overtake;
mod time;

use crate::data::{AnyBatch, TS_MAX, TS_MIN, Ts};
use crate::runtime::channel::{Channel, Element};
use crate::runtime::flight::{Flight, Restored, Tries};
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
    /// Something else than a barrier was heard.
    spoke: bool,
    idle: bool,
    ended: bool,
    /// The barrier it waits with.
    barrier: Option<Barrier>,
    /// An element that was taken while listening for the first word of all channels.
    held: Option<Element>,
}

impl Inlet {
    /// Whether no row will come from it.
    fn is_over(&self) -> bool {
        self.ended || self.watermark == TS_MAX
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
    /// Whether that is still to be passed on.
    greeting: bool,
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
                spoke: false,
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
            greeting: false,
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

    /// The merged watermark.
    pub fn watermark(&self) -> Ts {
        self.watermark
    }

    /// Whether all channels have ended.
    pub fn ended(&self) -> bool {
        self.inlets.iter().all(|i| i.ended)
    }

    /// Whether every channel has said something that is no barrier: rows, how far it is, its
    /// end. The first event of a gate does not tell that.
    pub fn spoken(&self) -> bool {
        self.inlets.iter().all(|i| i.spoke)
    }

    /// Gives an emptied batch back to where it came from.
    pub fn recycle(&self, inlet: usize, batch: Box<dyn AnyBatch>) {
        if let Some(inlet) = self.inlets.get(inlet) {
            inlet.channel.recycle(batch);
        }
    }

    /// The next event, if there is one.
    pub fn poll(&mut self) -> Option<Event> {
        self.greet();
        if self.take_greeting() {
            return Some(Event::Watermark(TS_MIN));
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

    /// Begins, once every channel has said something.
    fn greet(&mut self) {
        if self.greeted {
            return;
        }
        self.listen();
        if self.all_heard {
            self.greeted = true;
            // Pass the greeting on, so that tasks behind this one begin too, unless it is
            // said here how far these need not wait for this one.
            let tells = |e: &Event| matches!(e, Event::Watermark(_) | Event::Idle(true));
            self.greeting = !self.queued.iter().any(tells);
        }
    }

    /// Whether a greeting is to be passed on, for which [`TS_MIN`] stands; only once.
    pub fn take_greeting(&mut self) -> bool {
        std::mem::take(&mut self.greeting)
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
                // Rows have yet to be given out.
                inlet.spoke = !matches!(inlet.held, Some(Element::Barrier(_) | Element::Batch(_)));
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
        self.inlets[index].spoke |= !matches!(element, Element::Barrier(_));
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
}
