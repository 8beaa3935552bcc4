//! The hash table that holds keyed state and buffers its writes. Pure.
//!
//! A table is cut into segments, each a contiguous range of key groups: one at
//! first, split as it grows. See [`segment`](super::segment) for how a snapshot
//! reads it while it is being written to.

use super::fire::Firing;
use super::row::Row;
use super::segment::{Dead, Entry, Epochs, Segment, Side, Stamp, Written, preserve};
use super::spill::Spill;
use hashbrown::HashTable;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};

/// What a function did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the row is as it was. A row just made is not kept.
    Kept,
    /// It wrote to the row.
    Changed,
    /// The row is to go.
    Removed,
}

/// Rows by key, of the key groups that one subtask owns.
///
/// Every method that takes a `hash` wants [`Key::hash64`] of the key, and the
/// key's group must be in the table's range.
pub struct Table<K, R> {
    pub(super) max: MaxParallelism,
    pub(super) range: KeyGroupRange,
    pub(super) segments: Vec<Segment<K, R>>,
    /// Index of the segment of each group of the job; of no meaning out of `range`.
    pub(super) directory: Vec<u16>,
    /// Takes a group from a hash, if there are a power of two of them.
    mask: Option<usize>,
    pub(super) epochs: Epochs,
    pub(super) firing: Option<Firing<K, R>>,
    pub(super) swept: (usize, usize),
    pub(super) tended: usize,
    /// Whether a row that was loaded [waits](Row::waits).
    pub(super) waits: bool,
    /// What lies below, if anything does.
    pub(super) spill: Option<Box<Spill<K>>>,
}

impl<K: Key, R: Row> Table<K, R> {
    /// An empty table for the groups in `range`, of `max`.
    pub fn new(max: MaxParallelism, range: KeyGroupRange) -> Self {
        Self {
            max,
            range,
            segments: vec![Segment::new(range)],
            directory: vec![0; usize::from(max.get())],
            mask: max.get().is_power_of_two().then(|| usize::from(max.get()) - 1),
            epochs: Epochs::new(),
            firing: None,
            swept: (0, 0),
            tended: 0,
            waits: false,
            spill: None,
        }
    }

    /// Index of the segment that holds keys of this hash.
    #[inline(always)]
    pub(super) fn segment_of(&self, hash: u64) -> usize {
        if self.segments.len() == 1 {
            return 0;
        }
        debug_assert!(self.range.contains(self.max.group(hash)));
        segment_among(&self.directory, self.mask, self.max, hash)
    }

    /// The row of a key.
    #[inline(always)]
    pub fn get(&self, hash: u64, key: &K) -> Option<&R> {
        let segment = &self.segments[self.segment_of(hash)];
        segment.entries.find(hash, |e| e.key == *key).map(|e| &e.row)
    }

    /// The row of a key, made if there is none; counts as changed. The key is
    /// cloned only then.
    #[inline(always)]
    pub fn get_or_insert_with(&mut self, hash: u64, key: &K, init: impl FnOnce() -> R) -> &mut R {
        let at = self.segment_of(hash);
        let (max, epochs) = (self.max, &self.epochs);
        let Segment { entries, aside, written, moves, .. } = &mut self.segments[at];
        match entries.find_entry(hash, |e| e.key == *key) {
            Ok(found) => {
                let entry = found.into_mut();
                if entry.stamp.epoch() != epochs.current {
                    first_write(entry, max, hash, epochs, &mut aside.side, written);
                }
                &mut entry.row
            }
            Err(absent) => {
                written.note(epochs.current);
                insert_row(absent.into_table(), moves, hash, key, init(), epochs.current)
            }
        }
    }

    /// The row of a key; counts as changed.
    #[inline(always)]
    pub fn get_mut(&mut self, hash: u64, key: &K) -> Option<&mut R> {
        let at = self.segment_of(hash);
        let (max, epochs) = (self.max, &self.epochs);
        let Segment { entries, aside, written, .. } = &mut self.segments[at];
        let entry = entries.find_mut(hash, |e| e.key == *key)?;
        if entry.stamp.epoch() != epochs.current {
            first_write(entry, max, hash, epochs, &mut aside.side, written);
        }
        Some(&mut entry.row)
    }

    /// As [`Table::get_or_insert_with`] for the rows of a batch, given as (hash,
    /// key): calls `f` with each one's index and row. Faster where memory is what
    /// is waited for: little stands between one probe and the next.
    #[inline]
    pub fn change_each<'k>(
        &mut self,
        rows: impl IntoIterator<Item = (u64, &'k K)>,
        mut init: impl FnMut() -> R,
        mut f: impl FnMut(usize, &mut R),
    ) {
        let (max, mask, epochs) = (self.max, self.mask, &self.epochs);
        let (segments, directory) = (self.segments.as_mut_slice(), self.directory.as_slice());
        let current = epochs.current;
        for (i, (hash, key)) in rows.into_iter().enumerate() {
            let at =
                if segments.len() == 1 { 0 } else { segment_among(directory, mask, max, hash) };
            let Segment { entries, aside, written, moves, .. } = &mut segments[at];
            match entries.find_mut(hash, |e| e.key == *key) {
                Some(entry) => {
                    if entry.stamp.epoch() != current {
                        first_write(entry, max, hash, epochs, &mut aside.side, written);
                    }
                    f(i, &mut entry.row);
                }
                None => {
                    written.note(current);
                    f(i, insert_row(entries, moves, hash, key, init(), current));
                }
            }
        }
    }

    /// Runs `f` on the row of a key, made with `init` if there is none, and does
    /// what `f` answers. A row made here and then [`Change::Kept`] leaves no entry.
    #[inline(always)]
    pub fn update<T>(
        &mut self,
        hash: u64,
        key: &K,
        init: impl FnOnce() -> R,
        f: impl FnOnce(&mut R) -> (T, Change),
    ) -> T {
        let at = self.segment_of(hash);
        let (max, epochs) = (self.max, &self.epochs);
        let Segment { entries, aside, written, moves, .. } = &mut self.segments[at];
        let Some(entry) = entries.find_mut(hash, |e| e.key == *key) else {
            let mut row = init();
            let (answer, change) = f(&mut row);
            if change == Change::Changed {
                written.note(epochs.current);
                insert_row(entries, moves, hash, key, row, epochs.current);
            }
            return answer;
        };
        let old = entry.stamp.epoch() != epochs.current;
        let kept = match &epochs.draining {
            Some(draining) if old => {
                let mark = aside.side.mark();
                preserve(draining, max, hash, entry, &mut aside.side).then_some(mark)
            }
            _ => None,
        };
        let (answer, change) = f(&mut entry.row);
        match change {
            Change::Changed if !old => {}
            Change::Changed => {
                let saved = entry.stamp.saved() || kept.is_some();
                entry.stamp = Stamp::new(epochs.current, saved);
                written.note(epochs.current);
            }
            Change::Kept => {
                if let Some(mark) = kept {
                    aside.side.rewind(mark);
                }
            }
            Change::Removed => {
                let place = (hash, max.group(hash), epochs.current);
                let spill = self.spill.as_deref_mut();
                remove_row(entries, &mut aside.dead, written, place, (key, kept.is_some()), spill);
            }
        }
        answer
    }

    /// Removes a key and gives its row.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<R> {
        let at = self.segment_of(hash);
        let (max, epochs) = (self.max, &self.epochs);
        let Segment { entries, aside, written, .. } = &mut self.segments[at];
        let entry = entries.find(hash, |e| e.key == *key)?;
        let kept = match &epochs.draining {
            Some(draining) => preserve(draining, max, hash, entry, &mut aside.side),
            None => false,
        };
        let place = (hash, max.group(hash), epochs.current);
        remove_row(entries, &mut aside.dead, written, place, (key, kept), self.spill.as_deref_mut())
    }

    /// Begins to load what the next calls for these hashes will look at. Worth it where
    /// the table is larger than the caches: loads of many keys overlap, which those of one
    /// call after the other hardly do. The answer only keeps the loads from being
    /// optimised away.
    #[inline]
    pub fn warm(&self, hashes: impl Iterator<Item = u64>) -> u32 {
        if self.segments.len() == 1 {
            return 0;
        }
        let (segments, directory) = (self.segments.as_slice(), self.directory.as_slice());
        let (mask, max) = (self.mask, self.max);
        let mut touched = 0;
        for hash in hashes {
            let at = segment_among(directory, mask, max, hash);
            // The first candidate of its tag: with few exceptions the right one. Both its
            // ends, for it may lie on two cache lines.
            if let Some(segment) = segments.get(at)
                && let Some(entry) = segment.entries.find(hash, |_| true)
            {
                touched ^= entry.stamp.epoch() ^ u32::from(entry.key.touch());
            }
        }
        touched
    }

    /// Whether among the rows that were loaded there is one that [waits](Row::waits).
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Whether keys of this hash belong here.
    pub fn owns(&self, hash: u64) -> bool {
        self.range.contains(self.max.group(hash))
    }

    /// Number of keys in memory.
    pub fn len(&self) -> usize {
        let firing = self.firing.as_ref().map_or(0, |f| f.rows.len());
        firing + self.segments.iter().map(|s| s.entries.len()).sum::<usize>()
    }

    /// Whether there is no key; of those in the tier it is only known how many there are
    /// at most.
    pub fn is_empty(&self) -> bool {
        self.firing.is_none()
            && self.segments.iter().all(|s| s.entries.is_empty())
            && !self.spills()
    }

    /// Calls `f` with every key, row and hash in memory, in no order.
    pub fn for_each(&self, mut f: impl FnMut(&K, &R, u64)) {
        for e in self.segments.iter().flat_map(|s| &s.entries) {
            f(&e.key, &e.row, e.key.hash64());
        }
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}

/// Index of the segment of a hash. The group is that of [`MaxParallelism::group`], with the
/// case told apart beforehand.
#[inline(always)]
fn segment_among(directory: &[u16], mask: Option<usize>, max: MaxParallelism, hash: u64) -> usize {
    let group = match mask {
        Some(mask) => (hash >> 32) as usize & mask,
        None => usize::from(max.group(hash).0),
    };
    directory.get(group).map_or(0, |i| usize::from(*i))
}

/// Before an entry is written to for the first time in an epoch.
#[inline(never)]
fn first_write<K: Key, R: Row>(
    entry: &mut Entry<K, R>,
    max: MaxParallelism,
    hash: u64,
    epochs: &Epochs,
    side: &mut Side,
    written: &mut Written,
) {
    let draining = epochs.draining.as_ref();
    let kept = draining.is_some_and(|d| preserve(d, max, hash, entry, side));
    entry.stamp = Stamp::new(epochs.current, entry.stamp.saved() || kept);
    written.note(epochs.current);
}

/// Puts an entry where there was none.
#[inline(never)]
fn insert_row<'a, K: Key, R: Row>(
    entries: &'a mut HashTable<Entry<K, R>>,
    moves: &mut u32,
    hash: u64,
    key: &K,
    row: R,
    epoch: u32,
) -> &'a mut R {
    if entries.len() == entries.capacity() {
        *moves += 1;
    }
    let entry = Entry { key: key.clone(), row, stamp: Stamp::new(epoch, false) };
    &mut entries.insert_unique(hash, entry, |e| e.key.hash64()).into_mut().row
}

/// Removes an entry, and notes its tombstone if a file may hold it: an earlier
/// one, or the one that drains (`kept`).
#[inline(never)]
fn remove_row<K: Key, R: Row>(
    entries: &mut HashTable<Entry<K, R>>,
    dead: &mut Vec<Dead<K>>,
    written: &mut Written,
    (hash, group, epoch): (u64, KeyGroup, u32),
    (key, kept): (&K, bool),
    spill: Option<&mut Spill<K>>,
) -> Option<R> {
    let found = entries.find_entry(hash, |e| e.key == *key).ok()?;
    let (entry, _) = found.remove();
    if entry.stamp.saved()
        && let Some(spill) = spill
    {
        spill.removed(group, &entry.key);
    }
    if entry.stamp.saved() || kept {
        dead.push(Dead { key: entry.key, group, epoch });
        written.note(epoch);
    }
    Some(entry.row)
}
