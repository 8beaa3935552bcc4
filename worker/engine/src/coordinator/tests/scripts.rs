//! Scripts: a coordinator over a store that works at once, told what happens.

use super::model::{config, spec};
use crate::coordinator::effect::BarrierKind;
use crate::coordinator::*;
use crate::store::{DirectoryStore, ObjectStore};
use millrace_protocol::head::{HeadRecord, Phase};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid, Slot, Subtask, Uid};
use millrace_protocol::manifest::*;
use millrace_protocol::objects::{Home, ObjectKey, Prefix};
use std::sync::Arc;
use std::time::Duration;

/// A coordinator and a store; store calls and joins are answered at once.
pub struct Job {
    pub coordinator: Coordinator,
    pub store: Arc<DirectoryStore>,
    pub now: Duration,
    pub effects: Vec<Effect>,
}

pub struct Place {
    _directory: tempfile::TempDir,
    pub store: Arc<DirectoryStore>,
}

pub fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(DirectoryStore::open(directory.path()).unwrap());
    Place { _directory: directory, store }
}

impl Place {
    pub fn store(&self) -> Arc<DirectoryStore> {
        Arc::clone(&self.store)
    }

    pub fn job(&self, config: Config) -> Job {
        self.asked(config, [])
    }

    /// A job that is told something before it has looked at anything.
    pub fn asked(&self, config: Config, first: impl IntoIterator<Item = Event>) -> Job {
        let (store, now) = (Arc::clone(&self.store), Duration::from_secs(100));
        let mut job = Job { coordinator: Coordinator::new(config), store, now, effects: vec![] };
        first.into_iter().for_each(|event| job.tell(event));
        job.tell(Event::Start);
        let worker = WorkerId { ordinal: 0, process: "p".into() };
        job.tell(Event::WorkerJoined { worker, slots: 4 });
        job
    }

    pub fn running(&self, config: Config) -> Job {
        let mut job = self.job(config);
        job.recover();
        job
    }

    /// A job stopped at checkpoint 1.
    pub fn stopped(&self, config: Config) {
        let mut job = self.running(config);
        job.tell(Event::RequestStop { mode: StopMode::Suspend });
        let checkpoint = job.barrier().0;
        job.acknowledge(checkpoint, "a");
        job.commit();
        assert_eq!(job.outcome(), Some(Outcome::Suspended));
    }
}

impl Job {
    pub fn tell(&mut self, event: Event) {
        for effect in self.coordinator.step(event, self.now) {
            match effect {
                Effect::Store(ticket, call) => {
                    let answer = call.run(self.store.as_ref());
                    self.tell(Event::StoreAnswered { ticket, answer });
                }
                Effect::FindSavepoint { id, target } if target == "t" => {
                    self.tell(Event::SavepointFound { id, result: Ok(None) });
                }
                effect => self.effects.push(effect),
            }
        }
    }

    pub fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.tell(Event::Tick);
    }

    /// Takes the first effect that `pick` likes.
    pub fn take<T>(&mut self, pick: impl Fn(&Effect) -> Option<T>) -> Option<T> {
        let at = self.effects.iter().position(|effect| pick(effect).is_some())?;
        pick(&self.effects.remove(at))
    }

    pub fn attempt(&self) -> Attempt {
        self.coordinator.attempt().unwrap()
    }

    pub fn head(&self) -> &HeadRecord {
        self.coordinator.head().unwrap()
    }

    pub fn outcome(&mut self) -> Option<Outcome> {
        if let Some(attempt) = self.take(|effect| match effect {
            Effect::CancelTasks { attempt } => Some(*attempt),
            _ => None,
        }) {
            self.tell(Event::SlotsJoined { attempt });
        }
        self.take(|effect| match effect {
            Effect::Ended(outcome) => Some(outcome.clone()),
            _ => None,
        })
    }

    pub fn refusal(&mut self) -> String {
        // Something damaged or missing is read twice.
        self.later(1);
        match self.outcome() {
            Some(Outcome::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Commits what there is; answers the payloads.
    pub fn commit(&mut self) -> Vec<Vec<u8>> {
        let Some((batch, items)) = self.take(|effect| match effect {
            Effect::Commit(batch, items) => Some((*batch, items.clone())),
            _ => None,
        }) else {
            return Vec::new();
        };
        let outcomes = items.iter().map(|item| (item.id, CommitOutcome::Done)).collect();
        self.tell(Event::CommitEnded { batch, outcomes });
        items.into_iter().map(|item| item.payload).collect()
    }

    /// Through recovery to running; answers the base.
    pub fn recover(&mut self) -> Option<effect::Base> {
        self.commit();
        let attempt = self.attempt();
        self.take(|effect| matches!(effect, Effect::AbortOthers { .. }).then_some(())).unwrap();
        self.tell(Event::OthersAborted { attempt, result: Ok(()) });
        let base = self.take(|effect| match effect {
            Effect::Deploy { base, .. } => Some(base.clone()),
            _ => None,
        });
        self.tell(Event::TasksDeployed { attempt });
        base.unwrap()
    }

    pub fn barrier(&mut self) -> (CheckpointId, Option<CheckpointId>, BarrierKind) {
        self.take(|effect| match effect {
            Effect::TriggerBarrier { checkpoint, base, kind, .. } => {
                Some((*checkpoint, *base, *kind))
            }
            _ => None,
        })
        .expect("a barrier")
    }

    pub fn slot(&mut self, checkpoint: CheckpointId, slot: u16, ready: &str, open: &str) {
        let attempt = self.attempt();
        let home = Home::new(&JobUid::from("job")).unwrap();
        let key = home.state_file(attempt, checkpoint, Slot(slot), 0);
        self.store.put(&key, b"state").unwrap();
        let item = |payload: &str, when| PreparedCommit {
            sink: Uid::from("sink"),
            subtask: Subtask(slot),
            connector: "test".into(),
            options: Vec::new(),
            when,
            payload: payload.as_bytes().to_vec(),
            shape: ShapeBytes::default(),
        };
        let prepared = [(ready, When::Ready), (open, When::OnRestore)];
        let prepared =
            prepared.into_iter().filter(|(text, _)| !text.is_empty()).map(|(t, w)| item(t, w));
        let snapshot = SlotSnapshot {
            slot: Slot(slot),
            files: vec![FileRef {
                key,
                len: 5,
                crc32: 0,
                order: FileOrder { checkpoint, index: 0 },
                sections: Vec::new(),
            }],
            operators: Vec::new(),
            prepared: prepared.collect(),
            stats: SnapshotStats::default(),
        };
        self.tell(Event::Acknowledge { attempt, checkpoint, snapshot });
    }

    pub fn acknowledge(&mut self, checkpoint: CheckpointId, ready: &str) {
        self.slot(checkpoint, 0, ready, "");
        self.slot(checkpoint, 1, "", "");
    }

    pub fn fail(&mut self) {
        let attempt = self.attempt();
        let failure = Failure {
            operator: Some("map".into()),
            subtask: Some(Subtask(1)),
            cause: "boom".into(),
        };
        self.tell(Event::TaskFailed { attempt, failure });
    }

    /// A savepoint is exported, as far as it knows.
    pub fn exported(&mut self, id: &str) {
        let at = (self.attempt(), CheckpointId(1));
        let result = Ok(export::Exported { at, bytes: 7 });
        self.tell(Event::SavepointExported { id: id.into(), result });
    }

    pub fn joined(&mut self) {
        let attempt = self.attempt();
        self.take(|effect| matches!(effect, Effect::CancelTasks { .. }).then_some(())).unwrap();
        self.tell(Event::SlotsJoined { attempt });
    }

    pub fn data(&self) -> Vec<String> {
        let keys = self.store.list(&Prefix::all()).unwrap();
        let mut keys: Vec<_> = keys.iter().map(|key| key.to_string()).collect();
        keys.retain(|key| key.contains("/data/"));
        keys.sort();
        keys
    }
}

pub fn payloads(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn checkpoints_follow_the_interval_and_only_the_latest_is_kept() {
    let place = place();
    let mut job = place.running(config(1, 0));
    assert_eq!(job.head().attempt, Attempt(1));
    job.later(1);
    assert_eq!(job.barrier(), (CheckpointId(1), None, BarrierKind::Periodic));
    job.later(1);
    assert!(job.effects.iter().all(|e| !matches!(e, Effect::TriggerBarrier { .. })));
    job.acknowledge(CheckpointId(1), "a");
    assert_eq!(job.head().latest.as_ref().unwrap().checkpoint, CheckpointId(1));
    assert_eq!(job.commit(), payloads(&["a"]));
    job.later(1);
    assert_eq!(job.barrier(), (CheckpointId(2), Some(CheckpointId(1)), BarrierKind::Periodic));
    job.acknowledge(CheckpointId(2), "");
    assert_eq!(job.data(), ["job/data/1/m-2", "job/data/1/s0-c2-0", "job/data/1/s1-c2-0"]);
}

/// From the end of one, complete or given up, to the trigger of the next.
#[test]
fn the_least_pause_between_checkpoints_is_kept() {
    let place = place();
    let mut config = config(1, 0);
    config.checkpoints.min_pause = Duration::from_secs(5);
    let mut job = place.running(config);
    let waits = |job: &mut Job, seconds| {
        job.later(seconds);
        assert!(job.effects.iter().all(|e| !matches!(e, Effect::TriggerBarrier { .. })));
    };
    waits(&mut job, 4);
    job.later(1);
    let first = job.barrier().0;
    waits(&mut job, 2);
    job.acknowledge(first, "");
    waits(&mut job, 4);
    job.later(1);
    let second = job.barrier().0;
    // Nobody answers: it is given up after 3 seconds.
    waits(&mut job, 3);
    let given_up = |e: &Effect| match e {
        Effect::NotifyAborted { checkpoint, .. } => Some(*checkpoint),
        _ => None,
    };
    assert_eq!(job.take(given_up), Some(second));
    waits(&mut job, 4);
    job.later(1);
    assert_eq!(job.barrier().2, BarrierKind::Periodic);
    // What somebody asks for does not wait.
    job.later(3);
    job.tell(Event::RequestStop { mode: StopMode::Suspend });
    assert_eq!(job.barrier().2, BarrierKind::Stop(StopMode::Suspend));
}

/// State that the manifest has no place for is not dropped in silence.
#[test]
fn a_checkpoint_with_state_of_an_unknown_operator_is_aborted() {
    let place = place();
    let mut job = place.running(config(1, 0));
    job.later(1);
    let checkpoint = job.barrier().0;
    job.slot(checkpoint, 0, "", "");
    let attempt = job.attempt();
    let state = SubtaskState {
        operator: Uid::from("stranger"),
        subtask: Subtask(1),
        lists: Vec::new(),
        watermarks: Vec::new(),
        ended: false,
    };
    let snapshot = SlotSnapshot {
        slot: Slot(1),
        files: Vec::new(),
        operators: vec![state],
        prepared: Vec::new(),
        stats: SnapshotStats::default(),
    };
    job.tell(Event::Acknowledge { attempt, checkpoint, snapshot });
    assert!(job.take(|e| matches!(e, Effect::NotifyAborted { .. }).then_some(())).is_some());
    assert_eq!(job.head().latest, None);
    let said = job.take(|e| match e {
        Effect::Log(note) if note.text.contains("stranger") => Some(()),
        _ => None,
    });
    assert!(said.is_some(), "the operator is named");
}

#[test]
fn a_slow_commit_is_carried_over_and_an_aborted_checkpoint_loses_nothing() {
    let place = place();
    let mut job = place.running(config(1, 0));
    job.later(1);
    job.barrier();
    // Slot 1 does not answer in time; what slot 0 prepared goes into checkpoint 2.
    job.slot(CheckpointId(1), 0, "a", "open");
    job.later(3);
    assert!(job.take(|e| matches!(e, Effect::NotifyAborted { .. }).then_some(())).is_some());
    job.later(1);
    assert_eq!(job.barrier().0, CheckpointId(2));
    job.slot(CheckpointId(1), 1, "b", "");
    job.acknowledge(CheckpointId(2), "c");
    // Still not committed when checkpoint 3 completes.
    let batch =
        job.take(|e| if let Effect::Commit(b, i) = e { Some((*b, i.clone())) } else { None });
    let (batch, items) = batch.unwrap();
    let mut committed: Vec<_> = items.iter().map(|item| item.payload.clone()).collect();
    committed.sort();
    assert_eq!(committed, payloads(&["a", "b", "c"]));
    job.later(1);
    let third = job.barrier().0;
    job.slot(third, 0, "", "open3");
    job.slot(third, 1, "", "");
    let latest = job.head().latest.clone().unwrap();
    assert_eq!((latest.checkpoint, latest.pending), (third, 4));
    let outcomes = items.iter().map(|item| (item.id, CommitOutcome::Done)).collect();
    job.tell(Event::CommitEnded { batch, outcomes });
    // An open committable is committed only by a restore.
    assert_eq!(job.commit(), payloads(&[]));
    drop(job);
    let mut next = place.job(config(2, 0));
    let mut committed = next.commit();
    committed.sort();
    assert_eq!(committed, payloads(&["a", "b", "c", "open3"]));
}

#[test]
fn whoever_takes_over_shows_the_checkpoint_as_its_manifest_says() {
    let place = place();
    let mut job = place.running(Config { epoch_ms: 1_000_000, ..config(1, 0) });
    assert_eq!(job.coordinator.status().last_checkpoint, None);
    job.later(1);
    let first = job.barrier().0;
    let status = job.coordinator.status();
    assert_eq!((status.triggered, status.last_checkpoint), (Some(first), None));
    job.later(1);
    job.acknowledge(first, "");
    let shown = job.coordinator.status().last_checkpoint.unwrap();
    assert_eq!((shown.state_bytes, shown.files, shown.at_ms), (10, 2, 1_102_000));
    assert_eq!(shown.took, Duration::from_secs(1));
    drop(job);
    let job = place.running(config(2, 0));
    let found = job.coordinator.status().last_checkpoint.unwrap();
    let untold = CheckpointReport { found: true, took: Duration::ZERO, bytes: 10, ..shown };
    assert_eq!(found, untold);
}

#[test]
fn the_end_of_input_commits_everything_and_is_final() {
    let place = place();
    let mut job = place.running(config(1, 0));
    let attempt = job.attempt();
    job.tell(Event::InputEnded { attempt });
    let (last, _, kind) = job.barrier();
    assert_eq!(kind, BarrierKind::Final);
    job.acknowledge(last, "a");
    assert_eq!(job.head().phase, Phase::Stopping(millrace_protocol::head::Ending::Finished));
    assert_eq!(job.outcome(), None);
    job.commit();
    assert_eq!(job.outcome(), Some(Outcome::Finished));
    assert_eq!(job.head().phase, Phase::Finished);
    assert_eq!(place.job(config(2, 0)).outcome(), Some(Outcome::FinishedBefore));
    // Asked for, an empty start begins again, with a higher attempt.
    let again = Config { from: RestoreChoice::None, ..config(3, 0) };
    let mut job = place.job(again);
    assert_eq!(job.recover(), None);
    assert_eq!(job.attempt(), Attempt(2));
}

#[test]
fn a_crash_while_stopping_is_only_committed() {
    let place = place();
    let mut job = place.running(config(1, 0));
    let attempt = job.attempt();
    job.tell(Event::InputEnded { attempt });
    let last = job.barrier().0;
    job.acknowledge(last, "a");
    drop(job);
    let mut next = place.job(config(2, 0));
    assert_eq!(next.commit(), payloads(&["a"]));
    assert_eq!(next.outcome(), Some(Outcome::Finished));
}

#[test]
fn a_stop_is_resumed_and_an_empty_start_commits_first() {
    let place = place();
    place.stopped(config(1, 0));
    let mut job = place.job(config(2, 0));
    assert_eq!(job.commit(), payloads(&[]), "all was committed before it stopped");
    assert_eq!(job.recover().unwrap().manifest.checkpoint, CheckpointId(1));
    job.later(1);
    let second = job.barrier().0;
    job.acknowledge(second, "b");
    drop(job);
    let mut job = place.job(Config { from: RestoreChoice::None, ..config(3, 0) });
    assert_eq!(job.commit(), payloads(&["b"]));
    assert_eq!(job.recover(), None);
    assert_eq!(job.head().latest, None);
    job.later(1);
    assert_eq!(job.barrier(), (CheckpointId(3), None, BarrierKind::Periodic));
}

#[test]
fn a_cancel_stops_without_a_checkpoint() {
    let place = place();
    let mut job = place.running(config(1, 0));
    job.later(1);
    let first = job.barrier().0;
    job.slot(first, 0, "a", "open");
    job.slot(first, 1, "", "");
    job.commit();
    job.tell(Event::Cancel);
    job.joined();
    let mut committed = job.commit();
    committed.sort();
    assert_eq!(committed, payloads(&["a", "open"]));
    assert_eq!(job.outcome(), Some(Outcome::Suspended));
}

#[test]
fn a_deployment_that_never_ends_can_be_stopped() {
    for stop in [Event::Cancel, Event::RequestStop { mode: StopMode::Suspend }] {
        let place = place();
        place.stopped(config(1, 0));
        let mut job = place.job(config(2, 0));
        let attempt = job.attempt();
        job.tell(Event::OthersAborted { attempt, result: Ok(()) });
        assert!(job.take(|e| matches!(e, Effect::Deploy { .. }).then_some(())).is_some());
        job.tell(stop);
        job.joined();
        assert_eq!(job.outcome(), Some(Outcome::Suspended));
        assert_eq!(job.head().latest.as_ref().unwrap().checkpoint, CheckpointId(1));
    }
}

#[test]
fn a_drain_asked_for_before_anything_is_known_is_a_drain() {
    let place = place();
    let mut job = place.asked(config(1, 0), [Event::RequestStop { mode: StopMode::Drain }]);
    job.recover();
    let (checkpoint, _, kind) = job.barrier();
    assert_eq!(kind, BarrierKind::Stop(StopMode::Drain));
    job.acknowledge(checkpoint, "a");
    job.commit();
    assert_eq!(job.outcome(), Some(Outcome::Finished));
    // What asks for no more than an end gets it at once.
    let stop = Event::RequestStop { mode: StopMode::Suspend };
    let mut job = self::place().asked(config(1, 0), [stop]);
    assert_eq!(job.outcome(), Some(Outcome::Suspended));
}

#[test]
fn an_answer_counts_once_and_a_late_one_still_counts() {
    let place = place();
    let mut job = place.running(config(1, 0));
    job.later(1);
    let first = job.barrier().0;
    job.slot(first, 0, "a", "");
    job.slot(first, 0, "twice", "");
    job.later(3);
    job.later(1);
    let second = job.barrier().0;
    job.acknowledge(second, "b");
    job.slot(first, 1, "late", "");
    assert_eq!(job.commit(), payloads(&["a", "b"]));
    job.later(1);
    let third = job.barrier().0;
    job.acknowledge(third, "");
    assert_eq!(job.commit(), payloads(&["late"]));
}

#[test]
fn a_file_that_may_be_gone_is_not_named() {
    let place = place();
    let mut job = place.running(config(1, 0));
    job.later(1);
    let first = job.barrier().0;
    let attempt = job.attempt();
    let key = ObjectKey::parse("job/data/0/s0-c0-0").unwrap();
    let order = FileOrder { checkpoint: first, index: 0 };
    let file = FileRef { key, len: 1, crc32: 0, order, sections: Vec::new() };
    let snapshot = SlotSnapshot {
        slot: Slot(0),
        files: vec![file],
        operators: Vec::new(),
        prepared: Vec::new(),
        stats: SnapshotStats::default(),
    };
    job.tell(Event::Acknowledge { attempt, checkpoint: first, snapshot });
    assert!(job.take(|e| matches!(e, Effect::NotifyAborted { .. }).then_some(())).is_some());
}

#[test]
fn what_a_checkpoint_that_failed_left_is_swept_when_a_later_one_is_complete() {
    let place = place();
    let mut job = place.running(Config { sweep_every: Duration::from_secs(3600), ..config(1, 1) });
    let home = Home::new(&JobUid::from("job")).unwrap();
    let attempt = job.attempt();
    let complete = |job: &mut Job| {
        job.later(1);
        let checkpoint = job.barrier().0;
        job.acknowledge(checkpoint, "");
        job.commit();
        checkpoint
    };
    let first = complete(&mut job);
    job.later(1);
    let failed = job.barrier().0;
    job.slot(failed, 0, "", "");
    // Rows that it overtook, of a slot that never answered.
    let in_flight = home.state_file(attempt, failed, Slot(1), 1);
    job.store.put(&in_flight, b"rows").unwrap();
    job.later(4);
    let left = home.state_file(attempt, failed, Slot(0), 0);
    let there = |job: &Job, key: &ObjectKey| job.store.size(key).unwrap().is_some();
    assert!(there(&job, &left) && there(&job, &in_flight), "a later one may name it");
    let next = job.barrier().0;
    job.acknowledge(next, "");
    assert!(!there(&job, &left) && !there(&job, &in_flight));
    for checkpoint in [first, next] {
        let kept = home.state_file(attempt, checkpoint, Slot(0), 0);
        assert!(there(&job, &kept), "checkpoint {checkpoint} is kept");
    }
    // None may name it from here on.
    job.later(1);
    let last = job.barrier().0;
    let order = FileOrder { checkpoint: failed, index: 0 };
    let file = FileRef { key: left, len: 5, crc32: 0, order, sections: Vec::new() };
    let snapshot = SlotSnapshot {
        slot: Slot(0),
        files: vec![file],
        operators: Vec::new(),
        prepared: Vec::new(),
        stats: SnapshotStats::default(),
    };
    job.tell(Event::Acknowledge { attempt, checkpoint: last, snapshot });
    assert!(
        job.take(|e| matches!(e, Effect::NotifyAborted { checkpoint, .. }
        if *checkpoint == last)
        .then_some(()))
            .is_some()
    );
}

#[test]
fn tolerated_failures_are_counted_in_a_row() {
    let place = place();
    let mut job = place.running(config(1, 0));
    for n in 1..=3 {
        job.later(4);
        let (checkpoint, attempt) = (job.barrier().0, job.attempt());
        let (slot, reason) = (Slot(0), "disk full".to_owned());
        job.tell(Event::Declined { attempt, checkpoint, slot, reason, prepared: Vec::new() });
        let cancelled = job.take(|e| matches!(e, Effect::CancelTasks { .. }).then_some(()));
        assert_eq!(cancelled.is_some(), n == 3);
    }
}

#[test]
fn whoever_is_fenced_stops_and_touches_nothing() {
    let place = place();
    let mut old = place.running(config(1, 0));
    old.later(1);
    let first = old.barrier().0;
    let mut new = place.running(config(2, 0));
    let before = new.data();
    old.acknowledge(first, "a");
    assert!(matches!(old.outcome(), Some(Outcome::Fenced(Some(_)))));
    assert_eq!(old.commit(), payloads(&[]));
    assert!(before.iter().all(|key| new.data().contains(key)));
    assert_eq!(new.outcome(), None);
    // A rare writer learns it from the watch.
    let mut newest = place.running(config(3, 0));
    new.later(10);
    assert!(matches!(new.outcome(), Some(Outcome::Fenced(Some(_)))));
    assert_eq!(newest.outcome(), None);
}

#[test]
fn refusals_name_the_thing() {
    let place = place();
    let with_state = |process| {
        let mut config = config(process, 0);
        let mut window = spec("window", Role::Operator);
        let shape = ShapeBytes(b"u64".to_vec());
        window.keyed.push(KeyedState { name: "sums".into(), shape });
        config.program.operators.push(window);
        config.shapes = |stored, wanted| match stored == wanted {
            true => Ok(()),
            false => Err("it is u64 and would be read as text".into()),
        };
        config
    };
    place.stopped(with_state(1));
    let refusal = |config: Config| place.job(config).refusal();

    let why = refusal(config(2, 0));
    assert!(why.contains("\"sums\"") && why.contains("\"window\""), "{why}");
    let mut other = with_state(2);
    other.program.operators[2].keyed[0].shape = ShapeBytes(b"text".to_vec());
    let why = refusal(other);
    assert!(why.contains("would be read as text") && why.contains("\"sums\""), "{why}");
    let mut other = with_state(2);
    other.program.max_parallelism = 128.try_into().unwrap();
    assert!(refusal(other).contains("1024"));
    let mut other = with_state(2);
    other.program.operators[2].parallelism = 2000;
    assert!(refusal(other).contains("above the job's max parallelism"));
    let mut other = with_state(2);
    other.program.operators[2].uid = Uid::from("sink");
    assert!(refusal(other).contains("two operators"));

    // Flagged, state may be dropped.
    let mut flagged =
        place.job(Config { unclaimed: crate::coordinator::Unclaimed::Dropped, ..config(2, 0) });
    assert_eq!(flagged.outcome(), None);
}

#[test]
fn a_damaged_or_newer_manifest_is_refused_and_nothing_is_touched() {
    let place = place();
    place.stopped(config(1, 0));
    let key = ObjectKey::parse("job/data/1/m-1").unwrap();
    let good = place.store.get(&key).unwrap().unwrap();
    let mut newer = good.clone();
    newer[8] = 2;
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, says) in [
        (newer, "format 2"),
        (flipped, "checksum"),
        (good[..good.len() - 1].to_vec(), "damaged"),
        (Vec::new(), "damaged"),
    ] {
        place.store.put(&key, &bytes).unwrap();
        let before = place.store.list(&Prefix::all()).unwrap().len();
        let why = place.job(config(2, 0)).refusal();
        assert!(why.contains(says) && why.contains(key.as_str()), "{why}");
        assert_eq!(place.store.list(&Prefix::all()).unwrap().len(), before);
    }
    place.store.put(&key, &good).unwrap();
    assert_eq!(place.job(config(2, 0)).outcome(), None);
}

#[test]
fn a_checkpoint_of_another_job_is_refused() {
    let place = place();
    place.stopped(config(1, 0));
    let bytes = place.store.get(&ObjectKey::parse("job/data/1/m-1").unwrap()).unwrap().unwrap();
    let mut manifest = Manifest::decode("m", &bytes).unwrap();
    let ask = |manifest: &Manifest| {
        let from = RestoreChoice::Path("p".into());
        let mut job = place.job(Config { from, ..config(2, 0) });
        let found = FoundManifest { manifest: Arc::new(manifest.clone()), sha256: "x".into() };
        job.tell(Event::RestoreRead { path: String::new(), result: Ok(found) });
        job
    };
    assert_eq!(ask(&manifest).recover().unwrap().manifest.checkpoint, CheckpointId(1));
    manifest.checkpoint = CheckpointId(9);
    assert!(ask(&manifest).refusal().contains("no longer kept"));
    manifest.job = JobUid::from("stranger");
    assert!(ask(&manifest).refusal().contains("belongs to job stranger"));
}
