//! What was written last, in memory until it is a run.

use crate::key_hash;
use crate::order::{Entry, Source};
use hashbrown::HashTable;
use millrace_engine::data::Res;
use millrace_engine::state::tier::Packed;
use std::ops::Range;

/// Where an entry is: its batch, and its number within that.
#[derive(Clone, Copy)]
struct At {
    batch: u32,
    entry: u32,
}

/// What was written together.
struct Batch {
    keys: Packed,
    /// None: the keys are gone.
    values: Option<Packed>,
    /// The least and the greatest key.
    least: Vec<u8>,
    greatest: Vec<u8>,
}

impl Batch {
    fn entry(&self, at: u32) -> Option<Entry<'_>> {
        let key = self.keys.get(at as usize)?;
        let value = match &self.values {
            Some(values) => Some(values.get(at as usize)?),
            None => None,
        };
        Some(Entry { key, value })
    }
}

/// Entries by key.
#[derive(Default)]
pub(crate) struct Young {
    batches: Vec<Batch>,
    index: HashTable<At>,
    bytes: usize,
}

impl Young {
    /// Puts a batch above what is there; of a key that is in it twice, the later one counts.
    pub fn add(&mut self, keys: &Packed, values: Option<&Packed>) -> Res {
        let (Some(least), Some(greatest)) = (keys.iter().min(), keys.iter().max()) else {
            return Ok(());
        };
        let (least, greatest) = (least.to_vec(), greatest.to_vec());
        let batch = u32::try_from(self.batches.len())?;
        self.bytes += keys.bytes() + values.map_or(0, Packed::bytes) + 16 * keys.len();
        let new = Batch { keys: keys.clone(), values: values.cloned(), least, greatest };
        self.batches.push(new);
        let Self { batches, index, .. } = self;
        let key_of = |at: &At| batches.get(at.batch as usize)?.keys.get(at.entry as usize);
        for (entry, key) in (0..).zip(keys.iter()) {
            let hash = key_hash(key);
            let at = At { batch, entry };
            match index.find_mut(hash, |at| key_of(at) == Some(key)) {
                Some(found) => *found = at,
                None => drop(index.insert_unique(hash, at, |at| key_of(at).map_or(0, key_hash))),
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// About the bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes + self.index.allocation_size()
    }

    fn at(&self, at: At) -> Option<Entry<'_>> {
        self.batches.get(at.batch as usize)?.entry(at.entry)
    }

    /// What is here of a key.
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Entry<'_>> {
        let is = |at: &At| self.at(*at).is_some_and(|entry| entry.key == key);
        self.at(*self.index.find(hash, is)?)
    }

    /// The keys of a range in order.
    pub fn range(&self, keys: Range<&[u8]>) -> YoungSource<'_> {
        let mut found = Vec::new();
        for (number, batch) in (0..).zip(&self.batches) {
            if batch.greatest.as_slice() < keys.start || batch.least.as_slice() >= keys.end {
                continue;
            }
            let within = (0..).zip(batch.keys.iter()).filter(|(_, key)| keys.contains(key));
            found.extend(within.map(|(entry, key)| (key, At { batch: number, entry })));
        }
        self.in_order(found)
    }

    /// All keys in order.
    pub fn all(&self) -> YoungSource<'_> {
        let all = self.index.iter().filter_map(|at| Some((self.at(*at)?.key, *at)));
        self.in_order(all.collect())
    }

    fn in_order<'a>(&'a self, mut found: Vec<(&'a [u8], At)>) -> YoungSource<'a> {
        // Of one key the newest first.
        found.sort_unstable_by(|(a, x), (b, y)| {
            a.cmp(b).then_with(|| (y.batch, y.entry).cmp(&(x.batch, x.entry)))
        });
        found.dedup_by(|(b, _), (a, _)| a == b);
        YoungSource { young: self, found, next: 0 }
    }
}

pub(crate) struct YoungSource<'a> {
    young: &'a Young,
    found: Vec<(&'a [u8], At)>,
    next: usize,
}

impl Source for YoungSource<'_> {
    fn entry(&self) -> Option<Entry<'_>> {
        self.young.at(self.found.get(self.next)?.1)
    }

    fn advance(&mut self) -> Res {
        self.next += 1;
        Ok(())
    }
}
