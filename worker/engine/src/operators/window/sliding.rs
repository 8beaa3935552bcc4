//! Sliding event-time windows with an incremental aggregate. Windows share **panes**, the
//! stretches between any two window bounds (at most two per slide): a row updates one.
//!
//! A firing does not merge all panes of its window. Per key it holds, derived from the
//! panes, two stacks: for each of the older panes the aggregate from it to a cut, and the
//! aggregate of all panes after the cut. A window is one of the first merged with the
//! second. A key's cut moves to the present every `size / slide` firings, when its older
//! stack is rebuilt, one merge a pane; keys take turns at that by their hash. So a firing
//! costs three to five merges a key, whatever `size / slide` is.
//! (Tangwongsan et al., "General incremental sliding-window aggregation", VLDB 2015;
//! paired panes: Krishnamurthy et al., "On-the-fly sharing for streamed aggregation",
//! SIGMOD 2006.)
//!
//! Stacks are no state: a restore begins with none, and a row for a pane that they
//! already hold voids those of its key. Windows fire in order of their end, keys in order
//! of key group and hash.
//!
//! Panes and stacks of all keys stay in memory, with a tier too: each firing goes through
//! all of them. Tables that can leave make room for them.

use super::held::Held;
use super::tumbling::firing;
use super::{LateRows, PANES, no_timestamp, sort_by_key};
use crate::api::keyed::KeySelector;
use crate::api::window::aggregate::Accumulate;
use crate::api::window::assign::{Aligned, Window};
use crate::api::window::function::Fire;
use crate::data::{AnyBatch, Res, TS_MAX, TS_MIN, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, Operator, drive, marks_of};
use crate::runtime::side::Sides;
use crate::state::budget::Budget;
use crate::state::row::heap_of;
use crate::state::{PaneTables, Plain, StateTable};
use hashbrown::HashTable;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::MaxParallelism;
use std::marker::PhantomData;
use std::sync::Arc;

/// What the operator is made of.
pub(crate) struct SlidingParts<T, S: KeySelector<T>, A: Accumulate<T>, F> {
    pub selector: S,
    pub accumulate: A,
    pub fire: F,
    pub windows: Aligned,
    /// Allowed lateness in milliseconds.
    pub lateness: Ts,
    pub late: LateRows,
    pub sides: Sides,
    pub panes: PaneTables<S::Key, Plain<A::Acc>>,
    pub max: MaxParallelism,
    /// The budget of tables, if there is one: neither panes nor stacks leave memory.
    pub budget: Option<Arc<Budget>>,
}

/// The stacks of a key.
struct Stacks<K, A> {
    hash: u64,
    key: K,
    /// Whether they hold what the panes hold, up to [`Sliding::upto`].
    valid: bool,
    /// Youngest pane first: (start of a pane, aggregate from it to the cut).
    older: Vec<(Ts, A)>,
    /// Aggregate of the panes after the cut.
    newer: Option<A>,
}

/// Stacks by hash, in shards of neighbouring key groups: a firing sorts one at a time,
/// and they do not all grow at once.
struct Shards<K, A> {
    max: MaxParallelism,
    shards: Vec<HashTable<Stacks<K, A>>>,
}

/// Shards, or as many as there are key groups.
const SHARDS: u16 = 256;

impl<K: Key, A> Shards<K, A> {
    fn new(max: MaxParallelism) -> Self {
        let shards = (0..max.get().min(SHARDS)).map(|_| HashTable::new()).collect();
        Self { max, shards }
    }

    fn shard(&mut self, hash: u64) -> &mut HashTable<Stacks<K, A>> {
        let group = usize::from(self.max.group(hash).0);
        let at = group * self.shards.len() / usize::from(self.max.get());
        &mut self.shards[at]
    }

    /// The stacks of a key; new ones, which hold nothing and are valid, if there are none.
    fn find_or_insert(&mut self, hash: u64, key: &K) -> &mut Stacks<K, A> {
        let entry = self.shard(hash).entry(hash, |s| s.key == *key, |s| s.hash);
        let new = || Stacks { hash, key: key.clone(), valid: true, older: Vec::new(), newer: None };
        entry.or_insert_with(new).into_mut()
    }

    /// The stacks of a key no longer hold what its panes hold.
    fn void(&mut self, hash: u64, key: &K) {
        let stacks = self.find_or_insert(hash, key);
        (stacks.valid, stacks.newer) = (false, None);
        stacks.older.clear();
    }

    fn remove(&mut self, hash: u64, key: &K) {
        if let Ok(found) = self.shard(hash).find_entry(hash, |s| s.key == *key) {
            found.remove();
        }
    }

    /// About the bytes of memory held, given those that an aggregate holds outside itself.
    fn bytes(&self, heap: impl Fn(&A) -> usize) -> usize {
        const SAMPLE: usize = 4;
        let of = |stacks: &Stacks<K, A>| {
            let heap = stacks.newer.as_ref().map_or(0, &heap);
            stacks.older.capacity() * (size_of::<(Ts, A)>() + heap) + heap
        };
        let of_shard = |shard: &HashTable<Stacks<K, A>>| {
            let sampled: usize = shard.iter().take(SAMPLE).map(of).sum();
            let each = sampled.checked_div(shard.len().min(SAMPLE)).unwrap_or(0);
            shard.allocation_size() + each * shard.len()
        };
        self.shards.iter().map(of_shard).sum()
    }

    fn clear(&mut self) {
        self.shards.iter_mut().for_each(HashTable::clear);
    }
}

/// A window that is firing.
struct Firing<K> {
    window: Window,
    /// The shard to go on with.
    shard: usize,
    /// Keys left of the shard before, in order.
    keys: std::vec::IntoIter<(u64, K, ())>,
}

/// The operator.
pub(crate) struct Sliding<T, S: KeySelector<T>, A: Accumulate<T>, F, O> {
    parts: SlidingParts<T, S, A, F>,
    time: EventTime,
    /// The clock, for window functions.
    now: Ts,
    /// Stacks of all keys that were in the last window.
    stacks: Shards<S::Key, A::Acc>,
    /// End of the last window that fired: valid stacks hold all panes before.
    upto: Ts,
    firing: Option<Firing<S::Key>>,
    /// Memory of panes and stacks.
    held: Held,
    _out: PhantomData<fn() -> O>,
}

/// Where panes are cut.
impl Aligned {
    /// The pane of a timestamp as a window; `None` between windows.
    fn pane(self, ts: Ts) -> Option<Window> {
        let base = self.last_start(ts);
        if self.slide >= self.size {
            let end = base.saturating_add(self.size);
            return (ts < end).then_some(Window { start: base, end });
        }
        let cut = base.saturating_add(self.size % self.slide);
        Some(match cut {
            cut if cut == base => Window { start: base, end: base.saturating_add(self.slide) },
            cut if ts < cut => Window { start: base, end: cut },
            cut => Window { start: cut, end: base.saturating_add(self.slide) },
        })
    }

    /// The last window that contains `ts`, a moment in a pane.
    fn last_window(self, ts: Ts) -> Window {
        let start = self.last_start(ts);
        Window { start, end: start.saturating_add(self.size) }
    }

    /// The first window that ends after `after` and contains `ts`, or follows on it.
    fn first_window(self, ts: Ts, after: Ts) -> Window {
        // The first end after both: ends lie at `offset + size + k * slide`.
        let end = Self { offset: self.offset.saturating_add(self.size), ..self }
            .last_start(ts.max(after))
            .saturating_add(self.slide);
        Window { start: end.saturating_sub(self.size), end }
    }

    /// Windows that contain a moment, rounded up.
    fn overlap(self) -> Ts {
        (self.size + self.slide - 1) / self.slide
    }
}

impl<T, S, A, F, O> Sliding<T, S, A, F, O>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Accumulate<T>,
    F: Fire<S::Key, A::Out, O>,
    O: Send + 'static,
{
    /// Puts the pieces together.
    pub fn new(parts: SlidingParts<T, S, A, F>) -> Self {
        Self {
            time: EventTime::START,
            now: 0,
            stacks: Shards::new(parts.max),
            held: Held::new(parts.budget.as_ref()),
            parts,
            upto: TS_MIN,
            firing: None,
            _out: PhantomData,
        }
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<O>) -> Res {
        self.held.note(|| self.parts.panes.bytes() + self.stacks.bytes(heap_of));
        let Some(mut next) = rows.next() else { return Ok(()) };
        loop {
            let ts = next.0;
            let time = self.time.of(next.1);
            match self.parts.windows.pane(ts) {
                _ if ts == TS_MIN => return Err(no_timestamp()),
                None => {} // Between windows: it belongs to none.
                Some(_) if self.gone_at(ts) <= time => {
                    self.parts.late.take(&mut self.parts.sides, ts, next.2)?;
                }
                Some(pane) if pane.start < self.upto || self.in_fired(ts, time) => {
                    self.again(pane, next, out)?;
                }
                Some(pane) => {
                    let SlidingParts { panes, selector, accumulate, .. } = &mut self.parts;
                    let table = panes.pane(pane.start);
                    // While keys differ in event time, each row is judged by itself.
                    let end = if self.time.is_level() { pane.end } else { pane.start };
                    let alike = Window { end, ..pane };
                    loop {
                        let (_, hash, row) = next;
                        let init = || Plain(accumulate.create());
                        let acc =
                            selector.with(&row, |key| table.get_or_insert_with(hash, key, init));
                        accumulate.add(&mut acc.0, row);
                        match rows.next() {
                            Some(row) => next = row,
                            None => {
                                table.tend();
                                return Ok(());
                            }
                        }
                        if !alike.contains(next.0) {
                            break;
                        }
                    }
                    table.tend();
                    continue;
                }
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

    /// When the last window that contains `ts` goes.
    fn gone_at(&self, ts: Ts) -> Ts {
        self.parts.windows.last_window(ts).end.saturating_add(self.parts.lateness)
    }

    /// Whether a window that contains `ts` is complete at `time`.
    fn in_fired(&self, ts: Ts, time: Ts) -> bool {
        self.parts.windows.first_window(ts, TS_MIN).end <= time
    }

    /// A row for a pane that stacks may hold, or of windows that have fired: those that
    /// are still allowed to change are emitted anew.
    #[cold]
    fn again(&mut self, pane: Window, row: (Ts, u64, T), out: &mut Emitter<O>) -> Res {
        let (ts, hash, row) = row;
        let time = self.time.of(hash);
        let SlidingParts { panes, selector, accumulate, .. } = &mut self.parts;
        let key = selector.owned(&row);
        let init = || Plain(accumulate.create());
        let acc = panes.pane(pane.start).get_or_insert_with(hash, &key, init);
        accumulate.add(&mut acc.0, row);
        if pane.start < self.upto {
            self.stacks.void(hash, &key);
        }
        if self.parts.lateness == 0 {
            return Ok(());
        }
        let windows = self.parts.windows;
        let from = time.saturating_sub(self.parts.lateness);
        let mut window = windows.first_window(ts, from);
        while window.end <= time && window.start <= ts {
            let SlidingParts { panes, accumulate, fire, sides, .. } = &mut self.parts;
            let older = rebuild(panes, accumulate, window, hash, &key);
            if let Some((_, acc)) = older.last() {
                let mut cx = firing(window, time, self.now, out, sides);
                fire.fire(&key, accumulate.result(acc), &mut cx)?;
            }
            window.start = window.start.saturating_add(windows.slide);
            window.end = window.end.saturating_add(windows.slide);
        }
        Ok(())
    }

    /// Fires windows that `watermark` completes; resumable.
    fn fire(&mut self, watermark: Ts, out: &mut Emitter<O>) -> Res<Flow> {
        loop {
            if self.firing.is_none() && !self.next_window(watermark) {
                break;
            }
            if self.emit(watermark, out)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
        }
        let SlidingParts { panes, windows, lateness, .. } = &mut self.parts;
        // Panes go with the last window that contains them.
        let gone = watermark.saturating_sub(*lateness).saturating_sub(windows.size);
        let horizon = match watermark {
            TS_MAX => TS_MAX,
            _ => windows.last_start(gone).saturating_add(windows.slide),
        };
        panes.set_dead_before(horizon);
        while let Some(start) = panes.first().filter(|start| *start < horizon) {
            panes.drop_pane(start)?;
        }
        Ok(Flow::Done)
    }

    /// Begins to fire the next window that has rows and is complete at `watermark`.
    fn next_window(&mut self, watermark: Ts) -> bool {
        let windows = self.parts.windows;
        // What has been fired is known by the watermark: after a restore too.
        let after = self.upto.max(self.time.watermark());
        let oldest = after.saturating_sub(windows.size);
        let candidates =
            self.parts.panes.namespaces().map(|pane| windows.first_window(pane, after));
        let next = candidates
            .zip(self.parts.panes.namespaces())
            .filter(|(window, pane)| *pane >= oldest && window.contains(*pane))
            .map(|(window, _)| window)
            .min();
        let Some(window) = next.filter(|window| window.end <= watermark) else { return false };
        let SlidingParts { panes, accumulate, .. } = &mut self.parts;
        // If what lay between was empty, nothing of the stacks is left.
        let fresh = window.end > self.upto.saturating_add(windows.slide);
        if fresh {
            self.stacks.clear();
            self.upto = window.start;
        }
        let (upto, stacks) = (self.upto, &mut self.stacks);
        for start in panes.namespaces().filter(|start| upto <= *start && *start < window.end) {
            let Some(table) = panes.get(start) else { continue };
            table.for_each(|key, acc, hash| {
                let stacks = stacks.find_or_insert(hash, key);
                stacks.valid &= !fresh;
                if stacks.valid {
                    match &mut stacks.newer {
                        Some(newer) => accumulate.merge(newer, &acc.0),
                        none => *none = Some(acc.0.clone()),
                    }
                }
            });
        }
        self.upto = window.end;
        self.firing = Some(Firing { window, shard: 0, keys: Vec::new().into_iter() });
        true
    }

    /// Emits what is left of the window that is firing.
    fn emit(&mut self, watermark: Ts, out: &mut Emitter<O>) -> Res<Flow> {
        let Some(Firing { window, shard, keys }) = &mut self.firing else { return Ok(Flow::Done) };
        let window = *window;
        let SlidingParts { panes, accumulate, fire, sides, windows, max, .. } = &mut self.parts;
        let (overlap, turn) = (windows.overlap(), window.start.div_euclid(windows.slide));
        loop {
            if out.blocked() || sides.blocked()? {
                return Ok(Flow::Blocked);
            }
            let Some((hash, key, ())) = keys.next() else {
                let Some(stacks) = self.stacks.shards.get(*shard) else { break };
                *shard += 1;
                let mut next: Vec<_> = stacks.iter().map(|s| (s.hash, s.key.clone(), ())).collect();
                sort_by_key(*max, &mut next);
                *keys = next.into_iter();
                continue;
            };
            let found = self.stacks.shard(hash).find_mut(hash, |s| s.key == key);
            let Some(stacks) = found else { continue };
            let its_turn = turn.wrapping_add((hash >> 8) as i64).rem_euclid(overlap) == 0;
            if !stacks.valid || its_turn {
                stacks.older = rebuild(panes, accumulate, window, hash, &key);
                stacks.newer = None;
                stacks.valid = true;
            } else {
                while stacks.older.last().is_some_and(|(pane, _)| *pane < window.start) {
                    stacks.older.pop();
                }
            }
            let result = match (stacks.older.last(), &stacks.newer) {
                (Some((_, older)), Some(newer)) => {
                    let mut acc = older.clone();
                    accumulate.merge(&mut acc, newer);
                    Some(accumulate.result(&acc))
                }
                (Some((_, only)), None) | (None, Some(only)) => Some(accumulate.result(only)),
                (None, None) => None,
            };
            match result {
                // It fired before a restore.
                Some(_) if window.end <= self.time.of(hash) => {}
                Some(result) => {
                    let mut cx = firing(window, watermark, self.now, out, sides);
                    fire.fire(&key, result, &mut cx)?;
                }
                None => self.stacks.remove(hash, &key),
            }
        }
        self.firing = None;
        Ok(Flow::Done)
    }
}

/// The older stack of a key whose cut is the end of `window`: one merge a pane.
fn rebuild<T, K: Key, A: Accumulate<T>>(
    panes: &PaneTables<K, Plain<A::Acc>>,
    accumulate: &mut A,
    window: Window,
    hash: u64,
    key: &K,
) -> Vec<(Ts, A::Acc)> {
    let mut older: Vec<(Ts, A::Acc)> = Vec::new();
    let within: Vec<Ts> = panes.namespaces().filter(|start| window.contains(*start)).collect();
    for start in within.into_iter().rev() {
        let Some(own) = panes.get(start).and_then(|table| table.get(hash, key)) else { continue };
        let mut acc = own.0.clone();
        if let Some((_, rest)) = older.last() {
            accumulate.merge(&mut acc, rest);
        }
        older.push((start, acc));
    }
    older
}

impl<T, S, A, F, O> Operator for Sliding<T, S, A, F, O>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Accumulate<T>,
    F: Fire<S::Key, A::Out, O>,
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
        self.time = time;
        (self.upto, self.firing) = (TS_MIN, None);
        self.stacks.clear();
        Ok(())
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        Some(&mut self.parts.sides)
    }
}
