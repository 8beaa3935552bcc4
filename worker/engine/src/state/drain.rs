//! [`StateTable`] for [`Table`]: the walk of a snapshot, and loading. Pure.

use super::delta::{DeltaWriter, StateSchema};
use super::kept::Kept;
use super::reader::Block;
use super::row::Row;
use super::segment::{Below, Dead, Draining, Entry, Epochs, Inside, Owing, Segment, Stamp};
use super::snapshot::{Sizes, SnapshotError, SnapshotSpec, StateTable};
use super::spill::{Spill, write_spilled};
use super::table::Table;
use crate::data::{Res, Ts};
use hashbrown::hash_table;
use millrace_protocol::ids::CheckpointId;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};
use millrace_protocol::shape::{self, ShapeError};
use std::ops::Range;

/// Entries of a block that are begun to be looked for before the first of them is loaded.
const LOOK_AHEAD: usize = 32;

/// Segments of up to so many buckets may be walked at once.
const WHOLE: usize = if cfg!(test) { 32 } else { 64 * 1024 };

impl Epochs {
    /// A barrier: the epoch ends.
    pub fn begin(&mut self, spec: &SnapshotSpec, first: u16) -> Result<(), SnapshotError> {
        if let Some(draining) = &self.draining {
            let (next, draining) = (spec.checkpoint, draining.checkpoint);
            return Err(SnapshotError::StillDraining { next, draining });
        }
        let base = match spec.base {
            None => 0,
            Some(base) => {
                let cut = self.cuts.iter().find(|(id, _)| *id == base);
                cut.ok_or(SnapshotError::UnknownBase { checkpoint: spec.checkpoint, base })?.1
            }
        };
        let (checkpoint, cut, fold) = (spec.checkpoint, self.current, spec.fold);
        let owing = Owing { base, cut, fold, passed: first };
        self.draining = Some(Draining { checkpoint, owing, inside: None });
        self.cuts.push((checkpoint, cut));
        self.current += 1;
        Ok(())
    }

    /// Forgets what no later checkpoint can build on.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        let Some((_, cut)) = self.cuts.iter().find(|(id, _)| *id == checkpoint).copied() else {
            return;
        };
        self.complete = self.complete.max(cut);
        self.cuts.retain(|(_, c)| *c >= cut);
    }

    /// Forgets a checkpoint; whether it was draining.
    pub fn aborted(&mut self, checkpoint: CheckpointId) -> bool {
        self.cuts.retain(|(id, _)| *id != checkpoint);
        let draining = self.draining.as_ref().is_some_and(|d| d.checkpoint == checkpoint);
        if draining {
            self.draining = None;
        }
        draining
    }

    /// Before a restore is done: what is taken over is of epochs up to `cut`.
    pub fn adopt(&mut self, cut: u32) {
        self.current = self.current.max(cut + 1);
        self.complete = self.complete.max(cut);
    }

    /// After a restore: what was loaded is of epoch 1.
    pub fn restored(&mut self, checkpoint: Option<CheckpointId>) {
        self.current = self.current.max(2);
        self.cuts = checkpoint.map(|id| (id, self.current - 1)).into_iter().collect();
    }
}

impl<K: Key, R: Row> Table<K, R> {
    /// Goes on writing what the snapshot is owed; takes what it looks at off
    /// `budget`. Whether it is through.
    pub(super) fn walk(&mut self, out: &mut DeltaWriter, budget: &mut usize) -> Res<bool> {
        let Some(mut draining) = self.epochs.draining.take() else { return Ok(true) };
        let through = loop {
            if draining.owing.passed >= self.range.end {
                break Ok(true);
            }
            let group = usize::from(draining.owing.passed);
            let at = usize::from(self.directory.get(group).copied().unwrap_or(0));
            let complete = self.epochs.complete;
            match self.segments[at].walk(
                self.max,
                complete,
                &mut draining,
                self.spill.as_deref_mut(),
                out,
                budget,
            ) {
                Ok(true) => {}
                other => break other,
            }
        };
        if !matches!(through, Ok(true)) {
            self.epochs.draining = Some(draining);
        }
        through
    }
}

/// [`Owing`] as it concerns one segment.
struct Owes {
    /// The segment's lowest and highest group.
    groups: (u16, u16),
    base: u32,
    cut: u32,
    folded: KeyGroupRange,
}

impl Owes {
    fn new(owing: Owing, groups: KeyGroupRange) -> Self {
        let folded = owing.fold.intersect(groups);
        let base = if folded == groups { 0 } else { owing.base };
        Self { groups: (groups.start, groups.end - 1), base, cut: owing.cut, folded }
    }

    /// Writes an entry if it is owed.
    #[inline(always)]
    fn write<K: Key, R: Row>(
        &self,
        entry: &mut Entry<K, R>,
        max: MaxParallelism,
        out: &mut DeltaWriter,
    ) -> Res {
        let epoch = entry.stamp.epoch();
        if epoch > self.cut {
            return Ok(());
        }
        // Which group it is of is asked only where a segment is folded in part.
        if epoch > self.base
            || !self.folded.is_empty() && self.folded.contains(max.group(entry.key.hash64()))
        {
            entry.stamp = Stamp::new(epoch, true);
            out.entry(self.groups, |keys, rows| {
                entry.key.write(keys);
                entry.row.write(rows)
            })?;
        }
        Ok(())
    }
}

impl<K: Key, R: Row> Segment<K, R> {
    /// As [`Table::walk`], of this segment, which the walk has come to.
    fn walk(
        &mut self,
        max: MaxParallelism,
        complete: u32,
        Draining { owing, inside, .. }: &mut Draining,
        spill: Option<&mut Spill<K>>,
        out: &mut DeltaWriter,
        budget: &mut usize,
    ) -> Res<bool> {
        if *budget == 0 {
            return Ok(false);
        }
        let moves = self.moves;
        let walk = inside;
        let inside = match walk {
            Some(inside) => {
                if inside.moves != moves && matches!(inside.below, Below::Waits) {
                    // What was written before is still owed, and written again: the
                    // same bytes, so it does no harm.
                    *inside = Inside { bucket: 0, below: Below::Waits, moves };
                }
                inside
            }
            None => {
                *budget -= 1;
                self.aside.dead.retain(|d| d.epoch > complete);
                self.write_dead(*owing, out)?;
                // What came back from the tier does not count as written.
                let untouched = owing.base > 0
                    && !self.written.between(owing.base, owing.cut)
                    && owing.fold.intersect(self.groups).is_empty();
                let bucket = if untouched { usize::MAX } else { 0 };
                walk.insert(Inside { bucket, below: Below::Waits, moves })
            }
        };
        let end = match inside.below {
            Below::Waits => self.entries.num_buckets(),
            Below::From(_) => 0,
        };
        if inside.bucket == 0 && Self::WHOLE && end <= WHOLE {
            *budget = budget.saturating_sub(end);
            inside.bucket = end;
            self.write_all_owed(max, *owing, out)?;
        }
        let until = end.min(inside.bucket.saturating_add(*budget));
        if inside.bucket < until {
            *budget -= until - inside.bucket;
            self.write_owed(max, *owing, inside.bucket..until, out)?;
            inside.bucket = until;
        }
        if inside.bucket < end {
            return Ok(false);
        }
        if let Some(spill) = spill {
            let mut from = match std::mem::replace(&mut inside.below, Below::Waits) {
                Below::Waits => None,
                Below::From(from) => from,
            };
            let segment = (&self.entries, self.groups);
            let through = write_spilled(spill, segment, *owing, &mut from, out, budget)?;
            inside.below = Below::From(from);
            if !through {
                return Ok(false);
            }
        }
        self.write_side(out)?;
        owing.passed = self.groups.end;
        *walk = None;
        Ok(true)
    }

    /// Whether a walk takes a segment at once, which is faster: if its entries
    /// are small, so that it stays well below a millisecond.
    const WHOLE: bool = !std::mem::needs_drop::<R>() && size_of::<Entry<K, R>>() <= 64;

    fn write_all_owed(&mut self, max: MaxParallelism, owing: Owing, out: &mut DeltaWriter) -> Res {
        let owes = Owes::new(owing, self.groups);
        for entry in &mut self.entries {
            owes.write(entry, max, out)?;
        }
        Ok(())
    }

    /// Writes the owed entries in some buckets.
    fn write_owed(
        &mut self,
        max: MaxParallelism,
        owing: Owing,
        buckets: Range<usize>,
        out: &mut DeltaWriter,
    ) -> Res {
        let owes = Owes::new(owing, self.groups);
        for bucket in buckets {
            if let Some(entry) = self.entries.get_bucket_mut(bucket) {
                owes.write(entry, max, out)?;
            }
        }
        Ok(())
    }

    /// Writes the tombstones that the snapshot owes.
    fn write_dead(&self, owing: Owing, out: &mut DeltaWriter) -> Res {
        if owing.base == 0 {
            return Ok(()); // Nothing older counts.
        }
        let owed = |d: &&Dead<K>| owing.base < d.epoch && d.epoch <= owing.cut;
        for dead in self.aside.dead.iter().filter(owed) {
            out.dead(dead.group, |keys| dead.key.write(keys))?;
        }
        Ok(())
    }

    /// Writes what was copied aside.
    fn write_side(&mut self, out: &mut DeltaWriter) -> Res {
        let side = std::mem::take(&mut self.aside.side);
        if let Some(failed) = side.failed {
            return Err(failed);
        }
        match side.groups {
            Some(groups) if side.count > 0 => {
                out.entries(groups, side.count, &side.keys, &side.rows)
            }
            _ => Ok(()),
        }
    }
}

impl<K: Key, R: Row> Table<K, R> {
    /// Drops what was copied aside.
    pub(super) fn drop_side(&mut self) {
        self.segments.iter_mut().for_each(|s| s.aside.side = Default::default());
    }

    /// Whether tombstones wait for a complete checkpoint.
    pub(super) fn has_dead(&self) -> bool {
        let complete = self.epochs.complete;
        self.segments.iter().any(|s| s.aside.dead.iter().any(|d| d.epoch > complete))
    }

    /// Applies a block of a file.
    pub(super) fn load_block(&mut self, block: &Block<'_>) -> Res {
        let mut dead = block.dead_keys;
        for _ in 0..block.dead {
            let key = K::read(&mut dead)?;
            let hash = key.hash64();
            if (block.take)(self.group_in(block, hash)?) {
                self.forget_spilled(hash, &key);
                let at = self.segment_of(hash);
                let entries = &mut self.segments[at].entries;
                if let Ok(found) = entries.find_entry(hash, |e| e.key == key) {
                    found.remove();
                }
            }
        }
        let (mut keys, mut rows) = (block.keys, block.rows);
        let mut left = block.entries as usize;
        let mut ahead = Vec::with_capacity(LOOK_AHEAD);
        while left > 0 {
            for _ in 0..left.min(LOOK_AHEAD) {
                let key = K::read(&mut keys)?;
                ahead.push((key.hash64(), key));
            }
            left -= ahead.len();
            std::hint::black_box(self.warm(ahead.iter().map(|(hash, _)| *hash)));
            for (hash, key) in ahead.drain(..) {
                let row = R::read(&mut rows, block.reader)?;
                if (block.take)(self.group_in(block, hash)?) {
                    self.load_entry(hash, Entry { key, row, stamp: Stamp::new(1, true) });
                }
            }
        }
        if !(dead.is_empty() && keys.is_empty() && rows.is_empty()) {
            return Err("bytes are left over".into());
        }
        self.tend_all();
        self.load_spill()
    }

    #[inline]
    fn load_entry(&mut self, hash: u64, entry: Entry<K, R>) {
        self.waits |= entry.row.waits();
        let at = self.segment_of(hash);
        let segment = &mut self.segments[at];
        match segment.entries.entry(hash, |e| e.key == entry.key, |e| e.key.hash64()) {
            hash_table::Entry::Occupied(mut old) => *old.get_mut() = entry,
            hash_table::Entry::Vacant(free) => {
                free.insert(entry);
            }
        }
        segment.written.note(1);
    }

    /// The group of a key of a block, which must be one that the block holds: else
    /// the key hash is not the one that it was written with.
    fn group_in(&self, block: &Block<'_>, hash: u64) -> Res<KeyGroup> {
        let group = self.max.group(hash);
        let (first, last) = block.groups;
        if group.0 < first || last < group.0 {
            let group = group.0;
            return Err(format!(
                "a key of group {group} in a block of groups {first} to {last}: the key's hash                  is not what it was"
            )
            .into());
        }
        Ok(group)
    }
}

impl<K: Key, R: Row> StateTable for Table<K, R> {
    fn schema(&self) -> Result<StateSchema, ShapeError> {
        Ok(StateSchema { key: shape::trace::<K>()?, row: R::shape()?, panes: false })
    }

    fn begin(&mut self, spec: &SnapshotSpec) -> Res {
        self.check_spill()?;
        if self.firing.is_some() {
            return Err(SnapshotError::Firing { checkpoint: spec.checkpoint }.into());
        }
        Ok(self.epochs.begin(spec, self.range.start)?)
    }

    fn drain(&mut self, out: &mut DeltaWriter, budget: usize) -> Res<bool> {
        let Some(draining) = &self.epochs.draining else { return Ok(true) };
        out.covers(self.range, draining.owing.whole(self.range), i64::MIN);
        out.namespace(0)?;
        self.walk(out, &mut { budget })
    }

    fn is_draining(&self) -> bool {
        self.epochs.draining.is_some()
    }

    fn completed(&mut self, checkpoint: CheckpointId) {
        self.epochs.completed(checkpoint);
        self.relieve_after(true);
    }

    fn aborted(&mut self, checkpoint: CheckpointId) {
        if self.epochs.aborted(checkpoint) {
            self.drop_side();
        }
        self.relieve_after(false);
    }

    fn keep(&mut self, checkpoint: CheckpointId) -> Option<Box<dyn Kept>> {
        self.keep_rows(checkpoint)
    }

    fn adopt(&mut self, kept: Box<dyn Kept>) -> Res {
        self.adopt_rows(kept)
    }

    fn expect(&mut self, _: i64, groups: KeyGroupRange, entries: u64) {
        self.make_room(groups, entries);
    }

    fn load(&mut self, block: &Block<'_>) -> Res {
        self.load_block(block)
    }

    fn restored(&mut self, checkpoint: Option<CheckpointId>) {
        self.epochs.restored(checkpoint);
    }

    fn sweep(&mut self, now: Ts, budget: usize) -> usize {
        Table::sweep(self, now, budget)
    }

    fn sizes(&self) -> Sizes {
        let (keys, spilled) = match &self.spill {
            Some(s) if !self.is_over() => (s.count, s.bytes),
            _ => (0, 0),
        };
        Sizes { keys: self.len() as u64 + keys, memory: self.bytes() as u64, spilled }
    }
}
