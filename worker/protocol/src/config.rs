//! What a job is told from outside: the immutable *revision* and the *live part*.
//!
//! A [`Revision`] is everything whose change needs new processes or a check of the
//! program; it is known by the hash of its bytes. A [`Live`] part names a revision and
//! holds what a running job takes over in place: how many workers, how parallel, when
//! checkpoints are taken, whether it should run at all. Live parts are proposals, numbered
//! by `generation`: the head record says which was accepted last, and that one is what a
//! coordinator resumes. Both are JSON; durations are milliseconds; unknown fields are
//! refused, for what is not understood must not be dropped in silence.

use crate::format::FormatError;
use crate::ids::JobUid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The newest format of configurations known here.
pub const CONFIG_FORMAT: u32 = 1;

/// The restart-relevant half of a job's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// Format of this record.
    pub format: u32,
    /// Shown to people: `namespace/name` in a cluster.
    pub name: String,
    /// The incarnation: a StreamJob's UID in a cluster.
    pub job: JobUid,
    /// The cluster's identity; empty outside of one.
    #[serde(default)]
    pub cluster: String,
    /// The program's own arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Number of key groups; fixed for the life of the job's state.
    pub max_parallelism: u32,
    /// Slots (threads that run tasks) of each worker.
    pub slots_per_worker: u16,
    /// Where the job's progress is kept.
    pub storage: Storage,
    /// Where keyed state lives.
    #[serde(default)]
    pub backend: Backend,
    /// How workers talk to one another.
    #[serde(default)]
    pub exchange: ExchangeSecurity,
    /// Uids of operators whose state may be lost.
    #[serde(default)]
    pub drop_state: Vec<String>,
    /// What to do with state that an earlier job of this name left.
    #[serde(default)]
    pub on_existing_state: OnExistingState,
}

/// The half that a running job takes over in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Format of this record.
    pub format: u32,
    /// Counts edits: a higher one replaces a lower one.
    pub generation: u64,
    /// Hash of the revision it belongs to: see [`Revision::hash`].
    pub revision: String,
    /// Number of worker processes; slots of higher ordinals are not used.
    pub workers: u16,
    /// Subtasks of operators that say nothing else.
    pub parallelism: u16,
    /// Whether the job should run.
    #[serde(default)]
    pub desired: DesiredState,
    /// When checkpoints are taken and kept.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// What happens after a failure.
    #[serde(default)]
    pub restart: RestartSettings,
    /// Where state comes from, when not from the job's latest checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreFrom>,
    /// The job has run before, and was not told to begin elsewhere since: storage that
    /// holds nothing of it is not where it left its state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begun: bool,
}

/// Where a job's objects are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Storage {
    /// A directory.
    Directory {
        /// Its path.
        path: String,
    },
    /// An S3 bucket.
    S3(S3Storage),
}

/// A place in S3 or in a server that speaks its protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Storage {
    /// The bucket.
    pub bucket: String,
    /// All keys begin with this and a `/`; empty: nothing.
    #[serde(default)]
    pub prefix: String,
    /// None: the SDK's chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// None: AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Bucket in the path, not in the host name. None: yes if `endpoint` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// A file with the certificate authority of `endpoint`, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// A directory with the files `accessKeyId`, `secretAccessKey` and perhaps
    /// `sessionToken`, read anew when they change. None: the SDK's default chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<String>,
}

/// Where keyed state lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// In memory.
    #[default]
    Memory,
    /// In memory, as far as the budget goes; the rest in files on a local disk.
    Disk,
    /// In memory, as far as the budget goes; the rest in RocksDB on a local disk.
    RocksDB,
}

/// How workers talk to one another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ExchangeSecurity {
    /// As it is.
    #[default]
    Plaintext,
    /// Mutual TLS.
    Mutual {
        /// A directory with `tls.crt`, `tls.key` and `ca.crt`, PEM.
        directory: String,
    },
}

/// What to do with state that an earlier job of the same name left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExistingState {
    /// Do not start.
    #[default]
    Refuse,
    /// Go on from it.
    Resume,
    /// Start empty; leave it where it is.
    Ignore,
}

/// Whether a job should run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DesiredState {
    /// It should.
    #[default]
    Running,
    /// It should stop with a checkpoint, and go on from there one day.
    Suspended,
}

/// When checkpoints are taken and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSettings {
    /// Between triggers; 0: only at savepoints, stops and the end.
    pub interval_ms: u64,
    /// One that takes longer is aborted.
    pub timeout_ms: u64,
    /// Least time between the end of one and the trigger of the next.
    pub min_pause_ms: u64,
    /// How many complete ones are kept; at least 1.
    pub retained: u32,
    /// So many failures in a row are borne.
    pub tolerated_failures: u32,
    /// Barriers that wait longer than this overtake the rows before them, which then
    /// become part of the checkpoint: 0 at once, `None` never. Always written: what is left
    /// out is the default.
    pub unaligned_after_ms: Option<u64>,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            interval_ms: 10_000,
            timeout_ms: 600_000,
            min_pause_ms: 0,
            retained: 3,
            tolerated_failures: 3,
            unaligned_after_ms: Some(30_000),
        }
    }
}

/// What happens after a failure: a delay that doubles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartSettings {
    /// The first delay.
    pub initial_delay_ms: u64,
    /// The longest.
    pub max_delay_ms: u64,
    /// A job that ran so long begins with the first delay again.
    pub reset_after_ms: u64,
    /// `None`: never give up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,
}

impl Default for RestartSettings {
    fn default() -> Self {
        Self {
            initial_delay_ms: 1_000,
            max_delay_ms: 60_000,
            reset_after_ms: 600_000,
            max_restarts: None,
        }
    }
}

/// Where state comes from by the user's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreFrom {
    /// Obeyed once: at the first start, later only if it has grown.
    pub nonce: u64,
    /// A savepoint's path or URL; `None`: an empty start.
    pub path: Option<String>,
}

impl Revision {
    /// The record's bytes, the same for the same content.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        encode("revision", self)
    }

    /// Reads one; `object` is where it comes from, for errors.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        decode(object, bytes)
    }

    /// Names this revision: 16 hexadecimal digits of the SHA-256 of its bytes.
    pub fn hash(&self) -> Result<String, FormatError> {
        Ok(crate::manifest::sha256_hex(&self.encode()?).chars().take(16).collect())
    }
}

impl Live {
    /// The record's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        encode("live configuration", self)
    }

    /// Reads one; `object` is where it comes from, for errors.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        decode(object, bytes)
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path } => f.write_str(path),
            Self::S3(s3) if s3.prefix.is_empty() => write!(f, "s3://{}", s3.bucket),
            Self::S3(s3) => write!(f, "s3://{}/{}", s3.bucket, s3.prefix),
        }
    }
}

fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, FormatError> {
    serde_json::to_vec(value).map_err(|error| FormatError::damaged(what, error.to_string()))
}

fn decode<T: for<'a> Deserialize<'a>>(object: &str, bytes: &[u8]) -> Result<T, FormatError> {
    #[derive(Deserialize)]
    struct Envelope {
        format: u32,
    }
    let damaged = |error: serde_json::Error| FormatError::damaged(object, error.to_string());
    let found = serde_json::from_slice::<Envelope>(bytes).map_err(damaged)?.format;
    if found > CONFIG_FORMAT {
        let object = object.to_owned();
        return Err(FormatError::Newer { object, found, known: CONFIG_FORMAT });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision() -> Revision {
        Revision {
            format: CONFIG_FORMAT,
            name: "shop/orders".to_owned(),
            job: JobUid("0123".to_owned()),
            cluster: String::new(),
            args: vec!["--topic".to_owned(), "orders".to_owned()],
            max_parallelism: 1024,
            slots_per_worker: 2,
            storage: Storage::S3(S3Storage {
                bucket: "acme".to_owned(),
                prefix: "prod/shop/orders".to_owned(),
                ..S3Storage::default()
            }),
            backend: Backend::RocksDB,
            exchange: ExchangeSecurity::Plaintext,
            drop_state: Vec::new(),
            on_existing_state: OnExistingState::Refuse,
        }
    }

    #[test]
    fn both_halves_come_back_as_they_were() {
        let revision = revision();
        assert_eq!(Revision::decode("r", &revision.encode().unwrap()).unwrap(), revision);
        assert_eq!(revision.storage.to_string(), "s3://acme/prod/shop/orders");
        let live = Live {
            format: CONFIG_FORMAT,
            generation: 7,
            revision: revision.hash().unwrap(),
            workers: 4,
            parallelism: 7,
            desired: DesiredState::Suspended,
            checkpoint: CheckpointSettings::default(),
            restart: RestartSettings { max_restarts: Some(9), ..RestartSettings::default() },
            restore: Some(RestoreFrom { nonce: 1, path: None }),
            begun: true,
        };
        for unaligned_after_ms in [None, Some(0), Some(30_000)] {
            let checkpoint = CheckpointSettings { unaligned_after_ms, ..live.checkpoint.clone() };
            let live = Live { checkpoint, ..live.clone() };
            assert_eq!(Live::decode("l", &live.encode().unwrap()).unwrap(), live);
        }
    }

    #[test]
    fn the_hash_follows_the_content() {
        let (one, mut two) = (revision(), revision());
        assert_eq!(one.hash().unwrap(), two.hash().unwrap());
        assert_eq!(one.hash().unwrap().len(), 16);
        two.args.pop();
        assert_ne!(one.hash().unwrap(), two.hash().unwrap());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let text = |extra: &str| {
            format!(
                r#"{{"format":1,"generation":1,"revision":"r","workers":1,"parallelism":1{extra}}}"#
            )
        };
        assert!(Live::decode("live", text("").as_bytes()).is_ok());
        let error = Live::decode("live", text(r#","paralelism":2"#).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("paralelism"), "{error}");
        let newer = text("").replace(r#""format":1"#, r#""format":2"#);
        assert!(matches!(
            Live::decode("live", newer.as_bytes()),
            Err(FormatError::Newer { found: 2, .. })
        ));
    }
}
