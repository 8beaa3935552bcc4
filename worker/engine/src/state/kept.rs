//! Tables that outlive their attempt: what a rescale leaves where it is. Pure.
//!
//! After the stop checkpoint of a rescale nothing is written any more, so what a table
//! holds in memory is what that checkpoint holds of it. It is taken out of the table as it
//! lies there, cut at the key groups that the new subtasks own, and put into their tables:
//! nothing is encoded, read or hashed again, but for the entries of a segment that is cut.
//!
//! **Epochs.** The entries keep their stamps, which all lie in epochs up to the
//! checkpoint's cut. So the table that takes them over goes on with the epoch after the
//! highest cut of what it is given, and that cut is the checkpoint's.
//!
//! What has left to a tier is not kept, nor is what remains in memory of such a table: the
//! tier ends with its attempt.

use super::panes::PaneTables;
use super::row::Row;
use super::segment::Segment;
use super::table::Table;
use crate::data::{Fail, Res};
use millrace_protocol::ids::CheckpointId;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::any::Any;

/// The rows of a contiguous range of key groups, of one state, as of a checkpoint.
pub trait Kept: Send {
    /// Which key groups; never none.
    fn groups(&self) -> KeyGroupRange;

    /// Splits off the groups from `at` on, which lies within [`Kept::groups`] and is not
    /// its start.
    fn cut(&mut self, at: u16) -> Box<dyn Kept>;

    /// Number of rows.
    fn rows(&self) -> u64;

    /// For the table that takes it over.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// Of a table, or of panes.
struct KeptRows<K, R> {
    max: MaxParallelism,
    groups: KeyGroupRange,
    /// Whether they are panes.
    panes: bool,
    tables: Vec<KeptTable<K, R>>,
}

struct KeptTable<K, R> {
    namespace: i64,
    /// The last epoch that counts for the checkpoint.
    cut: u32,
    /// In order of their groups, of which together they have all.
    segments: Vec<Segment<K, R>>,
}

impl<K: Key, R: Row> Kept for KeptRows<K, R> {
    fn groups(&self) -> KeyGroupRange {
        self.groups
    }

    fn cut(&mut self, at: u16) -> Box<dyn Kept> {
        debug_assert!(self.groups.start < at && at < self.groups.end);
        let max = self.max;
        let tables = self.tables.iter_mut().map(|table| KeptTable {
            namespace: table.namespace,
            cut: table.cut,
            segments: split_off(&mut table.segments, max, at),
        });
        let tables = tables.collect();
        let groups = KeyGroupRange { start: at, end: self.groups.end };
        self.groups.end = at;
        Box::new(Self { max, groups, panes: self.panes, tables })
    }

    fn rows(&self) -> u64 {
        let segments = self.tables.iter().flat_map(|table| &table.segments);
        segments.map(|segment| segment.entries.len() as u64).sum()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Splits off what is of groups from `at` on.
fn split_off<K: Key, R: Row>(
    segments: &mut Vec<Segment<K, R>>,
    max: MaxParallelism,
    at: u16,
) -> Vec<Segment<K, R>> {
    let first = segments.partition_point(|segment| segment.groups.end <= at);
    let mut high = segments.split_off(first);
    if let Some(segment) = high.first_mut().filter(|segment| segment.groups.start < at) {
        let above = segment.split(max, at);
        segments.push(std::mem::replace(segment, above));
    }
    high
}

/// What `kept` is, if the tables have these types.
fn of_type<K: Key, R: Row>(
    kept: Box<dyn Kept>,
    max: MaxParallelism,
    panes: bool,
) -> Res<Box<KeptRows<K, R>>> {
    let rows: Result<Box<KeptRows<K, R>>, _> = kept.into_any().downcast();
    rows.ok()
        .filter(|rows| rows.max == max && rows.panes == panes)
        .ok_or_else(|| Fail::from("rows of another type were kept in memory for this state"))
}

impl<K: Key, R: Row> Table<K, R> {
    /// Takes all rows out, if they are just those of a checkpoint.
    fn take_kept(&mut self, namespace: i64, checkpoint: CheckpointId) -> Option<KeptTable<K, R>> {
        let (_, cut) = *self.epochs.cuts.iter().find(|(id, _)| *id == checkpoint)?;
        let as_of = |segment: &Segment<K, R>| segment.written.is_until(cut);
        let whole = self.epochs.draining.is_none() && self.firing.is_none() && !self.spills();
        if !whole || cut + 1 != self.epochs.current || !self.segments.iter().all(as_of) {
            return None;
        }
        let had_tier = self.spill.take().is_some();
        let mut segments = std::mem::replace(&mut self.segments, vec![Segment::new(self.range)]);
        self.directory.fill(0);
        for segment in &mut segments {
            // Tombstones stand in the checkpoint, and nothing drains.
            *segment.aside = Default::default();
            if had_tier {
                let entries = segment.entries.iter_mut();
                entries.for_each(|entry| entry.stamp = entry.stamp.in_tier(false));
            }
        }
        Some(KeptTable { namespace, cut, segments })
    }

    /// Puts rows into groups of which nothing was loaded.
    fn adopt_kept(&mut self, groups: KeyGroupRange, kept: KeptTable<K, R>) -> Res {
        let free = |segment: &Segment<K, R>| {
            segment.groups.intersect(groups).is_empty() || segment.entries.is_empty()
        };
        if groups.intersect(self.range) != groups || !self.segments.iter().all(free) {
            return Err("rows kept in memory do not fit into the table".into());
        }
        self.waits |= kept.segments.iter().flat_map(|s| &s.entries).any(|e| e.row.waits());
        let mut between = Some(kept.segments);
        let mut segments = Vec::new();
        for segment in std::mem::take(&mut self.segments) {
            let KeyGroupRange { start, end } = segment.groups;
            if segment.groups.intersect(groups).is_empty() {
                segments.push(segment);
                continue;
            }
            if start < groups.start {
                segments.push(Segment::new(KeyGroupRange { start, end: groups.start }));
            }
            segments.extend(between.take().into_iter().flatten());
            if groups.end < end {
                segments.push(Segment::new(KeyGroupRange { start: groups.end, end }));
            }
        }
        self.segments = segments;
        for (at, segment) in self.segments.iter().enumerate() {
            let KeyGroupRange { start, end } = segment.groups;
            self.directory[usize::from(start)..usize::from(end)].fill(at as u16);
        }
        self.epochs.adopt(kept.cut);
        self.load_spill()
    }

    /// See [`StateTable::keep`](super::StateTable::keep).
    pub(super) fn keep_rows(&mut self, checkpoint: CheckpointId) -> Option<Box<dyn Kept>> {
        let tables = vec![self.take_kept(0, checkpoint)?];
        Some(Box::new(KeptRows { max: self.max, groups: self.range, panes: false, tables }))
    }

    /// See [`StateTable::adopt`](super::StateTable::adopt).
    pub(super) fn adopt_rows(&mut self, kept: Box<dyn Kept>) -> Res {
        let kept = of_type(kept, self.max, false)?;
        let groups = kept.groups;
        kept.tables.into_iter().try_for_each(|table| self.adopt_kept(groups, table))
    }
}

impl<K: Key, R: Row> PaneTables<K, R> {
    /// See [`StateTable::keep`](super::StateTable::keep).
    pub(super) fn keep_rows(&mut self, checkpoint: CheckpointId) -> Option<Box<dyn Kept>> {
        if self.draining.is_some() {
            return None;
        }
        self.spare = None;
        let (max, groups) = (self.max, self.range);
        let full = self.panes.iter_mut().filter(|(_, table)| !table.is_empty());
        let tables = full.map(|(namespace, table)| table.take_kept(*namespace, checkpoint));
        let tables = tables.collect::<Option<Vec<_>>>()?;
        Some(Box::new(KeptRows { max, groups, panes: true, tables }))
    }

    /// See [`StateTable::adopt`](super::StateTable::adopt).
    pub(super) fn adopt_rows(&mut self, kept: Box<dyn Kept>) -> Res {
        let kept = of_type::<K, R>(kept, self.max, true)?;
        let groups = kept.groups;
        for table in kept.tables {
            self.epochs.adopt(table.cut);
            self.pane(table.namespace).adopt_kept(groups, table)?;
        }
        Ok(())
    }
}

/// What remains of `range` without `taken`, in order.
pub fn without(range: KeyGroupRange, taken: &[KeyGroupRange]) -> Vec<KeyGroupRange> {
    let mut left = vec![range];
    for taken in taken {
        let parts = |range: KeyGroupRange| {
            let below = KeyGroupRange { end: range.end.min(taken.start), ..range };
            let above = KeyGroupRange { start: range.start.max(taken.end), ..range };
            [below, above]
        };
        left = match taken.is_empty() {
            true => left,
            false => left.into_iter().flat_map(parts).filter(|r| !r.is_empty()).collect(),
        };
    }
    left
}

/// Takes off `pieces` what they have of the groups in `range`.
pub fn take(pieces: &mut Vec<Box<dyn Kept>>, range: KeyGroupRange) -> Vec<Box<dyn Kept>> {
    let mut taken = Vec::new();
    for mut piece in std::mem::take(pieces) {
        let groups = piece.groups();
        let wanted = groups.intersect(range);
        if wanted.is_empty() {
            pieces.push(piece);
            continue;
        }
        if wanted.end < groups.end {
            pieces.push(piece.cut(wanted.end));
        }
        if groups.start < wanted.start {
            let wanted = piece.cut(wanted.start);
            pieces.push(std::mem::replace(&mut piece, wanted));
        }
        taken.push(piece);
    }
    taken
}
