//! Watermark alignment: sources of a group wait for the one that is furthest behind.
//!
//! Every reader of the group tells the lowest watermark of its splits; a split more than
//! the group's drift ahead of the lowest of all is not read. Readers without a split,
//! idle and ended ones do not count. The group belongs to the process: its readers in
//! other processes are not seen.

use crate::data::{TS_MAX, Ts};
use crate::runtime::channel::TaskWaker;
use millrace_protocol::ids::Attempt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Members {
    attempt: Option<Attempt>,
    members: Vec<Member>,
}

struct Member {
    /// Lowest watermark of its splits, if it counts.
    lowest: Option<Ts>,
    /// Whether it waits for the group.
    waits: bool,
    waker: TaskWaker,
}

impl Members {
    fn lowest(&self) -> Ts {
        self.members.iter().filter_map(|m| m.lowest).min().unwrap_or(TS_MAX)
    }
}

/// The readers of a group.
#[derive(Clone, Default)]
pub struct AlignmentGroup(Arc<Mutex<Members>>);

impl AlignmentGroup {
    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a reader of an attempt; those of earlier attempts no longer count.
    pub fn join(&self, attempt: Attempt, drift: Ts, waker: TaskWaker) -> Aligned {
        let mut members = self.lock();
        if members.attempt != Some(attempt) {
            *members = Members { attempt: Some(attempt), members: Vec::new() };
        }
        members.members.push(Member { lowest: None, waits: false, waker });
        let index = members.members.len() - 1;
        Aligned { group: self.clone(), attempt, index, drift, told: None, limit: TS_MAX }
    }
}

/// A reader's place in its group.
pub struct Aligned {
    group: AlignmentGroup,
    attempt: Attempt,
    index: usize,
    drift: Ts,
    told: Option<Ts>,
    limit: Ts,
}

impl Aligned {
    /// Tells the lowest watermark of this reader's splits (`None`: it does not count).
    /// Answers the highest watermark with which a split may be read.
    pub fn tell(&mut self, lowest: Option<Ts>) -> Ts {
        let mut members = self.group.lock();
        if members.attempt != Some(self.attempt) {
            return TS_MAX;
        }
        let before = members.lowest();
        if lowest != self.told {
            self.told = lowest;
            if let Some(member) = members.members.get_mut(self.index) {
                member.lowest = lowest;
            }
        }
        let now = members.lowest();
        if now > before {
            for member in members.members.iter_mut().filter(|m| m.waits) {
                member.waits = false;
                member.waker.wake();
            }
        }
        self.limit = now.saturating_add(self.drift);
        self.limit
    }

    /// This reader has a split that it does not read: it is woken when the group's
    /// lowest watermark rises. False if it has risen since the last [`Aligned::tell`].
    pub fn wait(&mut self) -> bool {
        let mut members = self.group.lock();
        if members.lowest().saturating_add(self.drift) > self.limit {
            return false;
        }
        if let Some(member) = members.members.get_mut(self.index) {
            member.waits = true;
        }
        true
    }
}

#[cfg(test)]
mod tests;
