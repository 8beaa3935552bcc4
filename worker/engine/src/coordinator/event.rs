//! What a coordinator is told: answers to its effects and facts about tasks.

use super::export::Exported;
use crate::data::{Fail, UserError};
use crate::store::StoreError;
use millrace_protocol::ids::{Attempt, CheckpointId, Slot, Subtask, Uid};
use millrace_protocol::manifest::{
    CommitId, FileRef, ListState, Manifest, RangeWatermark, ShapeBytes, When,
};
use millrace_protocol::objects::ObjectKey;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Matches a store call with its answer; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Matches a batch of commits with its answer; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch(pub u64);

/// What a store call answered.
#[derive(Debug, Clone)]
pub enum StoreAnswer {
    /// Put-if-absent: it is there now.
    Created,
    /// Put-if-absent: there was one before.
    Exists,
    /// Get: the object, or `None` if there is none.
    Got(Option<Arc<[u8]>>),
    /// List.
    Keys(Vec<ObjectKey>),
    /// Delete: all are gone.
    Deleted,
    /// No answer.
    Error(StoreError),
}

/// What a subtask of an operator put into a checkpoint, apart from files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskState {
    /// The operator.
    pub operator: Uid,
    /// The subtask.
    pub subtask: Subtask,
    /// Its list states; each with one part, this subtask's.
    pub lists: Vec<ListState>,
    /// How far event time had come, by ranges of its key groups.
    pub watermarks: Vec<RangeWatermark>,
    /// Whether its input had ended.
    pub ended: bool,
}

/// A committable as its slot hands it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedCommit {
    /// The sink.
    pub sink: Uid,
    /// The subtask that prepared it.
    pub subtask: Subtask,
    /// The sink's connector.
    pub connector: String,
    /// The connector's non-secret options.
    pub options: Vec<(String, String)>,
    /// When it is committed.
    pub when: When,
    /// Serialised.
    pub payload: Vec<u8>,
    /// What the payload looks like.
    pub shape: ShapeBytes,
}

/// What the snapshot cost, for status and logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStats {
    /// Bytes written for this checkpoint.
    pub bytes: u64,
    /// Entries written for this checkpoint.
    pub entries: u64,
}

/// A slot's part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSnapshot {
    /// The slot.
    pub slot: Slot,
    /// **All** files that make up the slot's keyed state at the barrier, those
    /// of earlier checkpoints too.
    pub files: Vec<FileRef>,
    /// Every subtask of the slot that has list state, a watermark or an end.
    pub operators: Vec<SubtaskState>,
    /// What its sinks prepared since their last hand-over.
    pub prepared: Vec<PreparedCommit>,
    /// What it cost.
    pub stats: SnapshotStats,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Name of the operator, if one is to blame.
    pub operator: Option<String>,
    /// Its subtask.
    pub subtask: Option<Subtask>,
    /// The cause.
    pub cause: String,
}

impl Failure {
    /// One that no operator is to blame for.
    pub fn of_job(cause: String) -> Self {
        Self { operator: None, subtask: None, cause }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.operator, self.subtask) {
            (Some(operator), Some(subtask)) => {
                write!(f, "operator {operator:?}, subtask {subtask}: {}", self.cause)
            }
            (Some(operator), None) => write!(f, "operator {operator:?}: {}", self.cause),
            _ => f.write_str(&self.cause),
        }
    }
}

/// What became of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is visible, now or since before.
    Done,
    /// It can no longer be committed: output is lost.
    Lost(String),
    /// It did not go; it is tried again, unless that would not help.
    Failed(Hindrance),
}

/// Why something outside could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// It may pass by itself.
    Passing(String),
    /// Only the user can mend it.
    Users(String),
}

impl Hindrance {
    /// What a connector's error is.
    pub fn of(error: &Fail) -> Self {
        match error.downcast_ref::<UserError>() {
            Some(users) => Self::Users(users.to_string()),
            None => Self::Passing(error.to_string()),
        }
    }
}

/// A manifest read from where the user pointed.
#[derive(Debug, Clone)]
pub struct FoundManifest {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// What a coordinator is told.
///
/// Of one slot, answers arrive in the order of checkpoints, and a slot that took
/// the barrier of a checkpoint answers it ([`Event::Acknowledge`] or
/// [`Event::Declined`]) before any later one, also when it was aborted
/// meanwhile: what its sinks prepared must not get lost.
#[derive(Debug, Clone)]
pub enum Event {
    /// Begin. First event, once.
    Start,
    /// A store call ended.
    StoreAnswered {
        /// Which.
        ticket: Ticket,
        /// How.
        answer: StoreAnswer,
    },
    /// Answer to [`super::Effect::ReadRestore`]; an error is the user's.
    RestoreRead {
        /// As it was asked.
        path: String,
        /// What was read.
        result: Result<FoundManifest, String>,
    },
    /// All tasks have loaded their state and run.
    TasksDeployed {
        /// The attempt.
        attempt: Attempt,
    },
    /// A slot's part of a checkpoint is durable.
    Acknowledge {
        /// The attempt.
        attempt: Attempt,
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The part.
        snapshot: SlotSnapshot,
    },
    /// A slot took the barrier, but its snapshot failed. If a sink could not
    /// prepare, that is [`Event::TaskFailed`] instead: its output is at stake.
    Declined {
        /// The attempt.
        attempt: Attempt,
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The slot.
        slot: Slot,
        /// Why.
        reason: String,
        /// What its sinks prepared nevertheless.
        prepared: Vec<PreparedCommit>,
    },
    /// A task failed; the attempt is lost.
    TaskFailed {
        /// The attempt.
        attempt: Attempt,
        /// Who and why.
        failure: Failure,
    },
    /// A task failed for what only the user can mend; the job fails.
    TaskRefused {
        /// The attempt.
        attempt: Attempt,
        /// Who and why.
        failure: Failure,
    },
    /// The attempt could not be started, for what its checkpoint or savepoint names is
    /// damaged or missing.
    BaseDamaged {
        /// The attempt.
        attempt: Attempt,
        /// What.
        failure: Failure,
    },
    /// All sources have ended and everything they emitted was processed.
    InputEnded {
        /// The attempt.
        attempt: Attempt,
    },
    /// A batch of commits ended; an outcome for each of its items.
    CommitEnded {
        /// Which.
        batch: Batch,
        /// How.
        outcomes: Vec<(CommitId, CommitOutcome)>,
    },
    /// Answer to [`super::Effect::AbortOthers`].
    OthersAborted {
        /// The attempt.
        attempt: Attempt,
        /// How.
        result: Result<(), Hindrance>,
    },
    /// Answer to [`super::Effect::CancelTasks`]: all slots of the attempt are
    /// joined and their side jobs ended.
    SlotsJoined {
        /// The attempt.
        attempt: Attempt,
    },
    /// A worker is connected, runs the same program, and offers slots. It takes the place
    /// of an older process of its ordinal.
    WorkerJoined {
        /// Which.
        worker: super::WorkerId,
        /// Slots that it offers.
        slots: u16,
    },
    /// A worker's connection is broken, its heartbeats are missing, or another process
    /// took its place.
    WorkerLost {
        /// Which.
        worker: super::WorkerId,
        /// Why.
        cause: String,
    },
    /// What the job should be. Repeated until it is accepted; each is answered with
    /// [`super::Effect::ProposalAnswered`].
    Propose {
        /// The proposal.
        proposal: Box<super::Proposal>,
    },
    /// Answer to [`super::Effect::ReadConfig`].
    ConfigRead {
        /// As it was asked.
        config: millrace_protocol::head::ConfigRef,
        /// What the body says; an error is the user's.
        result: Result<Box<super::Proposal>, String>,
    },
    /// Stop with a checkpoint and stay without tasks, until this was not repeated for
    /// `hold`; then go on.
    HoldStop {
        /// How long it holds.
        hold: std::time::Duration,
    },
    /// A held job goes on at once.
    ReleaseStop,
    /// Take a checkpoint now.
    RequestCheckpoint,
    /// Time has passed; see [`super::Effect::SetTimer`].
    Tick,
    /// Take a savepoint. Asked twice, it is taken once.
    RequestSavepoint {
        /// Chosen by who asks; a segment of a key.
        id: String,
        /// Directory or URL that will hold `<id>/_manifest`.
        target: String,
    },
    /// All savepoints that whoever sends this wants: id and target, as in
    /// [`Event::RequestSavepoint`]. What it wanted before, names no longer and was not begun
    /// is forgotten.
    WantSavepoints {
        /// The savepoints.
        wanted: Vec<(String, String)>,
    },
    /// Answer to [`super::Effect::FindSavepoint`].
    SavepointFound {
        /// Which.
        id: String,
        /// What is there; an error is the user's.
        result: Result<Option<Exported>, String>,
    },
    /// Answer to [`super::Effect::ExportSavepoint`].
    SavepointExported {
        /// Which.
        id: String,
        /// What is there now, or why not.
        result: Result<Exported, String>,
    },
    /// Stop with a checkpoint. `Suspend`: to be resumed from it; `Drain`: as at
    /// the end of input, windows fire.
    RequestStop {
        /// How.
        mode: super::StopMode,
    },
    /// Stop at once, without a checkpoint; what the latest holds is committed.
    Cancel,
}
