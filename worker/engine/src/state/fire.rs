//! Consuming a table: its rows in one order, whatever the history. Pure.

use super::row::Row;
use super::segment::{Aside, Dead, Segment};
use super::table::Table;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::MaxParallelism;

/// A table that is being consumed: what is left of one segment, in order.
pub(super) struct Firing<K, R> {
    segment: usize,
    /// With rotated hashes, in order.
    pub rows: std::vec::IntoIter<(u64, K, R)>,
}

impl<K: Key, R: Row> Table<K, R> {
    /// Takes rows out of the table, at most `limit` of them, in order of key
    /// group, the hash's other bits, and key, and answers whether that was the last. To be called
    /// until it is; in between nothing may be written to the table, and no
    /// snapshot begun.
    pub fn drain_sorted(&mut self, limit: usize, f: impl FnMut(K, R, u64)) -> bool {
        self.consume(limit, false, f)
    }

    /// As [`Table::drain_sorted`]; the rows of a doomed table leave no tombstones.
    pub(super) fn consume(
        &mut self,
        limit: usize,
        doomed: bool,
        mut f: impl FnMut(K, R, u64),
    ) -> bool {
        let (mut left, rotation) = (limit, rotation(self.max));
        loop {
            let mut firing = match self.firing.take() {
                Some(firing) => firing,
                None => match self.take_segment(0, doomed) {
                    Some(firing) => firing,
                    None => return true,
                },
            };
            for (rotated, key, row) in firing.rows.by_ref().take(left) {
                left -= 1;
                f(key, row, rotated.rotate_left(rotation));
            }
            if firing.rows.len() > 0 {
                self.firing = Some(firing);
                return false;
            }
            self.firing = self.take_segment(firing.segment + 1, doomed);
            if self.firing.is_none() {
                return true;
            }
            if left == 0 {
                return false;
            }
        }
    }

    /// Drops all rows; those of a doomed table leave no tombstones.
    pub(super) fn discard(&mut self, doomed: bool) {
        self.firing = None;
        let mut from = 0;
        while let Some(taken) = self.take_rows(from, doomed, |_, _, _| ()) {
            from = taken + 1;
        }
    }

    /// Makes an emptied table as good as new; it keeps its segments and their memory.
    pub(super) fn recycle(&mut self) {
        for segment in &mut self.segments {
            *segment.aside = Aside::default();
            segment.written = Default::default();
        }
        (self.firing, self.swept) = (None, (0, 0));
    }

    /// Sorts the rows of the first segment from `from` on that holds anything.
    fn take_segment(&mut self, from: usize, doomed: bool) -> Option<Firing<K, R>> {
        let mut rows = Vec::new();
        let rotation = rotation(self.max);
        let segment = self.take_rows(from, doomed, |hash, key, row| {
            rows.push((hash.rotate_right(rotation), key, row));
        })?;
        sort(&mut rows);
        Some(Firing { segment, rows: rows.into_iter() })
    }

    /// Empties the first segment from `from` on that holds anything; its index.
    fn take_rows(
        &mut self,
        from: usize,
        doomed: bool,
        mut each: impl FnMut(u64, K, R),
    ) -> Option<usize> {
        let (max, epochs) = (self.max, &self.epochs);
        let mut segments = self.segments.iter_mut().enumerate().skip(from);
        let (at, segment) = segments.find(|(_, s)| !s.entries.is_empty())?;
        let Segment { entries, aside, written, .. } = segment;
        let Aside { side, dead } = &mut **aside;
        for entry in entries.drain() {
            let hash = entry.key.hash64();
            let group = max.group(hash);
            let owed = epochs.draining.as_ref().is_some_and(|d| d.owing.owes(entry.stamp, group));
            if owed {
                side.push(group, &entry.key, &entry.row);
            }
            if !doomed && (owed || entry.stamp.saved()) {
                dead.push(Dead { key: entry.key.clone(), group, epoch: epochs.current });
                written.note(epochs.current);
            }
            each(hash, entry.key, entry.row);
        }
        Some(at)
    }
}

/// How far to rotate a hash to the right to have the bits on top that decide the
/// key group: then it sorts by group, and nothing of it is lost.
fn rotation(max: MaxParallelism) -> u32 {
    let groups = max.get();
    // Of 24 bits the multiplication makes a group, in order.
    if groups.is_power_of_two() { 32 + groups.trailing_zeros() } else { 56 }
}

/// Sorts by rotated hash and, where hashes collide, key bytes.
fn sort<K: Key, R>(rows: &mut [(u64, K, R)]) {
    rows.sort_unstable_by_key(|row| row.0);
    for same in rows.chunk_by_mut(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
        same.sort_by_cached_key(|row| {
            let mut bytes = Vec::new();
            row.1.write(&mut bytes);
            bytes
        });
    }
}
