//! Tumbling event-time windows with an incremental aggregate: one table per pane.
//!
//! A window fires when the watermark reaches its end and is emitted in order of key
//! group, hash and key, so that output does not depend on how the state came about.
//! With allowed lateness a fired pane stays until the watermark is that much past its
//! end; a row for it emits its key's result anew.
//!
//! Rows of panes may be in a tier: those of a batch's keys are brought back before the
//! batch, those of a pane that fires a few key groups at a time.

use super::{LateRows, PANES, no_timestamp};
use crate::api::keyed::KeySelector;
use crate::api::window::aggregate::Accumulate;
use crate::api::window::assign::Window;
use crate::api::window::function::{Fire, WindowCx};
use crate::data::{AnyBatch, Data, Packet, Res, TS_MAX, TS_MIN, Ts};
use crate::runtime::combine::{Partial, marks_of_either};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, LOOK_AHEAD, Operator, drive};
use crate::runtime::side::Sides;
use crate::state::{Ordered, PaneTables, Plain, StateTable};
use millrace_protocol::key::Key;
use std::marker::PhantomData;

/// Partials between two looks at whether their table should grow.
const TEND_EVERY: usize = 256;

/// Rows emitted between two looks at the output.
const FIRE_ROWS: usize = 512;

/// What the operator is made of.
pub(crate) struct TumblingParts<T, S: KeySelector<T>, A: Accumulate<T>, F> {
    /// Finds a row's key.
    pub selector: S,
    /// The aggregate.
    pub accumulate: A,
    /// Emits results.
    pub fire: F,
    /// Length of a window in milliseconds.
    pub size: Ts,
    /// Where windows begin: at multiples of `size` plus this.
    pub offset: Ts,
    /// Allowed lateness in milliseconds.
    pub lateness: Ts,
    /// Where late rows go.
    pub late: LateRows,
    /// Side outputs.
    pub sides: Sides,
    /// The state.
    pub panes: PaneTables<S::Key, Plain<A::Acc>>,
}

/// The operator.
pub(crate) struct Tumbling<T, S: KeySelector<T>, A: Accumulate<T>, F, O> {
    parts: TumblingParts<T, S, A, F>,
    time: EventTime,
    /// The clock, for window functions.
    now: Ts,
    /// Panes up to here have fired (with lateness they may still be there).
    fired: Ts,
    /// The segment, within the pane that is firing and stays, to go on with.
    resume: usize,
    /// What is left to be emitted of the one before.
    kept: Option<Ordered<S::Key, A::Out>>,
    _out: PhantomData<fn() -> O>,
}

impl<T, S, A, F, O> Tumbling<T, S, A, F, O>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Accumulate<T>,
    F: Fire<S::Key, A::Out, O>,
    O: Send + 'static,
{
    /// Puts the pieces together.
    pub fn new(parts: TumblingParts<T, S, A, F>) -> Self {
        Self {
            parts,
            time: EventTime::START,
            now: 0,
            fired: TS_MIN,
            resume: 0,
            kept: None,
            _out: PhantomData,
        }
    }

    fn start_of(&self, ts: Ts) -> Ts {
        start_of(ts, self.parts.size, self.parts.offset)
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<O>) -> Res {
        if !self.parts.panes.has_tier() {
            return self.rows_here(rows, out);
        }
        self.fetch_ahead(rows)?;
        self.rows_here(rows, out)?;
        self.parts.panes.tend();
        Ok(())
    }

    /// Brings back from the tier what the rows at hand need.
    fn fetch_ahead(&mut self, rows: &Cursor<'_, '_, T>) -> Res {
        if !self.parts.panes.spills() {
            return Ok(());
        }
        let TumblingParts { panes, selector, size, offset, .. } = &mut self.parts;
        let start_of = |row: &(Ts, u64, T)| start_of(row.0, *size, *offset);
        for same in rows.peek(usize::MAX).chunk_by(|a, b| start_of(a) == start_of(b)) {
            let start = same.first().map_or(TS_MIN, start_of);
            let Some(table) = panes.get_mut(start).filter(|t| t.spills()) else { continue };
            for rows in same.chunks(LOOK_AHEAD) {
                std::hint::black_box(table.warm(rows.iter().map(|row| row.1)));
                for (_, hash, row) in rows {
                    selector.with(row, |key| table.want(*hash, key));
                }
            }
        }
        self.parts.panes.fetch()
    }

    /// Takes rows of which nothing is in the tier that is not here too. While that may be
    /// so, panes are not tended, lest it leaves again.
    fn rows_here(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<O>) -> Res {
        let tends = !self.parts.panes.has_tier();
        let Some(mut next) = rows.next() else { return Ok(()) };
        loop {
            let start = self.start_of(next.0);
            let end = start.saturating_add(self.parts.size);
            let time = self.time.of(next.1);
            if next.0 == TS_MIN {
                return Err(no_timestamp());
            } else if end.saturating_add(self.parts.lateness) <= time {
                self.parts.late.take(&mut self.parts.sides, next.0, next.2)?;
            } else if end <= time {
                self.again(start, next, out)?;
            } else {
                // While keys differ in event time, each row is judged by itself.
                let end = if self.time.is_level() { end } else { start };
                let TumblingParts { panes, selector, accumulate, .. } = &mut self.parts;
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
                    let init = || Plain(accumulate.create());
                    let acc = selector.with(&row, |key| table.get_or_insert_with(hash, key, init));
                    accumulate.add(&mut acc.0, row);
                    match rows.next() {
                        Some(row) => next = row,
                        None => {
                            if tends {
                                table.tend();
                            }
                            return Ok(());
                        }
                    }
                    if next.0 < start || next.0 >= end {
                        break;
                    }
                }
                if tends {
                    table.tend();
                }
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

    /// Takes accumulators that were folded upstream. There is neither allowed lateness
    /// nor a late side output.
    fn partials(
        &mut self,
        partials: &mut Cursor<'_, '_, Partial<S::Key, A::Acc>>,
        _: &mut Emitter<O>,
    ) -> Res {
        let TumblingParts { panes, accumulate, late, size, .. } = &mut self.parts;
        let mut taken = 0;
        loop {
            if taken % TEND_EVERY == 0 {
                if taken > 0 {
                    panes.tend();
                }
                fetch_partials(panes, partials.peek(TEND_EVERY))?;
            }
            taken += 1;
            let Some((start, hash, partial)) = partials.next() else { break };
            if start.saturating_add(*size) <= self.time.of(hash) {
                late.metrics.late_dropped.add(u64::from(partial.rows));
                continue;
            }
            let table = panes.pane(start);
            let init = || Plain(accumulate.create());
            let acc = table.get_or_insert_with(hash, &partial.key, init);
            accumulate.merge(&mut acc.0, &partial.acc);
        }
        panes.tend();
        Ok(())
    }

    /// A row for a pane that has fired and is still allowed to change.
    #[cold]
    fn again(&mut self, start: Ts, (_, hash, row): (Ts, u64, T), out: &mut Emitter<O>) -> Res {
        let (window, time) = (self.window(start), self.time.of(hash));
        let TumblingParts { panes, selector, accumulate, fire, sides, .. } = &mut self.parts;
        let mut cx = firing(window, time, self.now, out, sides);
        let table = panes.pane(start);
        selector.with(&row, |key| {
            let acc = table.get_or_insert_with(hash, key, || Plain(accumulate.create()));
            accumulate.add_ref(&mut acc.0, &row);
            fire.fire(key, accumulate.result(&acc.0), &mut cx)
        })
    }

    fn window(&self, start: Ts) -> Window {
        Window { start, end: start.saturating_add(self.parts.size) }
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
                if self.fire_kept(start, watermark, out)? == Flow::Blocked {
                    return Ok(Flow::Blocked);
                }
                self.fired = start.saturating_add(size);
            }
            // Panes that had no row yet count as fired too: a late row fires its own.
            self.fired = self.fired.max(self.start_of(watermark));
        }
        let expired = |start: Ts| start.saturating_add(size).saturating_add(lateness) <= watermark;
        let horizon = if watermark == TS_MAX {
            TS_MAX
        } else {
            self.start_of(watermark.saturating_sub(lateness))
        };
        self.parts.panes.set_dead_before(horizon);
        while let Some(start) = self.parts.panes.first().filter(|ns| expired(*ns)) {
            let window = self.window(start);
            // Fired and kept under a lateness that the program no longer allows.
            let fired = window.end <= self.time.watermark();
            if lateness > 0 || fired {
                self.parts.panes.drop_pane(start)?;
                continue;
            }
            let time = &self.time;
            let TumblingParts { panes, accumulate, fire, sides, .. } = &mut self.parts;
            loop {
                if out.blocked() || sides.blocked()? {
                    return Ok(Flow::Blocked);
                }
                let mut outcome = Ok(());
                let mut cx = firing(window, watermark, self.now, out, sides);
                let last = panes.fire(start, FIRE_ROWS, |key, acc, hash| {
                    if outcome.is_ok() && (time.is_level() || time.of(hash) < window.end) {
                        outcome = fire.fire(&key, accumulate.result(&acc.0), &mut cx);
                    }
                });
                outcome?;
                if last? {
                    break;
                }
            }
        }
        Ok(Flow::Done)
    }

    /// Emits a pane that stays.
    fn fire_kept(&mut self, start: Ts, watermark: Ts, out: &mut Emitter<O>) -> Res<Flow> {
        let window = self.window(start);
        let TumblingParts { panes, accumulate, fire, sides, .. } = &mut self.parts;
        let Some(table) = panes.get_mut(start) else { return Ok(Flow::Done) };
        loop {
            if let Some(kept) = &mut self.kept {
                while table.ready(kept, |_, acc| accumulate.result(&acc.0))? {
                    if out.blocked() || sides.blocked()? {
                        return Ok(Flow::Blocked);
                    }
                    let mut cx = firing(window, watermark, self.now, out, sides);
                    for (hash, key, result) in kept.ready().take(FIRE_ROWS) {
                        // Unless it fired before a restore.
                        if self.time.of(hash) < window.end {
                            fire.fire(&key, result, &mut cx)?;
                        }
                    }
                }
            }
            self.kept = table.ordered(self.resume, |_, acc| accumulate.result(&acc.0));
            if self.kept.is_none() {
                self.resume = 0;
                return Ok(Flow::Done);
            }
            self.resume += 1;
        }
    }
}

/// Start of the window of a moment.
fn start_of(ts: Ts, size: Ts, offset: Ts) -> Ts {
    ts.saturating_sub(offset).div_euclid(size).saturating_mul(size).saturating_add(offset)
}

/// Brings back from the tier what some partials need.
fn fetch_partials<K: Key, A: Data>(
    panes: &mut PaneTables<K, Plain<A>>,
    partials: &[(Ts, u64, Partial<K, A>)],
) -> Res {
    if !panes.spills() {
        return Ok(());
    }
    for (start, hash, partial) in partials {
        if let Some(table) = panes.get_mut(*start) {
            table.want(*hash, &partial.key);
        }
    }
    panes.fetch()
}

/// What a window function is told of a firing.
pub(crate) fn firing<'a, O>(
    window: Window,
    watermark: Ts,
    now: Ts,
    out: &'a mut Emitter<O>,
    sides: &'a mut Sides,
) -> WindowCx<'a, O> {
    let timestamp = window.last();
    WindowCx { window, watermark, now, timestamp, side_timestamp: timestamp, out, sides }
}

impl<T, S, A, F, O> Operator for Tumbling<T, S, A, F, O>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Accumulate<T>,
    F: Fire<S::Key, A::Out, O>,
    O: Send + 'static,
{
    type Out = O;

    fn inputs() -> Vec<Marks> {
        vec![marks_of_either::<T, S::Key, A::Acc>]
    }

    fn batch(&mut self, _: usize, batch: &mut dyn AnyBatch, out: &mut Emitter<O>) -> Res<Flow> {
        if batch.as_any_mut().is::<Packet<Partial<S::Key, A::Acc>>>() {
            return drive(self, batch, out, Self::partials, |op, w, out| op.watermark(w, out));
        }
        drive(self, batch, out, Self::rows, |op, w, out| op.watermark(w, out))
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<O>) -> Res<Flow> {
        if watermark > self.time.watermark() {
            if self.fire(watermark, out)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
            self.time.advance(watermark);
        }
        self.parts.sides.watermark(watermark)?;
        out.mark(watermark)?;
        Ok(Flow::Done)
    }

    fn set_now(&mut self, now: Ts) {
        self.now = now;
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        vec![(PANES, &mut self.parts.panes)]
    }

    fn restored(&mut self, time: EventTime) -> Res {
        if time.watermark() != TS_MIN {
            self.fired = self.start_of(time.watermark());
        }
        self.time = time;
        Ok(())
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        Some(&mut self.parts.sides)
    }
}
