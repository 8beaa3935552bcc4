//! What a coordinator is told at its start.

use super::restart::RestartPolicy;
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::{JobUid, Uid};
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::manifest::{KeyedState, Redistribution, ShapeBytes};
use std::sync::Arc;
use std::time::Duration;

/// Where state comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreChoice {
    /// The latest complete checkpoint; none: an empty start.
    Latest,
    /// An empty start, whatever there is.
    None,
    /// A savepoint's directory, or the manifest of one of the job's own
    /// retained checkpoints. Absolute: the head record remembers it.
    Path(String),
}

/// What the process was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Desired {
    /// Run the job.
    #[default]
    Running,
    /// Stop at once, commit what the latest checkpoint holds, then delete all data and
    /// leave a tombstone.
    Deleted,
    /// Stop with a checkpoint; if there are no tasks, finish what a stop left undone.
    Suspended,
}

/// When a process claims a job that another may still own. For progress only: safety
/// never rests on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimRule {
    /// At once: it was just confirmed that this process is the one that should.
    Confirmed,
    /// After the head has shown nothing new for so long.
    AfterSilence(Duration),
}

/// What to do with a home that is another job's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Run that job: a local run.
    Same,
    /// Do not start.
    Refuse,
    /// Go on from its state.
    Resume,
    /// Start empty; leave its state where it is.
    Ignore,
}

/// When checkpoints are taken and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// Time between triggers; `None`: only at savepoints, stops and the end.
    pub interval: Option<Duration>,
    /// Least time between the end of one and the trigger of the next.
    pub min_pause: Duration,
    /// A checkpoint that is not acknowledged by then is aborted.
    pub timeout: Duration,
    /// So many consecutive failures are tolerated; one more fails the job.
    pub tolerated_failures: u32,
    /// How many complete ones are kept, the latest included; at least 1.
    pub retained: u32,
    /// Barriers that are under way for longer overtake the rows before them, which then
    /// become part of the checkpoint: zero at once, `None` never.
    pub unaligned_after: Option<Duration>,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(10)),
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(600),
            tolerated_failures: 3,
            retained: 1,
            unaligned_after: None,
        }
    }
}

/// A list state that an operator declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSpec {
    /// Its name.
    pub name: String,
    /// What an item looks like.
    pub shape: ShapeBytes,
    /// How items find their subtask at restore.
    pub redistribution: Redistribution,
    /// Whether it is the engine's own, for rows in flight: savepoints hold no such list.
    pub in_flight: bool,
}

/// What an operator is, as far as state is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Neither reads nor writes outside.
    Operator,
    /// Reads from outside.
    Source,
    /// Prepares committables.
    Sink,
}

/// An operator of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSpec {
    /// Identifies its state.
    pub uid: Uid,
    /// Whether the user chose `uid`; one that was derived changes with the graph.
    pub uid_by_user: bool,
    /// Its name, for people.
    pub name: String,
    /// What it is (`source`, `window`, ...), for people.
    pub kind: String,
    /// Source, sink or neither.
    pub role: Role,
    /// Number of its subtasks.
    pub parallelism: u16,
    /// Its keyed states.
    pub keyed: Vec<KeyedState>,
    /// Its list states.
    pub lists: Vec<ListSpec>,
    /// Shape of its committables, of a sink.
    pub committable: Option<ShapeBytes>,
}

/// The program that is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSpec {
    /// Fingerprint of the graph.
    pub fingerprint: String,
    /// Number of key groups; fixed for a job's life.
    pub max_parallelism: MaxParallelism,
    /// Version of the key hash.
    pub hash_version: u32,
    /// The operators, those without state too.
    pub operators: Vec<OperatorSpec>,
    /// Connectors whose committables can be committed without their sink being
    /// in the graph.
    pub committers: Vec<String>,
}

impl ProgramSpec {
    /// Slots needed: the highest parallelism. A slot's index is that of its subtasks.
    pub fn slots(&self) -> u16 {
        self.operators.iter().map(|operator| operator.parallelism).max().unwrap_or(1).max(1)
    }

    /// The operator with this uid.
    pub fn operator(&self, uid: &Uid) -> Option<&OperatorSpec> {
        self.operators.iter().find(|operator| operator.uid == *uid)
    }

    /// The sinks.
    pub fn sinks(&self) -> impl Iterator<Item = &OperatorSpec> {
        self.operators.iter().filter(|operator| operator.role == Role::Sink)
    }
}

/// Whether state of shape `stored` can be read as `wanted`; if not, both types
/// and the reason, as a fragment of a sentence.
pub type ShapeCheck = fn(stored: &ShapeBytes, wanted: &ShapeBytes) -> Result<(), String>;

/// What becomes of a checkpoint's state that no operator of the program claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Unclaimed {
    /// The job is refused.
    #[default]
    Refused,
    /// It is dropped.
    Dropped,
    /// It is dropped if it is these operators'; else the job is refused.
    DroppedOf(Vec<Uid>),
}

impl Unclaimed {
    /// Whether state of this operator may be dropped.
    pub fn may_drop(&self, uid: &Uid) -> bool {
        match self {
            Self::Refused => false,
            Self::Dropped => true,
            Self::DroppedOf(uids) => uids.contains(uid),
        }
    }
}

/// Everything a coordinator is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// This process.
    pub owner: Owner,
    /// The configuration that is proposed.
    pub config: ConfigRef,
    /// The program.
    pub program: ProgramSpec,
    /// Body of [`Config::config`], stored before the head names it. Empty in a local run.
    pub body: Arc<[u8]>,
    /// Whether the configuration that this process found is for processes of another revision,
    /// which are to replace it or which it is to replace: then it goes on with what was
    /// accepted, and where nothing was it waits for a proposal.
    pub outdated: bool,
    /// Whether the job has run before: then it does not begin anew because its storage is
    /// empty.
    pub begun: bool,
    /// Slots of ordinals from this one on are not used.
    pub workers: u16,
    /// When a claim may be made.
    pub claim: ClaimRule,
    /// How often an owner appends at least, so that others see that it lives: a third of
    /// the time after which they claim. `None`: nobody waits for silence.
    pub keepalive: Option<Duration>,
    /// Whether the process stays when the job has come to an end or is owned by another,
    /// and goes on when it is told to, or may. If not, [`super::Effect::Ended`] comes.
    pub stays: bool,
    /// What to do with a home that is another job's.
    pub existing: Existing,
    /// Identity of the cluster; empty in a local run.
    pub cluster: String,
    /// Where state comes from, in a local run: each time it is started.
    pub from: RestoreChoice,
    /// Where state comes from, of a numbered configuration: see [`super::Proposal::restore`].
    pub restore: Option<(u64, Option<String>)>,
    /// What the process was started for.
    pub desired: Desired,
    /// What becomes of state that no operator claims.
    pub unclaimed: Unclaimed,
    /// When checkpoints are taken and kept.
    pub checkpoints: CheckpointPolicy,
    /// What happens after a failure.
    pub restart: RestartPolicy,
    /// Compares shapes.
    pub shapes: ShapeCheck,
    /// The job's uid. In a local run that of the job in the home, if there is one, counts
    /// instead.
    pub fresh_job: JobUid,
    /// Seed of nonces and jitter: from the system's entropy.
    pub seed: (u64, u64),
    /// Wall-clock time at monotonic zero, milliseconds since 1970. For people.
    pub epoch_ms: u64,
    /// How often the owner looks whether it was fenced.
    pub watch_every: Duration,
    /// How often leftovers of older attempts are looked for.
    pub sweep_every: Duration,
    /// Versions of the chain per block of truncation; [`Config::BLOCK`] but in tests.
    pub block: u64,
}

impl Config {
    /// Versions of the chain per block.
    pub const BLOCK: u64 = 1024;

    /// The wall clock at a moment of the coordinator's, milliseconds since 1970.
    pub(super) fn at_ms(&self, now: Duration) -> u64 {
        self.epoch_ms.saturating_add(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }
}
