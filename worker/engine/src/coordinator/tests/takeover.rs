//! Scripts: another job's home.

use super::scripts::{Job, Place, payloads, place};
use super::workers::{cluster, proposed};
use crate::coordinator::*;
use crate::store::ObjectStore;
use millrace_protocol::head::{HeadRecord, Phase};
use millrace_protocol::objects::{ObjectKey, Prefix};

fn named(job: &str, existing: Existing) -> Config {
    Config { fresh_job: job.into(), existing, cluster: "east".into(), ..cluster(9, 1, 2, 1) }
}

/// A job that crashes with output that is not committed.
fn crashed(place: &Place) -> Job {
    let mut job = place.alone(named("job", Existing::Refuse));
    job.join(&[0], "p");
    job.run_placed();
    job.tell(Event::RequestCheckpoint);
    let checkpoint = job.barrier().0;
    job.acknowledge(checkpoint, "a");
    assert_eq!(job.head().latest.as_ref().unwrap().pending, 1);
    job
}

fn heads(place: &Place, job: &str) -> Vec<HeadRecord> {
    let keys = place.store().list(&Prefix::all()).unwrap();
    let mut keys: Vec<ObjectKey> = keys;
    keys.retain(|key| key.as_str().starts_with(&format!("{job}/head/")));
    keys.sort();
    let get = |key: &ObjectKey| place.store().get(key).unwrap().unwrap();
    keys.iter().map(|key| HeadRecord::decode(key.as_str(), &get(key)).unwrap()).collect()
}

#[test]
fn anothers_state_is_refused_unless_it_is_said_what_to_do_with_it() {
    let place = place();
    let mut old = crashed(&place);
    let mut new = place.alone(named("other", Existing::Refuse));
    let Some(Outcome::EarlierState(why)) = new.outcome() else { panic!("not refused") };
    assert!(why.contains("(job in cluster east)") && why.contains("onExistingState"), "{why}");
    assert!(why.contains("its newest checkpoint of 1970-01-01T0"), "{why}");
    // Its owner is not disturbed.
    old.later(60);
    assert_eq!(old.state(), JobState::Running);
}

#[test]
fn a_job_that_has_run_does_not_begin_anew_in_a_storage_without_it() {
    let begun = || Config { begun: true, ..named("job", Existing::Refuse) };
    let place = place();
    let mut emptied = place.alone(begun());
    let Some(Outcome::StateMissing(why)) = emptied.outcome() else { panic!("not refused") };
    assert!(why.contains("has run before"), "{why}");
    let keys: Vec<ObjectKey> = place.store().list(&Prefix::all()).unwrap();
    assert_eq!(keys, [], "nothing is written: what is put back later must be as it was");

    // Where it left its state it goes on, and where only that is gone it does not.
    let mut old = crashed(&place);
    old.later(60);
    let mut again = place.alone(begun());
    assert!(again.outcome().is_none());
    again.join(&[0], "q");
    for key in place.store().list(&Prefix::all()).unwrap() {
        if key.as_str().starts_with("job/") {
            place.store().delete(&key).unwrap();
        }
    }
    let mut left = place.alone(begun());
    assert!(matches!(left.outcome(), Some(Outcome::StateMissing(_))));
}

#[test]
fn a_take_over_commits_first_and_goes_on_from_the_latest_checkpoint() {
    let place = place();
    let mut old = crashed(&place);
    let mut new = place.alone(named("other", Existing::Resume));
    assert_eq!(new.coordinator.job().as_str(), "job", "commits are made as that job");
    assert_eq!(new.commit(), payloads(&["a"]));
    assert_eq!(new.coordinator.job().as_str(), "other");
    assert_eq!(heads(&place, "job").last().unwrap().phase, Phase::Moved);
    new.join(&[0], "q");
    assert_eq!(new.run_placed().0, Some(1));
    let first = &heads(&place, "other")[0];
    assert_eq!(first.latest.as_ref().unwrap().pending, 0);
    assert_eq!(new.coordinator.status().incarnation, 1);
    // The old one is superseded for ever.
    old.later(60);
    old.joined();
    old.later(1);
    assert!(matches!(old.outcome(), Some(Outcome::Superseded(by)) if by.contains("other")));
    let mut again = place.alone(named("job", Existing::Resume));
    assert!(matches!(again.outcome(), Some(Outcome::Superseded(_))));
    // What is no longer needed of the old one's files goes.
    new.tell(Event::RequestCheckpoint);
    let checkpoint = new.barrier().0;
    assert_eq!(checkpoint.0, 2);
}

#[test]
fn a_take_over_that_crashes_anywhere_is_done_again() {
    for steps in 0..60 {
        let place = place();
        drop(crashed(&place));
        let mut halting = Halting { place: &place, left: steps };
        halting.take_over();
        let mut new = place.alone(named("other", Existing::Resume));
        new.commit();
        new.join(&[0], "q");
        assert_eq!(new.run_placed().0, Some(1), "after {steps} calls");
        let incarnations = place.store().list(&Prefix::all()).unwrap();
        let lives = incarnations.iter().filter(|key| key.as_str().starts_with("incarnations/"));
        assert_eq!(lives.count(), 2);
    }
}

/// Takes over until so many store calls were made.
struct Halting<'a> {
    place: &'a Place,
    left: usize,
}

impl Halting<'_> {
    fn take_over(&mut self) {
        let config = named("other", Existing::Resume);
        let mut coordinator = Coordinator::new(config);
        let now = std::time::Duration::from_secs(100);
        let mut todo = coordinator.step(Event::Start, now);
        while let Some(effect) = todo.pop() {
            let event = match effect {
                Effect::Store(ticket, call) if self.left > 0 => {
                    self.left -= 1;
                    let answer = call.run(self.place.store().as_ref());
                    Event::StoreAnswered { ticket, answer }
                }
                Effect::Commit(batch, items) => {
                    let outcomes = items.iter().map(|i| (i.id, CommitOutcome::Done)).collect();
                    Event::CommitEnded { batch, outcomes }
                }
                _ => continue,
            };
            todo.extend(coordinator.step(event, now));
        }
    }
}

#[test]
fn an_earlier_jobs_state_is_left_where_it_is() {
    let place = place();
    let old = crashed(&place);
    let mut new = place.alone(named("other", Existing::Ignore));
    assert_eq!(new.commit(), payloads(&["a"]));
    new.join(&[0], "q");
    assert_eq!(new.run_placed().0, None);
    assert_eq!(old.data().len(), 3);
}

#[test]
fn a_deleted_job_leaves_a_tombstone_and_its_name_may_be_used_again() {
    let place = place();
    let mut old = crashed(&place);
    let delete = Proposal { desired: Desired::Deleted, ..proposed(2, 2, 1) };
    old.propose(&delete);
    old.commit();
    old.joined();
    // Whether it was confirmed is not recorded: it is committed once more.
    assert_eq!(old.commit(), payloads(&["a"]));
    assert_eq!(old.outcome(), Some(Outcome::Deleted));
    assert_eq!(old.data(), Vec::<String>::new());
    assert_eq!(heads(&place, "job").last().unwrap().phase, Phase::Deleted);
    let mut again = place.alone(named("job", Existing::Refuse));
    assert_eq!(again.outcome(), Some(Outcome::Deleted));
    let mut other = place.alone(named("other", Existing::Refuse));
    other.join(&[0], "q");
    assert_eq!(other.run_placed().0, None);
    assert_eq!(other.coordinator.status().incarnation, 2);
}
