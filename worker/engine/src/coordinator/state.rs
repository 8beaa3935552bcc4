//! What the coordinator's state is made of.

use super::chain::{Append, Read};
use super::checkpoint::InProgress;
use super::config::ProgramSpec;
use super::effect::{Outcome, StopMode};
use super::event::FoundManifest;
use super::home::FindHome;
use super::workers::Proposal;
use millrace_protocol::head::{CheckpointRef, ConfigRef, Ending, HeadRecord, Origin, Version};
use millrace_protocol::ids::{Attempt, CheckpointId, Slot};
use millrace_protocol::manifest::Manifest;
use millrace_protocol::objects::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a store call is for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    Home,
    Read,
    Load(CheckpointRef),
    Append,
    PutManifest(Attempt, CheckpointId),
    Delete,
    Watch(Version),
    SweepList(Attempt),
    SweepUnfinished(Attempt),
    Truncate,
    PutConfig(String),
    GetConfig(ConfigRef),
    Silence(Version),
    Incarnate,
    Empty,
}

/// What the coordinator is doing.
#[derive(Debug)]
pub(super) enum Stage {
    New,
    /// Whose home is this?
    Finding(FindHome),
    /// Where is the chain's end?
    Reading(Box<Read>),
    /// The next incarnation is being put.
    Incarnating,
    /// The job's data is being deleted: these are left.
    Deleting(Vec<ObjectKey>),
    /// The head's configuration is being read.
    Configuring,
    /// Another may own the job: has it fallen silent?
    Silence(Silence),
    /// The head's manifests are being read; these are outstanding.
    Loading(BTreeSet<ObjectKey>),
    /// What the user or the head points at outside the home is being read.
    Pointing,
    /// Another's entry was in the way of the first claim: read again then.
    Rereading(Duration),
    /// A claim is being appended.
    Claiming,
    /// What the base holds is committed, leftovers are aborted.
    Recovering(Others),
    /// Tasks are being started.
    Deploying,
    /// Tasks run.
    Running,
    /// Tasks are being stopped.
    Cancelling(After),
    /// No tasks, until then.
    Waiting(Duration),
    /// No tasks, until the hold ends.
    Held,
    /// The last entry but one is won: commit all, then append the last.
    Closing(Ending),
    /// The last entry is won; tasks are being stopped.
    Closed(Outcome),
    /// At an end, and waiting for a reason to go on.
    Idle(Outcome),
    Ended(Outcome),
}

/// Waits for another's silence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    /// If nothing new was seen by then, it has fallen silent.
    pub(super) until: Duration,
    /// When to look next; `None` while looking.
    pub(super) look_at: Option<Duration>,
}

/// Whether what a proposal wants to be restored from was checked.
#[derive(Debug, Clone, Default)]
pub(super) enum Restoring {
    #[default]
    No,
    Reading(String),
    Ready(Abandon, Option<FoundManifest>),
}

/// What an attempt was started with.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) generation: u64,
    pub(super) program: Arc<ProgramSpec>,
}

/// Whether leftovers of earlier attempts are aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    ToAbort,
    Aborting,
    Aborted,
}

/// What follows when the tasks are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum After {
    Restart(Duration),
    /// Another attempt, at once.
    Rescale,
    Fail(String),
    Stop,
    Fenced,
}

/// Whether an attempt's tasks may exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tasks {
    None,
    Some(Attempt),
    Cancelled(Attempt),
}

/// Why an entry is appended.
#[derive(Debug)]
pub(super) enum For {
    Claim,
    Abandon,
    Complete(Box<InProgress>, Arc<Manifest>),
    Unpin(String),
    Pin,
    Configure(Box<Proposal>),
    KeepAlive,
    Moved,
    Delete,
    Stopping,
    Close(Ending),
    Fail(String),
}

/// The append under way.
#[derive(Debug)]
pub(super) struct Appending {
    pub(super) append: Append,
    pub(super) record: HeadRecord,
    pub(super) purpose: For,
}

/// Where to go instead of `latest`, once that is committed.
#[derive(Debug, Clone, Default)]
pub(super) struct Abandon {
    pub(super) latest: Option<CheckpointRef>,
    pub(super) origin: Option<Origin>,
}

/// How somebody wants the job to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopRequest {
    Checkpoint(StopMode),
    Now,
}

impl StopRequest {
    /// Whether it needs tasks, even if there are none yet.
    pub(super) fn drains(self) -> bool {
        self == Self::Checkpoint(StopMode::Drain)
    }
}

/// What concerns one attempt only.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) since: Duration,
    pub(super) input_ended: bool,
    /// A stop barrier was sent: the attempt must end.
    pub(super) sources_closed: bool,
    pub(super) last_trigger: Duration,
    pub(super) last_end: Duration,
    pub(super) failed_checkpoints: u32,
    pub(super) commits_received: u32,
    /// The checkpoints that each slot answered, the newest of them.
    pub(super) answered: BTreeMap<Slot, BTreeSet<CheckpointId>>,
    /// What a delta may build on.
    pub(super) base: Option<CheckpointId>,
}

/// Rules that may be dropped, to see that the model notices.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    ClaimDoesNotFreeze,
    NoFloorCheck,
    DeleteWhileUnknown,
    SweepOwnAttempt,
    AbortBeforeClaim,
    NoCarryOver,
}
