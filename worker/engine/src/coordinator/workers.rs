//! Worker processes and the slots they offer, and what the job is proposed to be. Pure.

use super::config::{CheckpointPolicy, Desired, ProgramSpec};
use super::restart::RestartPolicy;
use millrace_protocol::head::ConfigRef;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A process that offers slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// Which of the job's workers it is.
    pub ordinal: u16,
    /// Nonce of the process: one that is started again is another.
    pub process: String,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (process {})", self.ordinal, self.process)
    }
}

/// What the job should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Its number, the hash of its body, and the program that it is for.
    pub config: ConfigRef,
    /// Stored as `<job>/config/<hash>` before the head names it.
    pub body: Arc<[u8]>,
    /// The program with the parallelisms of this proposal.
    pub program: ProgramSpec,
    /// Slots of ordinals from this one on are not used.
    pub workers: u16,
    /// Whether the job should run.
    pub desired: Desired,
    /// When checkpoints are taken and kept.
    pub checkpoints: CheckpointPolicy,
    /// What happens after a failure.
    pub restart: RestartPolicy,
    /// Where state comes from, when not from the latest checkpoint: obeyed if the number
    /// has grown, or at the first start. No path: an empty start.
    pub restore: Option<(u64, Option<String>)>,
    /// Holds also if a higher generation was accepted before.
    pub overrides: bool,
}

/// How a proposal is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is recorded, or equal to what is.
    Accepted,
    /// It will be, after this.
    Pending(String),
    /// A higher generation was accepted before.
    Stale(u64),
    /// It cannot be; the user must change something.
    Invalid(String),
}

/// The processes that are connected.
#[derive(Debug, Clone, Default)]
pub(super) struct Workers {
    /// By ordinal: the process and its slots.
    joined: BTreeMap<u16, (String, u16)>,
}

/// Too few slots on the ordinals that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooFew {
    pub(super) there: u32,
    pub(super) needed: u32,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} slots are there", self.there, self.needed)
    }
}

impl Workers {
    /// A process offers slots. Answers the one whose place it takes.
    pub(super) fn joined(&mut self, worker: WorkerId, slots: u16) -> Option<WorkerId> {
        let WorkerId { ordinal, process } = worker;
        let before = self.joined.insert(ordinal, (process.clone(), slots))?;
        let process = Some(before.0).filter(|before| *before != process)?;
        Some(WorkerId { ordinal, process })
    }

    /// A process is gone. Answers whether it was there.
    pub(super) fn lost(&mut self, worker: &WorkerId) -> bool {
        let there = self.is_there(worker);
        if there {
            self.joined.remove(&worker.ordinal);
        }
        there
    }

    pub(super) fn is_there(&self, worker: &WorkerId) -> bool {
        self.joined.get(&worker.ordinal).is_some_and(|(process, _)| *process == worker.process)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, u16)> {
        self.joined.iter().map(|(ordinal, (process, slots))| {
            (WorkerId { ordinal: *ordinal, process: process.clone() }, *slots)
        })
    }

    /// Which worker each of `needed` slots runs on: spread evenly over the ordinals below
    /// `below`, in rounds of one slot for each. Within a round they come in the order of their
    /// ordinals' bits reversed (0, 4, 2, 6, 1, 5, 3, 7), so that among twice as many workers,
    /// or half of them, each has key groups that it had before, and may keep in memory.
    pub(super) fn place(&self, needed: u16, below: u16) -> Result<Vec<WorkerId>, TooFew> {
        let mut offers: Vec<_> = self.iter().filter(|(worker, _)| worker.ordinal < below).collect();
        offers.sort_by_key(|(worker, _)| worker.ordinal.reverse_bits());
        let there = offers.iter().map(|(_, slots)| u32::from(*slots)).sum();
        if there < u32::from(needed) {
            return Err(TooFew { there, needed: needed.into() });
        }
        let mut rounds: Vec<(u16, &WorkerId)> = Vec::with_capacity(usize::from(needed));
        for round in 0..needed {
            if rounds.len() >= usize::from(needed) {
                break;
            }
            rounds.extend(
                offers
                    .iter()
                    .filter(|(_, slots)| round < *slots)
                    .map(|(worker, _)| (round, worker)),
            );
        }
        rounds.truncate(usize::from(needed));
        Ok(rounds.into_iter().map(|(_, worker)| worker.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_protocol::keygroup::MaxParallelism;

    fn workers(slots: &[u16]) -> Workers {
        let mut workers = Workers::default();
        for (ordinal, slots) in (0..).zip(slots) {
            workers.joined(WorkerId { ordinal, process: "p".into() }, *slots);
        }
        workers
    }

    fn placed(slots: &[u16], needed: u16, below: u16) -> Vec<u16> {
        let place = workers(slots).place(needed, below).unwrap();
        place.into_iter().map(|worker| worker.ordinal).collect()
    }

    #[test]
    fn slots_are_spread_evenly_and_only_below_the_cut() {
        assert_eq!(placed(&[2, 2, 2], 3, 3), [0, 2, 1]);
        assert_eq!(placed(&[2, 2, 2], 4, 3), [0, 2, 1, 0]);
        assert_eq!(placed(&[2, 2, 2], 4, 2), [0, 1, 0, 1]);
        assert_eq!(placed(&[1, 4], 4, 2), [0, 1, 1, 1]);
        assert_eq!(placed(&[0, 1], 1, 2), [1]);
        let few = workers(&[2, 2, 2]).place(5, 2).unwrap_err();
        assert_eq!(few, TooFew { there: 4, needed: 5 });
    }

    #[test]
    fn among_twice_as_many_workers_each_has_groups_that_it_had() {
        let owned = |slots: &[u16], needed: u16| {
            let places = placed(slots, needed, slots.len() as u16);
            let groups = |worker: u16| -> Vec<u16> {
                let mine = (0..needed).filter(|slot| places[usize::from(*slot)] == worker);
                mine.flat_map(|slot| {
                    let range = MaxParallelism::DEFAULT.range(slot, needed);
                    range.start..range.end
                })
                .collect()
            };
            (0..slots.len() as u16).map(groups).collect::<Vec<_>>()
        };
        for (workers, each) in [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 2), (4, 4)] {
            let before = owned(&vec![each; workers], workers as u16 * each);
            let after = owned(&vec![each; 2 * workers], 2 * workers as u16 * each);
            for (worker, had) in before.iter().enumerate() {
                assert!(after[worker].iter().all(|group| had.contains(group)), "{worker}");
            }
        }
        // Of others most.
        let (before, after) = (owned(&[1; 2], 2), owned(&[1; 3], 3));
        assert!((0..2).all(|worker| after[worker].iter().all(|g| before[worker].contains(g))));
    }

    #[test]
    fn a_process_takes_the_place_of_an_older_one_of_its_ordinal() {
        let mut workers = workers(&[1]);
        let id = |process: &str| WorkerId { ordinal: 0, process: process.into() };
        assert_eq!(workers.joined(id("p"), 3), None);
        assert_eq!(workers.joined(id("q"), 1), Some(id("p")));
        assert!(!workers.lost(&id("p")));
        assert!(workers.lost(&id("q")));
        assert_eq!(workers.iter().count(), 0);
    }
}
