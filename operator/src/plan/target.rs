//! Which revision is to run: the desired one, unless it was tried and refused.

use super::{Draft, Verdict};
use crate::observed::{Coordinator, Millis, Observed, SavepointObject, Set};
use crate::reasons::Reason;
use millrace_crds::config;
use millrace_crds::revision;
use millrace_crds::streamjob::{DesiredState, RevisionStatus};
use millrace_crds::tuning::{OnFailure, UpgradeMode};
use millrace_protocol::config::{Live, RestoreFrom};
use millrace_protocol::control::{State, Status};

/// A coordinator that is silent for so long is taken to be ill.
const UNKNOWN_MS: Millis = 30_000;

/// What is to run.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Hash of the spec.
    pub desired: String,
    /// Hash of what is to run.
    pub revision: String,
    /// Whether that means going back.
    pub back: bool,
    /// Number of workers, at least 1.
    pub workers: u32,
    /// The live part for the revision that is to run.
    pub live: Option<Live>,
    /// The job should not run.
    pub suspended: bool,
    /// Through the newest checkpoint at once.
    pub last_checkpoint: bool,
}

impl Draft<'_> {
    pub(super) fn target(&mut self) -> Result<Target, Verdict> {
        let job = &self.o.job;
        let desired = revision::hash(&job.stored);
        let mut back = false;
        let mut run = desired.clone();
        // Another edit is another try, also one that leads back here later.
        if self.status.revision.as_ref().is_some_and(|known| known.failed != desired) {
            self.remember(|revision| revision.failed.clear());
        }
        if let Some(set) = &self.o.set {
            if self.give_up(set, &desired) {
                self.remember(|revision| revision.failed.clone_from(&desired));
                let message = self.why_given_up(set, &desired);
                self.upgrade_condition("False", Reason::RolledBack, &message);
            }
            let known = self.status.revision.clone().unwrap_or_default();
            if known.failed == desired {
                let rolled = self.upgrade_reason() == Some(Reason::RolledBack);
                let there = self.o.revisions.contains_key(&known.current);
                run = if rolled && there { known.current } else { set.revision.clone() };
                back = run != desired;
            }
        }
        let restore = self.restore()?;
        let config_hash = match self.o.revisions.get(&run) {
            Some(stored) => Ok(stored.config_hash.clone()),
            None => config::revision(&job.id, &job.spec)
                .map_err(|error| error.to_string())
                .and_then(|revision| revision.hash().map_err(|error| error.to_string())),
        };
        let generation = u64::try_from(job.generation).unwrap_or(0);
        let live = config_hash.and_then(|hash| {
            let begun = self.begun();
            config::live(&job.spec, generation, hash, restore, begun)
                .map_err(|error| error.to_string())
        });
        let live = live.map_err(|error| Verdict::stalled(Reason::InvalidSpec, &error))?;
        Ok(Target {
            desired,
            revision: run,
            back,
            workers: u32::from(live.workers),
            live: Some(live),
            suspended: job.spec.desired_state == DesiredState::Suspended,
            last_checkpoint: job
                .spec
                .upgrade
                .as_ref()
                .is_some_and(|upgrade| upgrade.mode == UpgradeMode::LastCheckpoint),
        })
    }

    /// The job has run, and was not told to begin elsewhere since: its state must be there.
    fn begun(&self) -> bool {
        let wished = self.o.job.spec.restore_from.as_ref().map_or(0, |from| from.nonce);
        !self.never_ran() && wished <= self.o.job.status.restore_nonce.unwrap_or(0)
    }

    fn restore(&mut self) -> Result<Option<RestoreFrom>, Verdict> {
        let Some(from) = &self.o.job.spec.restore_from else { return Ok(None) };
        let object = from
            .savepoint_ref
            .as_ref()
            .and_then(|named| self.o.savepoints.iter().find(|object| object.name == named.name));
        let path = object.and_then(|object| {
            let complete = object.status.completed_at.is_some();
            if complete { object.status.path.as_deref() } else { object.annotated_path.as_deref() }
        });
        match config::restore(from, path) {
            Some(restore) => Ok(Some(restore)),
            // Once obeyed it says nothing any more: its savepoint may be gone.
            None if self.o.job.status.restore_nonce.is_some_and(|done| done >= from.nonce) => {
                Ok(None)
            }
            None => Err(self.not_ready(object)),
        }
    }

    /// The savepoint that is named is not there, or not yet to be read, or never.
    fn not_ready(&mut self, object: Option<&SavepointObject>) -> Verdict {
        self.look_again(5_000);
        let Some(object) = object else {
            return Verdict::pending(Reason::SavepointNotReady, "There is no such Savepoint.");
        };
        // As it is about to be written, if we have just read it.
        let planned = self.savepoints.iter().find(|(name, _)| *name == object.name);
        let status = planned.map_or(&object.status, |(_, status)| status);
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let told = ready.map(|ready| format!("Savepoint {}: {}", object.name, ready.message));
        let mut verdict = Verdict::pending(Reason::SavepointNotReady, &told.unwrap_or_default());
        verdict.stalled = super::savepoints::stalled(status);
        verdict
    }

    /// The new revision is committed, and will not get healthy.
    fn give_up(&self, set: &Set, desired: &str) -> bool {
        let known = self.o.job.status.revision.clone().unwrap_or_default();
        let upgrade = self.o.job.spec.upgrade.as_ref();
        let keep = upgrade.is_some_and(|upgrade| upgrade.on_failure == OnFailure::Keep);
        let tried = set.revision == desired
            && known.failed != desired
            && !known.current.is_empty()
            && known.current != desired
            && self.o.revisions.contains_key(&known.current);
        // One unanswered call does not tell a healthy job from another.
        let unknown = matches!(self.o.coordinator,
            Coordinator::Unreachable { since, .. } if self.now - since < UNKNOWN_MS);
        let over = self.overdue(set) && !unknown;
        tried && !keep && !healthy(self.o, set) && (over || hopeless(self.o))
    }

    /// The time in which a committed revision must complete a checkpoint is over.
    pub(super) fn overdue(&self, set: &Set) -> bool {
        set.replicas > 0 && self.now.saturating_sub(set.commit.at_ms) > self.upgrade_timeout()
    }

    fn why_given_up(&self, set: &Set, desired: &str) -> String {
        let known = self.o.job.status.revision.clone().unwrap_or_default();
        let why = super::pods::ended_by_user_error(self.o)
            .map(|(_, message)| message)
            .or_else(|| self.o.answer().map(|a| a.message.clone()).filter(|m| !m.is_empty()))
            .or_else(|| {
                let failure = self.o.job.status.last_failure.as_ref()?;
                let at = failure.time.as_ref()?.0.as_millisecond();
                failure.message.clone().filter(|_| at >= set.commit.at_ms)
            })
            .unwrap_or_else(|| "no checkpoint was complete in time".to_owned());
        let name = millrace_crds::names::revision(&self.o.job.id.name, &known.current);
        format!(
            "Revision {desired} did not get healthy ({why}); {} runs again. kubectl get configmap \
             {name} -n {} -o jsonpath='{{.data.spec\\.yaml}}' | kubectl apply -f - makes that the spec.",
            known.current, self.o.job.id.namespace
        )
    }

    pub(super) fn remember(&mut self, change: impl FnOnce(&mut RevisionStatus)) {
        change(self.status.revision.get_or_insert_with(RevisionStatus::default));
    }
}

/// A checkpoint later than the commit is complete, and the job runs.
pub(super) fn healthy(o: &Observed, set: &Set) -> bool {
    let revision = o.revisions.get(&set.revision);
    o.answer().is_some_and(|answer| {
        answer.state() == State::Running
            && revision.is_none_or(|revision| answer.accepted_revision == revision.config_hash)
            && o.worker(0).is_some_and(|pod| pod.revision == set.revision)
            && answer.last_checkpoint.as_ref().is_some_and(|c| c.id > set.commit.after_checkpoint)
    })
}

/// Waiting longer makes no difference.
fn hopeless(o: &Observed) -> bool {
    let answer = o.answer().filter(|answer| !waits_for_its_own(answer));
    answer.is_some_and(|answer| matches!(answer.state(), State::Refused | State::Failed))
        || super::pods::ended_by_user_error(o).is_some()
}

/// The process found the live part of another revision, and waits for its own.
pub(super) fn waits_for_its_own(answer: &Status) -> bool {
    answer.state() == State::Refused && answer.reason == "Outdated"
}
