//! Scripts: what the newest checkpoint names is damaged. The job goes back by itself only if
//! nothing was committed since.

use super::model::config;
use super::scripts::{Job, Place, payloads, place};
use crate::coordinator::*;
use crate::store::ObjectStore;
use millrace_protocol::head::Phase;
use millrace_protocol::ids::{Attempt, CheckpointId};
use millrace_protocol::objects::ObjectKey;

const RETAINED: u32 = 3;

fn keeping(process: u32) -> Config {
    let mut config = config(process, 0);
    config.checkpoints.retained = RETAINED;
    config
}

/// A job whose checkpoints prepared this; all of it is committed.
fn taken(place: &Place, prepared: &[&str]) -> Job {
    let mut job = place.running(keeping(1));
    for ready in prepared {
        job.later(1);
        let checkpoint = job.barrier().0;
        job.acknowledge(checkpoint, ready);
        job.commit();
    }
    job
}

fn manifest(checkpoint: u64) -> ObjectKey {
    ObjectKey::parse(&format!("job/data/1/m-{checkpoint}")).unwrap()
}

fn damage(place: &Place, checkpoint: u64) {
    let key = manifest(checkpoint);
    let mut bytes = place.store.get(&key).unwrap().unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    place.store.put(&key, &bytes).unwrap();
}

/// The next process, when what it found damaged was read again.
fn next(place: &Place) -> Job {
    let mut job = place.job(keeping(2));
    job.later(1);
    job
}

fn latest(job: &Job) -> u64 {
    job.head().latest.as_ref().unwrap().checkpoint.0
}

fn retained(job: &Job) -> Vec<u64> {
    job.head().retained.iter().map(|at| at.checkpoint.0).collect()
}

fn base(job: &mut Job) -> u64 {
    job.recover().unwrap().manifest.checkpoint.0
}

fn refused(place: &Place, damaged: u64) {
    let why = place.job(keeping(2)).refusal();
    assert!(why.contains(manifest(damaged).as_str()) && why.contains("damaged"), "{why}");
}

#[test]
fn it_goes_back_over_checkpoints_that_had_nothing_to_commit() {
    let place = place();
    drop(taken(&place, &["a", "", ""]));
    damage(&place, 3);
    let mut job = next(&place);
    assert_eq!((latest(&job), retained(&job)), (2, vec![1]));
    assert_eq!(base(&mut job), 2);
    // Numbers of checkpoints are not used twice.
    job.later(1);
    assert_eq!(job.barrier(), (CheckpointId(4), Some(CheckpointId(2)), BarrierKind::Periodic));
    drop(job);

    place.store.delete(&manifest(2)).unwrap();
    let mut job = next(&place);
    assert_eq!((latest(&job), retained(&job)), (1, vec![]));
    // What that one lists is committed again, which is no harm.
    assert_eq!(job.commit(), payloads(&["a"]));
    assert_eq!(base(&mut job), 1);
}

#[test]
fn several_that_are_damaged_are_passed_over() {
    let place = place();
    drop(taken(&place, &["", "", ""]));
    damage(&place, 3);
    place.store.delete(&manifest(2)).unwrap();
    assert_eq!(base(&mut next(&place)), 1);
}

#[test]
fn where_something_was_committed_the_user_has_to_say_so() {
    for prepared in [["", "", "c"], ["", "b", "c"]] {
        let place = place();
        drop(taken(&place, &prepared));
        damage(&place, 3);
        refused(&place, 3);
    }
    // The one behind the newest is damaged too, and that one had output.
    let place = place();
    drop(taken(&place, &["", "b", ""]));
    damage(&place, 3);
    damage(&place, 2);
    refused(&place, 3);
}

#[test]
fn what_a_stop_has_committed_counts_although_nothing_is_pending() {
    let place = place();
    let mut job = taken(&place, &["a", ""]);
    job.tell(Event::RequestStop { mode: StopMode::Suspend });
    let checkpoint = job.barrier().0;
    job.acknowledge(checkpoint, "c");
    assert_eq!(job.commit(), payloads(&["c"]));
    assert_eq!(job.outcome(), Some(Outcome::Suspended));
    assert_eq!(job.head().latest.as_ref().unwrap().pending, 0);
    drop(job);
    damage(&place, 3);
    refused(&place, 3);
}

/// A newer program can read it: that is no damage.
#[test]
fn a_newer_format_is_no_reason_to_go_back() {
    let place = place();
    drop(taken(&place, &["", ""]));
    let mut bytes = place.store.get(&manifest(2)).unwrap().unwrap();
    bytes[8] = 9;
    place.store.put(&manifest(2), &bytes).unwrap();
    assert!(place.job(keeping(2)).refusal().contains("format 9"));
}

/// What is kept, but is not what the newest followed, is no way back.
#[test]
fn it_does_not_go_back_to_what_the_user_has_left() {
    let place = place();
    drop(taken(&place, &["", ""]));
    let mut empty = place.job(Config { from: RestoreChoice::None, ..keeping(2) });
    assert!(empty.recover().is_none());
    empty.later(1);
    let checkpoint = empty.barrier().0;
    empty.acknowledge(checkpoint, "");
    assert_eq!((latest(&empty), retained(&empty)), (3, vec![2, 1]));
    drop(empty);
    let key = ObjectKey::parse("job/data/2/m-3").unwrap();
    place.store.delete(&key).unwrap();
    let why = place.job(keeping(3)).refusal();
    assert!(why.contains(key.as_str()) && why.contains("missing"), "{why}");
}

#[test]
fn the_claim_itself_says_where_it_went() {
    let place = place();
    drop(taken(&place, &["a", ""]));
    damage(&place, 2);
    // It dies as soon as the claim is won.
    let job = next(&place);
    assert_eq!((job.attempt(), job.head().phase), (Attempt(2), Phase::Running));
    drop(job);
    assert_eq!(base(&mut place.job(keeping(3))), 1);
}

fn tell_damage(job: &mut Job) {
    let attempt = job.attempt();
    let failure = Failure::of_job("job/data/1/s0-c2-0 is damaged: put it back".into());
    job.tell(Event::BaseDamaged { attempt, failure });
}

#[test]
fn damage_that_shows_when_state_is_loaded_is_answered_the_same_way() {
    let place = place();
    drop(taken(&place, &["a", ""]));
    let mut job = place.job(keeping(2));
    assert_eq!(base(&mut job), 2);
    tell_damage(&mut job);
    job.joined();
    assert_eq!((job.attempt(), latest(&job), retained(&job)), (Attempt(3), 1, vec![]));
    assert_eq!(base(&mut job), 1);
    assert_eq!(job.head().restart.total, 1, "only the death of the first process counts");
    // What the other named is of no use any more.
    assert_eq!(job.data(), ["job/data/1/m-1", "job/data/1/s0-c1-0", "job/data/1/s1-c1-0"]);

    // Before that one there is nothing.
    tell_damage(&mut job);
    job.joined();
    match job.outcome() {
        Some(Outcome::Failed(why)) => assert!(why.contains("is damaged"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(job.head().latest.as_ref().unwrap().checkpoint, CheckpointId(1));
}

#[test]
fn damage_that_shows_when_state_is_loaded_fails_the_job_where_output_would_come_twice() {
    let place = place();
    drop(taken(&place, &["a", "b"]));
    let mut job = place.job(keeping(2));
    assert_eq!(base(&mut job), 2);
    tell_damage(&mut job);
    job.joined();
    assert!(matches!(job.outcome(), Some(Outcome::Failed(_))));
    assert_eq!((latest(&job), retained(&job)), (2, vec![1]));
    assert!(place.store.get(&manifest(2)).unwrap().is_some());
}
