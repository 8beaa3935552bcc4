//! The seam to what lies below a table: where entries go that memory has no room
//! for. The trait, what is passed through it, and an implementation in memory for
//! tests.
//!
//! A tier is a cache of what checkpoints hold: it is never read at a restore, need
//! not survive the process, and knows nothing of keys and rows but their bytes. A
//! key in a tier is the key group, big endian, before the key's canonical bytes:
//! so a range of key groups is a range of keys. Where tables of several namespaces share
//! a tier, the namespace stands before that: so those that are dead are a range too.

use crate::data::{Res, Ts};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Byte strings, one after the other in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packed {
    /// Appends what `write` writes.
    pub fn push<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let answer = write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        answer
    }

    /// The strings.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let one = self.bytes.get(start..*end).unwrap_or_default();
            start = *end;
            one
        })
    }

    /// One of them.
    #[must_use]
    #[inline]
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let start = match at.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..*self.ends.get(at)?)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets them and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Takes a key and its value; answers whether it wants the next.
pub type OnEntry<'a> = dyn FnMut(&[u8], &[u8]) -> Res<bool> + 'a;

/// What is below one table, or below those of one state. Only their own thread calls it.
pub trait Tier {
    /// Removes `gone`, then puts `values` under `keys`. A key may be in both.
    fn write(&self, gone: &Packed, keys: &Packed, values: &Packed) -> Res;

    /// Looks keys up, all at once; `found` gets the index and the value of those that
    /// are there.
    fn get(&self, keys: &Packed, found: &mut dyn FnMut(usize, &[u8]) -> Res) -> Res;

    /// Goes through the keys from `from` up to `until` in order, until `entry` answers
    /// false.
    fn scan(&self, from: &[u8], until: &[u8], entry: &mut OnEntry<'_>) -> Res;

    /// Keys below `until` are neither asked for nor written from now on: what they hold may
    /// go, at a time of the tier's choosing.
    fn forget(&self, until: &[u8]) -> Res;

    /// Each value begins with a time, [`TIME`] bytes, little endian: those whose time is not
    /// after `now` may go, at a time of the tier's choosing. Where this is never called,
    /// values begin with what they like.
    fn expire(&self, now: Ts);
}

/// Bytes of the time before a value: see [`Tier::expire`].
pub const TIME: usize = size_of::<Ts>();

/// The time before a value, and the rest: see [`Tier::expire`].
#[must_use]
pub fn timed(value: &[u8]) -> Option<(Ts, &[u8])> {
    let (time, rest) = value.split_first_chunk::<TIME>()?;
    Some((Ts::from_le_bytes(*time), rest))
}

/// Makes the tiers of a process.
pub trait TierFactory: Send + Sync {
    /// An empty tier for a table; `name` is shown to people. What it holds goes with it.
    fn open(&self, name: &str) -> Res<Box<dyn Tier>>;

    /// How much all tiers hold.
    fn stats(&self) -> TierStats;
}

/// How much the tiers of a process hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Bytes on the local disk.
    pub disk: u64,
    /// Bytes of memory.
    pub memory: u64,
}

/// A tier that keeps everything in memory: what the others are compared with, and
/// what tests of tables use.
#[derive(Debug, Default)]
pub struct MemoryTier {
    entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    bytes: Arc<AtomicU64>,
    keeps: bool,
}

impl Tier for MemoryTier {
    fn write(&self, gone: &Packed, keys: &Packed, values: &Packed) -> Res {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        gone.iter().for_each(|key| drop(entries.remove(key)));
        for (key, value) in keys.iter().zip(values.iter()) {
            self.bytes.fetch_add((key.len() + value.len()) as u64, Ordering::Relaxed);
            entries.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }

    fn get(&self, keys: &Packed, found: &mut dyn FnMut(usize, &[u8]) -> Res) -> Res {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().enumerate().try_for_each(|(at, key)| match entries.get(key) {
            Some(value) => found(at, value),
            None => Ok(()),
        })
    }

    fn scan(&self, from: &[u8], until: &[u8], entry: &mut OnEntry<'_>) -> Res {
        if from >= until {
            return Ok(());
        }
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let range = (Bound::Included(from), Bound::Excluded(until));
        for (key, value) in entries.range::<[u8], _>(range) {
            if !entry(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn forget(&self, until: &[u8]) -> Res {
        if !self.keeps {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = entries.split_off(until);
            *entries = rest;
        }
        Ok(())
    }

    fn expire(&self, now: Ts) {
        if !self.keeps {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.retain(|_, value| timed(value).is_none_or(|(time, _)| time > now));
        }
    }
}

/// Makes [`MemoryTier`]s.
#[derive(Debug, Default)]
pub struct MemoryTiers {
    bytes: Arc<AtomicU64>,
    keeps: bool,
}

impl MemoryTiers {
    /// Makes tiers that keep what they may forget.
    #[must_use]
    pub fn that_keep() -> Self {
        Self { keeps: true, ..Self::default() }
    }
}

impl TierFactory for MemoryTiers {
    fn open(&self, _name: &str) -> Res<Box<dyn Tier>> {
        let (bytes, keeps) = (Arc::clone(&self.bytes), self.keeps);
        Ok(Box::new(MemoryTier { bytes, keeps, ..MemoryTier::default() }))
    }

    /// Bytes ever written, as memory.
    fn stats(&self) -> TierStats {
        TierStats { disk: 0, memory: self.bytes.load(Ordering::Relaxed) }
    }
}
