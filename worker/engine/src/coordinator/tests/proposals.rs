//! Scripts: what the job is proposed to be, and when it becomes that.

use super::scripts::{Job, place};
use super::workers::{cluster, proposed};
use crate::coordinator::effect::BarrierKind;
use crate::coordinator::*;
use crate::store::ObjectStore;
use millrace_protocol::head::{ConfigRef, Ending, Phase};
use millrace_protocol::ids::Attempt;
use std::time::Duration;

fn is_pending(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Pending(_))
}

/// A stop checkpoint of so many slots, and the tasks' end.
fn rescale(job: &mut Job, slots: u16) -> u64 {
    let checkpoint = job.acknowledge_all(slots);
    job.joined();
    checkpoint
}

#[test]
fn live_edits_are_recorded_and_count_without_a_restart() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    let mut edit = proposed(2, 2, 1);
    edit.checkpoints.interval = Some(Duration::from_secs(5));
    assert!(is_pending(&job.propose(&edit)));
    assert_eq!(job.propose(&edit), Verdict::Accepted);
    assert_eq!((job.head().config.generation, job.attempt()), (2, Attempt(1)));
    let key = millrace_protocol::objects::ObjectKey::parse("job/config/h2").unwrap();
    assert_eq!(job.store.get(&key).unwrap().unwrap(), edit.body.to_vec());
    job.later(5);
    assert_eq!(job.barrier().2, BarrierKind::Periodic);
    // One that is lower is late, unless it overrides.
    let mut old = proposed(1, 2, 1);
    assert_eq!(job.propose(&old), Verdict::Stale(2));
    old.overrides = true;
    job.propose(&old);
    assert_eq!(job.propose(&old), Verdict::Accepted);
    assert_eq!(job.head().config.generation, 1);
    let mut wrong = proposed(3, 2, 0);
    assert!(matches!(job.propose(&wrong), Verdict::Invalid(why) if why.contains("at least 1")));
    wrong.config.program = "other".into();
    assert!(matches!(job.propose(&wrong), Verdict::Invalid(why) if why.contains("program")));
}

#[test]
fn a_rescale_goes_through_a_stop_checkpoint_up_and_down() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0, 1], "p");
    assert_eq!(job.run_placed().1, [0, 0]);
    assert!(is_pending(&job.propose(&proposed(2, 4, 2))));
    let (checkpoint, _, kind) = job.barrier();
    assert_eq!(kind, BarrierKind::Rescale);
    (0..2).for_each(|slot| job.slot(checkpoint, slot, "", ""));
    assert_eq!(job.head().config.generation, 1);
    job.joined();
    assert_eq!(job.head().config.generation, 2);
    assert_eq!(job.run_placed(), (Some(1), vec![0, 1, 0, 1]));
    assert_eq!(job.propose(&proposed(2, 4, 2)), Verdict::Accepted);
    job.propose(&proposed(3, 1, 1));
    assert_eq!(rescale(&mut job, 4), 2);
    assert_eq!(job.run_placed(), (Some(2), vec![0]));
    assert_eq!(job.coordinator.status().gap.unwrap().cause, "Rescale");
}

#[test]
fn a_rescale_without_slots_waits_while_the_job_runs_on() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    let up = proposed(2, 4, 2);
    job.propose(&up);
    let said = job.propose(&up);
    assert!(matches!(&said, Verdict::Pending(why) if why.contains("2 of 4 slots")), "{said:?}");
    job.later(100);
    assert_eq!(job.state(), JobState::Running);
    // A failure meanwhile restarts what there are slots for.
    job.fail();
    job.joined();
    job.later(1);
    assert_eq!(job.run_placed().1, [0, 0]);
    assert_eq!(job.head().config.generation, 1);
    // Back to what it was: nothing but the number changes.
    job.propose(&proposed(3, 2, 1));
    assert_eq!(job.propose(&proposed(3, 2, 1)), Verdict::Accepted);
    job.join(&[1], "p");
    assert_eq!((job.state(), job.attempt()), (JobState::Running, Attempt(2)));
}

#[test]
fn a_rescale_taken_back_in_mid_flight_goes_on_as_it_was() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0, 1], "p");
    job.run_placed();
    job.propose(&proposed(2, 4, 2));
    let checkpoint = job.barrier().0;
    job.propose(&proposed(3, 2, 1));
    assert_eq!(job.propose(&proposed(3, 2, 1)), Verdict::Accepted);
    (0..2).for_each(|slot| job.slot(checkpoint, slot, "", ""));
    job.joined();
    assert_eq!(job.run_placed(), (Some(1), vec![0, 0]));
    assert_eq!(job.head().config.generation, 3);
}

#[test]
fn an_attempt_that_fails_on_its_way_is_followed_by_the_newest_proposal() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0, 1], "p");
    job.run_placed();
    job.propose(&proposed(2, 4, 2));
    job.barrier();
    job.fail();
    job.propose(&proposed(3, 3, 2));
    job.joined();
    job.later(1);
    assert_eq!(job.run_placed(), (None, vec![0, 1, 0]));
    assert_eq!(job.head().config.generation, 3);
}

#[test]
fn suspend_and_resume() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    let suspend = Proposal { desired: Desired::Suspended, ..proposed(2, 2, 1) };
    job.propose(&suspend);
    assert_eq!(job.barrier().2, BarrierKind::Stop(StopMode::Suspend));
    let first = millrace_protocol::ids::CheckpointId(1);
    job.slot(first, 0, "a", "");
    job.slot(first, 1, "", "");
    assert_eq!(job.head().phase, Phase::Stopping(Ending::Suspended));
    // A savepoint that is asked for while it closes is made of the last checkpoint.
    job.tell(Event::RequestSavepoint { id: "s".into(), target: "t".into() });
    job.commit();
    let exported = |e: &Effect| match e {
        Effect::ExportSavepoint { manifest, .. } => Some(manifest.checkpoint),
        _ => None,
    };
    assert_eq!(job.take(exported), Some(first));
    job.exported("s");
    job.joined();
    assert_eq!((job.state(), job.head().phase), (JobState::Suspended, Phase::Suspended));
    let status = job.coordinator.status();
    assert_eq!(status.savepoints["s"].state, SavepointState::Complete("t/s".into()));
    // Another process finds the end, with an older configuration, and stays idle.
    let mut next = place.alone(cluster(2, 1, 2, 1));
    let asked = next.take(|e| match e {
        Effect::ReadConfig { config, body } => Some((config.clone(), body.clone())),
        _ => None,
    });
    let (config, body) = asked.unwrap();
    assert_eq!((config.generation, &body), (2, &suspend.body));
    next.tell(Event::ConfigRead { config, result: Ok(Box::new(suspend.clone())) });
    assert_eq!(next.state(), JobState::Suspended);
    assert_eq!(next.propose(&suspend), Verdict::Accepted);
    next.join(&[0], "p");
    next.propose(&proposed(3, 1, 1));
    assert_eq!(next.run_placed(), (Some(1), vec![0]));
    assert_eq!(next.propose(&proposed(3, 1, 1)), Verdict::Accepted);
}

#[test]
fn a_suspension_taken_back_after_its_checkpoint_is_resumed() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    job.propose(&Proposal { desired: Desired::Suspended, ..proposed(2, 2, 1) });
    let checkpoint = job.barrier().0;
    job.propose(&proposed(3, 2, 1));
    (0..2).for_each(|slot| job.slot(checkpoint, slot, "", ""));
    if job.take(|e| matches!(e, Effect::CancelTasks { .. }).then_some(())).is_some() {
        let attempt = job.attempt();
        job.tell(Event::SlotsJoined { attempt });
    }
    assert_eq!(job.run_placed().0, Some(1));
    assert_eq!(job.head().config.generation, 3);
}

#[test]
fn a_failed_job_goes_on_after_an_edit_and_a_finished_one_only_from_elsewhere() {
    let place = place();
    let mut job = place.alone(Config { restart: RestartPolicy::None, ..cluster(1, 1, 2, 1) });
    job.join(&[0], "p");
    job.run_placed();
    job.fail();
    job.joined();
    assert_eq!((job.state(), job.head().phase), (JobState::Failed, Phase::Failed));
    job.propose(&proposed(2, 2, 1));
    job.run_placed();
    let attempt = job.attempt();
    job.tell(Event::InputEnded { attempt });
    job.acknowledge_all(2);
    job.joined();
    assert_eq!(job.state(), JobState::Finished);
    job.propose(&proposed(3, 2, 1));
    assert_eq!((job.state(), job.head().config.generation), (JobState::Finished, 3));
    let empty = Proposal { restore: Some((1, None)), ..proposed(4, 2, 1) };
    job.propose(&empty);
    assert_eq!(job.run_placed().0, None);
    assert_eq!((job.head().restore_nonce, job.head().config.generation), (1, 4));
}

#[test]
fn another_restore_point_is_checked_before_the_job_stops() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    job.tell(Event::RequestCheckpoint);
    job.acknowledge_all(2);
    let from = |generation, nonce| Proposal {
        restore: Some((nonce, Some("t/s".into()))),
        ..proposed(generation, 2, 1)
    };
    job.propose(&from(2, 1));
    let path = job.take(|e| match e {
        Effect::ReadRestore { path } => Some(path.clone()),
        _ => None,
    });
    job.tell(Event::RestoreRead { path: path.unwrap(), result: Err("it is not there".into()) });
    assert_eq!(job.propose(&from(2, 1)), Verdict::Invalid("it is not there".into()));
    assert_eq!(job.state(), JobState::Running);
    // An empty start, by a newer one.
    job.propose(&Proposal { restore: Some((2, None)), ..proposed(3, 2, 1) });
    job.joined();
    assert_eq!(job.run_placed().0, None);
    assert_eq!(job.head().restore_nonce, 2);
    assert!(job.head().latest.is_none());
    // A restart does not obey it again.
    job.tell(Event::RequestCheckpoint);
    job.acknowledge_all(2);
    job.fail();
    job.joined();
    job.later(1);
    assert_eq!(job.run_placed().0, Some(2));
}

#[test]
fn savepoints_wait_for_the_next_attempt_while_one_is_stopped() {
    let place = place();
    let mut job = place.alone(cluster(1, 1, 2, 1));
    job.join(&[0], "p");
    job.run_placed();
    job.propose(&proposed(2, 1, 1));
    let checkpoint = job.barrier().0;
    job.tell(Event::RequestSavepoint { id: "s".into(), target: "t".into() });
    (0..2).for_each(|slot| job.slot(checkpoint, slot, "", ""));
    job.joined();
    job.run_placed();
    assert_eq!(job.barrier().2, BarrierKind::Savepoint);
    let status = job.coordinator.status();
    assert_eq!(status.savepoints["s"].state, SavepointState::Triggered);
}

/// A configuration for processes of another revision: what a process finds that starts late,
/// or early, while a job is upgraded.
fn outdated(process: u32, generation: u64) -> Config {
    Config { outdated: true, ..cluster(process, generation, 2, 1) }
}

fn of_program(mut config: Config, program: &str) -> Config {
    config.config.program = program.into();
    config.config.hash = format!("{}-{program}", config.config.hash);
    config
}

#[test]
fn a_process_that_finds_anothers_configuration_begins_nothing_with_it() {
    let place = place();
    let mut early = place.alone(outdated(1, 2));
    early.join(&[0], "p");
    assert!(early.coordinator.head().is_none());
    let why = early.coordinator.status().message;
    assert!(why.contains("for processes of another revision"), "{why}");
    // Its own comes: of the same generation, if the upgrade is taken back.
    early.propose(&proposed(2, 2, 1));
    early.run_placed();
    assert_eq!((early.head().config.generation, early.attempt()), (2, Attempt(1)));
}

#[test]
fn a_process_of_the_old_program_does_not_claim_with_the_new_configuration() {
    let place = place();
    let mut job = place.alone(of_program(cluster(1, 1, 2, 1), "old"));
    job.join(&[0], "p");
    job.run_placed();
    drop(job);
    // Its container restarts while the operator has written the next generation.
    let mut job = place.alone(of_program(outdated(2, 2), "old"));
    job.join(&[0], "q");
    let ConfigRef { generation, hash, program } = job.head().config.clone();
    assert_eq!((generation, hash.as_str(), program.as_str()), (1, "h1-old", "old"));
    drop(job);
    let mut job = place.alone(of_program(cluster(3, 2, 2, 1), "new"));
    job.join(&[0], "r");
    job.run_placed();
    assert_eq!((job.head().config.generation, job.head().config.program.as_str()), (2, "new"));
    drop(job);
    // And one more, late: it stays, and claims nothing.
    let version = Job { ..place.alone(of_program(outdated(4, 3), "old")) };
    let why = version.coordinator.status().message;
    assert!(why.contains("of another program"), "{why}");
    assert_eq!(version.head().config.program, "new");
}

#[test]
fn the_way_back_is_an_edit_of_the_same_generation() {
    let place = place();
    let mut job = place.alone(of_program(cluster(1, 2, 2, 1), "new"));
    job.join(&[0], "p");
    job.run_placed();
    drop(job);
    let mut job = place.alone(of_program(cluster(2, 2, 2, 1), "old"));
    job.join(&[0], "q");
    job.run_placed();
    assert_eq!((job.head().config.generation, job.head().config.program.as_str()), (2, "old"));
}
