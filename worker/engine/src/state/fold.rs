//! Which key groups a checkpoint writes whole, so that old files can go. Pure.
//!
//! A checkpoint's file holds what changed; restoring needs every file back to
//! the last time each key group was written whole. So groups take turns: each
//! checkpoint writes a few whole, and the manifest then clips them out of all
//! older files. How many is what keeps the bytes that folding adds at or below
//! those that changed.

use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange};

/// The turn of a slot's key groups to be folded.
#[derive(Debug, Clone)]
pub struct Folding {
    range: KeyGroupRange,
    next: u16,
    /// Bytes that may still be added.
    credit: u64,
}

impl Folding {
    /// Begins with the first group of `range`.
    pub fn new(range: KeyGroupRange) -> Self {
        Self { range, next: range.start, credit: 0 }
    }

    /// The groups to write whole in the next checkpoint, given how many bytes
    /// the last one's changes took and how many all state would. Too little for
    /// a group is saved up.
    pub fn turn(&mut self, changed_bytes: u64, live_bytes: u64) -> KeyGroupRange {
        let start =
            if self.range.contains(KeyGroup(self.next)) { self.next } else { self.range.start };
        let per_group = (live_bytes / u64::from(self.range.len().max(1))).max(1);
        self.credit = (self.credit + changed_bytes).min(live_bytes.max(per_group));
        let groups = self.credit / per_group;
        let left = self.range.end.saturating_sub(start);
        let groups = u16::try_from(groups).unwrap_or(u16::MAX).min(left);
        self.credit -= u64::from(groups) * per_group;
        self.next = start + groups;
        KeyGroupRange { start, end: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_its_turn_and_folding_costs_no_more_than_changes() {
        let range = KeyGroupRange { start: 10, end: 110 };
        let mut folding = Folding::new(range);
        let (live, mut changed, mut folded) = (1_000_000_u64, 0, 0);
        let mut turns = vec![0; 110];
        for round in 0..1_000_u64 {
            let now = round * 7_919 % 40_000;
            changed += now;
            let groups = folding.turn(now, live);
            assert!(range.intersect(groups) == groups || groups.is_empty());
            folded += u64::from(groups.len()) * live / 100;
            assert!(folded <= changed);
            (groups.start..groups.end).for_each(|g| turns[usize::from(g)] += 1);
        }
        assert!(folded + live > changed, "and not much less");
        let (least, most) = (turns[10..].iter().min(), turns[10..].iter().max());
        assert!(least.unwrap() + 1 >= *most.unwrap(), "{turns:?}");
        assert!(folding.turn(u64::MAX / 2, live).len() <= 100);
        assert!(Folding::new(KeyGroupRange { start: 5, end: 5 }).turn(9, 9).is_empty());
    }
}
