//! A job in this process: the shell around the coordinator and the slots.
//!
//! [`run`] drives the pure [`Coordinator`](crate::coordinator::Coordinator): the shell
//! carries out effects (store calls and commits in the side pool) and feeds events back.
//! What concerns tasks goes as an [`order`] to the [`agent`] of each worker of the attempt;
//! agents start and stop slots, and say how those are doing. A job in one process has one
//! worker, in that process.

pub mod agent;
mod check;
mod committing;
mod comparison;
pub mod crew;
mod deploy;
mod fetch;
mod handle;
mod kept;
mod lead;
pub mod order;
mod placement;
mod program;
mod proposed;
mod restore;
mod shell;

pub use comparison::{Comparison, compare};
pub use handle::{FailureNote, Handle, Stats, Status};
pub use lead::{JobError, Lead, lead, run, run_owned};
pub use proposed::Proposed;

use crate::connector::DeadLetters;
use crate::coordinator::{CheckpointPolicy, RestartPolicy, RestoreChoice, Unclaimed};
use crate::data::{Fail, Res};
use crate::graph::SpillTo;
use crate::runtime::flight;
use crate::store::{Access, DirectoryOpener, ObjectStore, Opener};
use millrace_protocol::keygroup::MaxParallelism;
use std::path::{Path, PathBuf};
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
    /// Where checkpoints are kept: a directory, or what `opener` knows.
    pub storage: String,
    /// Opens the storage, and the places of savepoints.
    pub opener: Arc<dyn Opener>,
    /// Where state comes from.
    pub from: RestoreChoice,
    /// When checkpoints are taken and kept.
    pub checkpoints: CheckpointPolicy,
    /// Bytes of rows in flight to a slot that a checkpoint holds at most; what is more than
    /// that is worked on first.
    pub most_in_flight: usize,
    /// What happens after a failure.
    pub restart: RestartPolicy,
    /// What becomes of state that no operator claims.
    pub unclaimed: Unclaimed,
    /// A directory of this machine for copies of the checkpoint files that this process
    /// writes, from which it restarts sooner. It is used by no other job.
    pub copies: Option<PathBuf>,
    /// Where bad rows go.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Spreads the slots over so many workers that all live in this process and reach each
    /// other over loopback: for tests of what lies between workers.
    pub loopback: Option<u16>,
    /// Where state goes that memory has no room for.
    pub spill: Option<SpillTo>,
    /// Wraps the store: for tests that make it fail.
    pub wrap_store: Option<WrapStore>,
}

/// The store of the savepoint at `path`, from which its file keys count, and where that is.
fn savepoint_store(opener: &dyn Opener, path: &str) -> Res<(Arc<dyn ObjectStore>, String)> {
    let target = crate::coordinator::export::target_of(path)
        .ok_or_else(|| Fail::from(format!("{path} is no savepoint")))?;
    Ok((opener.open(&target, Access::Read)?, target))
}

/// Wraps a store.
pub type WrapStore = Arc<
    dyn Fn(Arc<dyn crate::store::ObjectStore>) -> Arc<dyn crate::store::ObjectStore> + Send + Sync,
>;

impl JobOptions {
    /// The defaults, with state kept in `storage`.
    pub fn new(name: &str, storage: impl AsRef<Path>) -> Self {
        Self {
            name: name.to_owned(),
            parallelism: std::thread::available_parallelism()
                .map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
            max_parallelism: MaxParallelism::DEFAULT,
            storage: storage.as_ref().display().to_string(),
            opener: Arc::new(DirectoryOpener),
            from: RestoreChoice::Latest,
            checkpoints: CheckpointPolicy::default(),
            most_in_flight: flight::MOST,
            restart: RestartPolicy::default(),
            unclaimed: Unclaimed::Refused,
            copies: None,
            dead_letters: Arc::new(LogDeadLetters),
            loopback: None,
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
