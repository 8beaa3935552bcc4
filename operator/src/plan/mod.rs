//! What to do about a job: pure. [`plan`] looks at one [`Observed`] and says which actions
//! to take in which order, which status to write first, and when to look again. It may be
//! called at any time and by anyone: nothing of the past is needed but what stands in the
//! objects, and each action may fail or be the last one.

mod action;
mod children;
mod deleting;
mod gap;
mod orphans;
mod pods;
mod probe;
mod readers;
mod savepoints;
mod scale;
mod status;
mod target;
mod upgrade;
mod way_back;

#[cfg(test)]
mod rows;

pub use action::{Action, Event, Why};
pub use orphans::orphan;
pub use readers::reads;

use crate::observed::{Coordinator, Millis, Observed};
use crate::reasons::Reason;
use millrace_crds::render::Owner;
use millrace_crds::savepoint::SavepointStatus;
use millrace_crds::streamjob::StreamJobStatus;
pub(crate) use status::Verdict;
pub(crate) use target::Target;

/// What one pass decided. The status is written first: actions rely on what it remembers.
#[derive(Debug, Clone)]
pub struct Plan {
    /// To write if it differs from what is stored.
    pub status: StreamJobStatus,
    /// Statuses of Savepoint objects, by name.
    pub savepoints: Vec<(String, SavepointStatus)>,
    /// In this order; the first that fails ends the pass.
    pub actions: Vec<Action>,
    /// For people.
    pub events: Vec<Event>,
    /// Look again after this many milliseconds, whatever happens.
    pub requeue_ms: u64,
}

/// A plan in the making.
pub(crate) struct Draft<'a> {
    pub o: &'a Observed,
    pub now: Millis,
    pub actions: Vec<Action>,
    pub events: Vec<Event>,
    pub status: StreamJobStatus,
    pub savepoints: Vec<(String, SavepointStatus)>,
    /// Pods that still do something for a savepoint, or have, and it is not written down.
    pub store_pods: Vec<String>,
    pub requeue_ms: u64,
}

/// Decides.
pub fn plan(o: &Observed, now: Millis) -> Plan {
    match o.is_history() {
        true => decide(&Observed { coordinator: Coordinator::Absent, ..o.clone() }, now),
        false => decide(o, now),
    }
}

fn decide(o: &Observed, now: Millis) -> Plan {
    let mut draft = Draft {
        o,
        now,
        actions: Vec::new(),
        events: Vec::new(),
        status: o.job.status.clone(),
        savepoints: Vec::new(),
        store_pods: Vec::new(),
        requeue_ms: 30_000,
    };
    if let Some(other) = o.job.status.controller.as_ref().filter(|c| **c != o.us.controller) {
        // Hands off: not even the status is ours to write.
        let what = format!("Controller {other} looks after this job.");
        draft.standing(Reason::OperatedBy, &what, other);
        return draft.end();
    }
    draft.status.controller = Some(o.us.controller.clone());
    let verdict = draft.decide();
    draft.conclude(verdict);
    draft.end()
}

impl<'a> Draft<'a> {
    fn end(mut self) -> Plan {
        self.actions.sort_by_key(|action| match action {
            // No other action that fails, again and again, may keep an object from going.
            Action::Finalizer(_) | Action::SavepointFinalizer { .. } => 0,
            // And a short-lived pod that the cluster refuses keeps nothing from being done.
            Action::Create(object) if object["kind"] == "Pod" => 2,
            _ => 1,
        });
        Plan {
            status: self.status,
            savepoints: self.savepoints,
            actions: self.actions,
            events: self.events,
            requeue_ms: self.requeue_ms,
        }
    }

    fn decide(&mut self) -> Verdict {
        self.first_run();
        if self.o.job.deleting.is_some() {
            return self.deleting();
        }
        self.finalizer();
        self.probe();
        let target = match self.target() {
            Ok(target) => target,
            Err(verdict) => {
                self.savepoints(None);
                return verdict;
            }
        };
        if let Some(verdict) = self.children(&target) {
            self.savepoints(None);
            return verdict;
        }
        self.savepoints(Some(&target));
        self.free_pods();
        let Some(set) = &self.o.set else {
            return match &self.o.memory.dry_run {
                Some((tried, Err(why))) if *tried == target.revision => {
                    let what = format!("The API server refuses its pods: {why}");
                    Verdict::stalled(Reason::InvalidSpec, &what)
                }
                _ => Verdict::pending(Reason::Starting, ""),
            };
        };
        if set.deleting {
            return Verdict::pending(Reason::Starting, "The StatefulSet is being deleted.");
        }
        if let Some(verdict) = self.taken_over(set) {
            return verdict;
        }
        self.replace_outdated(set);
        match self.upgrade(&target, set) {
            Some(verdict) => verdict,
            None => self.scale(&target, set),
        }
    }

    pub fn owner(&self) -> Owner<'a> {
        Owner { id: &self.o.job.id, version: &self.o.us.version }
    }

    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub fn look_again(&mut self, after_ms: u64) {
        self.requeue_ms = self.requeue_ms.min(after_ms);
    }

    pub fn event(&mut self, warning: bool, reason: Reason, what: &str) {
        let message = reason.tell(what);
        self.events.push(Event { warning, reason: reason.name(), message, standing: None });
    }

    /// What is so for as long as it is told: a warning, once for each `of`.
    pub fn standing(&mut self, reason: Reason, what: &str, of: &str) {
        let (message, standing) = (reason.tell(what), Some(of.to_owned()));
        self.events.push(Event { warning: true, reason: reason.name(), message, standing });
    }
}
