//! Timers of keys, in order of time and key. Pure.
//!
//! The row of a key says when it wants to be woken; what stands here is only how it is
//! found then, and is made anew from the rows after a restore. Each key has at most one
//! entry that counts: one whose time is not the one in the row is void. So moving a
//! timer to a later time costs nothing until the earlier one is reached.
//!
//! Far entries lie unordered in buckets of time; the bucket that is due becomes a heap.

use super::key_bytes;
use crate::api::window::TimeDomain;
use crate::data::Ts;
use millrace_protocol::key::Key;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// Width of a bucket in milliseconds.
const WIDTH: Ts = 1024;

/// A key to be woken.
#[derive(Debug, Clone)]
pub(crate) struct Wake<K> {
    pub time: Ts,
    pub hash: u64,
    pub key: K,
}

impl<K: Key> Ord for Wake<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.hash).cmp(&(other.time, other.hash)).then_with(|| {
            if self.key == other.key {
                return Ordering::Equal;
            }
            key_bytes(&self.key).cmp(&key_bytes(&other.key))
        })
    }
}

impl<K: Key> PartialOrd for Wake<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Key> PartialEq for Wake<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K: Key> Eq for Wake<K> {}

/// Timers of event time and of processing time.
pub(crate) struct Clocks<K: Key> {
    pub event: Timers<K>,
    pub processing: Timers<K>,
}

impl<K: Key> Clocks<K> {
    pub fn new() -> Self {
        Self { event: Timers::new(), processing: Timers::new() }
    }

    pub fn of(&mut self, domain: TimeDomain) -> &mut Timers<K> {
        match domain {
            TimeDomain::Event => &mut self.event,
            TimeDomain::Processing => &mut self.processing,
        }
    }

    pub fn bytes(&self) -> usize {
        self.event.bytes() + self.processing.bytes()
    }

    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

pub(crate) struct Timers<K: Key> {
    /// Entries of the buckets up to `opened`.
    near: BinaryHeap<Reverse<Wake<K>>>,
    /// Entries of later buckets.
    far: BTreeMap<Ts, Vec<Wake<K>>>,
    /// How many there are in later buckets.
    later: usize,
    opened: Ts,
}

impl<K: Key> Timers<K> {
    pub fn new() -> Self {
        Self { near: BinaryHeap::new(), far: BTreeMap::new(), later: 0, opened: Ts::MIN }
    }

    pub fn push(&mut self, wake: Wake<K>) {
        let bucket = wake.time.div_euclid(WIDTH);
        if bucket <= self.opened {
            self.near.push(Reverse(wake));
        } else {
            self.far.entry(bucket).or_default().push(wake);
            self.later += 1;
        }
    }

    /// The first entry, if its time is not after `limit`.
    pub fn pop(&mut self, limit: Ts) -> Option<Wake<K>> {
        loop {
            if let Some(Reverse(first)) = self.near.peek() {
                return if first.time <= limit { self.near.pop().map(|r| r.0) } else { None };
            }
            let first = self.far.first_entry()?;
            if first.key().saturating_mul(WIDTH) > limit {
                return None;
            }
            let (bucket, wakes) = first.remove_entry();
            self.opened = bucket;
            self.later -= wakes.len();
            // Keeps the heap's memory.
            self.near.extend(wakes.into_iter().map(Reverse));
        }
    }

    /// A time not after that of the first entry.
    pub fn next(&self) -> Option<Ts> {
        match self.near.peek() {
            Some(Reverse(first)) => Some(first.time),
            None => self.far.first_key_value().map(|(b, _)| b.saturating_mul(WIDTH)),
        }
    }

    /// About the bytes of memory held, but for what keys hold outside themselves.
    pub fn bytes(&self) -> usize {
        (self.near.capacity() + self.later + self.later / 2) * size_of::<Wake<K>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_out_in_order_of_time_and_hash() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut timers = Timers::new();
        let mut model: Vec<(Ts, u64)> = Vec::new();
        let mut limit = -5_000;
        for _ in 0..2_000 {
            for _ in 0..rng.usize(..4) {
                let time = limit + rng.i64(-10..8_000);
                let key = rng.u64(..50);
                timers.push(Wake { time, hash: key.hash64(), key });
                model.push((time, key.hash64()));
            }
            limit += rng.i64(0..30);
            model.sort_unstable();
            let due = model.partition_point(|(t, _)| *t <= limit);
            let expected: Vec<_> = model.drain(..due).collect();
            if let Some((first, _)) = expected.first() {
                assert!(timers.next().unwrap() <= *first);
            }
            let mut popped = Vec::new();
            while let Some(wake) = timers.pop(limit) {
                popped.push((wake.time, wake.hash));
            }
            assert_eq!(popped, expected);
        }
    }
}
