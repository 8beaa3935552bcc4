//! Timers of keyed functions: the part that stands in the row, and the index by time.
//!
//! The row is the truth: [`Timers`] is checkpointed with the key's state, and a timer
//! fires only if it still stands there. The index ([`TimerIndex`]) merely says when to
//! look at a key; it is rebuilt from the rows at a restore and is never cleaned:
//! - A key whose row holds timers has an entry at or before its earliest timer. The
//!   row remembers the time of that entry; entries at other times are stale and skipped.
//! - So moving a timer to a later time, as a session does with each row, touches the
//!   index only when the old time is reached, not at each move.
//!
//! Times near by are a heap, those further off lie in unsorted buckets of a second
//! that become part of the heap when their turn comes. Pure.

use crate::data::{Res, Ts};
use crate::operators::due;
use crate::state::Field;
use crate::state::row::{FieldKind, FieldShape, decode, encode};
use millrace_protocol::key::Key;
use millrace_protocol::shape::{self, ShapeError};
use serde::{Deserialize, Serialize};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// A moment at which a key's function wants to be called, in milliseconds since the epoch.
///
/// A key has any timer at most once: registering it again changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Timer {
    /// When the watermark reaches this time.
    Event(Ts),
    /// When the clock reaches this time.
    Processing(Ts),
}

impl Timer {
    /// Its time.
    pub fn at(self) -> Ts {
        match self {
            Self::Event(at) | Self::Processing(at) => at,
        }
    }

    fn domain(self) -> Domain {
        match self {
            Self::Event(_) => Domain::Event,
            Self::Processing(_) => Domain::Processing,
        }
    }
}

/// The clock that a timer goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domain {
    Event,
    Processing,
}

impl Domain {
    pub fn timer(self, at: Ts) -> Timer {
        match self {
            Self::Event => Timer::Event(at),
            Self::Processing => Timer::Processing(at),
        }
    }
}

/// The timers of one key: 8 bytes in the row of a key without any.
#[derive(Debug, Default)]
pub(crate) struct Timers(Option<Box<Standing>>);

#[derive(Debug)]
struct Standing {
    /// Sorted, each once.
    set: Vec<Timer>,
    /// Time of the key's entry in the index, by domain. Not checkpointed.
    indexed: [Option<Ts>; 2],
}

impl Timers {
    /// The field's name in checkpoints: none that a struct's field could have.
    pub const FIELD: &'static str = "timers:";

    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|s| s.set.is_empty())
    }

    /// Adds a timer; false if it was there.
    pub fn insert(&mut self, timer: Timer) -> bool {
        let standing = self
            .0
            .get_or_insert_with(|| Box::new(Standing { set: Vec::new(), indexed: [None; 2] }));
        match standing.set.binary_search(&timer) {
            Ok(_) => false,
            Err(at) => {
                standing.set.insert(at, timer);
                true
            }
        }
    }

    /// Removes a timer; false if it was not there.
    pub fn remove(&mut self, timer: Timer) -> bool {
        let Some(standing) = &mut self.0 else { return false };
        match standing.set.binary_search(&timer) {
            Ok(at) => {
                standing.set.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// The earliest timer of a domain.
    fn next(&self, domain: Domain) -> Option<Ts> {
        let set = &self.0.as_ref()?.set;
        let from = match domain {
            Domain::Event => 0,
            Domain::Processing => set.partition_point(|t| t.domain() == Domain::Event),
        };
        set.get(from).filter(|t| t.domain() == domain).map(|t| t.at())
    }

    /// Whether the key's entry in the index is the one at `at`.
    pub fn is_indexed(&self, domain: Domain, at: Ts) -> bool {
        self.0.as_ref().is_some_and(|s| s.indexed[domain as usize] == Some(at))
    }

    /// The key's entry has been taken out of the index.
    pub fn taken(&mut self, domain: Domain) {
        if let Some(standing) = &mut self.0 {
            standing.indexed[domain as usize] = None;
        }
    }

    /// The time of an entry that the index lacks for the key; it counts as made.
    pub fn claim_entry(&mut self, domain: Domain) -> Option<Ts> {
        let next = self.next(domain)?;
        let indexed = &mut self.0.as_mut()?.indexed[domain as usize];
        if indexed.is_none_or(|at| next < at) {
            *indexed = Some(next);
            return Some(next);
        }
        None
    }

    /// What [`Timers::claim_entry`] would have answered first: for rebuilding the index of
    /// rows that were just read.
    pub fn indexed(&self, domain: Domain) -> Option<Ts> {
        self.0.as_ref()?.indexed[domain as usize]
    }
}

/// How a row that leaves memory keeps the times of its key's entries in the index.
impl Timers {
    pub fn write_indexed(&self, out: &mut Vec<u8>) {
        let Some(standing) = &self.0 else { return };
        due::write(standing.indexed, out);
    }

    /// Undoes [`Timers::write_indexed`], of timers that have just been read.
    pub fn read_indexed(&mut self, bytes: &[u8]) -> Res {
        if bytes.is_empty() {
            self.0 = None;
            return Ok(());
        }
        let standing = self
            .0
            .get_or_insert_with(|| Box::new(Standing { set: Vec::new(), indexed: [None; 2] }));
        standing.indexed = due::read(bytes)?;
        Ok(())
    }
}

impl Field for Timers {
    fn is_empty(&self) -> bool {
        Timers::is_empty(self)
    }

    /// Whoever changes timers keeps count of it.
    fn is_dirty(&self) -> bool {
        false
    }

    fn clean(&mut self) {}

    fn write(&self, out: &mut Vec<u8>) -> Res {
        let set = self.0.as_ref().map_or(&[][..], |s| &s.set);
        encode(&set, out)
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        let mut timers = Self::default();
        for _ in 0..decode::<usize>(bytes)? {
            timers.insert(match old {
                None => decode(bytes)?,
                Some(old) => shape::read_by_name(bytes, &old.value)?,
            });
        }
        timers.claim_entry(Domain::Event);
        timers.claim_entry(Domain::Processing);
        Ok(timers)
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        let value = shape::trace::<Timer>()?;
        Ok(FieldShape { name: name.to_owned(), kind: FieldKind::List, value, key: None })
    }

    fn heap_bytes(&self) -> usize {
        let of = |s: &Standing| size_of::<Standing>() + s.set.capacity() * size_of::<Timer>();
        self.0.as_deref().map_or(0, of)
    }
}

/// A key to look at.
#[derive(Debug)]
pub(crate) struct Due<K> {
    pub at: Ts,
    pub hash: u64,
    pub key: K,
}

impl<K: Key> Ord for Due<K> {
    /// By time, then hash; bytes only decide between keys of one hash.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.hash).cmp(&(other.at, other.hash)).then_with(|| {
            if self.key == other.key {
                return Ordering::Equal;
            }
            let (mut a, mut b) = (Vec::new(), Vec::new());
            self.key.write(&mut a);
            other.key.write(&mut b);
            a.cmp(&b)
        })
    }
}

impl<K: Key> PartialOrd for Due<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Key> PartialEq for Due<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K: Key> Eq for Due<K> {}

/// Width of a bucket in milliseconds.
const BUCKET: Ts = 1000;

/// Keys by the time at which to look at them.
#[derive(Debug)]
pub(crate) struct TimerIndex<K> {
    /// Entries before `near`.
    heap: BinaryHeap<Reverse<Due<K>>>,
    near: Ts,
    /// Entries from `near` on, by the start of their bucket.
    far: BTreeMap<Ts, Vec<Due<K>>>,
}

impl<K: Key> TimerIndex<K> {
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), near: Ts::MIN, far: BTreeMap::new() }
    }

    pub fn push(&mut self, due: Due<K>) {
        if due.at < self.near {
            self.heap.push(Reverse(due));
            return;
        }
        let start = due.at.div_euclid(BUCKET).saturating_mul(BUCKET);
        self.far.entry(start).or_default().push(due);
        self.approach();
    }

    /// Keeps the heap from being empty while there are entries: its top is the earliest.
    fn approach(&mut self) {
        while self.heap.is_empty()
            && let Some((start, bucket)) = self.far.pop_first()
        {
            self.near = start.saturating_add(BUCKET);
            self.heap = bucket.into_iter().map(Reverse).collect();
        }
    }

    /// The earliest time.
    pub fn next(&self) -> Option<Ts> {
        self.heap.peek().map(|d| d.0.at)
    }

    /// Takes the first entry, if its time is not after `limit`.
    pub fn pop(&mut self, limit: Ts) -> Option<Due<K>> {
        if self.next()? > limit {
            return None;
        }
        let due = self.heap.pop();
        self.approach();
        due.map(|d| d.0)
    }
}
