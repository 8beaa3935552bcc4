//! What a coordinator wants done. Effects of one step are carried out in order;
//! those that block go to the side pool.

use super::config::ProgramSpec;
use super::event::{Batch, Failure, StoreAnswer, Ticket};
use super::workers::{Verdict, WorkerId};
use crate::store::{ObjectStore, Put, StoreResult};
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::{Attempt, CheckpointId, Uid};
use millrace_protocol::manifest::{Manifest, PendingCommit};
use millrace_protocol::objects::{ObjectKey, Prefix};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A call of the job's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreCall {
    /// Put unless there is one.
    PutIfAbsent {
        /// Where.
        key: ObjectKey,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// Get all of an object.
    Get {
        /// Which.
        key: ObjectKey,
    },
    /// List.
    List {
        /// What.
        prefix: Prefix,
    },
    /// Delete all of these; those that are not there are no error.
    Delete {
        /// Which.
        keys: Vec<ObjectKey>,
    },
    /// List what was begun and not finished.
    ListUnfinished {
        /// What.
        prefix: Prefix,
    },
    /// Take that back at all of these.
    DiscardUnfinished {
        /// Which.
        keys: Vec<ObjectKey>,
    },
}

impl StoreCall {
    /// Makes the call. Blocks.
    pub fn run(&self, store: &dyn ObjectStore) -> StoreAnswer {
        self.call(store).unwrap_or_else(StoreAnswer::Error)
    }

    fn call(&self, store: &dyn ObjectStore) -> StoreResult<StoreAnswer> {
        Ok(match self {
            Self::PutIfAbsent { key, bytes } => match store.put_if_absent(key, bytes)? {
                Put::Created => StoreAnswer::Created,
                Put::Exists => StoreAnswer::Exists,
            },
            Self::Get { key } => StoreAnswer::Got(store.get(key)?.map(Arc::from)),
            Self::List { prefix } => StoreAnswer::Keys(store.list(prefix)?),
            Self::Delete { keys } => {
                keys.iter().try_for_each(|key| store.delete(key))?;
                StoreAnswer::Deleted
            }
            Self::ListUnfinished { prefix } => StoreAnswer::Keys(store.unfinished(prefix)?),
            Self::DiscardUnfinished { keys } => {
                keys.iter().try_for_each(|key| store.discard_unfinished(key))?;
                StoreAnswer::Deleted
            }
        })
    }
}

/// Why a barrier is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BarrierKind {
    /// The interval has passed.
    Periodic,
    /// Somebody wants a savepoint.
    Savepoint,
    /// Sources stop behind it, and another attempt goes on from here. Writers leave
    /// nothing open. Never unaligned.
    Rescale,
    /// Sources stop behind it. Writers leave nothing open. Never unaligned.
    Stop(StopMode),
    /// All input was read. Writers leave nothing open.
    Final,
}

impl BarrierKind {
    /// Whether nothing comes after it, so that writers leave nothing open.
    pub fn is_last(self) -> bool {
        matches!(self, Self::Rescale | Self::Stop(_) | Self::Final)
    }
}

/// How a job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopMode {
    /// It goes on later: neither the end nor the last watermark is sent.
    Suspend,
    /// As at the end of input: the last watermark is sent and windows fire
    /// before the barrier.
    Drain,
}

/// Where a base's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilesIn {
    /// In the job's store.
    Home,
    /// In a savepoint: keys count from this directory's parent (the target).
    Savepoint(String),
}

/// What an attempt starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What to load.
    pub manifest: Arc<Manifest>,
    /// Where from.
    pub files: FilesIn,
}

/// How a job ended, for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Input read to the end (or drained), everything committed.
    Finished,
    /// It had been finished before this process began.
    FinishedBefore,
    /// Stopped; may be resumed.
    Suspended,
    /// Gave up under the restart policy.
    Failed(String),
    /// The user must change something; nothing was touched.
    Refused(String),
    /// Another job's state is there, and nobody said what is to become of it; nothing was
    /// touched.
    EarlierState(String),
    /// The job has run before, and its storage holds nothing of it; nothing was touched.
    StateMissing(String),
    /// Another process has taken the job over: the one that owns it now, as far as is
    /// known.
    Fenced(Option<Owner>),
    /// Another job has taken the home over, for ever.
    Superseded(String),
    /// The job's data is deleted.
    Deleted,
}

/// How loud a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For who looks closely.
    Debug,
    /// Of interest.
    Info,
    /// Something went wrong and is dealt with.
    Warn,
    /// Something is lost.
    Error,
}

/// A message for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How loud.
    pub level: Level,
    /// The attempt, if there is one.
    pub attempt: Option<Attempt>,
    /// The checkpoint it is about.
    pub checkpoint: Option<CheckpointId>,
    /// A lower-case fragment.
    pub text: String,
}

/// What a complete checkpoint was like, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Which.
    pub checkpoint: CheckpointId,
    /// Whether another coordinator took it, and this one found it when it claimed the job.
    pub found: bool,
    /// When it was complete, milliseconds since 1970.
    pub at_ms: u64,
    /// From trigger to completion; zero if another coordinator took it.
    pub took: Duration,
    /// Bytes written for it.
    pub bytes: u64,
    /// Entries written for it; zero if another coordinator took it.
    pub entries: u64,
    /// Files it names.
    pub files: usize,
    /// Bytes of these.
    pub state_bytes: u64,
}

/// What a coordinator wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Call the store; answer with [`super::Event::StoreAnswered`].
    Store(Ticket, StoreCall),
    /// Read the manifest of a savepoint (`path/_manifest`, or `path` itself if it
    /// is a file); answer with [`super::Event::RestoreRead`].
    ReadRestore {
        /// What the user, or the head record, pointed at.
        path: String,
    },
    /// Commit these; answer with [`super::Event::CommitEnded`].
    Commit(Batch, Vec<PendingCommit>),
    /// Remove what attempts below this one staged and `keep` does not name; answer
    /// with [`super::Event::OthersAborted`]. What this or a later attempt stages
    /// must stay: the call may come from a process that is fenced by now.
    AbortOthers {
        /// The attempt that is about to run.
        attempt: Attempt,
        /// Per sink of the program, what must stay.
        sinks: Vec<(Uid, Vec<PendingCommit>)>,
    },
    /// Start tasks; answer with [`super::Event::TasksDeployed`] or
    /// [`super::Event::TaskFailed`].
    Deploy {
        /// The attempt.
        attempt: Attempt,
        /// What to load; `None`: start empty.
        base: Option<Base>,
        /// The program, with the parallelisms of this attempt.
        program: Arc<ProgramSpec>,
        /// By slot: the process that it runs in.
        placement: Vec<WorkerId>,
    },
    /// Stop tasks: tell all workers of the attempt's placement that still live; answer
    /// with [`super::Event::SlotsJoined`] when all of those have joined, or were lost,
    /// also if there are none.
    CancelTasks {
        /// The attempt.
        attempt: Attempt,
    },
    /// Send a barrier into all sources.
    TriggerBarrier {
        /// The attempt.
        attempt: Attempt,
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The checkpoint that a delta may build on; `None`: everything must be
        /// written anew.
        base: Option<CheckpointId>,
        /// Why.
        kind: BarrierKind,
        /// From when on it may overtake rows; `None`: never.
        unaligned_after: Option<Duration>,
    },
    /// The checkpoint is complete: tell the slots.
    NotifyComplete {
        /// The attempt.
        attempt: Attempt,
        /// The checkpoint.
        checkpoint: CheckpointId,
    },
    /// The checkpoint was aborted: tell the slots, which drop nothing.
    NotifyAborted {
        /// The attempt.
        attempt: Attempt,
        /// The checkpoint.
        checkpoint: CheckpointId,
    },
    /// Look whether the savepoint is there already: it may have been exported by a
    /// coordinator that is gone; answer with [`super::Event::SavepointFound`]. See
    /// [`super::export::exported`].
    FindSavepoint {
        /// The savepoint.
        id: String,
        /// Where it would be.
        target: String,
    },
    /// Copy a checkpoint's files to `target/<id>/data`, then put
    /// `target/<id>/_manifest` without committables, last and if absent; answer
    /// with [`super::Event::SavepointExported`]. See [`super::export`].
    ExportSavepoint {
        /// The savepoint.
        id: String,
        /// Where to.
        target: String,
        /// The checkpoint.
        manifest: Arc<Manifest>,
    },
    /// A savepoint that was asked for is there, or cannot be had.
    SavepointEnded {
        /// Which.
        id: String,
        /// Where it is, or why not.
        result: Result<String, String>,
    },
    /// Answer to a proposal.
    ProposalAnswered {
        /// Its number.
        generation: u64,
        /// The answer.
        verdict: Verdict,
    },
    /// Say what a stored configuration means; answer with [`super::Event::ConfigRead`].
    ReadConfig {
        /// Which.
        config: ConfigRef,
        /// Its body, as it was stored.
        body: Arc<[u8]>,
    },
    /// Send [`super::Event::Tick`] at this moment; replaces the timer set before.
    SetTimer(Duration),
    /// For status.
    Report(CheckpointReport),
    /// For status: what failed and no worker has told.
    Failed {
        /// Only this checkpoint has; `None`: the attempt.
        checkpoint: Option<CheckpointId>,
        /// What.
        failure: Failure,
    },
    /// For the log.
    Log(Note),
    /// The last effect: the process may go.
    Ended(Outcome),
}
