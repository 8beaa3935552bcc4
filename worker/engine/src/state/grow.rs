//! A table's housekeeping: growth ahead of need, splits, expired rows. Pure.
//!
//! A hash table that doubles moves all its entries at once. So a table is many
//! small ones, and each grows at its own fill: they do not double together.

use super::row::Row;
use super::segment::{Aside, Dead, Segment, preserve};
use super::spill::growth;
use super::table::Table;
use crate::data::Ts;
use millrace_protocol::key::{Key, mix64};
use millrace_protocol::keygroup::KeyGroupRange;

/// A segment with this many buckets is split rather than grown.
const SPLIT_BUCKETS: usize = if cfg!(test) { 256 } else { 32 * 1024 };
/// Smaller ones grow when they are full.
const SMALL: usize = if cfg!(test) { 24 } else { 768 };
/// Segments looked at in one [`Table::tend`].
const LOOKED_AT: usize = 32;
/// Segments grown or split in one [`Table::tend`].
const GROWN: usize = 2;

impl<K: Key, R: Row> Table<K, R> {
    /// Housekeeping, to be called once per batch: grows and splits segments
    /// ahead of need, a bounded amount at a time.
    #[inline]
    pub fn tend(&mut self) {
        if self.spill.is_some() {
            self.tend_spill();
        }
        self.tend_segments();
    }

    /// As [`Table::tend`], but for what concerns the tier.
    #[inline]
    pub(super) fn tend_segments(&mut self) {
        if self.segments.len() == 1 {
            let segment = &self.segments[0];
            if segment.entries.len() * 4 >= segment.entries.capacity() * 3 {
                self.grow_if_due(0);
            }
            return;
        }
        self.tend_some();
    }

    fn tend_some(&mut self) {
        let mut grown = 0;
        for _ in 0..LOOKED_AT.min(self.segments.len()) {
            self.tended = if self.tended + 1 < self.segments.len() { self.tended + 1 } else { 0 };
            grown += usize::from(self.grow_if_due(self.tended));
            if grown >= GROWN {
                return;
            }
        }
    }

    /// Makes ready for so many entries of some groups of which there are none yet, if they
    /// are to be in memory: as it would be had they come one by one.
    pub(super) fn make_room(&mut self, groups: KeyGroupRange, entries: u64) {
        if self.spill.is_some() {
            return;
        }
        let (entries, all) = (usize::try_from(entries).unwrap_or(0), groups.len());
        let share = |of: KeyGroupRange| {
            let of = usize::from(of.intersect(groups).len());
            entries.saturating_mul(of) / usize::from(all.max(1))
        };
        let fullest = SPLIT_BUCKETS / 8 * 7;
        let mut at = 0;
        while let Some(segment) = self.segments.get_mut(at) {
            let (groups, come) = (segment.groups, share(segment.groups));
            if !segment.entries.is_empty() {
                at += 1;
            } else if groups.len() > 1 && come >= threshold(groups.start, fullest) {
                self.split(at);
            } else {
                segment.entries.reserve(come, |e| e.key.hash64());
                at += 1;
            }
        }
    }

    /// Grows or splits every segment that is due: for loading.
    pub(super) fn tend_all(&mut self) {
        let mut at = 0;
        while at < self.segments.len() {
            // A split leaves halves that may be due too.
            if !(self.grow_if_due(at)) {
                at += 1;
            }
        }
    }

    /// Grows or splits a segment if it is full enough; whether it did.
    fn grow_if_due(&mut self, at: usize) -> bool {
        let Some(segment) = self.segments.get_mut(at) else { return false };
        let (len, capacity) = (segment.entries.len(), segment.entries.capacity());
        if len < SMALL || len < threshold(segment.groups.start, capacity) {
            return false;
        }
        let more = growth(segment);
        let splits = segment.entries.num_buckets() >= SPLIT_BUCKETS && segment.groups.len() > 1;
        if self.must_shed(more) && self.shed(at) {
            return true;
        }
        if splits && self.may_split(at) {
            self.split(at);
            return true;
        }
        segment_grow(&mut self.segments[at], capacity);
        true
    }

    /// A segment that the snapshot stands in, or that holds owed copies, stays whole.
    fn may_split(&self, at: usize) -> bool {
        let segment = &self.segments[at];
        let entered = self
            .epochs
            .draining
            .as_ref()
            .is_some_and(|d| d.inside.is_some() && d.owing.passed == segment.groups.start);
        segment.aside.side.count == 0 && !entered
    }

    fn split(&mut self, at: usize) {
        let low = &mut self.segments[at];
        let middle = low.groups.start + low.groups.len() / 2;
        let high = low.split(self.max, middle);
        self.segments.insert(at + 1, high);
        self.directory.iter_mut().skip(usize::from(middle)).for_each(|segment| *segment += 1);
    }

    /// Removes rows that expired at `now`, looking at no more than about `budget`
    /// of them; goes on where the last call stopped. Answers how many went.
    pub fn sweep(&mut self, now: Ts, budget: usize) -> usize {
        if !R::EXPIRES || self.firing.is_some() {
            return 0;
        }
        self.expire_spilled(now);
        let (mut left, mut gone) = (budget, 0);
        let (max, epochs) = (self.max, &self.epochs);
        let (at, bucket) = &mut self.swept;
        for _ in 0..=self.segments.len() {
            if *at >= self.segments.len() {
                (*at, *bucket) = (0, 0);
            }
            let Segment { entries, aside, written, .. } = &mut self.segments[*at];
            let Aside { side, dead } = &mut **aside;
            let spill = &mut self.spill;
            while *bucket < entries.num_buckets() {
                if left == 0 {
                    return gone;
                }
                left -= 1;
                let expired = entries.get_bucket(*bucket).is_some_and(|e| e.row.expired(now));
                if expired && let Ok(found) = entries.get_bucket_entry(*bucket) {
                    let hash = found.get().key.hash64();
                    let kept = epochs
                        .draining
                        .as_ref()
                        .is_some_and(|d| preserve(d, max, hash, found.get(), side));
                    let (entry, _) = found.remove();
                    if entry.stamp.saved()
                        && let Some(spill) = spill
                    {
                        spill.removed(max.group(hash), &entry.key);
                    }
                    if entry.stamp.saved() || kept {
                        let (group, epoch) = (max.group(hash), epochs.current);
                        dead.push(Dead { key: entry.key, group, epoch });
                        written.note(epoch);
                    }
                    gone += 1;
                }
                *bucket += 1;
            }
            (*at, *bucket) = (*at + 1, 0);
        }
        gone
    }

    /// Approximate bytes of memory held. Rows' own memory is estimated from a few.
    pub fn bytes(&self) -> usize {
        const SAMPLE: usize = 8;
        let of = |s: &Segment<K, R>| {
            let sampled = s.entries.len().min(SAMPLE);
            let heap: usize = s.entries.iter().take(SAMPLE).map(|e| e.row.heap_bytes()).sum();
            let heap = heap.checked_div(sampled).unwrap_or(0) * s.entries.len();
            let owed = s.aside.side.keys.capacity() + s.aside.side.rows.capacity();
            let dead = s.aside.dead.capacity() * size_of::<Dead<K>>();
            s.entries.allocation_size() + heap + owed + dead
        };
        let firing = self.firing.as_ref().map_or(0, |f| f.rows.bytes(R::heap_bytes));
        firing + self.segments.iter().map(of).sum::<usize>()
    }
}

/// At how many entries a segment grows: 0.75 to 0.98 of its capacity.
fn threshold(first_group: u16, capacity: usize) -> usize {
    let share = 750 + (mix64(u64::from(first_group)) >> 16) as usize % 230;
    capacity * share / 1000
}

fn segment_grow<K: Key, R>(segment: &mut Segment<K, R>, capacity: usize) {
    segment.moves += 1;
    let additional = capacity + 1 - segment.entries.len().min(capacity);
    segment.entries.reserve(additional, |e| e.key.hash64());
}
