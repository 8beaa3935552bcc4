//! The manifest of a checkpoint: what must be read, and committed, to restore it.
//!
//! A manifest is `magic, format: u32, body length: u64, crc32 of the body: u32`
//! (little-endian) and the body, postcard of [`Manifest`]. The head record
//! that names it holds the SHA-256 of all bytes.

use crate::format::FormatError;
use crate::ids::{Attempt, CheckpointId, JobUid, Subtask, Uid};
use crate::keygroup::{KeyGroupRange, MaxParallelism};
use crate::objects::ObjectKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The newest format of manifests known here.
pub const MANIFEST_FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"MILLMANI";
const HEADER: usize = 24;

/// A traced shape in its serialised form; opaque here.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShapeBytes(pub Vec<u8>);

/// Whether a manifest belongs to a job's home or to its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManifestKind {
    /// Taken by the job, garbage-collected with it.
    Checkpoint,
    /// Exported: self-contained, without committables.
    Savepoint,
}

/// How the items of an operator list state find their subtask at restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Redistribution {
    /// Items are dealt out evenly.
    Even,
    /// Every subtask gets all items.
    Union,
    /// Items go back to the subtask they came from; at another parallelism to
    /// subtask `i % parallelism`.
    PerSubtask,
}

/// A keyed state of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedState {
    /// Its name, unique within the operator.
    pub name: String,
    /// What a row of it looks like.
    pub shape: ShapeBytes,
}

/// What one subtask put into an operator list state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPart {
    /// The subtask.
    pub subtask: Subtask,
    /// Its items, serialised one by one.
    pub items: Vec<Vec<u8>>,
}

/// An operator list state: small, not keyed (positions of splits, say).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListState {
    /// Its name, unique within the operator.
    pub name: String,
    /// What an item looks like.
    pub shape: ShapeBytes,
    /// How items find their subtask at restore.
    pub redistribution: Redistribution,
    /// By subtask, ascending.
    pub parts: Vec<ListPart>,
}

/// The watermark that the owner of a range of key groups had reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeWatermark {
    /// The key groups.
    pub groups: KeyGroupRange,
    /// Milliseconds since 1970.
    pub watermark: i64,
}

/// An operator of the graph that took the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorState {
    /// Identifies its state across versions of the program.
    pub uid: Uid,
    /// Its name, for people.
    pub name: String,
    /// What it is (`source`, `window`, ...), for people.
    pub kind: String,
    /// Number of its subtasks.
    pub parallelism: u16,
    /// Its keyed states.
    pub keyed: Vec<KeyedState>,
    /// Its list states.
    pub lists: Vec<ListState>,
    /// How far event time had come, by key-group range.
    pub watermarks: Vec<RangeWatermark>,
    /// Subtasks whose input had ended, ascending.
    pub ended: Vec<Subtask>,
}

/// Position of a file among those of the same key group: later entries win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileOrder {
    /// The checkpoint it was written for.
    pub checkpoint: CheckpointId,
    /// Among the files of that checkpoint.
    pub index: u32,
}

/// The part of a file that one operator reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The operator.
    pub operator: Uid,
    /// What of the file is valid; the file itself may hold more.
    pub groups: KeyGroupRange,
}

/// A state file. The same file may be named several times, with other ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Where it is: in the job's home, or for a savepoint in its target.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32 of its footer, which holds offsets and checksums of all else.
    pub crc32: u32,
    /// Its place among the files of the same key groups.
    pub order: FileOrder,
    /// What of it is valid.
    pub sections: Vec<Section>,
}

/// When a committable is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Once the checkpoint is complete.
    Ready,
    /// Only if the job is restored from this very checkpoint: its writer goes on
    /// and replaces it at the next one.
    OnRestore,
}

/// Names a committable within a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommitId {
    /// The attempt that prepared it.
    pub attempt: Attempt,
    /// The checkpoint whose barrier sealed it.
    pub checkpoint: CheckpointId,
    /// Counts the committables that this attempt's coordinator received.
    pub index: u32,
}

/// What a sink prepared and nobody confirmed as committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// Its name.
    pub id: CommitId,
    /// The sink.
    pub sink: Uid,
    /// The sink's connector and its non-secret options, with which it can be
    /// committed when the graph no longer has the sink.
    pub connector: String,
    /// See `connector`.
    pub options: Vec<(String, String)>,
    /// The subtask that prepared it.
    pub subtask: Subtask,
    /// When it is committed.
    pub when: When,
    /// The sink's committable, serialised.
    pub payload: Vec<u8>,
    /// What the payload looks like.
    pub shape: ShapeBytes,
}

/// A complete description of a checkpoint or savepoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The job that took it.
    pub job: JobUid,
    /// Checkpoint or savepoint.
    pub kind: ManifestKind,
    /// The attempt that took it.
    pub attempt: Attempt,
    /// Its number.
    pub checkpoint: CheckpointId,
    /// When it completed, milliseconds since 1970. For people.
    pub created_at_ms: u64,
    /// Number of key groups of the job.
    pub max_parallelism: MaxParallelism,
    /// Version of the key hash.
    pub hash_version: u32,
    /// Fingerprint of the graph that took it.
    pub fingerprint: String,
    /// The operators.
    pub operators: Vec<OperatorState>,
    /// The state files.
    pub files: Vec<FileRef>,
    /// Every committable not confirmed as committed before its barrier.
    pub pending: Vec<PendingCommit>,
}

impl Manifest {
    /// The manifest's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let name = format!("manifest of checkpoint {}", self.checkpoint);
        let header = vec![0; HEADER];
        let mut bytes = postcard::to_extend(self, header)
            .map_err(|error| FormatError::damaged(&name, error.to_string()))?;
        let length = (bytes.len() - HEADER) as u64;
        let crc = crc32fast::hash(&bytes[HEADER..]);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&MANIFEST_FORMAT.to_le_bytes());
        bytes[12..20].copy_from_slice(&length.to_le_bytes());
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a manifest; `object` is its key or path, for errors.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |why: String| FormatError::damaged(object, why);
        let truncated = || damaged(format!("only {} bytes", bytes.len()));
        let u32_at = |at: usize| {
            let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            field.map(u32::from_le_bytes).ok_or_else(truncated)
        };
        let magic = bytes.get(..8).ok_or_else(truncated)?;
        if magic != MAGIC {
            return Err(damaged("not a manifest of Millrace".to_owned()));
        }
        let found = u32_at(8)?;
        if found > MANIFEST_FORMAT {
            let object = object.to_owned();
            return Err(FormatError::Newer { object, found, known: MANIFEST_FORMAT });
        }
        let length = u64::from(u32_at(12)?) | (u64::from(u32_at(16)?) << 32);
        let crc = u32_at(20)?;
        let body = bytes.get(HEADER..).ok_or_else(truncated)?;
        if body.len() as u64 != length {
            return Err(damaged(format!("{} bytes instead of {length}", body.len())));
        }
        if crc32fast::hash(body) != crc {
            return Err(damaged("its checksum does not match".to_owned()));
        }
        let (manifest, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|error| damaged(error.to_string()))?;
        if !rest.is_empty() {
            return Err(damaged(format!("{} bytes too many", rest.len())));
        }
        Ok(manifest)
    }

    /// Reads a manifest whose SHA-256 is known.
    pub fn decode_checked(object: &str, bytes: &[u8], sha256: &str) -> Result<Self, FormatError> {
        let manifest = Self::decode(object, bytes)?;
        let found = sha256_hex(bytes);
        if found != sha256 {
            let why = format!("its SHA-256 is {found} instead of {sha256}");
            return Err(FormatError::damaged(object, why));
        }
        Ok(manifest)
    }

    /// Bytes of the state files that it names, each file once.
    pub fn state_bytes(&self) -> u64 {
        self.bytes_of(|_| true)
    }

    /// Bytes of those that were written for this checkpoint.
    pub fn written_bytes(&self) -> u64 {
        self.bytes_of(|file| file.order.checkpoint == self.checkpoint)
    }

    fn bytes_of(&self, counts: impl Fn(&FileRef) -> bool) -> u64 {
        let files = self.files.iter().filter(|file| counts(file));
        let files: BTreeMap<_, _> = files.map(|file| (&file.key, file.len)).collect();
        files.values().fold(0, |sum, len| sum.saturating_add(*len))
    }

    /// The operator with this uid.
    pub fn operator(&self, uid: &Uid) -> Option<&OperatorState> {
        self.operators.iter().find(|operator| operator.uid == *uid)
    }
}

/// SHA-256 in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
