//! A shell in miniature: the coordinator over a real directory that fails,
//! loses answers and lists old news; killed and started again.

use super::model::config;
use super::world::home;
use crate::coordinator::*;
use crate::store::faulty::{Faults, FaultyStore};
use crate::store::{DirectoryStore, ObjectStore, Put};
use millrace_protocol::ids::{Attempt, CheckpointId, Slot, Subtask, Uid};
use millrace_protocol::manifest::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What was prepared, and what was committed.
#[derive(Default)]
struct Sink {
    prepared: BTreeMap<Vec<u8>, (Attempt, CheckpointId)>,
    committed: BTreeSet<Vec<u8>>,
    /// Attempts that were followed by another, with the last of their
    /// checkpoints that it builds on.
    survived: BTreeMap<Attempt, Option<CheckpointId>>,
}

impl Sink {
    /// An attempt starts from a checkpoint of an earlier one.
    fn restored(&mut self, attempt: Attempt, base: Option<(Attempt, CheckpointId)>) {
        for earlier in (1..attempt.0).map(Attempt) {
            let at = base.filter(|(by, _)| *by == earlier).map(|(_, at)| at);
            let known = self.survived.entry(earlier).or_default();
            *known = (*known).max(at);
        }
    }
}

struct Process {
    coordinator: Coordinator,
    effects: VecDeque<Effect>,
    now: Duration,
    ended: Option<Outcome>,
}

impl Process {
    fn tell(&mut self, event: Event) {
        let effects = self.coordinator.step(event, self.now);
        self.effects.extend(effects);
    }

    /// Carries out one effect.
    fn carry_out(&mut self, store: &Arc<FaultyStore>, files: &dyn ObjectStore, sink: &mut Sink) {
        let Some(effect) = self.effects.pop_front() else { return };
        match effect {
            Effect::Store(ticket, call) => {
                let answer = call.run(store.as_ref());
                self.tell(Event::StoreAnswered { ticket, answer });
            }
            Effect::Commit(batch, items) => {
                let outcomes = items.iter().map(|item| (item.id, CommitOutcome::Done)).collect();
                sink.committed.extend(items.into_iter().map(|item| item.payload));
                self.tell(Event::CommitEnded { batch, outcomes });
            }
            Effect::AbortOthers { attempt, .. } => {
                self.tell(Event::OthersAborted { attempt, result: Ok(()) });
            }
            Effect::Deploy { attempt, base, .. } => {
                let base = base.map(|base| (base.manifest.attempt, base.manifest.checkpoint));
                sink.restored(attempt, base);
                self.tell(Event::TasksDeployed { attempt });
            }
            Effect::CancelTasks { attempt } => self.tell(Event::SlotsJoined { attempt }),
            Effect::TriggerBarrier { attempt, checkpoint, .. } => {
                for slot in 0..2 {
                    let key = home().state_file(attempt, checkpoint, Slot(slot), 0);
                    assert_eq!(files.put_if_absent(&key, b"state").unwrap(), Put::Created);
                    let payload = key.as_str().as_bytes().to_vec();
                    sink.prepared.insert(payload.clone(), (attempt, checkpoint));
                    let snapshot = snapshot(checkpoint, slot, key, payload);
                    self.tell(Event::Acknowledge { attempt, checkpoint, snapshot });
                }
            }
            Effect::Ended(outcome) => self.ended = Some(outcome),
            _ => {}
        }
    }
}

fn snapshot(
    checkpoint: CheckpointId,
    slot: u16,
    key: millrace_protocol::objects::ObjectKey,
    payload: Vec<u8>,
) -> SlotSnapshot {
    let order = FileOrder { checkpoint, index: 0 };
    SlotSnapshot {
        slot: Slot(slot),
        files: vec![FileRef { key, len: 5, crc32: 0, order, sections: Vec::new() }],
        operators: Vec::new(),
        prepared: vec![PreparedCommit {
            sink: Uid::from("sink"),
            subtask: Subtask(slot),
            connector: "test".into(),
            options: Vec::new(),
            when: When::Ready,
            payload,
            shape: ShapeBytes::default(),
        }],
        stats: SnapshotStats::default(),
    }
}

fn run(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let files: Arc<dyn ObjectStore> = Arc::new(DirectoryStore::open(directory.path()).unwrap());
    let faults = Faults { slow: 0.0, ..Faults::survivable(0.15) };
    let store = Arc::new(FaultyStore::new(Arc::clone(&files), seed, faults));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sink = Sink::default();
    let mut processes = 0;
    let mut start = |random: &mut fastrand::Rng| {
        processes += 1;
        let mut config = config(processes, random.u64(..));
        config.seed.1 = u64::from(processes);
        let coordinator = Coordinator::new(config);
        let effects = VecDeque::new();
        let mut process = Process { coordinator, effects, now: Duration::ZERO, ended: None };
        process.tell(Event::Start);
        let worker = WorkerId { ordinal: 0, process: "p".into() };
        process.tell(Event::WorkerJoined { worker, slots: 2 });
        process
    };
    let mut process = start(&mut random);
    for _ in 0..600 {
        process.carry_out(&store, files.as_ref(), &mut sink);
        if process.effects.is_empty() {
            process.now += Duration::from_millis(200);
            process.tell(Event::Tick);
        }
        if random.u32(0..150) == 0 {
            process = start(&mut random);
        }
    }
    store.calm_down();
    for _ in 0..2000 {
        if process.coordinator.status().state == JobState::Running {
            process.tell(Event::RequestStop { mode: StopMode::Suspend });
        }
        process.carry_out(&store, files.as_ref(), &mut sink);
        process.now += Duration::from_millis(200);
        process.tell(Event::Tick);
    }
    assert_eq!(process.ended, Some(Outcome::Suspended), "seed {seed}");
    let head = process.coordinator.head().unwrap();
    let latest = head.latest.as_ref().map(|at| (at.attempt, at.checkpoint));
    sink.restored(Attempt(head.attempt.0 + 1), latest);
    for (payload, (attempt, checkpoint)) in &sink.prepared {
        let survives = sink.survived[attempt].is_some_and(|last| *checkpoint <= last);
        let name = String::from_utf8_lossy(payload);
        assert_eq!(sink.committed.contains(payload), survives, "seed {seed}: {name}");
    }
    let manifest = files.get(&head.latest.as_ref().unwrap().manifest).unwrap().unwrap();
    for file in Manifest::decode("latest", &manifest).unwrap().files {
        assert_eq!(files.size(&file.key).unwrap(), Some(file.len), "seed {seed}: {}", file.key);
    }
}

#[test]
fn a_job_survives_a_faulty_directory() {
    for seed in 0..15 {
        run(seed);
    }
}
