//! Tumbling event-time windows with an incremental aggregate: one table per pane.
//!
//! A window fires when the watermark reaches its end and is emitted in order of key
//! group, hash and key, so that output does not depend on how the state came about.
//! With allowed lateness a fired pane stays until the watermark is that much past its
//! end; a row for it emits its key's result anew. Later rows are late: they go to the
//! late side output, or are counted and dropped.

use crate::api::keyed::KeySelector;
use crate::api::window::{Aggregate, Window};
use crate::data::{AnyBatch, Fun, Res, TS_MAX, TS_MIN, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::gate::Marks;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::operator::{Cursor, Flow, LOOK_AHEAD, Operator, drive, marks_of};
use crate::runtime::side::Sides;
use crate::state::{PaneTables, Plain, StateTable};
use std::sync::Arc;

/// Name of its state.
pub const PANES: &str = "panes";

/// Rows emitted between two looks at the output.
const FIRE_ROWS: usize = 512;

/// What the operator is made of.
pub struct TumblingParts<T, S: KeySelector<T>, A: Aggregate<T>, E> {
    /// Finds a row's key.
    pub selector: S,
    /// The aggregate.
    pub aggregate: A,
    /// Makes the output row.
    pub emit: E,
    /// Length of a window in milliseconds.
    pub size: Ts,
    /// Where windows begin: at multiples of `size` plus this.
    pub offset: Ts,
    /// Allowed lateness in milliseconds.
    pub lateness: Ts,
    /// Where late rows go, if anywhere.
    pub late: Option<&'static str>,
    /// Side outputs.
    pub sides: Sides,
    /// The state.
    pub panes: PaneTables<S::Key, Plain<A::Acc>>,
    /// Counters.
    pub metrics: Arc<NodeMetrics>,
}

/// The operator.
pub struct Tumbling<T, S: KeySelector<T>, A: Aggregate<T>, E> {
    parts: TumblingParts<T, S, A, E>,
    watermark: Ts,
    /// Panes up to here have fired (with lateness they may still be there).
    fired: Ts,
    /// Index, within the pane that is firing, of the segment to go on with.
    resume: usize,
}

impl<T, S, A, E, O> Tumbling<T, S, A, E>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Aggregate<T>,
    E: FnMut(&S::Key, Window, A::Out) -> O + Fun,
    O: Send + 'static,
{
    /// Puts the pieces together.
    pub fn new(parts: TumblingParts<T, S, A, E>) -> Self {
        Self { parts, watermark: TS_MIN, fired: TS_MIN, resume: 0 }
    }

    fn start_of(&self, ts: Ts) -> Ts {
        let (size, offset) = (self.parts.size, self.parts.offset);
        (ts - offset).div_euclid(size).saturating_mul(size).saturating_add(offset)
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<O>) -> Res {
        let Some(mut next) = rows.next() else { return Ok(()) };
        loop {
            let start = self.start_of(next.0);
            let end = start.saturating_add(self.parts.size);
            if end.saturating_add(self.parts.lateness) <= self.watermark {
                self.late(next.0, next.2)?;
            } else if end <= self.watermark {
                self.again(start, next, out)?;
            } else {
                let TumblingParts { panes, selector, aggregate, .. } = &mut self.parts;
                let table = panes.pane(start);
                let mut ahead = 0;
                loop {
                    if ahead == 0 {
                        let peeked = rows.peek(LOOK_AHEAD);
                        ahead = peeked.len() + 1;
                        std::hint::black_box(table.warm(peeked.iter().map(|row| row.1)));
                    }
                    ahead -= 1;
                    let (_, hash, row) = next;
                    let init = || Plain(aggregate.create());
                    let acc = selector.with(&row, |key| table.get_or_insert_with(hash, key, init));
                    aggregate.add(&mut acc.0, &row);
                    match rows.next() {
                        Some(row) => next = row,
                        None => {
                            table.tend();
                            return Ok(());
                        }
                    }
                    if next.0 < start || next.0 >= end {
                        break;
                    }
                }
                table.tend();
                continue;
            }
            if out.blocked() {
                return Ok(());
            }
            match rows.next() {
                Some(row) => next = row,
                None => return Ok(()),
            }
        }
    }

    #[cold]
    fn late(&mut self, ts: Ts, row: T) -> Res {
        let taken = match self.parts.late {
            Some(tag) => self.parts.sides.emit(tag, ts, row)?,
            None => false,
        };
        if !taken {
            self.parts.metrics.late_dropped.add(1);
        }
        Ok(())
    }

    /// A row for a pane that has fired and is still allowed to change.
    #[cold]
    fn again(&mut self, start: Ts, (_, hash, row): (Ts, u64, T), out: &mut Emitter<O>) -> Res {
        let window = Window { start, end: start.saturating_add(self.parts.size) };
        let TumblingParts { panes, selector, aggregate, emit, .. } = &mut self.parts;
        let table = panes.pane(start);
        selector.with(&row, |key| {
            let acc = table.get_or_insert_with(hash, key, || Plain(aggregate.create()));
            aggregate.add(&mut acc.0, &row);
            let result = emit(key, window, aggregate.result(&acc.0));
            out.emit(window.last(), result)
        })
    }

    /// Fires panes that `watermark` completes; resumable.
    fn fire(&mut self, watermark: Ts, out: &mut Emitter<O>) -> Res<Flow> {
        let (size, lateness) = (self.parts.size, self.parts.lateness);
        let complete = |start: Ts| start.saturating_add(size) <= watermark;
        if lateness > 0 {
            loop {
                let fired = self.fired;
                let next = self.parts.panes.namespaces().find(|ns| *ns >= fired);
                let Some(start) = next.filter(|ns| complete(*ns)) else { break };
                if self.fire_kept(start, out)? == Flow::Blocked {
                    return Ok(Flow::Blocked);
                }
                self.fired = start.saturating_add(size);
            }
        }
        let expired = |start: Ts| start.saturating_add(size).saturating_add(lateness) <= watermark;
        let horizon = if watermark == TS_MAX {
            TS_MAX
        } else {
            self.start_of(watermark.saturating_sub(lateness))
        };
        self.parts.panes.set_dead_before(horizon);
        while let Some(start) = self.parts.panes.first().filter(|ns| expired(*ns)) {
            if lateness > 0 {
                self.parts.panes.drop_pane(start);
                continue;
            }
            let window = Window { start, end: start.saturating_add(size) };
            let TumblingParts { panes, aggregate, emit, .. } = &mut self.parts;
            loop {
                if out.blocked() {
                    return Ok(Flow::Blocked);
                }
                let mut outcome = Ok(());
                let last = panes.fire(start, FIRE_ROWS, |key, acc, _| {
                    if outcome.is_ok() {
                        let result = emit(&key, window, aggregate.result(&acc.0));
                        outcome = out.emit(window.last(), result);
                    }
                });
                outcome?;
                if last {
                    break;
                }
            }
        }
        Ok(Flow::Done)
    }

    /// Emits a pane that stays.
    fn fire_kept(&mut self, start: Ts, out: &mut Emitter<O>) -> Res<Flow> {
        let window = Window { start, end: start.saturating_add(self.parts.size) };
        let TumblingParts { panes, aggregate, emit, .. } = &mut self.parts;
        let Some(table) = panes.get(start) else { return Ok(Flow::Done) };
        while self.resume < table.segments() {
            if out.blocked() {
                return Ok(Flow::Blocked);
            }
            let mut results = Vec::new();
            table.for_each_in(self.resume, |key, acc, hash| {
                results.push((hash, emit(key, window, aggregate.result(&acc.0))));
            });
            results.sort_by_key(|(hash, _)| *hash);
            for (_, result) in results {
                out.emit(window.last(), result)?;
            }
            self.resume += 1;
        }
        self.resume = 0;
        Ok(Flow::Done)
    }
}

impl<T, S, A, E, O> Operator for Tumbling<T, S, A, E>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Aggregate<T>,
    E: FnMut(&S::Key, Window, A::Out) -> O + Fun,
    O: Send + 'static,
{
    type Out = O;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<T>]
    }

    fn batch(&mut self, _: usize, batch: &mut dyn AnyBatch, out: &mut Emitter<O>) -> Res<Flow> {
        drive(self, batch, out, Self::rows, |op, w, out| op.watermark(w, out))
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<O>) -> Res<Flow> {
        if watermark > self.watermark {
            if self.fire(watermark, out)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
            self.watermark = watermark;
        }
        self.parts.sides.watermark(watermark)?;
        out.mark(watermark)?;
        Ok(Flow::Done)
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        vec![(PANES, &mut self.parts.panes)]
    }

    fn restored(&mut self, watermark: Ts) -> Res {
        self.watermark = watermark;
        if watermark != TS_MIN {
            self.fired = self.start_of(watermark);
        }
        Ok(())
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        Some(&mut self.parts.sides)
    }
}
