//! The generic window operator: any assigner, trigger, and contents.
//!
//! The state of a key is one row with all its windows ([`Slots`]). A row wakes its key's
//! windows through their trigger; so do two sets of timers, one driven by the watermark
//! and one by the clock. Timers fire in order of time, then key hash, whatever the order
//! in which rows came.
//!
//! Rows of the table may be in a tier: those of a batch's keys are brought back before
//! the batch, those of due timers a few at a time (see [`super::ahead`]).
//!
//! Sessions are complete one millisecond after their end (see
//! [`crate::api::window::SessionWindows`]), so the watermark that is passed on lags by
//! that much: a session's result, with the timestamp of its last moment, is not late.

use super::ahead::{FETCH, fetch, fetch_due};
use super::body::Body;
use super::held::Held;
use super::slots::{Ends, Slots, SlotsRow};
use super::timers::{Clocks, Wake};
use super::{LateRows, WINDOWS, no_timestamp};
use crate::api::keyed::KeySelector;
use crate::api::window::assign::{TimeDomain, Window, WindowAssigner};
use crate::api::window::function::WindowCx;
use crate::api::window::trigger::{Timer, Trigger, TriggerCx, TriggerResult};
use crate::data::{AnyBatch, Res, TS_MAX, TS_MIN, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, LookAhead, Operator, drive, fetch_ahead, marks_of};
use crate::runtime::side::Sides;
use crate::state::{Change, StateTable, Table};

/// The table of a window operator.
pub(crate) type WindowTable<K, A, G> = Table<K, SlotsRow<A, G>>;

/// Hands a late row on.
pub(crate) type TakeLate<T> = fn(&LateRows, &mut Sides, Ts, T) -> Res;

/// What the operator is made of.
pub(crate) struct WindowParts<T, S, W, G, B>
where
    S: KeySelector<T>,
    G: Trigger<T>,
    B: Body<S::Key, T>,
{
    pub selector: S,
    pub assigner: W,
    pub trigger: G,
    pub body: B,
    /// Allowed lateness in milliseconds.
    pub lateness: Ts,
    pub late: LateRows,
    /// Hands a late row on: `LateRows::take`, or what takes a row of two streams apart.
    pub take_late: TakeLate<T>,
    pub sides: Sides,
    pub table: WindowTable<S::Key, B::Acc, G::State>,
}

/// The operator.
pub(crate) struct WindowOperator<T, S, W, G, B>
where
    S: KeySelector<T>,
    G: Trigger<T>,
    B: Body<S::Key, T>,
{
    parts: WindowParts<T, S, W, G, B>,
    ends: Ends,
    time: EventTime,
    now: Ts,
    timers: Clocks<S::Key>,
    /// Memory of timers.
    held: Held,
    /// Windows of the row in hand, with what their trigger said.
    windows: Vec<Window>,
    results: Vec<(Window, TriggerResult)>,
}

impl<T, S, W, G, B> WindowOperator<T, S, W, G, B>
where
    T: Send + 'static,
    S: KeySelector<T>,
    W: WindowAssigner<T>,
    G: Trigger<T>,
    B: Body<S::Key, T>,
{
    pub fn new(parts: WindowParts<T, S, W, G, B>) -> Self {
        let domain = parts.assigner.domain();
        let ends = Ends {
            domain,
            ends: parts.assigner.ends(),
            merges: parts.assigner.merges(),
            lateness: if domain == TimeDomain::Event { parts.lateness } else { 0 },
        };
        Self {
            ends,
            time: EventTime::START,
            now: 0,
            timers: Clocks::new(),
            held: Held::new(parts.table.budget()),
            parts,
            windows: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Rows of a batch, whose key `selector` finds, and which `wrap` makes `T`.
    pub fn rows<R, SR: KeySelector<R, Key = S::Key>>(
        &mut self,
        rows: &mut Cursor<'_, '_, R>,
        selector: impl for<'s> Fn(&'s S) -> &'s SR,
        wrap: impl Fn(R) -> T,
        out: &mut Emitter<B::Out>,
    ) -> Res {
        fetch_ahead(&mut self.parts.table, selector(&self.parts.selector), rows)?;
        let mut ahead = LookAhead::default();
        while self.has_room(out)? {
            ahead.step(&self.parts.table, rows);
            let Some((ts, hash, row)) = rows.next() else { break };
            self.row(ts, hash, wrap(row), out)?;
        }
        self.parts.table.tend();
        self.held.note(|| self.timers.bytes());
        Ok(())
    }

    /// Hands on what a firing left; whether another call may be made.
    fn has_room(&mut self, out: &mut Emitter<B::Out>) -> Res<bool> {
        Ok(!out.blocked() && self.parts.body.emit_on(out)? && !self.parts.sides.blocked()?)
    }

    /// After a batch: whether all that it caused is emitted.
    pub fn settled(&mut self, flow: Flow, out: &mut Emitter<B::Out>) -> Res<Flow> {
        let settled = flow == Flow::Done && self.parts.body.emit_on(out)?;
        Ok(if settled { Flow::Done } else { Flow::Blocked })
    }

    fn row(&mut self, ts: Ts, hash: u64, row: T, out: &mut Emitter<B::Out>) -> Res {
        let watermark = self.time.of(hash);
        let Self { parts, ends, now, windows, results, .. } = self;
        let WindowParts {
            selector, assigner, trigger, body, late, take_late, sides, table, ..
        } = parts;
        if ts == TS_MIN && ends.by(TimeDomain::Event) {
            return Err(no_timestamp());
        }
        windows.clear();
        assigner.assign(&row, ts, *now, windows);
        let assigned = !windows.is_empty();
        if ends.merges {
            windows.retain(|w| {
                !ends.is_late(*w, watermark)
                    || selector.with(&row, |key| {
                        table.get(hash, key).is_some_and(|s| !s.0.touching(*w).is_empty())
                    })
            });
        } else {
            windows.retain(|w| !ends.is_late(*w, watermark));
        }
        if windows.is_empty() {
            // A row between sliding windows belongs to none, which is not being late.
            return if assigned { take_late(late, sides, ts, row) } else { Ok(()) };
        }

        let slots = selector
            .with(&row, |key| table.get_or_insert_with(hash, key, || SlotsRow(Slots::default())));
        let slots = &mut slots.0;
        results.clear();
        let watched = ends.ends.then_some(ends.domain);
        for window in windows.drain(..) {
            let at = if ends.merges {
                slots.merge(window, |first, other| {
                    match (&mut first.acc, other.acc) {
                        (Some(acc), Some(other)) => body.merge(acc, other),
                        (None, Some(other)) => first.acc = Some(other),
                        (_, None) => {}
                    }
                    let complete_at = ends.complete_at(first.window);
                    let mut cx = TriggerCx::new(first.window, watermark, *now, &mut first.timers)
                        .watching(watched, complete_at);
                    trigger.on_merge(&mut first.trigger, other.trigger, &mut cx);
                })
            } else {
                slots.find_or_insert(window)
            };
            let slot = &mut slots.slots[at];
            let mut cx = TriggerCx::new(slot.window, watermark, *now, &mut slot.timers)
                .watching(watched, ends.complete_at(slot.window));
            let result = trigger.on_element(&row, ts, &mut slot.trigger, &mut cx);
            results.push((slot.window, result));
        }

        // The key is only cloned for who needs it.
        let mut key = None;
        for domain in [TimeDomain::Event, TimeDomain::Processing] {
            let Some(due) = slots.due(domain, ends, watermark) else { continue };
            let wake = slots.wake_mut(domain);
            if wake.is_none_or(|wake| due < wake) {
                *wake = Some(due);
                let key = key.get_or_insert_with(|| selector.owned(&row));
                self.timers.of(domain).push(Wake { time: due, hash, key: key.clone() });
            }
        }
        if results.iter().any(|(_, r)| *r != TriggerResult::Continue) && key.is_none() {
            key = Some(selector.owned(&row));
        }

        let (mut row, count) = (Some(row), results.len());
        for (i, (window, result)) in results.drain(..).enumerate() {
            // A merge of a later window of the row may have taken this one in.
            let found = if ends.merges {
                Some(slots.touching(window)).filter(|r| !r.is_empty()).map(|r| r.start)
            } else {
                slots.find(window).ok()
            };
            let Some(at) = found else { continue };
            let slot = &mut slots.slots[at];
            let acc = slot.acc.get_or_insert_with(|| body.create());
            body.add(acc, ts, &mut row, i + 1 == count);
            let Some(key) = &key else { continue };
            if result.fires() {
                let timestamp = if ends.ends { slot.window.last() } else { ts };
                let mut cx = WindowCx {
                    window: slot.window,
                    watermark,
                    now: *now,
                    timestamp,
                    side_timestamp: timestamp,
                    out,
                    sides,
                };
                body.fire(key, acc, &mut cx)?;
            }
            if result.purges() {
                slot.acc = None;
            }
            if slot.is_idle() {
                slots.slots.remove(at);
            }
        }
        if slots.slots.is_empty()
            && let Some(key) = &key
        {
            table.remove(hash, key);
        }
        Ok(())
    }

    /// Fires what is due by one of the clocks at `time`; resumable.
    fn fire(&mut self, domain: TimeDomain, time: Ts, out: &mut Emitter<B::Out>) -> Res<Flow> {
        let mut fetched = 0;
        while self.has_room(out)? {
            let timers = self.timers.of(domain);
            if fetched == 0 {
                fetched = fetch_due(&mut self.parts.table, timers, time)?;
            }
            fetched -= 1;
            let Some(wake) = timers.pop(time) else { return Ok(Flow::Done) };
            let known = self.parts.table.get(wake.hash, &wake.key);
            if known.and_then(|slots| slots.0.wake(domain)) == Some(wake.time) {
                self.wake(domain, time, wake, out)?;
            }
        }
        Ok(Flow::Blocked)
    }

    /// A key is woken, as its row wants it: does what is due at that very time.
    fn wake(
        &mut self,
        domain: TimeDomain,
        clock: Ts,
        mut wake: Wake<S::Key>,
        out: &mut Emitter<B::Out>,
    ) -> Res {
        let passed = self.time.of(wake.hash);
        let Self { parts, ends, now, .. } = self;
        let (timer, seen) = match domain {
            TimeDomain::Event => (Timer::Event(wake.time), clock.max(passed)),
            TimeDomain::Processing => (Timer::Processing(wake.time), passed),
        };
        let WindowParts { trigger, body, sides, table, .. } = parts;
        let time = wake.time;
        let handled = time.saturating_sub(1).max(passed);
        let Some(SlotsRow(slots)) = table.get(wake.hash, &wake.key) else { return Ok(()) };
        let due = slots.due(domain, ends, handled);
        if due != Some(time) && !slots.slots.is_empty() {
            self.wake_later(domain, due, wake);
            return Ok(());
        }
        let Some(SlotsRow(slots)) = table.get_mut(wake.hash, &wake.key) else { return Ok(()) };
        if due == Some(time) {
            let (own, watched) = (ends.by(domain), ends.ends.then_some(ends.domain));
            let mut at = 0;
            while let Some(slot) = slots.slots.get_mut(at) {
                let before = slot.timers.len();
                slot.timers.retain(|t| *t != timer);
                let complete_at = ends.complete_at(slot.window);
                // What the watermark had passed before was done then.
                let open = domain == TimeDomain::Processing || time > passed;
                let complete = own && open && complete_at == time;
                let mut result = TriggerResult::Continue;
                if slot.timers.len() < before || complete {
                    let mut cx = TriggerCx::new(slot.window, seen, *now, &mut slot.timers)
                        .watching(watched, complete_at);
                    result = match domain {
                        TimeDomain::Event => {
                            trigger.on_event_time(time, &mut slot.trigger, &mut cx)
                        }
                        TimeDomain::Processing => {
                            trigger.on_processing_time(time, &mut slot.trigger, &mut cx)
                        }
                    };
                }
                if result.fires()
                    && let Some(acc) = &mut slot.acc
                {
                    let timestamp = match ends.ends {
                        true => slot.window.last(),
                        false if domain == TimeDomain::Event => time,
                        false => seen,
                    };
                    let mut cx = WindowCx {
                        window: slot.window,
                        watermark: seen,
                        now: *now,
                        timestamp,
                        side_timestamp: timestamp.max(passed),
                        out,
                        sides,
                    };
                    body.fire(&wake.key, acc, &mut cx)?;
                }
                if result.purges() {
                    slot.acc = None;
                }
                let gone = own && open && ends.gone_at(slot.window) == time;
                if gone || slot.is_idle() {
                    slots.slots.remove(at);
                } else {
                    at += 1;
                }
            }
        }
        if slots.slots.is_empty() {
            table.remove(wake.hash, &wake.key);
            return Ok(());
        }
        let handled = if due == Some(time) { time.max(passed) } else { handled };
        let next = slots.due(domain, ends, handled);
        *slots.wake_mut(domain) = next;
        // A trigger may have asked for a timer of the other clock.
        let other = match domain {
            TimeDomain::Event => TimeDomain::Processing,
            TimeDomain::Processing => TimeDomain::Event,
        };
        let crossed = slots
            .due(other, ends, passed)
            .filter(|due| slots.wake(other).is_none_or(|wake| *due < wake));
        if let Some(due) = crossed {
            *slots.wake_mut(other) = Some(due);
            self.timers.of(other).push(Wake { time: due, hash: wake.hash, key: wake.key.clone() });
        }
        if let Some(next) = next {
            wake.time = next;
            self.timers.of(domain).push(wake);
        }
        Ok(())
    }

    /// A key was woken early, as its windows have moved since. That is no change of its row:
    /// when it wants to be woken follows from its windows.
    fn wake_later(&mut self, domain: TimeDomain, due: Option<Ts>, mut wake: Wake<S::Key>) {
        let make = || SlotsRow(Slots::default());
        self.parts.table.update(wake.hash, &wake.key, make, |SlotsRow(slots)| {
            *slots.wake_mut(domain) = due;
            ((), Change::Kept)
        });
        if let Some(due) = due {
            wake.time = due;
            self.timers.of(domain).push(wake);
        }
    }

    /// The watermark that may be passed on.
    fn passed_on(&self, watermark: Ts) -> Ts {
        match self.ends.merges && watermark != TS_MAX {
            true => watermark.saturating_sub(1),
            false => watermark,
        }
    }
}

impl<T, S, W, G, B> Operator for WindowOperator<T, S, W, G, B>
where
    T: Send + 'static,
    S: KeySelector<T>,
    W: WindowAssigner<T>,
    G: Trigger<T>,
    B: Body<S::Key, T>,
{
    type Out = B::Out;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<T>]
    }

    fn batch(
        &mut self,
        _: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<B::Out>,
    ) -> Res<Flow> {
        let flow = drive::<T, Self, B::Out>(
            self,
            batch,
            out,
            |op, rows, out| op.rows(rows, |selector| selector, |row| row, out),
            |op, w, out| op.watermark(w, out),
        )?;
        self.settled(flow, out)
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<B::Out>) -> Res<Flow> {
        if watermark > self.time.watermark() {
            if self.fire(TimeDomain::Event, watermark, out)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
            self.time.advance(watermark);
        } else if !self.has_room(out)? {
            return Ok(Flow::Blocked);
        }
        self.parts.sides.watermark(watermark)?;
        out.mark(self.passed_on(watermark))?;
        Ok(Flow::Done)
    }

    fn processing_time(&mut self, now: Ts, out: &mut Emitter<B::Out>) -> Res<Flow> {
        self.now = self.now.max(now);
        self.fire(TimeDomain::Processing, now, out)
    }

    fn next_processing_time(&self) -> Option<Ts> {
        self.timers.processing.next()
    }

    fn is_settled(&self) -> bool {
        self.parts.body.is_settled()
    }

    fn set_now(&mut self, now: Ts) {
        self.now = now;
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        vec![(WINDOWS, &mut self.parts.table)]
    }

    fn restored(&mut self, time: EventTime) -> Res {
        self.time = time;
        self.timers.clear();
        // A program with a shorter lateness may want keys to be woken earlier.
        let mut earlier = Vec::new();
        let Self { parts, ends, time, timers, .. } = self;
        let mut index = |key: &S::Key, slots: &SlotsRow<B::Acc, G::State>, hash| {
            for domain in [TimeDomain::Event, TimeDomain::Processing] {
                let due = slots.0.due(domain, ends, time.of(hash));
                let wake = slots.0.wake(domain);
                match (due, wake) {
                    (Some(due), wake) if wake.is_none_or(|wake| due < wake) => {
                        earlier.push((domain, Wake { time: due, hash, key: key.clone() }));
                    }
                    (_, Some(time)) => {
                        timers.of(domain).push(Wake { time, hash, key: key.clone() })
                    }
                    (_, None) => {}
                }
            }
        };
        parts.table.for_each(&mut index);
        parts.table.for_each_spilled(index)?;
        for earlier in earlier.chunks(FETCH) {
            fetch(&mut parts.table, earlier.iter().map(|(_, wake)| (wake.hash, &wake.key)))?;
            for (domain, wake) in earlier {
                if let Some(slots) = parts.table.get_mut(wake.hash, &wake.key) {
                    *slots.0.wake_mut(*domain) = Some(wake.time);
                }
                timers.of(*domain).push(wake.clone());
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Emitter<B::Out>) -> Res<Flow> {
        if self.ends.by(TimeDomain::Processing) {
            return self.fire_rest(out);
        }
        Ok(Flow::Done)
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        Some(&mut self.parts.sides)
    }
}

impl<T, S, W, G, B> WindowOperator<T, S, W, G, B>
where
    T: Send + 'static,
    S: KeySelector<T>,
    W: WindowAssigner<T>,
    G: Trigger<T>,
    B: Body<S::Key, T>,
{
    /// At the end of a bounded input: windows of processing time fire as if their end had
    /// come, lest their rows be lost. Other timers of theirs are void.
    fn fire_rest(&mut self, out: &mut Emitter<B::Out>) -> Res<Flow> {
        let mut fetched = 0;
        while self.has_room(out)? {
            if fetched == 0 {
                fetched = fetch_due(&mut self.parts.table, &mut self.timers.processing, TS_MAX)?;
            }
            fetched -= 1;
            let Some(mut wake) = self.timers.processing.pop(TS_MAX) else { return Ok(Flow::Done) };
            let known = self.parts.table.get(wake.hash, &wake.key);
            if known.and_then(|slots| slots.0.wake_processing) != Some(wake.time) {
                continue;
            }
            let Some(slots) = self.parts.table.get_mut(wake.hash, &wake.key) else { continue };
            for slot in &mut slots.0.slots {
                slot.timers.retain(|t| !matches!(t, Timer::Processing(_)));
            }
            let due = slots.0.due(TimeDomain::Processing, &self.ends, TS_MIN);
            slots.0.wake_processing = due;
            match due {
                Some(due) if due == wake.time => {
                    self.wake(TimeDomain::Processing, due, wake, out)?;
                }
                Some(due) => {
                    wake.time = due;
                    self.timers.processing.push(wake);
                }
                None => {}
            }
        }
        Ok(Flow::Blocked)
    }
}
