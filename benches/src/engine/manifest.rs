//! One checkpoint of a large job: 1,000 slots on 125 workers that are only simulated, which
//! write 10,000 files, and the coordinator of the job, in a process of its own.

use super::apart::{self, Apart};
use crate::measure::{median, most_resident_bytes};
use anyhow::{Context, Result, bail};
use millrace_engine::coordinator::{
    CheckpointPolicy, ClaimRule, Config, Coordinator, Desired, Effect, Event, Existing,
    OperatorSpec, ProgramSpec, RestartPolicy, RestoreChoice, Role, SlotSnapshot, SnapshotStats,
    SubtaskState, Unclaimed, WorkerId,
};
use millrace_engine::store::{DirectoryStore, ObjectStore};
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid, Slot, Subtask, Uid};
use millrace_protocol::key::HASH_VERSION;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::{FileOrder, FileRef, RangeWatermark, Section};
use millrace_protocol::objects::Home;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The second argument of the process that is the coordinator.
pub(super) const MANIFEST: &str = "manifest";

const SLOTS: u16 = 1000;
const SLOTS_PER_WORKER: u16 = 8;
/// Of each slot.
const FILES: u32 = 10;
const OPERATORS: [&str; 2] = ["rows", "counts"];

/// What a checkpoint costs its coordinator.
#[derive(Debug, Clone, Copy)]
pub struct Manifest {
    /// From the first acknowledgement to the record that makes it complete.
    pub seconds: f64,
    /// The most that the process took.
    pub resident_mib: f64,
}

/// The median of so many checkpoints, and the most memory.
pub fn measure(checkpoints: usize) -> Result<Manifest> {
    let line = Apart::start(&[MANIFEST, &checkpoints.to_string()])?.line()?;
    let (seconds, bytes) = line.split_once(' ').context("the coordinator did not run")?;
    let resident_mib = bytes.parse::<u64>()? as f64 / f64::from(1 << 20);
    Ok(Manifest { seconds: seconds.parse()?, resident_mib })
}

/// The process of the coordinator.
pub(super) fn be_coordinator(checkpoints: usize) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut job = Job::start(DirectoryStore::open(directory.path())?)?;
    // The first one warms up.
    job.checkpoint()?;
    let times = (0..checkpoints).map(|_| job.checkpoint()).collect::<Result<Vec<_>>>()?;
    let (seconds, bytes) = (median(times).as_secs_f64(), most_resident_bytes("self")?);
    apart::say(&format!("{seconds} {bytes}"))
}

/// A coordinator whose store answers at once and whose workers do what they are told.
struct Job {
    coordinator: Coordinator,
    store: DirectoryStore,
    now: Duration,
    /// The barrier that was sent last.
    barrier: Option<(Attempt, CheckpointId)>,
}

impl Job {
    fn start(store: DirectoryStore) -> Result<Self> {
        let coordinator = Coordinator::new(config()?);
        let mut job = Self { coordinator, store, now: Duration::from_secs(1), barrier: None };
        job.tell(Event::Start);
        for ordinal in 0..SLOTS / SLOTS_PER_WORKER {
            let worker = WorkerId { ordinal, process: "p".to_owned() };
            job.tell(Event::WorkerJoined { worker, slots: SLOTS_PER_WORKER });
        }
        Ok(job)
    }

    /// Carries out what follows from an event.
    fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.coordinator.step(event, self.now) {
                match effect {
                    Effect::Store(ticket, call) => {
                        let answer = call.run(&self.store as &dyn ObjectStore);
                        events.push(Event::StoreAnswered { ticket, answer });
                    }
                    Effect::AbortOthers { attempt, .. } => {
                        events.push(Event::OthersAborted { attempt, result: Ok(()) });
                    }
                    Effect::Deploy { attempt, .. } => events.push(Event::TasksDeployed { attempt }),
                    Effect::TriggerBarrier { attempt, checkpoint, .. } => {
                        self.barrier = Some((attempt, checkpoint));
                    }
                    _ => {}
                }
            }
        }
    }

    /// All slots acknowledge a checkpoint; the time until it is complete.
    fn checkpoint(&mut self) -> Result<Duration> {
        self.now += Duration::from_secs(10);
        self.tell(Event::RequestCheckpoint);
        let (attempt, checkpoint) = self.barrier.take().context("no barrier was sent")?;
        let home = Home::new(self.coordinator.job())?;
        let snapshots: Vec<_> =
            (0..SLOTS).map(|slot| snapshot(&home, attempt, checkpoint, Slot(slot))).collect();
        let begun = Instant::now();
        for snapshot in snapshots {
            self.tell(Event::Acknowledge { attempt, checkpoint, snapshot });
        }
        let took = begun.elapsed();
        let latest = self.coordinator.head().and_then(|head| head.latest.as_ref());
        if latest.is_none_or(|latest| latest.checkpoint != checkpoint) {
            bail!("checkpoint {checkpoint} is not complete");
        }
        Ok(took)
    }
}

/// A slot's part: files of which each holds some key groups of an operator.
fn snapshot(home: &Home, attempt: Attempt, checkpoint: CheckpointId, slot: Slot) -> SlotSnapshot {
    let groups = KeyGroupRange { start: slot.0, end: slot.0 + 1 };
    let section = || Section { operator: Uid::from(OPERATORS[1]), groups };
    let file = |index| FileRef {
        key: home.state_file(attempt, checkpoint, slot, index),
        len: 1 << 20,
        crc32: 0,
        order: FileOrder { checkpoint, index },
        sections: vec![section()],
    };
    let of = |operator| SubtaskState {
        operator: Uid::from(operator),
        subtask: Subtask(slot.0),
        lists: Vec::new(),
        watermarks: vec![RangeWatermark { groups, watermark: 1 }],
        ended: false,
    };
    SlotSnapshot {
        slot,
        files: (0..FILES).map(file).collect(),
        operators: OPERATORS.map(of).into(),
        prepared: Vec::new(),
        stats: SnapshotStats::default(),
    }
}

fn config() -> Result<Config> {
    let operator = |name: &str, role| OperatorSpec {
        uid: Uid::from(name),
        uid_by_user: true,
        name: name.to_owned(),
        kind: "simulated".to_owned(),
        role,
        parallelism: SLOTS,
        keyed: Vec::new(),
        lists: Vec::new(),
        committable: None,
    };
    let [source, counts] = OPERATORS;
    Ok(Config {
        owner: Owner::default(),
        config: ConfigRef::default(),
        program: ProgramSpec {
            fingerprint: "bench".to_owned(),
            max_parallelism: MaxParallelism::DEFAULT,
            hash_version: HASH_VERSION,
            operators: vec![operator(source, Role::Source), operator(counts, Role::Operator)],
            committers: Vec::new(),
        },
        body: Arc::from([]),
        outdated: false,
        begun: false,
        workers: SLOTS / SLOTS_PER_WORKER,
        claim: ClaimRule::Confirmed,
        keepalive: None,
        stays: false,
        existing: Existing::Same,
        cluster: String::new(),
        from: RestoreChoice::Latest,
        restore: None,
        desired: Desired::Running,
        unclaimed: Unclaimed::Refused,
        checkpoints: CheckpointPolicy { interval: None, ..CheckpointPolicy::default() },
        restart: RestartPolicy::default(),
        shapes: |_, _| Ok(()),
        fresh_job: JobUid::from("bench"),
        seed: (1, 2),
        epoch_ms: 0,
        watch_every: Duration::from_secs(2),
        sweep_every: Duration::from_secs(3600),
        block: Config::BLOCK,
    })
}
