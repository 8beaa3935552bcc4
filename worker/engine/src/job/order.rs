//! What a coordinator and the agents of its workers say to each other about attempts.
//!
//! Within a process these are passed as they are; between processes they travel as
//! postcard. Both ends run the same program, whose fingerprint was compared before.

use crate::coordinator::{Event, Failure, FilesIn, PreparedCommit, SlotSnapshot};
use crate::graph::NodeId;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::slot::Report;
use crate::runtime::snapshot::Barrier;
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid, Slot};
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Start the slots of an attempt that are placed on this worker. What runs of an older
    /// attempt is stopped first; an older attempt than the newest known is refused.
    Deploy(Box<DeployOrder>),
    /// Stop the slots of an attempt; answered with [`Word::Joined`], also if there are none.
    Cancel {
        /// Which.
        attempt: Attempt,
    },
    /// Send a barrier into the sources.
    Trigger(Barrier),
    /// A checkpoint is complete.
    Complete {
        /// Of which attempt.
        attempt: Attempt,
        /// Which.
        checkpoint: CheckpointId,
    },
    /// A checkpoint was given up.
    Aborted {
        /// Of which attempt.
        attempt: Attempt,
        /// Which.
        checkpoint: CheckpointId,
    },
}

/// An attempt, as each of its workers is told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeployOrder {
    /// The job.
    pub job: JobUid,
    /// The attempt.
    pub attempt: Attempt,
    /// Subtasks of operators that say nothing else.
    pub parallelism: u16,
    /// Number of key groups.
    pub max_parallelism: MaxParallelism,
    /// What to load.
    pub base: Option<BaseOrder>,
    /// The ordinal of the worker that runs each slot.
    pub placement: Vec<u16>,
    /// The workers of the placement.
    pub peers: Vec<Peer>,
    /// What workers of this attempt show each other; of random bytes.
    pub token: Vec<u8>,
}

/// A worker, as others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its ordinal.
    pub ordinal: u16,
    /// The nonce of its process.
    pub process: String,
    /// Where its exchange listens.
    pub exchange: String,
}

/// What an attempt starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BaseOrder {
    /// What to load.
    #[serde(with = "shared")]
    pub manifest: Arc<Manifest>,
    /// Where its files are.
    pub files: FilesIn,
}

mod shared {
    use super::{Arc, Manifest};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(manifest: &Arc<Manifest>, to: S) -> Result<S::Ok, S::Error> {
        manifest.as_ref().serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Arc<Manifest>, D::Error> {
        Manifest::deserialize(from).map(Arc::new)
    }
}

/// What a worker says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Word {
    /// A slot's tasks are built and their state is loaded.
    Ready {
        /// Of which attempt.
        attempt: Attempt,
        /// Which.
        slot: Slot,
    },
    /// All tasks of a slot have ended.
    Ended {
        /// Of which attempt.
        attempt: Attempt,
        /// Which.
        slot: Slot,
    },
    /// See [`Event::Acknowledge`].
    Acknowledge {
        /// Of which attempt.
        attempt: Attempt,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// The part.
        snapshot: SlotSnapshot,
    },
    /// See [`Event::Declined`].
    Declined {
        /// Of which attempt.
        attempt: Attempt,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// By which slot.
        slot: Slot,
        /// Why.
        reason: String,
        /// What its sinks prepared nevertheless.
        prepared: Vec<PreparedCommit>,
    },
    /// A task failed, or the attempt could not be started.
    Failed {
        /// Which attempt.
        attempt: Attempt,
        /// Who and why.
        failure: Failure,
    },
    /// Only the user can mend it: the job is not to be tried again.
    Refused {
        /// Which attempt.
        attempt: Attempt,
        /// What.
        why: String,
    },
    /// The slots of an attempt are joined, and their side jobs ended.
    Joined {
        /// Which.
        attempt: Attempt,
    },
    /// See [`Event::RequestCheckpoint`].
    RequestCheckpoint {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// How its subtasks are doing.
    Counters {
        /// Of which attempt.
        attempt: Attempt,
        /// One per subtask.
        counters: Vec<Counters>,
    },
}

/// The counters of one subtask of a node; see [`NodeMetrics`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The node.
    pub node: u32,
    /// See [`NodeMetrics`].
    pub rows_in: u64,
    /// See [`NodeMetrics`].
    pub rows_out: u64,
    /// See [`NodeMetrics`].
    pub late_dropped: u64,
    /// See [`NodeMetrics`].
    pub watermark: Option<i64>,
    /// See [`NodeMetrics`].
    pub state_bytes: u64,
    /// See [`NodeMetrics`].
    pub state_entries: u64,
    /// See [`NodeMetrics`].
    pub busy_ns: u64,
    /// See [`NodeMetrics`].
    pub blocked_ms: u64,
}

impl Counters {
    /// What `metrics` show now.
    pub fn of(node: NodeId, metrics: &NodeMetrics) -> Self {
        Self {
            node: node.0,
            rows_in: metrics.rows_in.get(),
            rows_out: metrics.rows_out.get(),
            late_dropped: metrics.late_dropped.get(),
            watermark: metrics.watermark(),
            state_bytes: metrics.state_bytes.get().unsigned_abs(),
            state_entries: metrics.state_entries.get().unsigned_abs(),
            busy_ns: metrics.busy_ns.get(),
            blocked_ms: metrics.blocked_ms.get(),
        }
    }
}

impl Word {
    /// What a slot of `attempt` reports, for the coordinator.
    pub fn of(attempt: Attempt, report: Report) -> Option<Self> {
        Some(match report {
            Report::Ready(slot) => Self::Ready { attempt, slot },
            Report::Ended(slot) => Self::Ended { attempt, slot },
            Report::Refused(why) => Self::Refused { attempt, why },
            Report::Event(Event::Acknowledge { attempt, checkpoint, snapshot }) => {
                Self::Acknowledge { attempt, checkpoint, snapshot }
            }
            Report::Event(Event::Declined { attempt, checkpoint, slot, reason, prepared }) => {
                Self::Declined { attempt, checkpoint, slot, reason, prepared }
            }
            Report::Event(Event::TaskFailed { attempt, failure }) => {
                Self::Failed { attempt, failure }
            }
            Report::Event(Event::RequestCheckpoint) => Self::RequestCheckpoint { attempt },
            // Slots report nothing else.
            Report::Event(_) => return None,
        })
    }

    /// The attempt that it is about.
    pub fn attempt(&self) -> Attempt {
        match self {
            Self::Ready { attempt, .. }
            | Self::Ended { attempt, .. }
            | Self::Acknowledge { attempt, .. }
            | Self::Declined { attempt, .. }
            | Self::Failed { attempt, .. }
            | Self::Refused { attempt, .. }
            | Self::Joined { attempt }
            | Self::RequestCheckpoint { attempt }
            | Self::Counters { attempt, .. } => *attempt,
        }
    }
}

impl DeployOrder {
    /// How many slots each worker runs.
    pub fn shares(&self) -> BTreeMap<u16, usize> {
        let mut shares = BTreeMap::new();
        for worker in &self.placement {
            *shares.entry(*worker).or_default() += 1;
        }
        shares
    }
}
