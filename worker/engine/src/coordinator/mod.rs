//! The coordinator: which attempt runs, what is complete, what is committed,
//! what may be deleted. Pure: [`Coordinator::step`] takes an event and the
//! time and answers with effects; a shell carries them out.
//!
//! - [`chain`]: the fencing sequence; [`home`]: whose it is.
//! - `starting`: read, check, claim. `recovering`: commit what the base holds,
//!   abort leftovers, deploy. `running`: checkpoints. `ending`: failures,
//!   restarts, stops. `appending`: what a won entry of the chain brings about.

pub mod chain;
pub mod config;
pub mod effect;
pub mod event;
pub mod export;
pub mod home;
pub mod preflight;
pub mod restart;

mod appending;
mod calls;
mod checkpoint;
mod commits;
mod ending;
mod housekeeping;
mod incarnations;
mod older;
mod parking;
mod patience;
mod proposals;
mod recovering;
mod running;
mod savepoints;
mod starting;
mod state;
mod status;
mod step;
pub mod workers;

pub use config::{
    CheckpointPolicy, ClaimRule, Config, Desired, Existing, ListSpec, OperatorSpec, ProgramSpec,
    RestoreChoice, Role, ShapeCheck, Unclaimed,
};
pub use effect::{
    BarrierKind, Base, CheckpointReport, Effect, FilesIn, Level, Note, Outcome, StopMode, StoreCall,
};
pub use event::{
    Batch, CommitOutcome, Event, Failure, FoundManifest, Hindrance, PreparedCommit, SlotSnapshot,
    SnapshotStats, StoreAnswer, SubtaskState, Ticket,
};
pub use restart::{RestartPolicy, Restarts};
pub use status::{Gap, JobState, SavepointState, SavepointStatus, Status, WorkerStatus};
pub use step::Coordinator;
pub use workers::{Proposal, Verdict, WorkerId};

#[cfg(test)]
mod tests;
