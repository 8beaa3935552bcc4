//! The workers of a job as its coordinator's shell sees them: who is there, who runs
//! which slot of the attempt, who is still to answer.

use crate::coordinator::Failure;
use crate::job::agent::Watch;
use crate::job::order::{Counters, DeployOrder, Order, Peer, Word};
use millrace_protocol::ids::{Attempt, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// The way to a worker.
pub trait Link: Send {
    /// Passes on an order, in order, without waiting. If it cannot be delivered, the worker
    /// is lost, and whoever owns the link says so.
    fn send(&self, order: Order);
}

/// A worker that is there.
pub struct Member {
    /// How others reach it.
    pub peer: Peer,
    /// The slots that it offers.
    pub slots: u16,
    /// The way to it.
    pub link: Box<dyn Link>,
    /// Its counters, if it is this process.
    pub watch: Option<Watch>,
}

/// The attempt that was deployed last.
struct Current {
    attempt: Attempt,
    placement: Vec<u16>,
    /// Process of each worker of the placement.
    processes: BTreeMap<u16, String>,
    ready: BTreeSet<Slot>,
    ended: BTreeSet<Slot>,
    /// Workers whose slots are not joined yet.
    busy: BTreeSet<u16>,
    cancelled: bool,
}

/// What a worker's word comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing new.
    Nothing,
    /// All slots are ready.
    Deployed(Attempt),
    /// All slots have ended.
    InputEnded(Attempt),
    /// All slots are joined.
    Joined(Attempt),
    /// A checkpoint is wanted before it is due.
    CheckpointWanted,
    /// For the coordinator.
    Failed(Attempt, Failure),
    /// Only the user can mend it.
    Refused(Attempt, String),
}

/// All workers.
#[derive(Default)]
pub struct Crew {
    members: BTreeMap<u16, Member>,
    counters: BTreeMap<u16, (Attempt, Vec<Counters>)>,
    current: Option<Current>,
}

impl Crew {
    /// A worker came. Answers the process that it replaces.
    pub fn join(&mut self, member: Member) -> Option<Member> {
        self.counters.remove(&member.peer.ordinal);
        self.members.insert(member.peer.ordinal, member)
    }

    /// A worker is lost, if it is the process that is there.
    pub fn lose(&mut self, ordinal: u16, process: &str) -> Option<Member> {
        let known = self.members.get(&ordinal)?;
        if known.peer.process != process {
            return None;
        }
        self.counters.remove(&ordinal);
        self.members.remove(&ordinal)
    }

    /// Those who are there.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Sends an attempt to its workers. The workers that are not there, if any.
    pub fn deploy(&mut self, mut order: DeployOrder) -> Result<(), Vec<u16>> {
        let shares = order.shares();
        let missing: Vec<u16> =
            shares.keys().filter(|w| !self.members.contains_key(w)).copied().collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        let peers = shares.keys().filter_map(|w| self.members.get(w));
        order.peers = peers.map(|member| member.peer.clone()).collect();
        self.current = Some(Current {
            attempt: order.attempt,
            placement: order.placement.clone(),
            processes: order.peers.iter().map(|p| (p.ordinal, p.process.clone())).collect(),
            ready: BTreeSet::new(),
            ended: BTreeSet::new(),
            busy: shares.keys().copied().collect(),
            cancelled: false,
        });
        for worker in shares.keys() {
            if let Some(member) = self.members.get(worker) {
                member.link.send(Order::Deploy(Box::new(order.clone())));
            }
        }
        Ok(())
    }

    /// Tells the workers of an attempt.
    pub fn tell(&self, attempt: Attempt, order: &Order) {
        let Some(current) = self.current.as_ref().filter(|c| c.attempt == attempt) else { return };
        for (ordinal, process) in &current.processes {
            let member = self.members.get(ordinal).filter(|m| m.peer.process == *process);
            if let Some(member) = member {
                member.link.send(order.clone());
            }
        }
    }

    /// Stops an attempt. Whether there is nobody to wait for.
    pub fn cancel(&mut self, attempt: Attempt) -> bool {
        self.tell(attempt, &Order::Cancel { attempt });
        let Some(current) = self.current.as_mut().filter(|c| c.attempt == attempt) else {
            return true;
        };
        current.cancelled = true;
        let members = &self.members;
        let processes = &current.processes;
        current.busy.retain(|ordinal| {
            members.get(ordinal).is_some_and(|m| Some(&m.peer.process) == processes.get(ordinal))
        });
        current.busy.is_empty()
    }

    /// A process is gone: its slots count as joined, for attempts are fenced. The attempt
    /// whose last slots these were, if it is being stopped.
    pub fn gone(&mut self, ordinal: u16, process: &str) -> Option<Attempt> {
        let current = self.current.as_mut()?;
        if current.processes.get(&ordinal).is_none_or(|p| p != process) {
            return None;
        }
        let was_busy = current.busy.remove(&ordinal);
        (was_busy && current.cancelled && current.busy.is_empty()).then_some(current.attempt)
    }

    /// Whether a process runs slots of the attempt.
    pub fn runs(&self, ordinal: u16, process: &str) -> Option<Attempt> {
        let current = self.current.as_ref()?;
        let runs = current.processes.get(&ordinal).is_some_and(|p| p == process);
        (runs && !current.cancelled).then_some(current.attempt)
    }

    /// The attempt deployed last, and who runs its slots.
    pub fn placement(&self) -> Option<(Attempt, &[u16])> {
        self.current.as_ref().map(|c| (c.attempt, c.placement.as_slice()))
    }

    /// A worker has said something that is no acknowledgement.
    pub fn hear(&mut self, ordinal: u16, word: Word) -> Heard {
        if let Word::Counters { attempt, counters } = word {
            self.counters.insert(ordinal, (attempt, counters));
            return Heard::Nothing;
        }
        let attempt = word.attempt();
        let Some(current) = self.current.as_mut().filter(|c| c.attempt == attempt) else {
            return Heard::Nothing;
        };
        let all = current.placement.len();
        match word {
            Word::Ready { slot, .. }
                if current.ready.insert(slot) && current.ready.len() == all =>
            {
                Heard::Deployed(attempt)
            }
            Word::Ended { slot, .. }
                if current.ended.insert(slot) && current.ended.len() == all =>
            {
                Heard::InputEnded(attempt)
            }
            Word::Joined { .. } => {
                let was_busy = current.busy.remove(&ordinal);
                if was_busy && current.cancelled && current.busy.is_empty() {
                    Heard::Joined(attempt)
                } else {
                    Heard::Nothing
                }
            }
            Word::RequestCheckpoint { .. } => Heard::CheckpointWanted,
            Word::Failed { failure, .. } => Heard::Failed(attempt, failure),
            Word::Refused { why, .. } => Heard::Refused(attempt, why),
            _ => Heard::Nothing,
        }
    }

    /// The newest counters of the attempt's subtasks.
    pub fn counters(&self) -> Vec<Counters> {
        let Some(current) = &self.current else { return Vec::new() };
        let mut all = Vec::new();
        for (ordinal, member) in &self.members {
            let counters = match &member.watch {
                Some(watch) => watch.counters(),
                None => self.counters.get(ordinal).cloned(),
            };
            all.extend(counters.filter(|(at, _)| *at == current.attempt).map(|(_, c)| c));
        }
        all.into_iter().flatten().collect()
    }
}
