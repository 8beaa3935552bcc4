//! Scripts of failures: what is tried again, how often, and what is not.

use super::model::config;
use super::scripts::{payloads, place};
use crate::coordinator::effect::FilesIn;
use crate::coordinator::*;
use millrace_protocol::head::{ConfigRef, Owner, Phase, RestartBudget};
use millrace_protocol::ids::{Attempt, CheckpointId};
use std::time::Duration;

#[test]
fn a_failure_restarts_the_job_from_the_latest_checkpoint() {
    let place = place();
    let mut job = place.running(config(1, 0));
    job.later(1);
    let first = job.barrier().0;
    job.acknowledge(first, "a");
    job.commit();
    job.later(1);
    job.barrier();
    job.fail();
    assert!(job.take(|e| matches!(e, Effect::Deploy { .. }).then_some(())).is_none());
    job.joined();
    job.later(1);
    assert_eq!(job.head().attempt, Attempt(2));
    assert_eq!(job.commit(), payloads(&["a"]));
    let base = job.recover().unwrap();
    assert_eq!((base.manifest.checkpoint, base.files), (first, FilesIn::Home));
    job.later(1);
    assert_eq!(job.barrier().0, CheckpointId(3));
}

#[test]
fn failures_are_counted_over_coordinators_and_for_one_program() {
    let place = place();
    let mut job = place.running(config(1, 0));
    assert_eq!(job.coordinator.status().restarts, 0);
    job.fail();
    job.joined();
    job.later(1);
    assert_eq!(job.head().restart, RestartBudget { used: 1, total: 1 });
    drop(job);
    // Its process died: that is one more, and of the policy's patience nothing comes back.
    let mut job = place.running(config(2, 0));
    assert_eq!(job.head().restart, RestartBudget { used: 1, total: 2 });
    assert_eq!(job.coordinator.status().restarts, 2);
    job.fail();
    job.joined();
    job.later(3);
    assert_eq!(job.head().restart, RestartBudget { used: 2, total: 3 });
    job.recover();
    // One that was stopped and is started again has not failed.
    job.tell(Event::RequestStop { mode: StopMode::Suspend });
    let checkpoint = job.barrier().0;
    job.acknowledge(checkpoint, "a");
    job.commit();
    assert_eq!(job.outcome(), Some(Outcome::Suspended));
    let job = place.running(config(3, 0));
    assert_eq!(job.head().restart, RestartBudget { used: 0, total: 3 });
    drop(job);
    let mut other = config(4, 0);
    other.config.program = "other".into();
    let job = place.running(other);
    assert_eq!(job.head().restart, RestartBudget::default());
    assert_eq!(job.coordinator.status().restarts, 0);
}

/// A job of several processes, whose coordinator is started again by others.
fn led_by(process: u32, restart: RestartPolicy) -> Config {
    let mut config = config(process, 0);
    config.config = ConfigRef { generation: 1, hash: "h".into(), program: String::new() };
    // A container that is started again has the same place and process id.
    config.owner = Owner::default();
    Config { restart, workers: 1, ..config }
}

#[test]
fn what_kills_the_coordinator_again_and_again_meets_the_restart_policy() {
    let place = place();
    let fixed = |n| RestartPolicy::FixedDelay { attempts: n, delay: Duration::from_secs(1) };
    place.running(led_by(1, fixed(2)));
    for used in 1..=2 {
        let job = place.running(led_by(1 + used, fixed(2)));
        assert_eq!(job.head().restart, RestartBudget { used, total: u64::from(used) });
    }
    let mut job = place.job(led_by(4, fixed(2)));
    let Some(Outcome::Failed(why)) = job.outcome() else { panic!("it goes on") };
    assert!(why.contains("before attempt 3 completed a checkpoint"), "{why}");
    assert_eq!((job.head().phase, job.head().cause.clone()), (Phase::Failed, Some(why)));

    // One that has come further is not to blame: its pod was evicted, or its machine lost.
    let place = self::place();
    let mut job = place.running(led_by(1, RestartPolicy::None));
    job.later(1);
    let first = job.barrier().0;
    job.acknowledge(first, "");
    drop(job);
    let job = place.running(led_by(2, RestartPolicy::None));
    assert_eq!(job.head().restart, RestartBudget { used: 0, total: 1 });
    drop(job);
    // An edit wants the job to run.
    let mut edited = led_by(3, RestartPolicy::None);
    edited.config.generation = 2;
    drop(place.running(edited.clone()));
    edited.owner.process = 4;
    edited.seed.1 = 4;
    assert!(matches!(place.job(edited).outcome(), Some(Outcome::Failed(_))));
    // And so does who starts it by hand.
    let by_hand = |process| Config { restart: RestartPolicy::None, ..config(process, 0) };
    let place = self::place();
    drop(place.running(by_hand(1)));
    drop(place.running(by_hand(2)));
}

#[test]
fn what_only_the_user_can_mend_is_not_tried_again() {
    let place = place();
    let mut job = place.running(Config { stays: true, ..config(1, 0) });
    let attempt = job.attempt();
    let cause = "cannot write to output directory `/out`".to_owned();
    let failure = Failure { operator: None, subtask: None, cause: cause.clone() };
    job.tell(Event::TaskRefused { attempt, failure: failure.clone() });
    // Others fail with it.
    job.tell(Event::TaskFailed { attempt, failure });
    job.joined();
    assert_eq!((job.head().phase, job.head().cause.clone()), (Phase::Failed, Some(cause.clone())));
    let status = job.coordinator.status();
    assert_eq!((status.state, status.restarts), (JobState::Failed, 0));
    assert!(status.message.contains(&cause), "{}", status.message);
    assert_eq!(place.running(config(2, 0)).head().phase, Phase::Running);
}

/// Output that cannot be committed, or leftovers that cannot be removed.
#[test]
fn what_only_the_user_can_mend_outside_is_not_tried_again_either() {
    let place = place();
    let mut job = place.running(config(1, 0));
    job.later(1);
    let checkpoint = job.barrier().0;
    job.acknowledge(checkpoint, "a");
    drop(job);
    let fails = |hindrance: Hindrance, commits: bool| {
        let mut job = place.job(config(2, 0));
        let batch =
            job.take(|e| if let Effect::Commit(b, i) = e { Some((*b, i.clone())) } else { None });
        let (batch, items) = batch.unwrap();
        let outcome = match commits {
            true => CommitOutcome::Failed(hindrance.clone()),
            false => CommitOutcome::Done,
        };
        let outcomes = items.iter().map(|item| (item.id, outcome.clone())).collect();
        job.tell(Event::CommitEnded { batch, outcomes });
        if !commits {
            let attempt = job.attempt();
            job.tell(Event::OthersAborted { attempt, result: Err(hindrance) });
        }
        (job.outcome(), job.head().phase, job.head().cause.clone().unwrap_or_default())
    };
    for commits in [true, false] {
        let full = Hindrance::Passing("no space left".to_owned());
        assert_eq!(fails(full, commits).1, Phase::Running);
        let moved = Hindrance::Users("/old cannot be written".to_owned());
        let (outcome, phase, cause) = fails(moved, commits);
        assert!(matches!(outcome, Some(Outcome::Failed(_))), "{outcome:?}");
        assert!(phase == Phase::Failed && cause.contains("/old cannot be written"), "{cause}");
    }
}

#[test]
fn giving_up_is_recorded_and_may_be_resumed() {
    let place = place();
    let none = Config { restart: RestartPolicy::None, ..config(1, 0) };
    let mut job = place.running(none);
    job.fail();
    let cause = "operator \"map\", subtask 1: boom".to_owned();
    assert_eq!(job.outcome(), Some(Outcome::Failed(cause.clone())));
    assert_eq!((job.head().phase, job.head().cause.clone()), (Phase::Failed, Some(cause)));
    let mut next = place.running(config(2, 0));
    assert_eq!((next.head().phase, next.head().cause.clone()), (Phase::Running, None));
    assert_eq!(next.outcome(), None);
}

#[test]
fn a_full_disk_ends_a_job_that_gave_up() {
    use crate::store::{Certainty, Fault, StoreError};
    let place = place();
    let mut job = place.running(Config { restart: RestartPolicy::None, ..config(1, 0) });
    let attempt = job.attempt();
    let failure = Failure { operator: None, subtask: None, cause: "boom".into() };
    let mut effects = job.coordinator.step(Event::TaskFailed { attempt, failure }, job.now);
    effects.extend(job.coordinator.step(Event::SlotsJoined { attempt }, job.now));
    let full = StoreError {
        action: "write",
        object: "/storage/x".into(),
        certainty: Certainty::Failed,
        fault: Fault::Full,
        reason: "no space left".into(),
    };
    for _ in 0..100 {
        let Some(effect) = effects.pop() else {
            job.now += Duration::from_secs(10);
            effects = job.coordinator.step(Event::Tick, job.now);
            continue;
        };
        match effect {
            Effect::Store(ticket, _) => {
                let answer = StoreAnswer::Error(full.clone());
                let event = Event::StoreAnswered { ticket, answer };
                effects.extend(job.coordinator.step(event, job.now));
            }
            Effect::Ended(Outcome::Failed(why)) => {
                assert!(why.contains("boom") && why.contains("/storage/x"), "{why}");
                return;
            }
            _ => {}
        }
    }
    panic!("it never ends");
}
