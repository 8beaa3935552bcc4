//! How long a job stood still, as whoever goes on with it can tell.

use super::model::config;
use super::scripts::{Job, place};
use crate::coordinator::*;
use std::time::Duration;

/// A coordinator's clock in the scripts begins at 100 s; this is its wall clock.
const BEGAN: u64 = 1_000_000 + 100_000;

fn from(process: u32, epoch_ms: u64) -> Config {
    Config { epoch_ms, ..config(process, 0) }
}

fn gap(job: &Job) -> status::Gap {
    job.coordinator.status().gap.unwrap()
}

/// A checkpoint a second from now, complete half a second after its barrier.
fn checkpointed(job: &mut Job) {
    job.later(1);
    let checkpoint = job.barrier().0;
    job.now += Duration::from_millis(500);
    job.acknowledge(checkpoint, "");
    job.commit();
}

#[test]
fn a_restart_says_what_is_read_again_and_when_output_goes_on() {
    let place = place();
    let mut job = place.running(from(1, 1_000_000));
    assert_eq!(job.coordinator.status().gap, None, "the first start is no gap");
    checkpointed(&mut job);
    job.now += Duration::from_millis(400);
    job.fail();
    job.joined();
    job.later(1);
    job.recover();
    let told = gap(&job);
    assert_eq!((told.cause, told.asked_at_ms), ("Restart", BEGAN + 1_900));
    assert_eq!(told.base_at_ms, Some(BEGAN + 1_500));
    assert_eq!(told.replayed, Some(Duration::from_millis(900)), "since the barrier");
    assert_eq!(told.completed_at_ms, None);
    checkpointed(&mut job);
    // What can be gone on from: the newest first.
    let points = job.coordinator.status().restore_points;
    assert_eq!(points[0].1.as_str(), "job/data/2/m-2", "{points:?}");
    let first = gap(&job).completed_at_ms;
    assert_eq!(first, Some(BEGAN + 4_400));
    // Later ones are no news.
    checkpointed(&mut job);
    assert_eq!(gap(&job).completed_at_ms, first);
}

#[test]
fn a_new_process_tells_when_the_last_checkpoint_was_and_not_what_it_did_not_see() {
    let place = place();
    let mut job = place.running(from(1, 1_000_000));
    checkpointed(&mut job);
    // Its process is gone, and another has its place half a minute later.
    drop(job);
    let mut next = place.job(from(2, 1_030_000));
    next.later(2);
    next.recover();
    let told = gap(&next);
    assert_eq!((told.cause, told.asked_at_ms), ("Takeover", 1_030_000 + 100_000));
    assert_eq!(told.base_at_ms, Some(BEGAN + 1_500));
    assert_eq!(told.replayed, None);
    assert_eq!((told.stopped, told.placed), (Some(told.asked), told.deployed));
    assert_eq!(told.deployed, Some(told.asked + Duration::from_secs(2)));
    checkpointed(&mut next);
    assert_eq!(gap(&next).completed_at_ms, Some(1_030_000 + 103_500));
}

#[test]
fn a_job_that_was_suspended_is_resumed_and_not_taken_over() {
    let place = place();
    place.stopped(config(1, 0));
    let mut next = place.job(from(2, 5_000_000));
    next.recover();
    assert_eq!((gap(&next).cause, gap(&next).replayed), ("Resume", None));
}

#[test]
fn after_a_stop_nothing_is_read_again() {
    let place = place();
    let mut job = place.running(from(1, 1_000_000));
    checkpointed(&mut job);
    job.tell(Event::HoldStop { hold: Duration::from_secs(60) });
    let checkpoint = job.barrier().0;
    job.acknowledge(checkpoint, "");
    job.commit();
    job.joined();
    job.tell(Event::ReleaseStop);
    job.later(1);
    job.recover();
    assert_eq!((gap(&job).cause, gap(&job).replayed), ("Rescale", Some(Duration::ZERO)));
    assert_eq!(gap(&job).completed_at_ms, None, "its own is none of the next attempt");
}
