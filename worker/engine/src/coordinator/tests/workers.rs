//! Scripts: workers that are lost and join, and whose turn it is to claim.

use super::model::config;
use super::scripts::{Job, Place, payloads, place};
use crate::coordinator::effect::BarrierKind;
use crate::coordinator::*;
use millrace_protocol::head::{ConfigRef, Phase};
use millrace_protocol::ids::{Attempt, Subtask};
use std::sync::Arc;
use std::time::Duration;

pub const SILENCE: Duration = Duration::from_secs(30);

pub fn worker(ordinal: u16, process: &str) -> WorkerId {
    WorkerId { ordinal, process: process.into() }
}

/// A configuration of this generation for so many workers of two slots.
pub fn cluster(process: u32, generation: u64, parallelism: u16, workers: u16) -> Config {
    let mut config = config(process, 0);
    config.program.operators.iter_mut().for_each(|o| o.parallelism = parallelism);
    Config {
        config: ConfigRef { generation, hash: format!("h{generation}"), program: String::new() },
        body: Arc::from(generation.to_le_bytes()),
        workers,
        stays: true,
        keepalive: Some(SILENCE / 3),
        existing: Existing::Refuse,
        fresh_job: "job".into(),
        checkpoints: CheckpointPolicy { interval: None, ..config.checkpoints },
        ..config
    }
}

/// The same as a proposal.
pub fn proposed(generation: u64, parallelism: u16, workers: u16) -> Proposal {
    let config = cluster(0, generation, parallelism, workers);
    Proposal {
        config: config.config,
        body: config.body,
        program: config.program,
        workers: config.workers,
        desired: config.desired,
        checkpoints: config.checkpoints,
        restart: config.restart,
        restore: None,
        overrides: false,
    }
}

impl Place {
    /// A coordinator without a worker.
    pub fn alone(&self, config: Config) -> Job {
        let (store, now) = (self.store(), Duration::from_secs(100));
        let mut job = Job { coordinator: Coordinator::new(config), store, now, effects: vec![] };
        job.tell(Event::Start);
        job
    }
}

impl Job {
    pub fn join(&mut self, ordinals: &[u16], process: &str) {
        for ordinal in ordinals {
            let worker = worker(*ordinal, process);
            self.tell(Event::WorkerJoined { worker, slots: 2 });
        }
    }

    pub fn lose(&mut self, ordinal: u16, process: &str) {
        let worker = worker(ordinal, process);
        self.tell(Event::WorkerLost { worker, cause: "no heartbeat".into() });
    }

    pub fn propose(&mut self, proposal: &Proposal) -> Verdict {
        self.tell(Event::Propose { proposal: Box::new(proposal.clone()) });
        let answer = |e: &Effect| match e {
            Effect::ProposalAnswered { verdict, .. } => Some(verdict.clone()),
            _ => None,
        };
        self.take(answer).expect("an answer")
    }

    /// The deployment that is asked for: attempt, base's checkpoint, ordinals by slot.
    pub fn deployment(&mut self) -> Option<(Attempt, Option<u64>, Vec<u16>)> {
        self.take(|e| match e {
            Effect::Deploy { attempt, base, placement, .. } => {
                let base = base.as_ref().map(|base| base.manifest.checkpoint.0);
                Some((*attempt, base, placement.iter().map(|worker| worker.ordinal).collect()))
            }
            _ => None,
        })
    }

    /// Commits and aborts what there is before a deployment.
    pub fn clear(&mut self) {
        self.commit();
        let attempt = self.attempt();
        if self.take(|e| matches!(e, Effect::AbortOthers { .. }).then_some(())).is_some() {
            self.tell(Event::OthersAborted { attempt, result: Ok(()) });
        }
    }

    /// Through recovery to running; answers base and placement.
    pub fn run_placed(&mut self) -> (Option<u64>, Vec<u16>) {
        self.clear();
        let (attempt, base, placement) = self.deployment().expect("a deployment");
        self.tell(Event::TasksDeployed { attempt });
        assert_eq!(self.state(), JobState::Running);
        (base, placement)
    }

    pub fn state(&self) -> JobState {
        self.coordinator.status().state
    }

    /// All slots of the attempt acknowledge.
    pub fn acknowledge_all(&mut self, slots: u16) -> u64 {
        let checkpoint = self.barrier().0;
        (0..slots).for_each(|slot| self.slot(checkpoint, slot, "", ""));
        checkpoint.0
    }
}

#[test]
fn a_job_waits_for_slots_and_uses_only_ordinals_below_the_cut() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 4, 2));
    job.join(&[0], "p");
    job.clear();
    assert_eq!(job.state(), JobState::WaitingForWorkers { there: 2, needed: 4 });
    job.join(&[7], "p");
    assert_eq!(job.state(), JobState::WaitingForWorkers { there: 2, needed: 4 });
    job.later(1000);
    assert_eq!((job.deployment(), job.head().restart.used), (None, 0));
    job.join(&[1], "p");
    assert_eq!(job.run_placed(), (None, vec![0, 1, 0, 1]));
    let status = job.coordinator.status();
    let in_use = |at: usize| status.workers[at].in_use.iter().map(|s| s.0).collect::<Vec<_>>();
    assert_eq!((in_use(0), in_use(1), in_use(2)), (vec![0, 2], vec![1, 3], vec![]));
    assert_eq!((status.running, status.parallelism), (Some(1), Some(4)));
}

#[test]
fn a_lost_worker_fails_the_attempt_and_a_spare_takes_its_place() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 4, 3));
    job.join(&[0, 1], "p");
    assert_eq!(job.run_placed().1, [0, 1, 0, 1]);
    job.tell(Event::RequestCheckpoint);
    assert_eq!(job.acknowledge_all(4), 1);
    // One that is of no use, and one that joins, change nothing.
    job.join(&[2], "p");
    job.lose(2, "p");
    job.lose(1, "an older one");
    assert_eq!(job.state(), JobState::Running);
    job.join(&[2], "q");
    job.lose(1, "p");
    assert_eq!(job.state(), JobState::Restarting);
    // The claim needs no worker.
    job.joined();
    job.lose(2, "q");
    job.later(1);
    assert_eq!((job.attempt(), job.deployment()), (Attempt(2), None));
    job.clear();
    assert_eq!(job.state(), JobState::WaitingForWorkers { there: 2, needed: 4 });
    job.join(&[2], "r");
    assert_eq!(job.run_placed(), (Some(1), vec![0, 2, 0, 2]));
    let gap = job.coordinator.status().gap.unwrap();
    assert_eq!(gap.cause, "Restart");
    assert!(gap.stopped.is_some() && gap.placed.is_some() && gap.deployed.is_some());
    // A process that is started again is another.
    job.join(&[0], "again");
    assert_eq!(job.state(), JobState::Restarting);
}

#[test]
fn a_worker_lost_while_deploying_fails_the_attempt() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 2));
    job.join(&[0, 1], "p");
    job.clear();
    let attempt = job.deployment().unwrap().0;
    job.lose(0, "p");
    job.tell(Event::TasksDeployed { attempt });
    job.joined();
    job.later(1);
    job.join(&[0], "q");
    assert_eq!(job.run_placed().1, [0, 1]);
    assert_eq!(job.attempt(), Attempt(2));
}

#[test]
fn who_is_fenced_parks_names_the_winner_and_claims_when_that_falls_silent() {
    let place = place();
    let mut old = place.alone(cluster(1, 1, 2, 1));
    old.join(&[0], "p");
    old.run_placed();
    let mut new = place.alone(cluster(2, 1, 2, 1));
    new.join(&[0], "p");
    new.run_placed();
    old.later(10);
    old.joined();
    let owner = match old.state() {
        JobState::Parked(Some(owner)) => owner.process,
        other => panic!("{other:?}"),
    };
    assert_eq!(owner, 2);
    // As long as the owner shows that it lives, nothing happens.
    for _ in 0..20 {
        new.later(10);
        old.later(10);
    }
    assert_eq!((new.head().attempt, new.state()), (Attempt(2), JobState::Running));
    assert!(matches!(old.state(), JobState::Parked(_)));
    for _ in 0..20 {
        old.later(5);
    }
    assert_eq!(old.run_placed().1, [0, 0]);
    assert_eq!(old.attempt(), Attempt(3));
}

#[test]
fn a_start_without_confirmation_waits_for_silence() {
    let place = place();
    let mut owner = place.alone(cluster(1, 1, 2, 1));
    owner.join(&[0], "p");
    owner.run_placed();
    let late = Config { claim: ClaimRule::AfterSilence(SILENCE), ..cluster(2, 1, 2, 1) };
    let mut late = place.alone(late);
    late.join(&[0], "p");
    late.later(29);
    assert!(matches!(late.state(), JobState::Parked(Some(owner)) if owner.process == 1));
    late.later(5);
    late.later(5);
    assert_eq!(late.run_placed().1, [0, 0]);
}

#[test]
fn a_hold_stops_with_a_checkpoint_and_ends_by_itself_or_when_released() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    let hold = || Event::HoldStop { hold: Duration::from_secs(60) };
    job.tell(hold());
    let (checkpoint, _, kind) = job.barrier();
    assert_eq!(kind, BarrierKind::Rescale);
    job.slot(checkpoint, 0, "a", "");
    job.slot(checkpoint, 1, "", "");
    job.joined();
    assert!(!job.coordinator.status().held, "its output is not committed yet");
    assert_eq!(job.commit(), payloads(&["a"]));
    assert!(job.coordinator.status().held);
    assert_eq!(job.head().phase, Phase::Running);
    job.later(50);
    job.tell(hold());
    job.later(50);
    assert!(job.coordinator.status().held);
    job.later(11);
    assert_eq!(job.run_placed().0, Some(1));
    // Again, and released before the stop checkpoint is complete: the sources have
    // closed, so another attempt goes on from it.
    job.tell(hold());
    let checkpoint = job.barrier().0;
    job.tell(Event::ReleaseStop);
    job.slot(checkpoint, 0, "", "");
    let (attempt, slot) = (job.attempt(), millrace_protocol::ids::Slot(1));
    let reason = "disk full".to_owned();
    job.tell(Event::Declined { attempt, checkpoint, slot, reason, prepared: Vec::new() });
    assert_eq!(job.acknowledge_all(2), 3);
    job.joined();
    assert_eq!(job.run_placed().0, Some(3));
}

#[test]
fn an_attempt_that_fails_while_it_is_stopped_is_held_too() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    job.tell(Event::HoldStop { hold: Duration::from_secs(60) });
    job.barrier();
    let failure = Failure { operator: None, subtask: Some(Subtask(0)), cause: "boom".into() };
    let attempt = job.attempt();
    job.tell(Event::TaskFailed { attempt, failure });
    job.joined();
    assert!(job.coordinator.status().held);
    job.tell(Event::ReleaseStop);
    assert_eq!(job.run_placed().0, None);
}
