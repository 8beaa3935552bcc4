//! What all keyed functions share: the table of rows, the timers, the side outputs, and
//! the context that a call of the user's function gets.

use super::row::TimedRow;
use super::timers::{Domain, Due, Timer, TimerIndex, Timers};
use crate::api::keyed::KeySelector;
use crate::api::tags::OutputTag;
use crate::data::{Fail, Res, TS_MIN, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::operator::{Cursor, Flow, LookAhead, fetch_ahead};
use crate::runtime::side::Sides;
use crate::state::{Row, State, StateTable, Table};
use millrace_protocol::key::Key;

/// Name of the state.
pub(crate) const STATE: &str = "state";

/// Timers whose rows are fetched together.
const FETCH: usize = 256;

/// Rows looked at after each batch for their time to live.
const SWEEP: usize = 256;

/// What a keyed function finds beside its state: the key, the clocks, the outputs, the
/// key's timers.
pub struct Cx<'a, K, O> {
    key: &'a K,
    timestamp: Ts,
    watermark: Ts,
    now: Ts,
    out: &'a mut Emitter<O>,
    sides: &'a mut Sides,
    timers: &'a mut Timers,
    timers_changed: bool,
    failed: Option<Fail>,
}

impl<K, O> Cx<'_, K, O> {
    /// The key that the call is for.
    pub fn key(&self) -> &K {
        self.key
    }

    /// Event time of the row, in milliseconds, or [`TS_MIN`] if it has none; in a timer's
    /// call the timer's time ([`TS_MIN`] for a processing-time timer, as that is no
    /// event time). Rows emitted in the call get it.
    pub fn timestamp(&self) -> Ts {
        self.timestamp
    }

    /// How far event time has come for the key, in milliseconds; [`TS_MIN`] before the first
    /// watermark. That is the operator's watermark or, after a restore at another parallelism,
    /// what the key had seen before if that was higher. In the call of an event-time timer it
    /// has reached the timer's time.
    pub fn watermark(&self) -> Ts {
        self.watermark
    }

    /// The clock, in milliseconds since the epoch. It is read once per batch.
    pub fn processing_time(&self) -> Ts {
        self.now
    }

    /// Emits a row. A failure of what is chained behind fails the call.
    pub fn emit(&mut self, row: O) {
        self.emit_at(self.timestamp, row);
    }

    /// Emits a row with another timestamp than the call's, in milliseconds.
    pub fn emit_at(&mut self, timestamp: Ts, row: O) {
        if let Err(error) = self.out.emit(timestamp, row) {
            self.failed.get_or_insert(error);
        }
    }

    /// Emits a row to a side output, which the function must have declared: if it has
    /// not, the call fails. A row for which there is no reader is dropped.
    pub fn side<U: Send + 'static>(&mut self, tag: &OutputTag<U>, row: U) {
        if let Err(error) = self.sides.emit(tag.name(), self.timestamp, row) {
            self.failed.get_or_insert(error);
        }
    }

    /// Registers a timer of the key. One whose time has come already fires with the next
    /// watermark, or at the next look at the clock.
    pub fn register(&mut self, timer: Timer) {
        self.timers_changed |= self.timers.insert(timer);
    }

    /// Deletes a timer of the key; one that is not there is no error.
    pub fn delete(&mut self, timer: Timer) {
        self.timers_changed |= self.timers.remove(timer);
    }
}

/// Rows, timers, outputs and clocks of one subtask.
pub(crate) struct KeyedCore<K: Key, S: State> {
    table: Table<K, TimedRow<S>>,
    event: TimerIndex<K>,
    processing: TimerIndex<K>,
    pub sides: Sides,
    pub time: EventTime,
    pub now: Ts,
}

impl<K: Key, S: State> KeyedCore<K, S> {
    pub fn new(table: Table<K, TimedRow<S>>, sides: Sides) -> Self {
        Self {
            table,
            event: TimerIndex::new(),
            processing: TimerIndex::new(),
            sides,
            time: EventTime::START,
            now: 0,
        }
    }

    /// Whether a call would have no room for what it emits.
    #[inline]
    pub fn blocked<O>(&mut self, out: &Emitter<O>) -> Res<bool> {
        Ok(out.blocked() || self.sides.blocked()?)
    }

    /// To be called before the rows at hand are worked on.
    #[inline]
    pub fn fetch_ahead<T, Sel: KeySelector<T, Key = K>>(
        &mut self,
        selector: &Sel,
        rows: &Cursor<'_, '_, T>,
    ) -> Res {
        fetch_ahead(&mut self.table, selector, rows)
    }

    /// To be called before each row is taken.
    #[inline(always)]
    pub fn look_ahead<T>(&self, ahead: &mut LookAhead, rows: &Cursor<'_, '_, T>) {
        ahead.step(&self.table, rows);
    }

    /// To be called before [`KeyedCore::call`] for keys that come from elsewhere.
    pub fn fetch<'k>(&mut self, keys: impl IntoIterator<Item = (u64, &'k K)>) -> Res
    where
        K: 'k,
    {
        if self.table.spills() {
            keys.into_iter().for_each(|(hash, key)| self.table.want(hash, key));
        }
        self.table.fetch()
    }

    /// Fetches the rows of the timers that are due first; how many.
    fn fetch_due(&mut self, domain: Domain, limit: Ts) -> Res<usize> {
        let Self { table, event, processing, .. } = self;
        if !table.spills() {
            return Ok(usize::MAX);
        }
        let index = match domain {
            Domain::Event => event,
            Domain::Processing => processing,
        };
        let mut due = Vec::new();
        while due.len() < FETCH
            && let Some(one) = index.pop(limit)
        {
            table.want(one.hash, &one.key);
            due.push(one);
        }
        let count = due.len();
        due.into_iter().for_each(|one| index.push(one));
        table.fetch()?;
        Ok(count)
    }

    /// Calls the user's function for a key.
    #[inline]
    pub fn call<O>(
        &mut self,
        hash: u64,
        key: &K,
        timestamp: Ts,
        out: &mut Emitter<O>,
        f: impl FnOnce(&mut S, &mut Cx<'_, K, O>) -> Res,
    ) -> Res {
        let Self { table, event, processing, sides, time, now, .. } = self;
        let (watermark, now) = (time.of(hash), *now);
        table.update(hash, key, TimedRow::new, |row| {
            let (state, timers) = row.open(now);
            let mut cx = Cx {
                key,
                timestamp,
                watermark,
                now,
                out,
                sides,
                timers,
                timers_changed: false,
                failed: None,
            };
            let result = f(state, &mut cx);
            let (changed, failed) = (cx.timers_changed, cx.failed);
            if changed {
                index(&mut row.timers, hash, key, event, processing);
            }
            let result = result.and(failed.map_or(Ok(()), Err));
            (result, row.close(now, changed))
        })
    }

    /// Calls `f` for the event-time timers that the watermark has reached; resumable.
    pub fn fire_event<O>(
        &mut self,
        out: &mut Emitter<O>,
        f: impl FnMut(Timer, &mut S, &mut Cx<'_, K, O>) -> Res,
    ) -> Res<Flow> {
        self.fire(Domain::Event, self.time.watermark(), out, f)
    }

    /// Calls `f` for the processing-time timers that the clock has reached; resumable.
    pub fn fire_processing<O>(
        &mut self,
        out: &mut Emitter<O>,
        f: impl FnMut(Timer, &mut S, &mut Cx<'_, K, O>) -> Res,
    ) -> Res<Flow> {
        self.fire(Domain::Processing, self.now, out, f)
    }

    fn fire<O>(
        &mut self,
        domain: Domain,
        limit: Ts,
        out: &mut Emitter<O>,
        mut f: impl FnMut(Timer, &mut S, &mut Cx<'_, K, O>) -> Res,
    ) -> Res<Flow> {
        let mut fetched = 0;
        loop {
            if self.blocked(out)? {
                return Ok(Flow::Blocked);
            }
            if fetched == 0 {
                // Timers registered meanwhile are of keys whose rows are here, so that of
                // the next so many none is missing.
                fetched = self.fetch_due(domain, limit)?.max(1);
            }
            fetched -= 1;
            let Self { table, event, processing, sides, time, now, .. } = self;
            let index_of = match domain {
                Domain::Event => &mut *event,
                Domain::Processing => &mut *processing,
            };
            let Some(Due { at, hash, key }) = index_of.pop(limit) else { return Ok(Flow::Done) };
            if !table.get(hash, &key).is_some_and(|row| row.timers.is_indexed(domain, at)) {
                continue; // Stale: the key's state has gone, or is looked at earlier.
            }
            let (watermark, now) = (time.of(hash), *now);
            table.update(hash, &key, TimedRow::new, |row| {
                row.timers.taken(domain);
                let timer = domain.timer(at);
                if !row.timers.remove(timer) {
                    // It was deleted; the key may have later ones.
                    index(&mut row.timers, hash, &key, event, processing);
                    return (Ok(()), crate::state::Change::Kept);
                }
                let (state, timers) = row.open(now);
                let timestamp = if domain == Domain::Event { at } else { TS_MIN };
                let mut cx = Cx {
                    key: &key,
                    timestamp,
                    watermark,
                    now,
                    out,
                    sides,
                    timers,
                    timers_changed: true,
                    failed: None,
                };
                let result = f(timer, state, &mut cx);
                let failed = cx.failed;
                index(&mut row.timers, hash, &key, event, processing);
                (result.and(failed.map_or(Ok(()), Err)), row.close(now, true))
            })?;
        }
    }

    /// When to look at processing-time timers next.
    pub fn next_processing_time(&self) -> Option<Ts> {
        self.processing.next()
    }

    /// All keys with their hashes, in order of hash.
    pub fn keys(&mut self) -> Res<Vec<(u64, K)>> {
        let mut keys = Vec::with_capacity(self.table.len());
        self.table.for_each(|key, _, hash| keys.push((hash, key.clone())));
        self.table.for_each_spilled(|key, _, hash| keys.push((hash, key.clone())))?;
        keys.sort_by_key(|(hash, _)| *hash);
        Ok(keys)
    }

    /// Whether this subtask owns the keys of a hash.
    pub fn owns(&self, hash: u64) -> bool {
        self.table.owns(hash)
    }

    /// After a batch: growth, and a look for expired rows.
    pub fn tend(&mut self) {
        self.table.tend();
        if TimedRow::<S>::EXPIRES {
            self.table.sweep(self.now, SWEEP);
        }
    }

    pub fn table(&mut self) -> (&'static str, &mut dyn StateTable) {
        (STATE, &mut self.table)
    }

    /// The table is loaded: builds the index of its timers.
    pub fn restored(&mut self, time: EventTime) -> Res {
        self.time = time;
        if !self.table.waits() {
            return Ok(());
        }
        let Self { table, event, processing, .. } = self;
        let mut index = |key: &K, row: &TimedRow<S>, hash: u64| {
            if let Some(at) = row.timers.indexed(Domain::Event) {
                event.push(Due { at, hash, key: key.clone() });
            }
            if let Some(at) = row.timers.indexed(Domain::Processing) {
                processing.push(Due { at, hash, key: key.clone() });
            }
        };
        table.for_each(&mut index);
        table.for_each_spilled(index)
    }

    /// The watermark as far as this operator knows; true if what is due is to be fired.
    pub fn advance(&mut self, watermark: Ts) -> bool {
        // Equal: the rest of a firing that was blocked.
        let due = watermark >= self.time.watermark();
        self.time.advance(watermark);
        due
    }
}

/// Makes the index entries that a key's timers lack.
fn index<K: Key>(
    timers: &mut Timers,
    hash: u64,
    key: &K,
    event: &mut TimerIndex<K>,
    processing: &mut TimerIndex<K>,
) {
    if let Some(at) = timers.claim_entry(Domain::Event) {
        event.push(Due { at, hash, key: key.clone() });
    }
    if let Some(at) = timers.claim_entry(Domain::Processing) {
        processing.push(Due { at, hash, key: key.clone() });
    }
}
