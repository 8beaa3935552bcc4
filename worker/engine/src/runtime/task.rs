//! A task: an operator with its gate and everything chained behind it.

#[cfg(test)]
mod tests;

use crate::data::{AnyBatch, Res, TS_MIN, Ts};
use crate::runtime::BATCH_ROWS;
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::flight::Recorded;
use crate::runtime::gate::{Event, Gate};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::operator::{Flow, Operator};
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use crate::state::StateTable;
use millrace_protocol::ids::{CheckpointId, Uid};
use std::sync::Arc;

/// What a turn of a task came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It did something and may have more to do.
    Worked,
    /// Nothing to do until woken, or until its next timer.
    Idle,
    /// Its output is full.
    Blocked,
}

/// What a slot tells and asks a task in its turn.
pub struct Turn<'a> {
    /// Processing time, milliseconds since the epoch.
    pub now: Ts,
    /// If there is a barrier about that may overtake rows, now or later: bytes of rows that
    /// there is room for in its checkpoint.
    pub overtaking: Option<usize>,
    /// Where a barrier's contributions go.
    pub parts: &'a mut SnapshotParts,
    /// Set by the task when it passes a barrier.
    pub passed: &'a mut Option<Barrier>,
    /// What that overtook.
    pub overtaken: &'a mut Recorded,
}

/// What a slot runs.
pub trait Task {
    /// For errors and logs.
    fn name(&self) -> &str;
    /// The operator whose state the tables are.
    fn uid(&self) -> &Uid;
    /// Index of the subtask.
    fn subtask(&self) -> u16;
    /// One bounded turn.
    fn run(&mut self, turn: &mut Turn<'_>) -> Res<Progress>;
    /// Hands on what waits in buffers; true if it could not hand on everything.
    fn flush(&mut self) -> Res<bool>;
    /// When it wants a turn even if nothing arrives.
    fn next_time(&self) -> Option<Ts>;
    /// Its keyed tables with their state's name.
    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)>;
    /// Whether it has passed its end on.
    fn ended(&self) -> bool;
    /// A barrier for a task without inputs; others get theirs through their channels.
    fn trigger(&mut self, _barrier: Barrier) {}
    /// Its counters.
    fn metrics(&self) -> &Arc<NodeMetrics>;
}

/// Batches or events in one turn.
const QUANTUM: usize = 4;

enum Current {
    Nothing,
    Batch {
        input: usize,
        inlet: usize,
        batch: Box<dyn AnyBatch>,
    },
    Watermark(Ts),
    Barrier(Barrier),
    InputEnded(usize),
    /// All inputs have ended: the operator emits what it holds.
    End,
    /// The operator is done; what it emitted goes before the end does.
    Closing,
}

/// A task whose head is an [`Operator`].
pub struct OperatorTask<O: Operator> {
    name: String,
    uid: Uid,
    subtask: u16,
    operator: O,
    out: Emitter<O::Out>,
    gate: Gate,
    current: Current,
    /// What the operator has been told of event time.
    told: EventTime,
    /// The marks that the current batch came with.
    marks: Vec<Ts>,
    /// When a barrier that waits may overtake rows.
    overtakes_at: Option<Ts>,
    /// For which barrier batches were emitted without room for them, and how many.
    forced: (Option<CheckpointId>, usize),
    ended: bool,
    metrics: Arc<NodeMetrics>,
}

impl<O: Operator> OperatorTask<O> {
    /// Puts the pieces together.
    pub fn new(
        name: String,
        uid: Uid,
        subtask: u16,
        operator: O,
        out: Emitter<O::Out>,
        gate: Gate,
        metrics: Arc<NodeMetrics>,
    ) -> Self {
        Self {
            name,
            uid,
            subtask,
            operator,
            out,
            gate,
            told: EventTime::START,
            current: Current::Nothing,
            marks: Vec::new(),
            overtakes_at: None,
            forced: (None, 0),
            ended: false,
            metrics,
        }
    }

    /// The tables are loaded, and event time had come as far as a checkpoint says.
    pub fn restore(&mut self, time: EventTime) -> Res {
        self.gate.restore(time.watermark());
        self.told = time.clone();
        self.operator.restored(time)
    }

    fn blocked(&mut self) -> Res<bool> {
        if self.out.blocked() {
            self.out.flush(false)?;
        }
        let mut blocked = self.out.blocked();
        if let Some(sides) = self.operator.sides() {
            blocked |= sides.blocked()?;
        }
        Ok(blocked)
    }

    /// Works on what is current; true if it is done with it.
    fn step(&mut self, turn: &mut Turn<'_>) -> Res<bool> {
        let flow = match &mut self.current {
            Current::Nothing => Flow::Done,
            Current::Batch { input, batch, .. } => {
                self.operator.batch(*input, batch.as_mut(), &mut self.out)?
            }
            Current::Watermark(w) => {
                let flow = self.operator.watermark(*w, &mut self.out)?;
                if flow == Flow::Done
                    && let Some(sides) = self.operator.sides()
                {
                    sides.watermark(*w)?;
                }
                flow
            }
            Current::InputEnded(input) => self.operator.input_ended(*input, &mut self.out)?,
            Current::End => {
                let flow = self.operator.end(&mut self.out)?;
                if flow == Flow::Done {
                    self.current = Current::Closing;
                    return self.step(turn);
                }
                flow
            }
            Current::Closing => {
                if self.flush()? {
                    Flow::Blocked
                } else {
                    self.out.end()?;
                    if let Some(sides) = self.operator.sides() {
                        sides.end()?;
                    }
                    self.ended = true;
                    Flow::Done
                }
            }
            Current::Barrier(barrier) => {
                self.out.flush(true)?;
                let mut blocked = self.out.blocked();
                if let Some(sides) = self.operator.sides() {
                    sides.flush(true)?;
                    blocked |= sides.blocked()?;
                }
                if blocked && !barrier.may_overtake(turn.now) {
                    Flow::Blocked
                } else {
                    let (barrier, watermark) = (barrier.clone(), self.gate.watermark());
                    self.pass(&barrier, watermark, turn)?;
                    Flow::Done
                }
            }
        };
        if flow == Flow::Blocked {
            return Ok(false);
        }
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Batch { inlet, batch, .. } => {
                self.gate.recycle(inlet, batch);
                if let Some(mark) = self.marks.last() {
                    self.told.advance(*mark);
                }
            }
            Current::Watermark(w) => self.told.advance(w),
            _ => {}
        }
        Ok(true)
    }

    /// The snapshot, and the barrier for all outputs, behind all that waits for them.
    fn pass(&mut self, barrier: &Barrier, watermark: Ts, turn: &mut Turn<'_>) -> Res {
        if self.flush()? {
            self.out.force()?;
            if let Some(sides) = self.operator.sides() {
                sides.force()?;
            }
        }
        self.operator.barrier(barrier, turn.parts)?;
        let mut time = self.told.clone();
        time.advance(watermark);
        turn.parts.event_times.push((self.uid.clone(), time));
        self.out.barrier(barrier, turn.parts)?;
        if let Some(sides) = self.operator.sides() {
            sides.barrier(barrier, turn.parts)?;
        }
        *turn.passed = Some(barrier.clone());
        Ok(())
    }

    /// Whether all that the operator was given is in its state. A watermark that fires is not
    /// interrupted.
    fn is_between_rows(&mut self) -> bool {
        let between = match &mut self.current {
            Current::Nothing => true,
            Current::Batch { input, batch, .. } => {
                let left = self.gate.marks(*input, batch.as_mut());
                left.first().is_none_or(|mark| mark.0 > 0)
            }
            _ => false,
        };
        between && self.operator.is_settled()
    }

    /// Works up to the next place between two rows although the outputs are full, so that a
    /// barrier need not wait until a firing has found room: what is emitted becomes rows in
    /// flight. True if it came there with no more than `room` bytes of them.
    fn finish(&mut self, barrier: &Barrier, turn: &mut Turn<'_>, room: usize) -> Res<bool> {
        let gives_way = self.out.gives_way() && self.operator.sides().is_none_or(|s| s.gives_way());
        let fires = matches!(self.current, Current::Batch { .. } | Current::Watermark(_));
        if !gives_way || !fires {
            return Ok(false);
        }
        if self.forced.0 != Some(barrier.checkpoint) {
            self.forced = (Some(barrier.checkpoint), 0);
        }
        // What a row has on the heap counts too, if only by guess.
        let batch = BATCH_ROWS * size_of::<(Ts, u64, O::Out)>().max(64);
        while self.forced.1 < room / batch {
            self.forced.1 += 1;
            self.out.force()?;
            if let Some(sides) = self.operator.sides() {
                sides.force()?;
            }
            self.step(turn)?;
            if self.is_between_rows() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a barrier that may overtake rows, between two rows; true if there was one.
    fn overtake(&mut self, turn: &mut Turn<'_>, room: usize) -> Res<bool> {
        let overtaking = self.gate.overtaking(turn.now);
        self.overtakes_at = self.gate.overtakes_at(turn.now);
        let Some(barrier) = overtaking else { return Ok(false) };
        if !self.is_between_rows() && !self.finish(&barrier, turn, room)? {
            return Ok(false);
        }
        let mut watermark = self.told.watermark();
        let overtaken = match &mut self.current {
            Current::Nothing => self.gate.overtake(&barrier, None, room),
            Current::Batch { input, inlet, batch } => {
                let left = self.gate.marks(*input, batch.as_mut());
                if let Some(done) = self.marks.len().checked_sub(left.len() + 1) {
                    watermark = self.marks[done];
                }
                self.gate.overtake(&barrier, Some((*inlet, batch.as_ref())), room)
            }
            _ => return Ok(false),
        };
        let Some(overtaken) = overtaken else { return Ok(false) };
        if self.gate.take_greeting() {
            // Before the barrier, so that those behind this task hear it as their first word.
            self.out.mark(TS_MIN)?;
            if let Some(sides) = self.operator.sides() {
                sides.watermark(TS_MIN)?;
            }
        }
        *turn.overtaken = overtaken;
        self.pass(&barrier, watermark, turn)?;
        Ok(true)
    }
}

impl<O: Operator> Task for OperatorTask<O> {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn subtask(&self) -> u16 {
        self.subtask
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> Res<Progress> {
        self.operator.set_now(turn.now);
        let mut worked = false;
        for _ in 0..QUANTUM {
            if let Some(room) = turn.overtaking {
                if self.overtake(turn, room)? {
                    return Ok(Progress::Worked);
                }
            } else {
                self.overtakes_at = None;
            }
            let overtakes =
                matches!(&self.current, Current::Barrier(b) if b.may_overtake(turn.now));
            if self.blocked()? && !overtakes {
                return Ok(Progress::Blocked);
            }
            if matches!(self.current, Current::Nothing) {
                if self.operator.next_processing_time().is_some_and(|t| t <= turn.now)
                    && self.operator.processing_time(turn.now, &mut self.out)? == Flow::Blocked
                {
                    return Ok(Progress::Blocked);
                }
                self.current = match self.gate.poll() {
                    None => break,
                    Some(Event::Batch { input, inlet, mut batch }) => {
                        self.marks.clear();
                        let marks = self.gate.marks(input, batch.as_mut());
                        self.marks.extend(marks.iter().map(|mark| mark.1));
                        self.metrics.rows_in.add(batch.rows() as u64);
                        Current::Batch { input, inlet, batch }
                    }
                    Some(Event::Watermark(w)) => Current::Watermark(w),
                    Some(Event::Barrier(barrier)) => Current::Barrier(barrier),
                    Some(Event::InputEnded(input)) => Current::InputEnded(input),
                    Some(Event::Ended) => Current::End,
                    Some(Event::Idle(idle)) => {
                        self.out.idle(idle)?;
                        if let Some(sides) = self.operator.sides() {
                            sides.idle(idle)?;
                        }
                        worked = true;
                        continue;
                    }
                };
            }
            worked = true;
            if !self.step(turn)? {
                return Ok(Progress::Blocked);
            }
            if turn.passed.is_some() {
                break;
            }
        }
        Ok(if worked { Progress::Worked } else { Progress::Idle })
    }

    fn flush(&mut self) -> Res<bool> {
        self.out.flush(true)?;
        let mut blocked = self.out.blocked();
        if let Some(sides) = self.operator.sides() {
            sides.flush(true)?;
            blocked |= sides.blocked()?;
        }
        Ok(blocked)
    }

    fn next_time(&self) -> Option<Ts> {
        let due = self.operator.next_processing_time();
        due.into_iter().chain(self.overtakes_at).min()
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        self.operator.tables()
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn metrics(&self) -> &Arc<NodeMetrics> {
        &self.metrics
    }
}
