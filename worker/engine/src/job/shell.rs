//! Carries out what the coordinator wants, and tells it what happened.

mod effects;
mod hearing;

use crate::coordinator::{CommitOutcome, Coordinator, Event, Failure, Hindrance, Outcome};
use crate::graph::Graph;
use crate::job::JobOptions;
use crate::job::check;
use crate::job::committing::Committers;
use crate::job::handle::{Answer, FailureNote, Msg, Shared, lock};
use crate::job::lead::JobError;
use crate::job::proposed::Proposed;
use crate::runtime::pool::Pool;
use crate::runtime::source::wall_clock;
use crate::store::ObjectStore;
use millrace_protocol::ids::{Attempt, CheckpointId};
use millrace_protocol::manifest::Manifest;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The state of a job that is led by this process.
pub(super) struct Shell {
    pub(super) coordinator: Coordinator,
    pub(super) committers: Committers,
    pub(super) graph: Arc<Graph>,
    pub(super) tell: Sender<Msg>,
    pub(super) inbox: Receiver<Msg>,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) pool: Arc<Pool>,
    pub(super) timer: Option<Duration>,
    pub(super) begun: Instant,
    /// What the attempt starts from: manifest, where its files are, and for people.
    pub(super) base: Option<(Arc<Manifest>, Arc<dyn ObjectStore>, String)>,
    /// What only the user can mend.
    pub(super) refused: Option<String>,
    /// Who waits for the answer to a proposal, by its generation.
    pub(super) answers: Vec<(u64, Answer)>,
    pub(super) proposed: Option<Proposed>,
    pub(super) rng: fastrand::Rng,
    pub(super) options: JobOptions,
}

impl Shell {
    /// Runs the job until it ends; blocks.
    pub(super) fn run(&mut self) -> Result<Outcome, JobError> {
        let mut next = Some(Event::Start);
        loop {
            let mut event = match next.take() {
                Some(event) => event,
                None => match self.wait() {
                    Some(event) => event,
                    None => continue,
                },
            };
            if let Event::TaskFailed { attempt, failure } = &event {
                self.note_failure(Some(*attempt), None, failure);
                if let Some(why) = self.damage() {
                    event = self.base_damaged(*attempt, why);
                }
            }
            if let Some(why) = hindrance(&event) {
                self.refused.get_or_insert(why);
            }
            let effects = self.coordinator.step(event, self.begun.elapsed());
            let owned = self.coordinator.attempt().and_then(|_| self.coordinator.head());
            lock(&self.shared).head_version = owned.map_or(0, |head| head.version.0);
            for effect in effects {
                if let Some(outcome) = self.carry_out(effect) {
                    return match (outcome, self.refused.take()) {
                        (Outcome::Refused(why), _) => Err(JobError::User(why)),
                        (Outcome::EarlierState(why), _) => Err(JobError::EarlierState(why)),
                        (Outcome::StateMissing(why), _) => Err(JobError::StateMissing(why)),
                        (Outcome::Failed(_), Some(why)) => Err(JobError::User(why)),
                        (Outcome::Failed(why), None) => Err(JobError::Failed(why)),
                        (other, _) => Ok(other),
                    };
                }
            }
        }
    }

    /// The attempt cannot run for what only the user can mend.
    fn refused(&mut self, attempt: Attempt, why: String) -> Event {
        let failure = Failure { operator: None, subtask: None, cause: why.clone() };
        self.refused.get_or_insert(why);
        Event::TaskRefused { attempt, failure }
    }

    /// What the attempt was to start from is damaged. Only the user can mend it, unless
    /// there is a way back: then another attempt is deployed, and this is forgotten.
    fn base_damaged(&mut self, attempt: Attempt, why: String) -> Event {
        self.base = None;
        let failure = Failure::of_job(why.clone());
        self.note_failure(Some(attempt), None, &failure);
        self.refused.get_or_insert(why);
        Event::BaseDamaged { attempt, failure }
    }

    /// What is wrong with the files that the attempt could not be started from.
    fn damage(&self) -> Option<String> {
        let (manifest, store, root) = self.base.as_ref()?;
        check::damage(manifest, store, root)
    }

    fn note_failure(&self, attempt: Option<Attempt>, worker: Option<u16>, failure: &Failure) {
        self.note(FailureNote {
            at_ms: wall_clock(),
            attempt,
            worker,
            operator: failure.operator.clone(),
            checkpoint: None,
            message: failure.to_string(),
        });
    }

    /// What the coordinator has found to have failed.
    fn note_failed(&self, checkpoint: Option<CheckpointId>, failure: &Failure) {
        self.note(FailureNote {
            at_ms: wall_clock(),
            attempt: self.coordinator.attempt(),
            worker: None,
            operator: None,
            checkpoint,
            message: failure.to_string(),
        });
    }

    fn note(&self, note: FailureNote) {
        let mut shared = lock(&self.shared);
        let failures = &mut shared.status.failures;
        // A disk that stays full must not push out what failed before.
        let of_checkpoint = |note: &FailureNote| note.checkpoint.is_some();
        if of_checkpoint(&note) && failures.last().is_some_and(of_checkpoint) {
            failures.pop();
        }
        failures.push(note);
        if failures.len() > 10 {
            failures.remove(0);
        }
    }

    fn send(&self) -> impl Fn(Event) + Send + 'static {
        let tell = self.tell.clone();
        move |event| {
            let _ = tell.send(Msg::Event(event));
        }
    }
}

/// What only the user can mend of what is outside.
fn hindrance(event: &Event) -> Option<String> {
    let of = |hindrance: &Hindrance| match hindrance {
        Hindrance::Users(why) => Some(why.clone()),
        Hindrance::Passing(_) => None,
    };
    match event {
        Event::OthersAborted { result: Err(hindrance), .. } => of(hindrance),
        Event::CommitEnded { outcomes, .. } => outcomes.iter().find_map(|(_, outcome)| {
            if let CommitOutcome::Failed(hindrance) = outcome { of(hindrance) } else { None }
        }),
        _ => None,
    }
}
