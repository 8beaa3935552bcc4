//! When entries leave a table for its tier, and which.
//!
//! A segment that is full asks the budget before it grows. If that says no, a part of its
//! entries leaves, those first whose last write is the longest ago.

use super::{Spill, write_key, write_value};
use crate::data::Res;
use crate::state::budget::Budget;
use crate::state::row::Row;
use crate::state::segment::{Entry, Segment};
use crate::state::table::Table;
use crate::state::tier::Packed;
use hashbrown::HashTable;
use millrace_protocol::key::Key;

/// The part of a full segment that leaves at once, as a divisor.
const PART: usize = 16;
/// Housekeeping calls between two exact looks at what the table holds, at most.
const LOOK: u64 = 16;

/// What tables may hold for each of these: a look takes the longer the more they hold, and
/// the less they may, the sooner it is too much.
const LOOK_SHARE: u64 = 16 << 20;

/// Segments that shed entries in one housekeeping call if too much is held.
const AT_ONCE: usize = 4;

impl<K: Key, R: Row> Table<K, R> {
    /// Entries last written up to this epoch may leave.
    pub(in crate::state) fn oldest_kept(&self) -> u32 {
        self.epochs.complete.max(1)
    }

    /// Whether a full segment is to shed entries rather than grow by `more` bytes.
    pub(in crate::state) fn must_shed(&mut self, more: usize) -> bool {
        match &mut self.spill {
            Some(spill) if !spill.over => !spill.held.take(more as u64),
            _ => false,
        }
    }

    /// Lets a part of a segment's entries leave; whether any did.
    pub(in crate::state) fn shed(&mut self, at: usize) -> bool {
        let part = self.segments.get(at).map_or(0, |s| s.entries.len() / PART + 1);
        self.shed_some(at, part) > 0
    }

    /// Lets up to `many` of a segment's entries leave; how many did.
    pub(in crate::state) fn shed_some(&mut self, at: usize, many: usize) -> usize {
        let Some(mut spill) = self.spill.take() else { return 0 };
        let shed = self.shed_to(&mut spill, at, many);
        let shed = shed.unwrap_or_else(|error| {
            spill.failed.get_or_insert(error);
            0
        });
        self.spill = Some(spill);
        shed
    }

    fn shed_to(&mut self, spill: &mut Spill<K>, at: usize, many: usize) -> Res<usize> {
        let oldest_kept = self.oldest_kept();
        let (max, inside) = (self.max, self.is_inside(at));
        let Some(segment) = self.segments.get_mut(at) else { return Ok(0) };
        if inside || many == 0 || spill.over || spill.failed.is_some() {
            return Ok(0);
        }
        let mut ages: Vec<u32> =
            segment.entries.iter().map(|e| e.stamp.epoch()).filter(|e| *e <= oldest_kept).collect();
        let many = many.min(ages.len());
        if many == 0 {
            return Ok(0);
        }
        let (_, &mut youngest, _) = ages.select_nth_unstable(many - 1);
        let (mut keys, mut values) = (Packed::default(), Packed::default());
        let leaves = |e: &Entry<K, R>| e.stamp.epoch() <= youngest;
        let mut leaving = Vec::with_capacity(many);
        for bucket in 0..segment.entries.num_buckets() {
            if leaving.len() == many {
                break;
            }
            let Some(entry) = segment.entries.get_bucket(bucket).filter(|e| leaves(e)) else {
                continue;
            };
            leaving.push(bucket);
            if !entry.stamp.is_in_tier() {
                values.push(|out| write_value(&entry.row, out))?;
                let (prefix, group) = (spill.prefix, max.group(entry.key.hash64()));
                keys.push(|out| write_key(prefix, group, &entry.key, out));
            }
        }
        // They stay until the tier has them.
        spill.put(&keys, &values)?;
        let (mut heap, mut left) = (0, many);
        for bucket in leaving {
            if let Ok(found) = segment.entries.get_bucket_entry(bucket) {
                heap += found.remove().0.row.heap_bytes() as u64;
                left -= 1;
            }
        }
        spill.held.set(spill.held.held().saturating_sub(heap));
        spill.count += (many - left) as u64;
        let each = (values.bytes() + keys.bytes()) as u64 / keys.len().max(1) as u64;
        spill.bytes += each * (many - left) as u64;
        tidy(segment);
        Ok(many - left)
    }

    /// Whether the snapshot stands in this segment.
    pub(in crate::state) fn is_inside(&self, at: usize) -> bool {
        let inside = self.epochs.draining.as_ref().filter(|d| d.inside.is_some());
        let segment = self.segments.get(at);
        inside.zip(segment).is_some_and(|(d, s)| d.owing.passed == s.groups.start)
    }

    /// Now and then: says what the table holds, and lets entries leave if all tables
    /// together hold too much, as rows that grow by themselves may bring about. Where that
    /// does not suffice, sources are held back.
    pub(in crate::state) fn tend_spill(&mut self) {
        if !self.keep_within()
            && let Some(spill) = &self.spill
        {
            hold_back(spill.held.budget());
        }
    }

    /// As [`Table::tend_spill`], but that the caller sees to the rest where it does not
    /// suffice: answers false then.
    pub(in crate::state) fn keep_within(&mut self) -> bool {
        let Some(spill) = &mut self.spill else { return true };
        spill.looked += 1;
        if spill.looked >= (spill.held.budget().limit() / LOOK_SHARE).clamp(1, LOOK) {
            spill.looked = 0;
            self.look();
        }
        for _ in 0..AT_ONCE.min(self.segments.len()) {
            if !self.holds_too_much() {
                return true;
            }
            self.shed_next();
        }
        // A part was not enough: everything that may leave, before sources are held back.
        !self.is_far_over() || self.relieve(false)
    }

    /// Lets a part of the next segment in turn leave.
    fn shed_next(&mut self) {
        let segments = self.segments.len();
        if let Some(spill) = &mut self.spill {
            let at = spill.next % segments.max(1);
            spill.next = at + 1;
            self.shed(at);
        }
    }

    /// Lets as much leave as is too much, and says what is held exactly; whether that
    /// sufficed. `room`: until there is some for a while.
    pub(in crate::state) fn relieve(&mut self, room: bool) -> bool {
        for at in 0..self.segments.len() {
            self.look();
            // By parts, for what leaves is copied on its way.
            loop {
                let Some(spill) = &self.spill else { return true };
                let (used, limit) = (spill.held.budget().used(), spill.held.budget().limit());
                if used <= if room { limit - limit / 16 } else { limit } {
                    return true;
                }
                if !self.shed(at) {
                    break;
                }
            }
        }
        self.look();
        !self.holds_too_much()
    }

    /// A checkpoint has ended: if it is complete, what it holds may leave.
    pub(in crate::state) fn relieve_after(&mut self, complete: bool) {
        if complete && self.holds_too_much() {
            self.relieve(true);
        }
        if let Some(spill) = &self.spill {
            spill.held.budget().checkpoint_ended(complete);
        }
    }

    fn is_far_over(&self) -> bool {
        self.spill.as_ref().is_some_and(|s| s.held.budget().far_over())
    }

    /// While files are loaded: rows hold memory of their own, which nothing asks for.
    pub(in crate::state) fn load_spill(&mut self) -> Res {
        if self.spill.is_some() {
            self.look();
            for at in 0..self.segments.len() {
                if !self.holds_too_much() {
                    break;
                }
                self.shed_some(at, usize::MAX);
            }
        }
        self.check_spill()
    }

    fn holds_too_much(&self) -> bool {
        self.spill.as_ref().is_some_and(|s| s.held.budget().over())
    }

    /// Says what the table holds.
    fn look(&mut self) {
        let held = self.bytes() as u64;
        if let Some(spill) = &mut self.spill {
            spill.held.set(held);
        }
    }
}

/// Holds sources back until a checkpoint is complete.
pub(in crate::state) fn hold_back(budget: &Budget) {
    budget.press();
    if budget.first_warning() {
        tracing::warn!(
            used = budget.used(),
            limit = budget.limit(),
            "more state was written since the last checkpoint than the memory budget holds: \
             sources wait for checkpoints, which are taken early; give the job more memory, or \
             a shorter interval"
        );
    }
}

/// Removed entries leave marks that take room: a segment with many is made anew.
fn tidy<K: Key, R>(segment: &mut Segment<K, R>) {
    let full = segment.entries.num_buckets() / 8 * 7;
    let sparse = segment.entries.len() < full / 4;
    if !sparse && segment.entries.capacity() >= full / 8 * 7 {
        return;
    }
    let room = if sparse { segment.entries.len() * 2 } else { full };
    let mut anew = HashTable::with_capacity(room);
    for entry in segment.entries.drain() {
        anew.insert_unique(entry.key.hash64(), entry, |e: &Entry<K, R>| e.key.hash64());
    }
    segment.entries = anew;
    segment.moves += 1;
}

/// Bytes by which a segment grows.
pub(in crate::state) fn growth<K, R>(segment: &Segment<K, R>) -> usize {
    segment.entries.allocation_size()
}
