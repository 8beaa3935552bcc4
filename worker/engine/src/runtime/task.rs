//! A task: an operator with its gate and everything chained behind it.

use crate::data::{AnyBatch, Res, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::gate::{Event, Gate};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::operator::{Flow, Operator};
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use crate::state::StateTable;
use millrace_protocol::ids::Uid;
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
    /// Where a barrier's contributions go.
    pub parts: &'a mut SnapshotParts,
    /// Set by the task when it passes a barrier.
    pub passed: &'a mut Option<Barrier>,
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
            current: Current::Nothing,
            ended: false,
            metrics,
        }
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
                if blocked {
                    Flow::Blocked
                } else {
                    self.operator.barrier(barrier, turn.parts)?;
                    turn.parts.watermarks.push((self.uid.clone(), self.gate.watermark()));
                    self.out.barrier(barrier, turn.parts)?;
                    if let Some(sides) = self.operator.sides() {
                        sides.barrier(barrier, turn.parts)?;
                    }
                    *turn.passed = Some(barrier.clone());
                    Flow::Done
                }
            }
        };
        if flow == Flow::Blocked {
            return Ok(false);
        }
        if let Current::Batch { inlet, batch, .. } =
            std::mem::replace(&mut self.current, Current::Nothing)
        {
            self.gate.recycle(inlet, batch);
        }
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
            if self.blocked()? {
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
                    Some(Event::Batch { input, inlet, batch }) => {
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
        self.operator.next_processing_time()
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
