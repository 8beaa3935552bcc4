//! What is checked before anything is claimed, committed or written. Pure;
//! every refusal is the user's to resolve and names what it is about.

use super::config::{CheckpointPolicy, Config, OperatorSpec, ProgramSpec, ShapeCheck, Unclaimed};
use super::workers::Proposal;
use crate::time::utc;
use millrace_protocol::head::HeadRecord;
use millrace_protocol::ids::{JobUid, Uid};
use millrace_protocol::manifest::{ListState, Manifest, ManifestKind, PendingCommit, ShapeBytes};
use std::collections::BTreeSet;
use thiserror::Error;

/// Most checkpoints that may be retained: the head record has a bounded size.
pub const MAX_RETAINED: u32 = 100;

/// Why a job is not started.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Two operators have one uid.
    #[error("two operators have the uid {0:?}: give each its own")]
    DuplicateUid(Uid),
    /// More subtasks than key groups.
    #[error(
        "operator {uid:?} has parallelism {parallelism}, above the job's max parallelism {max}: \
         lower it, or start a new job with a higher max parallelism"
    )]
    Parallelism {
        /// The operator.
        uid: Uid,
        /// Its parallelism.
        parallelism: u16,
        /// Number of key groups.
        max: u16,
    },
    /// Nothing could run.
    #[error("workers must be at least 1; to stop the job and keep its state, suspend it")]
    NoWorkers,
    /// More than the head record has room for.
    #[error("{0} retained checkpoints are more than {MAX_RETAINED}")]
    Retained(u32),
    /// Max parallelism is fixed for a job's life.
    #[error(
        "{what} has max parallelism {stored}, and the program asks for {wanted}: it is fixed for \
         a job's life, so set it to {stored}"
    )]
    MaxParallelism {
        /// The checkpoint.
        what: String,
        /// Its max parallelism.
        stored: u16,
        /// The program's.
        wanted: u16,
    },
    /// Keys would be found in other groups.
    #[error(
        "{what} was taken with key hash {stored}, and this program has key hash {wanted}: run the \
         version that took it"
    )]
    HashVersion {
        /// The checkpoint.
        what: String,
        /// Its hash.
        stored: u32,
        /// The program's.
        wanted: u32,
    },
    /// A checkpoint that belongs to another job's life.
    #[error(
        "{what} belongs to job {owner}, not to {job}: take a savepoint of that job and start from \
         the savepoint"
    )]
    OtherJob {
        /// The checkpoint.
        what: String,
        /// Whose it is.
        owner: JobUid,
        /// This job.
        job: JobUid,
    },
    /// A checkpoint of this job that its head does not name.
    #[error(
        "{what} is no longer kept by the job, so its files may be gone: start from the latest \
         checkpoint or from a savepoint"
    )]
    NotRetained {
        /// The checkpoint.
        what: String,
    },
    /// State would be dropped.
    #[error(
        "{what} holds state {state:?} of operator {uid:?} ({name}), which the program does not \
         have: put it back under that uid, or let its state go (--allow-unclaimed-state; in a \
         StreamJob spec.upgrade.dropState: [{uid}])"
    )]
    Unclaimed {
        /// The checkpoint.
        what: String,
        /// The operator.
        uid: Uid,
        /// Its name.
        name: String,
        /// The state.
        state: String,
    },
    /// Rows in flight are not converted to another type.
    #[error(
        "{what} holds rows on their way to operator {name:?}, whose type has changed: start from \
         a savepoint, which holds no such rows, or go back to the version that wrote it, stop \
         it, and start this one"
    )]
    InFlight {
        /// The checkpoint.
        what: String,
        /// The operator's name.
        name: String,
    },
    /// A uid that was derived does not survive a change of the graph.
    #[error(
        "operator {name:?} has state but no uid of its own: give it a uid before starting from a \
         savepoint"
    )]
    NoUid {
        /// The operator's name.
        name: String,
    },
    /// State cannot be read as the program's type.
    #[error(
        "state {state:?} of operator {uid:?} in {what} cannot be read: {why}. Make its type \
         readable again (a new field needs a serde default), or run the version that wrote it"
    )]
    Shape {
        /// The checkpoint.
        what: String,
        /// The operator.
        uid: Uid,
        /// The state.
        state: String,
        /// Both types and what does not fit.
        why: String,
    },
    /// Output is prepared that nobody can commit.
    #[error(
        "{what} holds uncommitted output of sink {uid:?} ({connector}), which the program does \
         not have: put the sink back under that uid until it is committed"
    )]
    OrphanSink {
        /// The checkpoint.
        what: String,
        /// The sink.
        uid: Uid,
        /// Its connector.
        connector: String,
    },
    /// Another job's state is there.
    #[error(
        "an earlier job of this name ({job}{}{cluster}) left state here{}, and onExistingState is \
         Refuse; another name or storage would be another way",
        if cluster.is_empty() { "" } else { " in cluster " },
        newest_ms.map_or_else(String::new, |ms| format!(", its newest checkpoint of {}", utc(ms)))
    )]
    Earlier {
        /// That job.
        job: JobUid,
        /// Its cluster.
        cluster: String,
        /// When its newest checkpoint was taken, milliseconds since 1970.
        newest_ms: Option<u64>,
    },
    /// It would begin anew, and nobody asked for that.
    #[error(
        "this job has run before, and its storage holds nothing of it: it was emptied, or \
         another one is answering; the job does not begin anew by itself"
    )]
    Missing,
    /// The job went on elsewhere or is gone.
    #[error("the job in this storage was {0}: use another storage")]
    Gone(&'static str),
}

/// Checks the program by itself.
pub fn check_program(config: &Config) -> Result<(), Refusal> {
    check(&config.program, &config.checkpoints)
}

/// Checks a proposal by itself.
pub fn check_proposal(proposal: &Proposal) -> Result<(), Refusal> {
    if proposal.workers == 0 {
        return Err(Refusal::NoWorkers);
    }
    check(&proposal.program, &proposal.checkpoints)
}

fn check(program: &ProgramSpec, checkpoints: &CheckpointPolicy) -> Result<(), Refusal> {
    let max = program.max_parallelism.get();
    let mut seen = BTreeSet::new();
    for operator in &program.operators {
        if !seen.insert(&operator.uid) {
            return Err(Refusal::DuplicateUid(operator.uid.clone()));
        }
        if operator.parallelism > max {
            let (uid, parallelism) = (operator.uid.clone(), operator.parallelism);
            return Err(Refusal::Parallelism { uid, parallelism, max });
        }
    }
    if checkpoints.retained > MAX_RETAINED {
        return Err(Refusal::Retained(checkpoints.retained));
    }
    Ok(())
}

/// How errors call a manifest.
pub fn describe(manifest: &Manifest) -> String {
    match manifest.kind {
        ManifestKind::Checkpoint => format!("checkpoint {}", manifest.checkpoint),
        ManifestKind::Savepoint => format!("the savepoint of checkpoint {}", manifest.checkpoint),
    }
}

/// Checks that the program can be restored from `base`.
pub fn check_base(config: &Config, base: &Manifest) -> Result<(), Refusal> {
    check_program_on(&config.program, base, &config.unclaimed, config.shapes)
}

/// Checks that `program` can be restored from `base`.
pub fn check_program_on(
    program: &ProgramSpec,
    base: &Manifest,
    unclaimed: &Unclaimed,
    shapes: ShapeCheck,
) -> Result<(), Refusal> {
    let what = || describe(base);
    let (stored, wanted) = (base.max_parallelism.get(), program.max_parallelism.get());
    if stored != wanted {
        return Err(Refusal::MaxParallelism { what: what(), stored, wanted });
    }
    let (stored, wanted) = (base.hash_version, program.hash_version);
    if stored != wanted {
        return Err(Refusal::HashVersion { what: what(), stored, wanted });
    }
    for stored in &base.operators {
        let operator = program.operator(&stored.uid);
        let in_flight = operator.iter().flat_map(|o| &o.lists).filter(|list| list.in_flight);
        for wanted in in_flight {
            let other = |list: &ListState| list.name == wanted.name && list.shape != wanted.shape;
            if stored.lists.iter().any(other) {
                return Err(Refusal::InFlight { what: what(), name: stored.name.clone() });
            }
        }
        let keyed = stored.keyed.iter().map(|state| {
            let wanted = operator.and_then(|o| o.keyed.iter().find(|s| s.name == state.name));
            (&state.name, &state.shape, wanted.map(|s| &s.shape))
        });
        let lists = stored.lists.iter().map(|state| {
            let wanted = operator.and_then(|o| o.lists.iter().find(|s| s.name == state.name));
            (&state.name, &state.shape, wanted.map(|s| &s.shape))
        });
        for (state, shape, wanted) in keyed.chain(lists) {
            check_state(
                (unclaimed, shapes),
                base,
                (&stored.uid, &stored.name),
                state,
                shape,
                wanted,
            )?;
        }
    }
    if base.kind == ManifestKind::Savepoint {
        let has_state =
            |o: &&OperatorSpec| !o.keyed.is_empty() || o.lists.iter().any(|l| !l.in_flight);
        let stateful = program.operators.iter().filter(has_state);
        if let Some(operator) = stateful.into_iter().find(|operator| !operator.uid_by_user) {
            return Err(Refusal::NoUid { name: operator.name.clone() });
        }
    }
    Ok(())
}

fn check_state(
    (unclaimed, shapes): (&Unclaimed, ShapeCheck),
    base: &Manifest,
    (uid, name): (&Uid, &str),
    state: &str,
    stored: &ShapeBytes,
    wanted: Option<&ShapeBytes>,
) -> Result<(), Refusal> {
    let (what, uid, state) = (describe(base), uid.clone(), state.to_owned());
    match wanted {
        None if unclaimed.may_drop(&uid) => Ok(()),
        None => Err(Refusal::Unclaimed { what, uid, name: name.to_owned(), state }),
        Some(wanted) => {
            shapes(stored, wanted).map_err(|why| Refusal::Shape { what, uid, state, why })
        }
    }
}

/// Checks that everything prepared can be committed, also by this program.
pub fn check_pending(config: &Config, manifest: &Manifest) -> Result<(), Refusal> {
    let program = &config.program;
    for item in &manifest.pending {
        check_item(config, program, manifest, item)?;
    }
    Ok(())
}

fn check_item(
    config: &Config,
    program: &ProgramSpec,
    manifest: &Manifest,
    item: &PendingCommit,
) -> Result<(), Refusal> {
    let (what, uid) = (describe(manifest), item.sink.clone());
    match program.sinks().find(|sink| sink.uid == item.sink) {
        Some(sink) => {
            match &sink.committable {
                Some(wanted) => (config.shapes)(&item.shape, wanted)
                    .map_err(|why| Refusal::Shape { what, uid, state: "committables".into(), why }),
                None => Ok(()),
            }
        }
        None if program.committers.contains(&item.connector) => Ok(()),
        None => Err(Refusal::OrphanSink { what, uid, connector: item.connector.clone() }),
    }
}

/// What a manifest that the user pointed at is to this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointed {
    /// One of the job's own checkpoints, at this index of
    /// [`HeadRecord::checkpoints`].
    Own(usize),
    /// A savepoint.
    Savepoint,
}

/// Finds out what the user pointed at.
pub fn pointed(
    job: &JobUid,
    head: Option<&HeadRecord>,
    manifest: &Manifest,
) -> Result<Pointed, Refusal> {
    let what = || describe(manifest);
    if manifest.kind == ManifestKind::Savepoint {
        return Ok(Pointed::Savepoint);
    }
    if manifest.job != *job {
        let (owner, job) = (manifest.job.clone(), job.clone());
        return Err(Refusal::OtherJob { what: what(), owner, job });
    }
    head.into_iter()
        .flat_map(HeadRecord::checkpoints)
        .position(|at| (at.attempt, at.checkpoint) == (manifest.attempt, manifest.checkpoint))
        .map(Pointed::Own)
        .ok_or_else(|| Refusal::NotRetained { what: what() })
}
