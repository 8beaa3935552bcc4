//! What the coordinator wants done, done: in the side pool, or by telling workers.

use super::Shell;
use crate::coordinator::export::Exported;
use crate::coordinator::{
    self, Base, Effect, Event, Failure, Hindrance, Level, Note, Outcome, ProgramSpec, WorkerId,
};
use crate::data::Ts;
use crate::job::handle::lock;
use crate::job::order::{BaseOrder, DeployOrder, Order};
use crate::job::program::default_parallelism;
use crate::job::savepoint_store;
use crate::runtime::snapshot::Barrier;
use crate::runtime::source::wall_clock;
use crate::store::{Access, ObjectStore, Opener};
use millrace_protocol::ids::{Attempt, JobUid};
use millrace_protocol::manifest::Manifest;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Shell {
    /// Carries out an effect; the outcome if it was the last.
    pub(super) fn carry_out(&mut self, effect: Effect) -> Option<Outcome> {
        match effect {
            Effect::Store(ticket, call) => {
                let (send, store) = (self.send(), Arc::clone(&self.store));
                self.pool.spawn("store", move || {
                    let answer = call.run(store.as_ref());
                    send(Event::StoreAnswered { ticket, answer });
                });
            }
            Effect::ReadRestore { path } => {
                let (send, opener) = (self.send(), Arc::clone(&self.options.opener));
                self.pool.spawn("restore", move || {
                    let result = coordinator::export::find(opener.as_ref(), &path);
                    send(Event::RestoreRead { path, result });
                });
            }
            Effect::Commit(batch, items) => {
                let (send, committers, job) = (self.send(), self.committers.clone(), self.job());
                self.pool.spawn("commit", move || {
                    send(Event::CommitEnded { batch, outcomes: committers.commit(&job, &items) });
                });
            }
            Effect::AbortOthers { attempt, sinks } => {
                let (send, committers, job) = (self.send(), self.committers.clone(), self.job());
                self.pool.spawn("commit", move || {
                    let result = committers.abort_others(&job, attempt, &sinks);
                    let result = result.map_err(|e| Hindrance::of(&e));
                    send(Event::OthersAborted { attempt, result });
                });
            }
            Effect::ProposalAnswered { generation, verdict } => {
                if let Some(at) = self.answers.iter().position(|(of, _)| *of == generation) {
                    (self.answers.remove(at).1)(verdict);
                }
            }
            Effect::ReadConfig { config, body } => {
                let max = self.options.max_parallelism;
                let result = match &self.proposed {
                    Some(proposed) => proposed.read(&config, &body, &self.graph, max),
                    None => Err("this process was started with a command line".to_owned()),
                };
                self.send()(Event::ConfigRead { config, result: result.map(Box::new) });
            }
            Effect::Deploy { attempt, base, program, placement } => {
                if let Err(cause) = self.deploy(attempt, base, &program, &placement) {
                    let failure = Failure { operator: None, subtask: None, cause };
                    self.send()(Event::TaskFailed { attempt, failure });
                }
            }
            Effect::CancelTasks { attempt } => {
                let mut shared = lock(&self.shared);
                shared.status.running = false;
                if shared.crew.cancel(attempt) {
                    self.send()(Event::SlotsJoined { attempt });
                }
            }
            Effect::TriggerBarrier { attempt, checkpoint, base, kind, unaligned_after } => {
                let after = |d: Duration| Ts::try_from(d.as_millis()).unwrap_or(Ts::MAX);
                let unaligned_at = unaligned_after.map(|d| wall_clock().saturating_add(after(d)));
                let barrier = Barrier { attempt, checkpoint, base, kind, unaligned_at };
                self.tell_workers(attempt, &Order::Trigger(barrier));
            }
            Effect::NotifyComplete { attempt, checkpoint } => {
                self.tell_workers(attempt, &Order::Complete { attempt, checkpoint });
            }
            Effect::NotifyAborted { attempt, checkpoint } => {
                self.tell_workers(attempt, &Order::Aborted { attempt, checkpoint });
            }
            Effect::FindSavepoint { id, target } => {
                let (send, job) = (self.send(), self.job());
                let opener = Arc::clone(&self.options.opener);
                self.pool.spawn("export", move || {
                    let result = exported(opener.as_ref(), &id, &target, &job);
                    send(Event::SavepointFound { id, result });
                });
            }
            Effect::ExportSavepoint { id, target, manifest } => {
                let (send, store) = (self.send(), Arc::clone(&self.store));
                let opener = Arc::clone(&self.options.opener);
                self.pool.spawn("export", move || {
                    let result = export(store.as_ref(), opener.as_ref(), &id, &target, &manifest);
                    send(Event::SavepointExported { id, result });
                });
            }
            Effect::SavepointEnded { id, result } => {
                match &result {
                    Ok(place) => tracing::info!(savepoint = %id, place, "savepoint is complete"),
                    Err(why) => tracing::error!(savepoint = %id, why, "savepoint failed"),
                }
                lock(&self.shared).status.savepoints.push((id, result));
            }
            Effect::SetTimer(at) => self.timer = Some(at),
            Effect::Report(report) => {
                lock(&self.shared).status.checkpoint = Some((report, Instant::now()));
            }
            Effect::Failed { checkpoint, failure } => self.note_failed(checkpoint, &failure),
            Effect::Log(note) => log(&self.options.name, &note),
            Effect::Ended(outcome) => return Some(outcome),
        }
        None
    }

    fn job(&self) -> JobUid {
        self.coordinator.job().clone()
    }

    fn deploy(
        &mut self,
        attempt: Attempt,
        base: Option<Base>,
        program: &ProgramSpec,
        placement: &[WorkerId],
    ) -> Result<(), String> {
        (self.base, self.refused) = (None, None);
        let base = match base {
            None => None,
            Some(Base { manifest, files }) => {
                let (store, root) = match &files {
                    coordinator::FilesIn::Home => {
                        (Arc::clone(&self.store), self.options.storage.clone())
                    }
                    coordinator::FilesIn::Savepoint(path) => {
                        savepoint_store(self.options.opener.as_ref(), path)
                            .map_err(|e| e.to_string())?
                    }
                };
                self.base = Some((Arc::clone(&manifest), store, root));
                Some(BaseOrder { manifest, files })
            }
        };
        let job = self.job();
        let order = DeployOrder {
            job: job.clone(),
            attempt,
            parallelism: default_parallelism(&self.graph, program),
            max_parallelism: self.options.max_parallelism,
            base,
            placement: placement.iter().map(|worker| worker.ordinal).collect(),
            peers: Vec::new(),
            token: (0..32).map(|_| self.rng.u8(..)).collect(),
        };
        let restarts = self.coordinator.head().map_or(0, |head| head.restart.total);
        let mut shared = lock(&self.shared);
        shared.status.restarts = restarts;
        shared.status.job = Some(job);
        shared.status.attempt = Some(attempt);
        shared.crew.deploy(order).map_err(|missing| format!("workers {missing:?} are gone"))
    }

    fn tell_workers(&self, attempt: Attempt, order: &Order) {
        lock(&self.shared).crew.tell(attempt, order);
    }
}

fn log(job: &str, note: &Note) {
    let attempt = note.attempt.map(|a| a.0);
    let checkpoint = note.checkpoint.map(|c| c.0);
    match note.level {
        Level::Debug => tracing::debug!(job, attempt, checkpoint, "{}", note.text),
        Level::Info => tracing::info!(job, attempt, checkpoint, "{}", note.text),
        Level::Warn => tracing::warn!(job, attempt, checkpoint, "{}", note.text),
        Level::Error => tracing::error!(job, attempt, checkpoint, "{}", note.text),
    }
}

fn export(
    store: &dyn ObjectStore,
    opener: &dyn Opener,
    id: &str,
    target: &str,
    manifest: &Manifest,
) -> Result<Exported, String> {
    let to = opener.open(target, Access::Write).map_err(|e| e.to_string())?;
    coordinator::export::export(store, to.as_ref(), id, manifest).map_err(|e| e.to_string())
}

fn exported(
    opener: &dyn Opener,
    id: &str,
    target: &str,
    job: &JobUid,
) -> Result<Option<Exported>, String> {
    let to = opener.open(target, Access::Read).map_err(|e| e.to_string())?;
    coordinator::export::exported(to.as_ref(), id, job).map_err(|e| e.to_string())
}
