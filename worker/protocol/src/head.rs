//! The head record: all that is true about a job's progress.
//!
//! Records form one chain of put-if-absent objects that holds claims and
//! completions alike, so that a claim freezes every older attempt.

use crate::format::FormatError;
use crate::ids::{Attempt, CheckpointId, JobUid};
use crate::objects::ObjectKey;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The newest format of head records known here.
pub const HEAD_FORMAT: u32 = 1;

/// No head record is larger than this many bytes.
pub const HEAD_MAX_BYTES: usize = 64 * 1024;

/// Position in the chain. The first entry is 1; "nothing read yet" is 0.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells one's own record from another's after an uncertain put.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub String);

impl Nonce {
    /// A nonce of two random numbers.
    pub fn new(high: u64, low: u64) -> Self {
        Self(format!("{high:016x}{low:016x}"))
    }
}

/// The process that wrote a record. For people; nothing is decided by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// UID of the pod, or the host's name in a local run.
    pub pod: String,
    /// Process id.
    pub process: u32,
    /// Where its control endpoint listens; empty in a local run.
    pub address: String,
}

/// What a stopping job becomes when everything is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It may be resumed.
    Suspended,
    /// It has nothing more to do.
    Finished,
}

/// What the job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// An attempt runs, or is about to.
    Running,
    /// The last checkpoint is taken; what it holds is being committed.
    Stopping(Ending),
    /// Stopped with nothing to commit; may be resumed.
    Suspended,
    /// Gave up under its restart policy; may be resumed.
    Failed,
    /// Read its input to the end and committed everything.
    Finished,
    /// Went on in another incarnation.
    Moved,
    /// Deleted; only this record is left.
    Deleted,
}

/// The configuration that was accepted last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRef {
    /// Counts accepted edits.
    pub generation: u64,
    /// Hash of the configuration's body.
    pub hash: String,
    /// Identity of the program.
    pub program: String,
}

/// A complete checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// The attempt that took it.
    pub attempt: Attempt,
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Its manifest.
    pub manifest: ObjectKey,
    /// SHA-256 of the manifest's bytes, in hex.
    pub sha256: String,
    /// Committables in the manifest that this record does not know as committed.
    pub pending: u32,
    /// The checkpoint before it, if since that one nothing was prepared that could have been
    /// committed: a job may go back to it, and no output comes twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nothing_since: Option<CheckpointId>,
}

/// A checkpoint kept for a savepoint until that is exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The savepoint's id, chosen by who asked for it.
    pub savepoint: String,
    /// The checkpoint.
    pub at: CheckpointRef,
    /// Where it is exported to.
    pub target: String,
}

/// A savepoint outside the job's home that the job starts from until its first
/// own checkpoint is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Directory or URL that holds `_manifest`.
    pub path: String,
    /// SHA-256 of its manifest's bytes, in hex.
    pub sha256: String,
}

/// What is left of the restart policy's patience, for a coordinator that takes over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartBudget {
    /// Restarts since the job was last healthy for long enough.
    pub used: u32,
    /// All restarts after failures of this program, those of its coordinator included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub total: u64,
}

/// One entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// Format of this record.
    pub format: u32,
    /// Its own position in the chain.
    pub version: Version,
    /// Distinguishes it from another's record of the same version.
    pub nonce: Nonce,
    /// The job.
    pub job: JobUid,
    /// The attempt that may complete checkpoints from here on.
    pub attempt: Attempt,
    /// Who wrote it.
    pub owner: Owner,
    /// What the job is doing.
    pub phase: Phase,
    /// Why, for a phase that has a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The accepted configuration.
    pub config: ConfigRef,
    /// The checkpoint to restore from.
    pub latest: Option<CheckpointRef>,
    /// What to restore from while there is no `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The highest checkpoint id ever triggered that this record's author knows
    /// of: ids only increase, also past an empty start.
    pub last_checkpoint: CheckpointId,
    /// Older complete checkpoints that are kept, newest first.
    pub retained: Vec<CheckpointRef>,
    /// Checkpoints kept for savepoints.
    pub pins: Vec<Pin>,
    /// What is left of the restart policy's patience.
    pub restart: RestartBudget,
    /// The highest nonce of a wish to restore from elsewhere that was obeyed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restore_nonce: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl HeadRecord {
    /// All checkpoints that this record keeps alive.
    pub fn checkpoints(&self) -> impl Iterator<Item = &CheckpointRef> {
        self.latest.iter().chain(&self.retained).chain(self.pins.iter().map(|pin| &pin.at))
    }

    /// The record's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let name = || format!("head record {}", self.version);
        let bytes = serde_json::to_vec(self)
            .map_err(|error| FormatError::damaged(&name(), error.to_string()))?;
        if bytes.len() > HEAD_MAX_BYTES {
            let why = format!("{} bytes, more than {HEAD_MAX_BYTES}", bytes.len());
            return Err(FormatError::damaged(&name(), why));
        }
        Ok(bytes)
    }

    /// Reads a record; `object` is its key, for errors.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Envelope {
            format: u32,
        }
        let damaged = |error: serde_json::Error| FormatError::damaged(object, error.to_string());
        let found = serde_json::from_slice::<Envelope>(bytes).map_err(damaged)?.format;
        if found > HEAD_FORMAT {
            return Err(FormatError::Newer {
                object: object.to_owned(),
                found,
                known: HEAD_FORMAT,
            });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

/// Which life of a job's name owns the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Format of this record.
    pub format: u32,
    /// The job.
    pub job: JobUid,
    /// The cluster it lives in; empty in a local run.
    #[serde(default)]
    pub cluster: String,
    /// What it was made from, if it took over another job's state.
    #[serde(default)]
    pub origin: Option<String>,
    /// Whether this is no life but its end: the data of those before is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Distinguishes it from another's record of the same number.
    pub nonce: Nonce,
}
