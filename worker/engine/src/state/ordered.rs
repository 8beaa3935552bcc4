//! Rows of a table in one order, whatever the history: by key group, the hash's other
//! bits, and key. A segment at a time; of that, what a tier has is brought in a few key
//! groups at a time, so that no more of it is in memory. Pure but for the tier.

use super::row::Row;
use super::table::Table;
use crate::data::Res;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};
use std::cmp::Ordering;
use std::iter::Peekable;
use std::vec::IntoIter;

/// The rows of a segment, made `V`.
pub struct Ordered<K, V> {
    max: MaxParallelism,
    /// Those that are ready, in order, with rotated hashes.
    ready: IntoIter<(u64, K, V)>,
    /// Later ones that were in memory, in order.
    memory: Peekable<IntoIter<(u64, K, V)>>,
    /// Groups of which nothing is ready yet.
    pub(super) groups: KeyGroupRange,
}

impl<K: Key, V> Ordered<K, V> {
    /// Of rows in memory, with rotated hashes; the tier may have more of `groups`.
    pub(super) fn new(
        max: MaxParallelism,
        mut rows: Vec<(u64, K, V)>,
        groups: KeyGroupRange,
    ) -> Self {
        sort(&mut rows);
        let (rows, none) = (rows.into_iter(), Vec::new().into_iter());
        let (ready, memory) = if groups.is_empty() { (rows, none) } else { (none, rows) };
        Self { max, ready, memory: memory.peekable(), groups }
    }

    /// Those that are ready, as (hash, key, row), in order.
    pub fn ready(&mut self) -> impl ExactSizeIterator<Item = (u64, K, V)> {
        let rotation = rotation(self.max);
        self.ready.by_ref().map(move |(hash, key, row)| (hash.rotate_left(rotation), key, row))
    }

    /// Whether any are ready.
    pub fn is_ready(&self) -> bool {
        self.ready.len() > 0
    }

    /// How many are in memory.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.memory.len()
    }

    /// About the bytes of those in memory, given those that a row holds outside itself.
    pub(super) fn bytes(&self, heap: impl Fn(&V) -> usize) -> usize {
        const SAMPLE: usize = 8;
        let rows = self.ready.as_slice();
        let sampled = rows.len().min(SAMPLE);
        let heap: usize = rows.iter().take(SAMPLE).map(|row| heap(&row.2)).sum();
        let heap = heap.checked_div(sampled).unwrap_or(0);
        self.len() * (size_of::<(u64, K, V)>() + heap)
    }

    /// The next groups, `stride` of them.
    pub(super) fn next_groups(&mut self, stride: u16) -> KeyGroupRange {
        let KeyGroupRange { start, end } = self.groups;
        let middle = end.min(start.saturating_add(stride.max(1)));
        self.groups.start = middle;
        KeyGroupRange { start, end: middle }
    }

    /// The rows of some groups, which are the next ones, are ready: those in memory, and
    /// those of `below` whose keys were not in memory, shown to `only_below`.
    pub(super) fn add(
        &mut self,
        groups: KeyGroupRange,
        mut below: Vec<(u64, K, V)>,
        mut only_below: impl FnMut(KeyGroup, &K, &V),
    ) {
        sort(&mut below);
        let (max, rotation) = (self.max, rotation(self.max));
        let mut ready = Vec::with_capacity(below.len());
        for row in below {
            while let Some(first) = self.memory.next_if(|m| order(m, &row) == Ordering::Less) {
                ready.push(first);
            }
            // Else it was changed since it left the tier.
            if self.memory.peek().is_none_or(|m| order(m, &row) != Ordering::Equal) {
                only_below(max.group(row.0.rotate_left(rotation)), &row.1, &row.2);
                ready.push(row);
            }
        }
        let within = |row: &(u64, K, V)| max.group(row.0.rotate_left(rotation)).0 < groups.end;
        while let Some(row) = self.memory.next_if(within) {
            ready.push(row);
        }
        self.ready = ready.into_iter();
    }
}

impl<K: Key, R: Row> Table<K, R> {
    /// The rows of a segment, made `V` by `f`; `None` past the last one. What the tier has
    /// of them comes with [`Table::ready`].
    pub fn ordered<V>(
        &self,
        segment: usize,
        mut f: impl FnMut(&K, &R) -> V,
    ) -> Option<Ordered<K, V>> {
        let rotation = rotation(self.max);
        let segment = self.segments.get(segment)?;
        let rows = segment
            .entries
            .iter()
            .map(|e| (e.key.hash64().rotate_right(rotation), e.key.clone(), f(&e.key, &e.row)));
        Some(Ordered::new(self.max, rows.collect(), self.below(segment.groups)))
    }

    /// Makes more of a segment's rows ready, if there are any; whether there are.
    pub fn ready<V>(
        &mut self,
        rows: &mut Ordered<K, V>,
        mut f: impl FnMut(&K, &R) -> V,
    ) -> Res<bool> {
        self.bring_more(rows, |key, row| f(key, &row), |_, _, _, _| ())?;
        Ok(rows.is_ready())
    }

    /// Brings rows from the tier, made `V` by `make`, until some are ready or there are no
    /// more; `only_below` is shown those that are nowhere else.
    pub(super) fn bring_more<V>(
        &mut self,
        rows: &mut Ordered<K, V>,
        mut make: impl FnMut(&K, R) -> V,
        mut only_below: impl FnMut(&mut Self, KeyGroup, &K, &V),
    ) -> Res {
        let rotation = rotation(self.max);
        while !rows.is_ready() && !rows.groups.is_empty() {
            let groups = rows.next_groups(self.stride());
            let mut below = Vec::new();
            self.read_spilled(groups, |key, row| {
                let row = make(&key, row);
                below.push((key.hash64().rotate_right(rotation), key, row));
            })?;
            rows.add(groups, below, |group, key, row| only_below(self, group, key, row));
        }
        Ok(())
    }

    /// The groups of which the tier may have rows, of `groups`.
    pub(super) fn below(&self, groups: KeyGroupRange) -> KeyGroupRange {
        if self.spills() { groups } else { KeyGroupRange { start: groups.end, ..groups } }
    }
}

/// How far to rotate a hash to the right to have the bits on top that decide the
/// key group: then it sorts by group, and nothing of it is lost.
pub(super) fn rotation(max: MaxParallelism) -> u32 {
    let groups = max.get();
    // Of 24 bits the multiplication makes a group, in order.
    if groups.is_power_of_two() { 32 + groups.trailing_zeros() } else { 56 }
}

fn bytes<K: Key>(key: &K) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.write(&mut bytes);
    bytes
}

/// By rotated hash and, where hashes collide, key bytes.
fn order<K: Key, V>(a: &(u64, K, V), b: &(u64, K, V)) -> Ordering {
    a.0.cmp(&b.0).then_with(|| match a.1 == b.1 {
        true => Ordering::Equal,
        false => bytes(&a.1).cmp(&bytes(&b.1)),
    })
}

fn sort<K: Key, V>(rows: &mut [(u64, K, V)]) {
    rows.sort_unstable_by_key(|row| row.0);
    for same in rows.chunk_by_mut(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
        same.sort_by_cached_key(|row| bytes(&row.1));
    }
}
