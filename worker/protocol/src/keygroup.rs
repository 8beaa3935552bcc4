//! Key groups: the unit in which keyed state is distributed and moves.
//!
//! A key's group is taken from the middle bits of its hash, because the top
//! bits are the hash table's tag: groups taken there would leave each table
//! with few distinct tags.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Index of a key group: `0..max_parallelism`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyGroup(pub u16);

/// Number of key groups of a job, fixed for its life: `1..=32768`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct MaxParallelism(u16);

/// A max parallelism outside `1..=32768`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("max parallelism {0} is not between 1 and 32768")]
pub struct BadMaxParallelism(pub u32);

impl MaxParallelism {
    /// What a job has unless its user says otherwise.
    pub const DEFAULT: Self = Self(1024);

    /// `groups` key groups.
    pub fn new(groups: u32) -> Result<Self, BadMaxParallelism> {
        match u16::try_from(groups) {
            Ok(n @ 1..=32768) => Ok(Self(n)),
            _ => Err(BadMaxParallelism(groups)),
        }
    }

    /// The number of key groups.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The group of a key with this hash.
    #[inline]
    pub fn group(self, hash: u64) -> KeyGroup {
        let middle = hash >> 32;
        if self.0.is_power_of_two() {
            KeyGroup((middle & (u64::from(self.0) - 1)) as u16)
        } else {
            // Multiply-shift over the lower 24 of the middle bits, which
            // leaves the tag bits out as the mask does.
            KeyGroup((((middle & 0xff_ffff) * u64::from(self.0)) >> 24) as u16)
        }
    }

    /// All groups.
    pub fn all(self) -> KeyGroupRange {
        KeyGroupRange { start: 0, end: self.0 }
    }

    /// The groups that subtask `index` of `parallelism` owns:
    /// `[ceil(i*max/p), ceil((i+1)*max/p))`.
    pub fn range(self, index: u16, parallelism: u16) -> KeyGroupRange {
        let (max, p) = (u32::from(self.0), u32::from(parallelism.max(1)));
        let bound = |i: u32| (i * max).div_ceil(p) as u16;
        KeyGroupRange { start: bound(u32::from(index)), end: bound(u32::from(index) + 1) }
    }

    /// The subtask of `parallelism` that owns `group`.
    pub fn owner(self, group: KeyGroup, parallelism: u16) -> u16 {
        // The inverse of `range`: the largest i with ceil(i*max/p) <= group.
        ((u32::from(group.0) * u32::from(parallelism)) / u32::from(self.0)) as u16
    }
}

impl TryFrom<u16> for MaxParallelism {
    type Error = BadMaxParallelism;

    fn try_from(groups: u16) -> Result<Self, Self::Error> {
        Self::new(u32::from(groups))
    }
}

impl From<MaxParallelism> for u16 {
    fn from(max: MaxParallelism) -> u16 {
        max.0
    }
}

/// A half-open range of key groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGroupRange {
    /// First group.
    pub start: u16,
    /// One past the last group.
    pub end: u16,
}

impl KeyGroupRange {
    /// Whether `group` lies in the range.
    pub fn contains(self, group: KeyGroup) -> bool {
        (self.start..self.end).contains(&group.0)
    }

    /// The groups in both ranges; empty ranges have `start >= end`.
    pub fn intersect(self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
    }

    /// Whether there is no group in the range.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Number of groups.
    pub fn len(self) -> u16 {
        self.end.saturating_sub(self.start)
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_exactly_the_owner_whose_range_holds_it() {
        for max in [1, 2, 7, 128, 1000, 1024, 32768] {
            let max = MaxParallelism::new(max).unwrap();
            for p in [1, 2, 3, 5, 7, 16, 100].into_iter().filter(|p| *p <= max.get()) {
                let mut next = 0;
                for i in 0..p {
                    let range = max.range(i, p);
                    assert_eq!(range.start, next);
                    for g in range.start..range.end {
                        assert_eq!(max.owner(KeyGroup(g), p), i, "max {max:?} p {p} group {g}");
                    }
                    next = range.end;
                }
                assert_eq!(next, max.get());
            }
        }
    }

    #[test]
    fn groups_stay_below_max() {
        for max in [1, 3, 1000, 1024] {
            let max = MaxParallelism::new(max).unwrap();
            for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
                assert!(max.group(hash).0 < max.get());
            }
        }
    }
}
