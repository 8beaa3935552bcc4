//! A job in this process: the shell around the coordinator and the slots.
//!
//! [`run`] drives the pure [`Coordinator`](crate::coordinator::Coordinator): it carries
//! out effects (store calls in the side pool, slots as threads) and feeds events back.

mod check;
mod deploy;
mod program;
mod restore;
mod shell;

pub use shell::{Handle, JobError, Stats, Status, run, run_owned};

use crate::connector::DeadLetters;
use crate::coordinator::{CheckpointPolicy, RestartPolicy, RestoreChoice};
use crate::graph::SpillTo;
use millrace_protocol::keygroup::MaxParallelism;
use std::path::PathBuf;
use std::sync::Arc;

/// How a job is run in this process.
#[derive(Clone)]
pub struct JobOptions {
    /// Shown to people.
    pub name: String,
    /// Subtasks of operators that say nothing else.
    pub parallelism: u16,
    /// Number of key groups, fixed for the life of the job's state.
    pub max_parallelism: MaxParallelism,
    /// Where checkpoints are kept.
    pub storage: PathBuf,
    /// Where state comes from.
    pub from: RestoreChoice,
    /// When checkpoints are taken and kept.
    pub checkpoints: CheckpointPolicy,
    /// What happens after a failure.
    pub restart: RestartPolicy,
    /// Start although state is left that no operator claims.
    pub allow_unclaimed_state: bool,
    /// Where bad rows go.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Where state goes that memory has no room for.
    pub spill: Option<SpillTo>,
    /// Wraps the store: for tests that make it fail.
    pub wrap_store: Option<WrapStore>,
}

/// Wraps a store.
pub type WrapStore = Arc<
    dyn Fn(Arc<dyn crate::store::ObjectStore>) -> Arc<dyn crate::store::ObjectStore> + Send + Sync,
>;

impl JobOptions {
    /// The defaults, with state kept in `storage`.
    pub fn new(name: &str, storage: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            parallelism: std::thread::available_parallelism()
                .map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
            max_parallelism: MaxParallelism::DEFAULT,
            storage,
            from: RestoreChoice::Latest,
            checkpoints: CheckpointPolicy::default(),
            restart: RestartPolicy::default(),
            allow_unclaimed_state: false,
            dead_letters: Arc::new(LogDeadLetters),
            spill: None,
            wrap_store: None,
        }
    }
}

/// Bad rows only go to the log.
pub struct LogDeadLetters;

impl DeadLetters for LogDeadLetters {
    fn put(
        &self,
        source: &millrace_protocol::ids::Uid,
        origin: &str,
        offset: u64,
        reason: &str,
        raw: &[u8],
    ) {
        let raw = String::from_utf8_lossy(raw);
        tracing::warn!(%source, origin, offset, reason, %raw, "bad row");
    }
}
