//! Another revision: tried beside the old one, then a held stop, then one apply that
//! commits template and replicas, then new pods.

use super::action::Why;
use super::{Action, Draft, Target, Verdict};
use crate::observed::{Container, Coordinator, Kind, Millis, Pod, Set};
use crate::reasons::Reason;
use millrace_crds::names;
use millrace_crds::render::{self, Commit};
use millrace_protocol::control::State;
use serde_json::Value;

/// A check that met with a store that does not answer is repeated after a quarter of the
/// time it has taken so far, within these.
pub(super) const LEAST_WAIT_MS: Millis = 15_000;
pub(super) const LONGEST_WAIT_MS: Millis = 300_000;

/// What is known of the new revision before anything stops.
enum Check {
    Passed(String),
    Failed(String),
    Going(String),
    /// Not for the new revision's sake: it is tried again, later and later.
    Hindered(String),
}

impl Draft<'_> {
    /// Deletes what does not belong to the committed template.
    pub(super) fn replace_outdated(&mut self, set: &Set) {
        let outdated: Vec<_> = self
            .o
            .workers()
            .filter(|pod| pod.revision != set.revision && pod.deleting.is_none())
            .map(|pod| delete(pod, Why::WrongRevision))
            .collect();
        self.actions.extend(outdated);
    }

    /// Goes one step towards the revision that is to run; `None` if it is the committed one.
    pub(super) fn upgrade(&mut self, target: &Target, set: &Set) -> Option<Verdict> {
        self.drop_checks(target, set);
        if target.revision == set.revision {
            self.release(target, set);
            return None;
        }
        self.look_again(1_000);
        if set.replicas == 0 && self.o.workers().next().is_some() && !target.suspended {
            return Some(Verdict::upgrading(Reason::StoppingPods, ""));
        }
        if let Some((tried, Err(why))) = &self.o.memory.dry_run
            && *tried == target.revision
            && !target.back
        {
            let why = format!("The API server refuses its pods: {why}");
            return Some(self.check_failed(target, &why));
        }
        let stopped = self.none_runs();
        let may_skip = target.back || (stopped && !self.stopped_well(target));
        if !may_skip {
            match self.check(target) {
                Check::Going(what) => {
                    return Some(Verdict::upgrading(Reason::CheckingUpgrade, &what));
                }
                Check::Hindered(why) => {
                    let mut verdict = Verdict::upgrading(Reason::CheckingUpgrade, &why);
                    verdict.stalled = self.checking_for() > self.upgrade_timeout();
                    return Some(verdict);
                }
                Check::Failed(why) => return Some(self.check_failed(target, &why)),
                Check::Passed(plan) => {
                    if self.reconciling_reason() == Some(Reason::CheckingUpgrade) {
                        self.event(false, Reason::UpgradePlanned, &plan);
                    }
                    if self.o.job.check_only {
                        return Some(Verdict::checked(&plan));
                    }
                }
            }
        }
        if stopped {
            return Some(self.commit(target, set));
        }
        let waited = self.reconciling_since(Reason::StoppingWithSavepoint);
        let timeout = i64::try_from(self.o.job.spec.checkpoint_timeout_ms()).unwrap_or(i64::MAX);
        if target.last_checkpoint || target.back || waited > timeout {
            return Some(self.stop_pods(target, set));
        }
        if self.o.answer().is_some() {
            self.act(Action::HoldStop);
        }
        Some(Verdict::upgrading(Reason::StoppingWithSavepoint, ""))
    }

    /// Nothing processes records, and nothing will by itself before we have committed.
    pub(super) fn none_runs(&self) -> bool {
        if self.o.workers().next().is_none() {
            return true;
        }
        match &self.o.coordinator {
            Coordinator::Answered(answer) => matches!(
                answer.state(),
                State::Held
                    | State::Suspended
                    | State::Finished
                    | State::Failed
                    | State::Superseded
                    | State::Refused
            ),
            Coordinator::Unreachable { .. } => false,
            Coordinator::Absent => self.o.worker(0).is_none_or(|pod| {
                let idle = match &pod.container {
                    Container::Waiting { .. } | Container::Ended(_) => true,
                    Container::Unknown => pod.unschedulable.is_some() || pod.failed.is_some(),
                    Container::Running => false,
                };
                idle && pod.deleting.is_none()
            }),
        }
    }

    /// It could go on where it stopped, so that a bad revision must not take its place.
    fn stopped_well(&self, target: &Target) -> bool {
        self.o.state() == Some(State::Held)
            || (target.suspended && !self.complete())
            || self.o.state() == Some(State::Suspended)
    }

    fn check(&mut self, target: &Target) -> Check {
        let hash = &target.revision;
        match &self.o.memory.dry_run {
            Some((tried, Err(why))) if tried == hash => {
                return Check::Failed(format!("The API server refuses its pods: {why}"));
            }
            Some((tried, Ok(()))) if tried == hash => {}
            _ if self.check_pod(hash).is_none() => {
                match self.set(hash, target.workers, Commit::default()) {
                    Ok(object) => self.act(Action::DryRun { revision: hash.clone(), object }),
                    Err(error) => return Check::Failed(error),
                }
                return Check::Going(String::new());
            }
            _ => {}
        }
        let timeout = self.upgrade_timeout();
        let Some(pod) = self.check_pod(hash).cloned() else {
            match self.template(hash) {
                Ok(template) => {
                    let pod = render::check_pod(&self.owner(), &template, hash);
                    self.act(Action::Create(pod));
                }
                Err(error) => return Check::Failed(error),
            }
            return Check::Going(String::new());
        };
        match &pod.container {
            Container::Ended(end) if end.code == 0 => {
                Check::Passed(super::pods::told(&end.message).0)
            }
            Container::Ended(_) if disturbed(&pod) => {
                self.retry(pod.name.clone(), pod.uid.clone(), pod.created);
                let what = format!("{} was disturbed; it is tried again.", pod.name);
                match self.checking_for() > timeout {
                    true => Check::Failed(what),
                    false => Check::Going(what),
                }
            }
            Container::Ended(end) if super::pods::blames_storage(end) => {
                let wait = (self.checking_for() / 4).clamp(LEAST_WAIT_MS, LONGEST_WAIT_MS);
                if self.now - pod.created > wait {
                    self.act(Action::Delete {
                        kind: "v1/Pod",
                        name: pod.name.clone(),
                        uid: pod.uid.clone(),
                    });
                }
                let (message, remedy) = super::pods::told(&end.message);
                Check::Hindered(format!("{message} {remedy}").trim().to_owned())
            }
            Container::Ended(end) => {
                let (message, remedy) = super::pods::told(&end.message);
                Check::Failed(format!("{message} {remedy}").trim().to_owned())
            }
            Container::Waiting { .. } | Container::Unknown | Container::Running
                if self.now - pod.created > timeout =>
            {
                Check::Failed(format!("Its check did not end in time: {}", pod_words(&pod)))
            }
            _ => Check::Going(pod_words(&pod)),
        }
    }

    fn checking_for(&self) -> Millis {
        self.reconciling_since(Reason::CheckingUpgrade)
    }

    pub(super) fn upgrade_timeout(&self) -> Millis {
        i64::try_from(self.o.job.spec.upgrade_timeout_ms()).unwrap_or(i64::MAX)
    }

    fn check_pod(&self, hash: &str) -> Option<&Pod> {
        self.o.pods.iter().find(|pod| {
            pod.component == names::CHECK && pod.revision == hash && pod.deleting.is_none()
        })
    }

    pub(super) fn template(&self, hash: &str) -> Result<Value, String> {
        Ok(self.set(hash, 0, Commit::default())?["spec"]["template"].clone())
    }

    fn check_failed(&mut self, target: &Target, why: &str) -> Verdict {
        let failed = target.desired.clone();
        self.remember(|revision| revision.failed = failed);
        self.upgrade_condition("False", Reason::CheckFailed, why);
        if self.o.state() == Some(State::Held) {
            self.act(Action::ReleaseStop);
        }
        Verdict::refused(Reason::CheckFailed, why)
    }

    /// Removes check pods of edits that are history.
    fn drop_checks(&mut self, target: &Target, set: &Set) {
        let old: Vec<_> = self
            .o
            .pods
            .iter()
            .filter(|pod| pod.component == names::CHECK && pod.deleting.is_none())
            .filter(|pod| pod.revision == set.revision || pod.revision != target.desired)
            .map(|pod| Action::Delete {
                kind: "v1/Pod",
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            })
            .collect();
        self.actions.extend(old);
    }

    /// The edit was undone: a held job goes on.
    fn release(&mut self, target: &Target, set: &Set) {
        let stopping = self.reconciling_reason() == Some(Reason::StoppingWithSavepoint);
        let held = self.o.state() == Some(State::Held);
        if held || (stopping && self.o.state() == Some(State::Stopping) && !target.suspended) {
            self.act(Action::ReleaseStop);
            self.look_again(1_000);
        }
        let was = matches!(
            self.reconciling_reason(),
            Some(Reason::StoppingWithSavepoint | Reason::CheckingUpgrade)
        );
        if was && target.desired == set.revision {
            self.event(false, Reason::UpgradeCancelled, "");
        }
    }

    /// No savepoint is to be had: the pods take a last checkpoint as they are told to end.
    fn stop_pods(&mut self, target: &Target, set: &Set) -> Verdict {
        let stored = set.revision.clone();
        match self.set(&stored, 0, set.commit) {
            Ok(object) => self.act(Action::Apply { uid: set.uid.clone(), object }),
            Err(error) => return Verdict::stalled(Reason::InvalidSpec, &error),
        }
        if !target.back {
            let what = self.used_checkpoint();
            self.event(false, Reason::UsedCheckpoint, &what);
        }
        Verdict::upgrading(Reason::StoppingPods, "")
    }

    /// What is read again, as far as that is known: by the clocks of the coordinator and ours.
    fn used_checkpoint(&self) -> String {
        let id = self.last_checkpoint();
        let told = self.o.answer().and_then(|answer| answer.last_checkpoint.as_ref());
        let Some(last) = told.filter(|last| last.id == id && last.completed_at_ms > 0) else {
            return format!("The job goes on from checkpoint {id} or a later one.");
        };
        let seconds = (self.now - last.completed_at_ms).max(0) / 1_000;
        format!(
            "The job goes on from checkpoint {id}, which was complete {seconds} s ago, and replays \
             what it read since; or from a later one, if its pods complete one as they end."
        )
    }

    fn commit(&mut self, target: &Target, set: &Set) -> Verdict {
        let replicas = if target.suspended || self.complete() { 0 } else { target.workers };
        let commit = Commit { at_ms: self.now, after_checkpoint: self.last_checkpoint() };
        self.apply_live(target);
        match self.set(&target.revision, replicas, commit) {
            Ok(object) => self.act(Action::Apply { uid: set.uid.clone(), object }),
            Err(error) => return Verdict::stalled(Reason::InvalidSpec, &error),
        }
        let all: Vec<_> = self
            .o
            .workers()
            .filter(|pod| pod.revision == set.revision && pod.deleting.is_none())
            .map(|pod| delete(pod, Why::WrongRevision))
            .collect();
        self.actions.extend(all);
        self.status.restarts = Some(0);
        if !target.back {
            self.upgrade_condition("Unknown", Reason::ReplacingPods, "");
        }
        Verdict::upgrading(Reason::ReplacingPods, "")
    }

    /// Writes the file that workers read, if it says something else.
    pub(super) fn apply_live(&mut self, target: &Target) {
        let Some(live) = &target.live else { return };
        let key = (Kind::ConfigMap, names::live(&self.o.job.id.name));
        let Some(child) = self.o.children.get(&key) else { return };
        if let Ok(object) = render::live_config(&self.owner(), live)
            && !super::children::within(&object["data"], &child.body["data"])
        {
            self.act(Action::Apply { uid: child.uid.clone(), object });
        }
    }
}

/// It was told to go before it could say anything of its program.
pub(super) fn disturbed(pod: &Pod) -> bool {
    let killed = super::pods::end(pod)
        .is_some_and(|end| end.code == 143 || (end.code == 137 && end.reason != "OOMKilled"));
    killed || pod.failed.as_ref().is_some_and(|reason| reason != "Failed")
}

pub(super) fn delete(pod: &Pod, why: Why) -> Action {
    Action::DeletePod {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        force: why == Why::LostNode,
        why,
    }
}

pub(super) fn pod_words(pod: &Pod) -> String {
    match (&pod.unschedulable, &pod.container) {
        (Some(why), _) => why.clone(),
        (None, Container::Waiting { reason, message }) => {
            format!("{reason} {message}").trim().to_owned()
        }
        _ => String::new(),
    }
}
