//! Consuming a table: its rows in one order, whatever the history. Pure but for the tier.
//!
//! What the tier has of a doomed table stays there: it is dead, unless a snapshot drains
//! that is still to write it.

use super::ordered::{Ordered, rotation};
use super::row::Row;
use super::segment::{Aside, Dead, Segment, Stamp};
use super::table::Table;
use crate::data::Res;
use millrace_protocol::key::Key;

/// A table that is being consumed: what is left of one segment.
pub(super) struct Firing<K, R> {
    segment: usize,
    pub rows: Ordered<K, R>,
}

impl<K: Key, R: Row> Table<K, R> {
    /// Takes rows out of the table, at most `limit` of them, in order of key
    /// group, the hash's other bits, and key, and answers whether that was the last. To be called
    /// until it is; in between nothing may be written to the table, and no
    /// snapshot begun.
    pub fn drain_sorted(&mut self, limit: usize, f: impl FnMut(K, R, u64)) -> Res<bool> {
        self.consume(limit, false, f)
    }

    /// As [`Table::drain_sorted`]; the rows of a doomed table leave no tombstones.
    pub(super) fn consume(
        &mut self,
        limit: usize,
        doomed: bool,
        mut f: impl FnMut(K, R, u64),
    ) -> Res<bool> {
        let mut left = limit;
        loop {
            let mut firing = match self.firing.take() {
                Some(firing) => firing,
                None => match self.take_segment(0, doomed) {
                    Some(firing) => firing,
                    None => return self.consumed(doomed),
                },
            };
            self.make_ready(&mut firing, doomed)?;
            for (hash, key, row) in firing.rows.ready().take(left) {
                left -= 1;
                f(key, row, hash);
            }
            if firing.rows.is_ready() || !firing.rows.groups.is_empty() {
                self.firing = Some(firing);
            } else {
                self.firing = self.take_segment(firing.segment + 1, doomed);
                if self.firing.is_none() {
                    return self.consumed(doomed);
                }
            }
            if left == 0 {
                return Ok(false);
            }
        }
    }

    /// All rows have been consumed.
    fn consumed(&mut self, doomed: bool) -> Res<bool> {
        self.spill.as_mut().map_or(Ok(()), |s| s.consumed(doomed))?;
        Ok(true)
    }

    /// Drops all rows; those of a doomed table leave no tombstones.
    pub(super) fn discard(&mut self, doomed: bool) -> Res {
        if !doomed && self.spills() {
            while !self.consume(usize::MAX, doomed, |_, _, _| ())? {}
            return Ok(());
        }
        self.firing = None;
        let mut from = 0;
        while let Some(taken) = self.take_rows(from, doomed, |_, _, _| ()) {
            from = taken + 1;
        }
        self.consumed(doomed).map(|_| ())
    }

    /// Makes more rows ready, if there are any.
    fn make_ready(&mut self, Firing { segment, rows }: &mut Firing<K, R>, doomed: bool) -> Res {
        if rows.is_ready() || rows.groups.is_empty() {
            return Ok(());
        }
        if doomed {
            return self.bring_more(rows, |_, row| row, |_, _, _, _| ());
        }
        let (at, stamp) = (*segment, Stamp::new(self.oldest_kept(), true));
        self.bring_more(
            rows,
            |_, row| row,
            |table, group, key, row| {
                let Segment { aside, written, .. } = &mut table.segments[at];
                let draining = table.epochs.draining.as_ref();
                if draining.is_some_and(|d| d.owing.owes(stamp, group)) {
                    aside.side.push(group, key, row);
                }
                aside.dead.push(Dead { key: key.clone(), group, epoch: table.epochs.current });
                written.note(table.epochs.current);
                if let Some(spill) = table.spill.as_deref_mut() {
                    spill.removed(group, key);
                }
            },
        )
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
        let below = self.below(self.segments[segment].groups);
        Some(Firing { segment, rows: Ordered::new(self.max, rows, below) })
    }

    /// Empties the first segment from `from` on that holds anything, or of which the tier
    /// may; its index.
    fn take_rows(
        &mut self,
        from: usize,
        doomed: bool,
        mut each: impl FnMut(u64, K, R),
    ) -> Option<usize> {
        let (max, epochs, spills) = (self.max, &self.epochs, self.spills());
        let spill = &mut self.spill;
        let mut segments = self.segments.iter_mut().enumerate().skip(from);
        let (at, segment) = segments.find(|(_, s)| spills || !s.entries.is_empty())?;
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
            if !doomed
                && entry.stamp.saved()
                && let Some(spill) = spill
            {
                spill.removed(group, &entry.key);
            }
            each(hash, entry.key, entry.row);
        }
        Some(at)
    }
}
