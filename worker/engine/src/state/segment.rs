//! One segment of a table: the entries of a contiguous range of key groups,
//! and what it owes to the snapshot that drains. Pure.
//!
//! **The owed entries.** An entry's stamp holds the epoch of its last write. A
//! barrier increments the table's epoch; the snapshot owes every entry whose
//! stamp lies between its base and its cut, in segments it has not passed. A
//! write finds out with one comparison: an entry written in the current epoch
//! is never owed. Otherwise the slow path looks closer, and copies an owed
//! entry, encoded, to the segment's side buffer before it changes.

use super::row::Row;
use crate::data::Fail;
use hashbrown::HashTable;
use millrace_protocol::ids::CheckpointId;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};

/// A key with its row.
pub(crate) struct Entry<K, R> {
    pub key: K,
    pub row: R,
    pub stamp: Stamp,
}

/// Epoch of an entry's last write, whether a file may hold the entry, and whether the
/// tier has the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(u32);

impl Stamp {
    #[inline]
    pub fn new(epoch: u32, saved: bool) -> Self {
        Self(epoch << 2 | u32::from(saved))
    }

    /// Says whether the tier has the same bytes.
    pub fn in_tier(self, yes: bool) -> Self {
        Self(self.0 & !2 | u32::from(yes) << 1)
    }

    pub fn is_in_tier(self) -> bool {
        self.0 & 2 == 2
    }

    #[inline]
    pub fn epoch(self) -> u32 {
        self.0 >> 2
    }

    #[inline]
    pub fn saved(self) -> bool {
        self.0 & 1 == 1
    }
}

/// A snapshot that has begun and is not yet written.
#[derive(Debug, Clone)]
pub(crate) struct Draining {
    pub checkpoint: CheckpointId,
    pub owing: Owing,
    /// Where the walk stands in the segment that begins at `owing.passed`;
    /// `None` before it has entered it.
    pub inside: Option<Inside>,
}

/// Which entries a snapshot still owes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owing {
    /// Entries written after this epoch are owed...
    pub base: u32,
    /// ...up to this one.
    pub cut: u32,
    /// Groups whose entries are owed whenever they were written.
    pub fold: KeyGroupRange,
    /// Groups below this one have been passed.
    pub passed: u16,
}

/// A walk within a segment.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    /// The first bucket not yet looked at.
    pub bucket: usize,
    /// Where the walk through the tier stands, once that through the buckets is done.
    pub below: Below,
    /// The segment's [`Segment::moves`] when it was entered.
    pub moves: u32,
}

/// A walk through what the tier has of a segment.
#[derive(Debug, Clone)]
pub(crate) enum Below {
    /// Not begun.
    Waits,
    /// Goes on from here (`None`: from the beginning).
    From(Option<Vec<u8>>),
}

/// The epochs of a table.
#[derive(Debug, Clone)]
pub(crate) struct Epochs {
    /// Stamped on what is written now.
    pub current: u32,
    /// The last epoch in each checkpoint that may become a base.
    pub cuts: Vec<(CheckpointId, u32)>,
    pub draining: Option<Draining>,
    /// Tombstones up to this epoch stand in a complete checkpoint.
    pub complete: u32,
}

impl Epochs {
    pub fn new() -> Self {
        Self { current: 1, cuts: Vec::new(), draining: None, complete: 0 }
    }
}

/// Encoded copies of owed entries that were changed or removed.
#[derive(Default)]
pub(crate) struct Side {
    pub keys: Vec<u8>,
    pub rows: Vec<u8>,
    pub count: u32,
    /// Lowest and highest group in it.
    pub groups: Option<(u16, u16)>,
    /// An entry that could not be encoded; reported by the drain.
    pub failed: Option<Fail>,
}

/// Length of a [`Side`], to rewind to.
#[derive(Clone, Copy)]
pub(crate) struct SideMark(usize, usize, u32);

impl Side {
    #[cold]
    #[inline(never)]
    pub fn push<K: Key, R: Row>(&mut self, group: KeyGroup, key: &K, row: &R) {
        let mark = self.mark();
        key.write(&mut self.keys);
        if let Err(e) = row.write(&mut self.rows) {
            self.rewind(mark);
            self.failed.get_or_insert(e);
            return;
        }
        self.count += 1;
        let (low, high) = self.groups.unwrap_or((group.0, group.0));
        self.groups = Some((low.min(group.0), high.max(group.0)));
    }

    pub fn mark(&self) -> SideMark {
        SideMark(self.keys.len(), self.rows.len(), self.count)
    }

    pub fn rewind(&mut self, mark: SideMark) {
        self.keys.truncate(mark.0);
        self.rows.truncate(mark.1);
        self.count = mark.2;
    }
}

/// A removed key that older files may hold.
pub(crate) struct Dead<K> {
    pub key: K,
    pub group: KeyGroup,
    pub epoch: u32,
}

/// The last two epochs in which a segment was written to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    last: u32,
    before: u32,
}

impl Written {
    #[inline]
    pub fn note(&mut self, epoch: u32) {
        if self.last != epoch {
            *self = Self { last: epoch, before: self.last };
        }
    }

    /// Whether it was written to in an epoch after `base` and up to `cut`. Exact, for only one epoch is later than a draining cut.
    pub fn between(self, base: u32, cut: u32) -> bool {
        let last = if self.last <= cut { self.last } else { self.before };
        last > base
    }

    /// Whether it was not written to after `cut`.
    pub fn is_until(self, cut: u32) -> bool {
        self.last <= cut
    }
}

/// What a segment keeps beside its entries.
pub(crate) struct Aside<K> {
    pub side: Side,
    pub dead: Vec<Dead<K>>,
}

impl<K> Default for Aside<K> {
    fn default() -> Self {
        Self { side: Side::default(), dead: Vec::new() }
    }
}

/// One cache line: every record reads one.
#[repr(align(64))]
pub(crate) struct Segment<K, R> {
    pub entries: HashTable<Entry<K, R>>,
    pub groups: KeyGroupRange,
    pub aside: Box<Aside<K>>,
    /// When it was written to: segments untouched since the base are skipped.
    pub written: Written,
    /// How often entries may have moved between buckets.
    pub moves: u32,
}

impl<K: Key, R: Row> Segment<K, R> {
    pub fn new(groups: KeyGroupRange) -> Self {
        Self {
            entries: HashTable::new(),
            groups,
            aside: Box::default(),
            written: Written::default(),
            moves: 0,
        }
    }

    /// Splits off the groups from `at` on. It must hold no owed copies, and no snapshot
    /// stand in it.
    pub fn split(&mut self, max: MaxParallelism, at: u16) -> Self {
        let mut high = Self::new(KeyGroupRange { start: at, end: self.groups.end });
        high.written = self.written;
        let share = usize::from(high.groups.len());
        let of = usize::from(self.groups.len().max(1));
        self.groups.end = at;
        self.moves += 1;
        // Both parts anew: an entry removed would leave a mark in the old table
        // that costs room until it is rehashed.
        let len = self.entries.len();
        let room = |share: usize| len * share / of + len / 16;
        let hasher = |e: &Entry<K, R>| e.key.hash64();
        let mut kept = HashTable::with_capacity(room(of - share));
        high.entries.reserve(room(share), hasher);
        for entry in self.entries.drain() {
            let hash = entry.key.hash64();
            let part = if max.group(hash).0 < at { &mut kept } else { &mut high.entries };
            part.insert_unique(hash, entry, hasher);
        }
        self.entries = kept;
        high.aside.dead = self.aside.dead.extract_if(.., |d| d.group.0 >= at).collect();
        high
    }
}

impl Owing {
    /// The groups of `range` that are written whole.
    pub fn whole(self, range: KeyGroupRange) -> KeyGroupRange {
        if self.base == 0 { range } else { self.fold.intersect(range) }
    }

    /// Whether an entry with this stamp, in this group, is still owed.
    #[inline]
    pub fn owes(&self, stamp: Stamp, group: KeyGroup) -> bool {
        group.0 >= self.passed
            && stamp.epoch() <= self.cut
            && (stamp.epoch() > self.base || self.fold.contains(group))
    }
}

/// Before an entry is changed that was not written in the current epoch:
/// copies it aside if it is owed. Answers whether it did.
#[cold]
#[inline(never)]
pub(crate) fn preserve<K: Key, R: Row>(
    draining: &Draining,
    max: MaxParallelism,
    hash: u64,
    entry: &Entry<K, R>,
    side: &mut Side,
) -> bool {
    let group = max.group(hash);
    if !draining.owing.owes(entry.stamp, group) {
        return false;
    }
    side.push(group, &entry.key, &entry.row);
    true
}
