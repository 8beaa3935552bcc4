//! Folding rows into partial accumulators before an exchange.
//!
//! In front of tumbling windows whose aggregate allows it, each upstream subtask keeps a
//! small table of (key, pane) with an accumulator, and sends those instead of rows. A
//! partial may travel behind watermarks that do not complete its pane; before one that
//! does, before a barrier, and after a few milliseconds all are sent.
//!
//! A row whose pane the watermark has completed is not folded: it travels as it is, behind
//! that very watermark. The receiver's event time may still be ahead of this stage's (it
//! was restored, or did not wait for this channel while it was idle); then all rows of a
//! partial are late, as each would have been. They can be counted and not be given back,
//! so there is no folding in front of windows with a late side output or allowed lateness.
//!
//! While most rows find no partial to be folded into (many keys), rows are scattered as
//! they are, and folding is tried again after a while.

use crate::api::keyed::KeySelector;
use crate::api::window::aggregate::Accumulate;
use crate::data::{AnyBatch, Packet, Res, Rows, TS_MIN, Ts};
use crate::runtime::BATCH_ROWS;
use crate::runtime::channel::{Channel, Element};
use crate::runtime::emit::{End, Stage};
use crate::runtime::operator::marks_of;
use crate::runtime::partition::{ByKey, Destination, Scatter};
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use millrace_protocol::keygroup::{KeyGroup, MaxParallelism};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An accumulator on its way to the subtask of its key. Its timestamp in a
/// [`Packet`] is the start of its pane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Partial<K, A> {
    /// The key.
    pub key: K,
    /// What its rows were folded into.
    pub acc: A,
    /// How many rows.
    pub rows: u32,
}

/// Finds the marks of a batch of rows or of partials.
pub(crate) fn marks_of_either<T: Send + 'static, K: Send + 'static, A: Send + 'static>(
    batch: &mut dyn AnyBatch,
) -> Option<&mut Vec<(u32, Ts)>> {
    if batch.as_any_mut().is::<Packet<Partial<K, A>>>() {
        return marks_of::<Partial<K, A>>(batch);
    }
    marks_of::<T>(batch)
}

/// Places in the table, and how many are looked at for a key.
const PLACES: usize = 4096;
const PROBES: usize = 4;

/// Rows after which it is asked whether folding pays.
const TRIAL: u32 = 16 * 1024;

/// Rows that are scattered as they are when it does not.
const PAUSE: u32 = 1024 * 1024;

struct Place<K, A> {
    hash: u64,
    start: Ts,
    key: K,
    acc: A,
    rows: u32,
}

/// Panes: `[start, start + size)`, at multiples of `size` plus `offset`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panes {
    /// Length in milliseconds.
    pub size: Ts,
    /// Where they begin.
    pub offset: Ts,
}

impl Panes {
    fn start_of(self, ts: Ts) -> Ts {
        let (size, offset) = (self.size, self.offset);
        ts.saturating_sub(offset).div_euclid(size).saturating_mul(size).saturating_add(offset)
    }
}

/// The stage.
struct Combine<T, S: KeySelector<T>, A: Accumulate<T>, H> {
    selector: S,
    accumulate: A,
    panes: Panes,
    max: MaxParallelism,
    owners: Vec<u16>,
    places: Vec<Option<Place<S::Key, A::Acc>>>,
    used: Vec<u32>,
    /// The lowest end of a pane that has partials.
    first_end: Ts,
    partials: Vec<Destination<Partial<S::Key, A::Acc>>>,
    raw: Scatter<T, ByKey<H>>,
    /// The last watermark that came, and the last that was sent.
    watermark: Ts,
    sent: Ts,
    blocked: bool,
    /// Rows to be scattered as they are.
    pause: u32,
    rows: u32,
    folded: u32,
}

/// The stage in front of `channels`, one per downstream subtask.
pub(crate) fn combine<T: Send + 'static, S: KeySelector<T>, A: Accumulate<T>>(
    selector: S,
    accumulate: A,
    panes: Panes,
    max: MaxParallelism,
    channels: Vec<Arc<Channel>>,
) -> impl Stage<T> {
    let count = channels.len() as u16;
    let hasher = selector.clone();
    let hash = move |row: &T| hasher.hash(row);
    Combine {
        selector,
        accumulate,
        panes,
        max,
        owners: (0..max.get()).map(|g| max.owner(KeyGroup(g), count)).collect(),
        places: (0..PLACES).map(|_| None).collect(),
        used: Vec::new(),
        first_end: Ts::MAX,
        partials: channels.iter().cloned().map(Destination::new).collect(),
        raw: Scatter::new(ByKey::new(hash, max, count), channels),
        watermark: TS_MIN,
        sent: TS_MIN,
        blocked: false,
        pause: 0,
        rows: 0,
        folded: 0,
    }
}

impl<T, S, A, H> Combine<T, S, A, H>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Accumulate<T>,
    H: FnMut(&T) -> u64 + Send,
{
    /// Folds the rows between two watermarks; stops when blocked. Answers how many it took.
    fn fold(&mut self, ts: &[Ts], values: &mut std::vec::Drain<'_, T>) -> Res<usize> {
        let (mut start, mut end) = (0, 0);
        for (taken, at) in ts.iter().enumerate() {
            if *at < start || *at >= end {
                start = self.panes.start_of(*at);
                end = start.saturating_add(self.panes.size);
            }
            let Some(row) = values.next() else { return Ok(taken) };
            if end <= self.watermark {
                self.late(*at, row)?;
            } else {
                let hash = self.selector.hash(&row);
                self.fold_row(hash, start, row);
            }
            if self.blocked {
                return Ok(taken + 1);
            }
        }
        Ok(ts.len())
    }

    #[inline]
    fn fold_row(&mut self, hash: u64, start: Ts, row: T) {
        let first = hash as usize % PLACES;
        for index in first..first + PROBES {
            let index = index % PLACES;
            match &mut self.places[index] {
                Some(place) if place.hash == hash && place.start == start => {
                    if self.selector.with(&row, |key| *key == place.key) {
                        self.accumulate.add(&mut place.acc, row);
                        place.rows += 1;
                        self.folded += 1;
                        return;
                    }
                }
                Some(_) => {}
                empty @ None => {
                    let key = self.selector.owned(&row);
                    let mut acc = self.accumulate.create();
                    self.accumulate.add(&mut acc, row);
                    *empty = Some(Place { hash, start, key, acc, rows: 1 });
                    self.used.push(index as u32);
                    self.first_end = self.first_end.min(start.saturating_add(self.panes.size));
                    return;
                }
            }
        }
        self.replace(first, hash, start, row);
    }

    /// No place for a key: the partial that stands at its first one leaves.
    #[inline(never)]
    fn replace(&mut self, index: usize, hash: u64, start: Ts, row: T) {
        let key = self.selector.owned(&row);
        let mut acc = self.accumulate.create();
        self.accumulate.add(&mut acc, row);
        let place = self.places[index].replace(Place { hash, start, key, acc, rows: 1 });
        self.first_end = self.first_end.min(start.saturating_add(self.panes.size));
        if let Some(place) = place {
            self.put(place);
        }
    }

    fn put(&mut self, place: Place<S::Key, A::Acc>) {
        let owner = usize::from(self.owners[usize::from(self.max.group(place.hash).0)]);
        let destination = &mut self.partials[owner];
        let partial = Partial { key: place.key, acc: place.acc, rows: place.rows };
        destination.buffer.rows.push((place.start, place.hash, partial));
        if destination.buffer.rows.len() >= BATCH_ROWS {
            // Never into the overflow: rows and partials of a channel have one order.
            destination.force();
            self.blocked |= destination.is_full();
        }
    }

    /// Sends rows, partials and the last watermark, in this order.
    fn send_all(&mut self) {
        self.raw.force();
        for index in std::mem::take(&mut self.used) {
            if let Some(place) = self.places[index as usize].take() {
                self.put(place);
            }
        }
        self.first_end = Ts::MAX;
        for destination in &mut self.partials {
            if self.watermark > self.sent {
                destination.buffer.mark(self.watermark);
            }
            destination.force();
            self.blocked |= destination.is_full();
        }
        self.sent = self.sent.max(self.watermark);
    }

    /// A row whose pane the watermark has completed: it goes behind that watermark.
    #[cold]
    fn late(&mut self, ts: Ts, row: T) -> Res {
        if self.sent < self.watermark {
            self.send_all();
        }
        self.raw.push(ts, row)
    }

    fn mark(&mut self, watermark: Ts) -> Res {
        if watermark == TS_MIN {
            // "Here, and active."
            return self.raw.mark(watermark);
        }
        self.watermark = self.watermark.max(watermark);
        if self.pause > 0 {
            self.sent = self.watermark;
            return self.raw.mark(watermark);
        }
        if self.first_end <= watermark {
            self.send_all();
        }
        Ok(())
    }

    /// Whether folding pays, now and then.
    fn judge(&mut self, rows: usize) {
        let rows = rows as u32;
        if self.pause > 0 {
            self.pause = self.pause.saturating_sub(rows);
            if self.pause == 0 {
                // From here on partials, which must not overtake rows.
                self.raw.force();
            }
            return;
        }
        self.rows += rows;
        if self.rows >= TRIAL {
            if self.folded < self.rows / 2 {
                self.send_all();
                self.pause = PAUSE;
            }
            self.rows = 0;
            self.folded = 0;
        }
    }

    /// Rows as they are, between two watermarks.
    fn scatter(&mut self, ts: &[Ts], values: &mut std::vec::Drain<'_, T>) -> Res<usize> {
        for (taken, at) in ts.iter().enumerate() {
            let Some(row) = values.next() else { return Ok(taken) };
            self.raw.push(*at, row)?;
            if self.raw.blocked() {
                return Ok(taken + 1);
            }
        }
        Ok(ts.len())
    }

    fn control(&mut self, element: impl Fn() -> Element) {
        self.send_all();
        self.partials.iter_mut().for_each(|d| d.control(element()));
        // One checkpoint after the other must not pile up partials.
        self.blocked = self.partials.iter().any(Destination::is_full);
    }
}

impl<T, S, A, H> Stage<T> for Combine<T, S, A, H>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Accumulate<T>,
    H: FnMut(&T) -> u64 + Send,
{
    fn push(&mut self, rows: &mut Rows<T>) -> Res {
        let total = rows.values.len();
        let (mut at, mut mark) = (0, 0);
        let mut values = rows.values.drain(..);
        loop {
            let stop = rows.marks.get(mark).map_or(total, |m| (m.0 as usize).min(total));
            let ts = &rows.ts[at..stop];
            at += if self.pause > 0 {
                self.scatter(ts, &mut values)?
            } else {
                self.fold(ts, &mut values)?
            };
            if at < stop || self.blocked() {
                break;
            }
            match rows.marks.get(mark) {
                Some(m) => self.mark(m.1)?,
                None => break,
            }
            mark += 1;
            if self.blocked() {
                break;
            }
        }
        if at == total && mark == rows.marks.len() {
            drop(values);
            rows.clear();
        } else {
            let rest: Vec<T> = values.collect();
            rows.values = rest;
            rows.forget_front(at, mark);
        }
        self.judge(at);
        Ok(())
    }

    fn watermark(&mut self, watermark: Ts) -> Res {
        self.mark(watermark)
    }

    fn idle(&mut self, idle: bool) -> Res {
        self.control(|| Element::Idle(idle));
        Ok(())
    }

    fn barrier(&mut self, barrier: &Barrier, _parts: &mut SnapshotParts) -> Res {
        self.control(|| Element::Barrier(barrier.clone()));
        Ok(())
    }

    fn end(&mut self) -> Res {
        self.control(|| Element::End);
        Ok(())
    }

    fn flush(&mut self, all: bool) -> Res {
        self.raw.flush(all)?;
        self.blocked = self.partials.iter().any(Destination::is_full);
        if all && !self.blocked() && self.pause == 0 {
            self.send_all();
        }
        Ok(())
    }

    fn force(&mut self) -> Res {
        self.raw.force();
        self.blocked = false;
        Ok(())
    }

    fn blocked(&self) -> bool {
        self.blocked || self.raw.blocked()
    }
}
