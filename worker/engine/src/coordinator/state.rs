//! What the coordinator's state is made of.

use super::chain::{Append, Read};
use super::checkpoint::InProgress;
use super::effect::{Outcome, StopMode};
use super::home::FindHome;
use millrace_protocol::head::{CheckpointRef, Ending, HeadRecord, Origin, Version};
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
    Truncate,
}

/// What the coordinator is doing.
#[derive(Debug)]
pub(super) enum Stage {
    New,
    /// Whose home is this?
    Finding(FindHome),
    /// Where is the chain's end?
    Reading(Box<Read>),
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
    /// The last entry but one is won: commit all, then append the last.
    Closing(Ending),
    /// The last entry is won; tasks are being stopped.
    Closed(Outcome),
    Ended,
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

/// What concerns one attempt only.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) since: Duration,
    pub(super) input_ended: bool,
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

/// What a job is doing, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Reading what there is.
    Starting,
    /// Committing and loading what the base holds.
    Recovering,
    /// Tasks run.
    Running,
    /// Stopping tasks, or waiting, before another attempt.
    Restarting,
    /// Coming to its end.
    Stopping,
    /// Over.
    Ended,
}
