//! The coordinator: which attempt runs, what is complete, what is committed,
//! what may be deleted. Pure: [`Coordinator::step`] takes an event and the
//! time and answers with effects; a shell carries them out.

pub mod config;
pub mod effect;
pub mod event;
pub mod restart;

pub use config::{
    CheckpointPolicy, Config, Desired, ListSpec, OperatorSpec, ProgramSpec, RestoreChoice, Role,
    ShapeCheck,
};
pub use effect::{
    BarrierKind, Base, CheckpointReport, Effect, FilesIn, Level, Note, Outcome, StopMode, StoreCall,
};
pub use event::{
    Batch, CommitOutcome, Event, Failure, FoundManifest, PreparedCommit, SlotSnapshot,
    SnapshotStats, StoreAnswer, SubtaskState, Ticket,
};
pub use restart::{RestartPolicy, Restarts};

use std::time::Duration;

/// Coordinates one job in one process.
#[derive(Debug)]
pub struct Coordinator {
    #[allow(dead_code)]
    config: Config,
}

impl Coordinator {
    /// A coordinator that waits for [`Event::Start`].
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// The job's uid, once known.
    pub fn job(&self) -> Option<&millrace_protocol::ids::JobUid> {
        None
    }

    /// Takes an event at a moment (monotonic, from any zero, never backwards)
    /// and answers with what is to be done, in order.
    #[must_use]
    pub fn step(&mut self, _event: Event, _now: Duration) -> Vec<Effect> {
        Vec::new()
    }
}
