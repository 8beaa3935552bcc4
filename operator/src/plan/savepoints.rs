//! Savepoint objects: which are wanted of the coordinator, which a store pod makes, what
//! their statuses say.

use super::{Action, Draft, Target};
use crate::observed::{Container, Millis, SavepointObject};
use crate::plan::status::time;
use crate::reasons::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use millrace_crds::config as job_config;
use millrace_crds::names;
use millrace_crds::render::{self, StoreWork};
use millrace_crds::savepoint::{SavepointJob, SavepointStatus};
use millrace_crds::streamjob::{DeletionPolicy, LastSavepoint};
use millrace_protocol::control::{SavepointState, State};

const PATIENCE_MS: i64 = 600_000;

impl Draft<'_> {
    /// Sees to the savepoints; without a target the job cannot be touched, and they wait.
    pub(super) fn savepoints(&mut self, target: Option<&Target>) {
        if target.is_some() {
            self.by_the_clock();
        }
        let mut wanted = Vec::new();
        for object in &self.o.savepoints {
            let ours = object.spec.job_ref.as_ref().is_some_and(|r| r.name == self.o.job.id.name);
            if !ours {
                continue;
            }
            if object.deleting.is_some() {
                self.forget(object);
                continue;
            }
            self.keep_finalizer(object);
            let status = self.savepoint(object, target, &mut wanted);
            if let Some(path) = &status.path
                && status.completed_at.is_some()
                && object.annotated_path.as_ref() != Some(path)
            {
                self.act(Action::AnnotateSavepoint {
                    name: object.name.clone(),
                    path: path.clone(),
                });
            }
            if status.completed_at.is_some() {
                self.newest(&status);
            } else if !stalled(&status) {
                // It is given up in time, whatever the job is at.
                self.look_again(10_000);
            }
            self.savepoints.push((object.name.clone(), status));
        }
        if target.is_none() {
            return;
        }
        self.drop_store_pods();
        let asked = self.o.answer().is_some_and(|answer| {
            answer.savepoints.iter().any(|s| s.state() == SavepointState::Waiting)
        });
        if self.o.answer().is_some() && (!wanted.is_empty() || asked) {
            self.act(Action::WantSavepoints(wanted));
            self.look_again(2_000);
        }
    }

    /// Removes store pods whose work is done and written down.
    fn drop_store_pods(&mut self) {
        let done = self.o.pods.iter().filter(|pod| {
            pod.component == names::STORE
                && pod.deleting.is_none()
                && !self.store_pods.contains(&pod.name)
        });
        let done: Vec<_> = done
            .map(|pod| Action::Delete {
                kind: "v1/Pod",
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            })
            .collect();
        self.actions.extend(done);
    }

    /// Makes Savepoint objects while the job runs, and removes the oldest beyond the number
    /// that is kept, complete or failed; their names hold their time, so that one is not made twice.
    fn by_the_clock(&mut self) {
        let Some(wanted) = &self.o.job.spec.savepoints else { return };
        let interval = wanted.interval.millis().ok().and_then(|ms| i64::try_from(ms).ok());
        let Some(interval) = interval.filter(|ms| *ms > 0) else { return };
        let mut made: Vec<_> = self.o.savepoints.iter().filter(|object| object.scheduled).collect();
        made.sort_by_key(|object| object.created);
        let due = made.last().is_none_or(|last| self.now - last.created >= interval);
        if due && self.o.state() == Some(State::Running) {
            let id = &self.o.job.id;
            let name = format!("{}-{}", id.name, self.now / interval * interval / 1_000);
            self.act(Action::Create(serde_json::json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "Savepoint",
                "metadata": {"name": name, "namespace": id.namespace,
                    "labels": {names::LABEL_SCHEDULED_FOR: id.uid}},
                "spec": {"jobRef": {"name": id.name}, "deletionPolicy": "Delete"},
            })));
        }
        let keep = wanted.retained.and_then(|n| usize::try_from(n).ok()).unwrap_or(7).max(1);
        made.retain(|object| object.deleting.is_none());
        let complete = |object: &&SavepointObject| object.status.completed_at.is_some();
        let (complete, others): (Vec<_>, Vec<_>) = made.into_iter().partition(complete);
        // As many of those that failed, for what they tell; none may take another's place.
        let failed = others.into_iter().filter(|object| stalled(&object.status)).collect();
        for made in [complete, failed] {
            let surplus = made.len().saturating_sub(keep);
            for object in made.into_iter().take(surplus) {
                self.act(Action::Delete {
                    kind: "millrace.dev/v1alpha1/Savepoint",
                    name: object.name.clone(),
                    uid: object.uid.clone(),
                });
            }
        }
    }

    fn newest(&mut self, status: &SavepointStatus) {
        let known = self.status.last_savepoint.as_ref().and_then(|last| last.completed_at.clone());
        if known < status.completed_at {
            self.status.last_savepoint = Some(LastSavepoint {
                path: status.path.clone().unwrap_or_default(),
                completed_at: status.completed_at.clone(),
            });
        }
    }

    fn keep_finalizer(&mut self, object: &SavepointObject) {
        let wanted = object.spec.deletion_policy == DeletionPolicy::Delete;
        if wanted != object.finalizer {
            self.act(Action::SavepointFinalizer { name: object.name.clone(), on: wanted });
        }
    }

    fn savepoint(
        &mut self,
        object: &SavepointObject,
        target: Option<&Target>,
        wanted: &mut Vec<(String, String)>,
    ) -> SavepointStatus {
        let mut status = object.status.clone();
        status.observed_generation = Some(object.generation);
        status.id = Some(object.uid.clone());
        if status.completed_at.is_some() || stalled(&status) {
            return status;
        }
        // A backup was restored: it was taken once and is never taken again.
        if let (Some(path), true) = (&object.annotated_path, object.status.conditions.is_empty()) {
            status.path = Some(path.clone());
            status.completed_at = Some(time(object.created));
            self.tell(object, &mut status, true, Reason::Adopted, "");
            return status;
        }
        let asked_of = status.job.as_ref().map(|job| job.uid.clone());
        if asked_of.is_some_and(|uid| uid != self.o.job.id.uid) {
            let what = "The job that it was asked of was deleted before it was complete.";
            self.tell(object, &mut status, false, Reason::SavepointFailed, what);
            return status;
        }
        status.started_at.get_or_insert_with(|| time(self.now));
        let place = job_config::storage(&self.o.job.id, &self.o.job.spec.storage);
        let place = place.map(|place| place.to_string()).unwrap_or_default();
        let under = object.spec.path.clone().unwrap_or_else(|| format!("{place}/savepoints"));
        let told = self.o.answer().and_then(|a| a.savepoints.iter().find(|s| s.id == object.uid));
        if let Some(told) = told.cloned() {
            match told.state() {
                SavepointState::Complete => {
                    status.path = Some(told.path.clone());
                    status.size_bytes = i64::try_from(told.bytes).ok();
                    self.completed(object, &mut status, i64::try_from(told.attempt).ok());
                    return status;
                }
                SavepointState::SavepointFailed => {
                    self.tell(object, &mut status, false, Reason::SavepointFailed, &told.message);
                    return status;
                }
                _ => {}
            }
        }
        let begun = told.is_some_and(|told| {
            matches!(told.state(), SavepointState::Triggered | SavepointState::Exporting)
        });
        if self.now - object.created > timeout(object) && !begun {
            self.tell(object, &mut status, false, Reason::TimedOut, "");
            return status;
        }
        let Some(target) = target else {
            self.tell(object, &mut status, false, Reason::WaitingForJob, "");
            return status;
        };
        let name = store_name(&self.o.job.id.name, object, "svp");
        let begun = self.o.pods.iter().any(|pod| pod.name == name && pod.deleting.is_none());
        let stopped = self.o.set.as_ref().is_some_and(|set| set.replicas == 0)
            && self.o.workers().next().is_none()
            && self.o.job.status.attempt.is_some();
        let ended =
            matches!(self.o.state(), Some(State::Failed | State::Finished | State::Suspended));
        // Written before anything is asked: a later job of this name is not asked again.
        let uid = self.o.job.id.uid.clone();
        status.job.get_or_insert_with(|| SavepointJob { uid, ..SavepointJob::default() });
        if begun || stopped || (ended && self.o.workers().next().is_none()) {
            self.by_store_pod(object, &mut status, &under);
            return status;
        }
        wanted.push((object.uid.clone(), under));
        let steady = self.o.set.as_ref().is_some_and(|set| set.revision == target.revision);
        let (reason, what) = match self.o.state() {
            Some(State::Running) if steady => (Reason::Taking, String::new()),
            _ => (Reason::WaitingForJob, String::new()),
        };
        self.tell(object, &mut status, false, reason, &what);
        status
    }

    fn completed(
        &mut self,
        object: &SavepointObject,
        status: &mut SavepointStatus,
        attempt: Option<i64>,
    ) {
        status.completed_at = Some(time(self.now));
        status.format_version = Some(1);
        status.job = Some(SavepointJob {
            uid: self.o.job.id.uid.clone(),
            attempt,
            image: self.o.job.status.image.clone(),
            parallelism: self.o.job.status.parallelism,
            max_parallelism: Some(self.o.job.spec.max_parallelism),
        });
        self.tell(object, status, true, Reason::Completed, "");
    }

    /// The job does not run: its newest restore point is made self-contained.
    fn by_store_pod(
        &mut self,
        object: &SavepointObject,
        status: &mut SavepointStatus,
        under: &str,
    ) {
        self.look_again(2_000);
        let work = StoreWork::Savepoint { id: object.uid.clone(), target: under.to_owned() };
        match self.store_pod(object, "svp", &work) {
            Some(Ok(_)) => {
                status.path = Some(format!("{}/{}", under.trim_end_matches('/'), object.uid));
                self.completed(object, status, self.o.job.status.attempt);
            }
            Some(Err(why)) => {
                self.tell(object, status, false, Reason::Taking, &format!("Tried again: {why}"))
            }
            None => self.tell(object, status, false, Reason::Taking, ""),
        }
    }

    /// How the store pod of this savepoint ended; makes it if there is none.
    fn store_pod(
        &mut self,
        object: &SavepointObject,
        what: &str,
        work: &StoreWork,
    ) -> Option<Result<String, String>> {
        let name = store_name(&self.o.job.id.name, object, what);
        self.store_pods.push(name.clone());
        if let Some(pod) = self.o.pods.iter().find(|pod| pod.name == name) {
            return match &pod.container {
                Container::Ended(end) if end.code == 0 => Some(Ok(end.message.clone())),
                Container::Ended(end) => {
                    let why = super::pods::told(&end.message).0;
                    self.retry(pod.name.clone(), pod.uid.clone(), pod.created);
                    Some(Err(why))
                }
                _ => None,
            };
        }
        let hash = self.o.set.as_ref().map(|set| set.revision.clone())?;
        if let Ok(template) = self.template(&hash) {
            self.ensure_account();
            let what = format!("{what}-{}", short(object));
            let pod = render::store_pod(&self.owner(), &template, &hash, &what, work);
            self.act(Action::Create(pod));
        }
        None
    }

    /// Its files go with it if they are to, unless a job is being restored from them.
    fn forget(&mut self, object: &SavepointObject) {
        if !object.finalizer {
            return;
        }
        self.look_again(2_000);
        let off = Action::SavepointFinalizer { name: object.name.clone(), on: false };
        let keep = object.spec.deletion_policy == DeletionPolicy::Retain;
        if keep || self.o.namespace_terminating || object.status.completed_at.is_none() {
            return self.act(off);
        }
        let path = object.status.path.clone().unwrap_or_default();
        let mut why = String::new();
        if object.readers.is_empty() {
            let work = StoreWork::DeleteSavepoint { path: path.clone() };
            if let Some(Ok(_)) = self.store_pod(object, "del", &work) {
                return self.act(off);
            }
        } else {
            why = format!(" It is what {} started from.", object.readers.join(", "));
        }
        if self.now - object.deleting.unwrap_or(self.now) > PATIENCE_MS {
            self.event(true, Reason::DataLeftBehind, &format!("Data is left at {path}.{why}"));
            self.act(off);
        }
    }

    fn tell(
        &self,
        object: &SavepointObject,
        status: &mut SavepointStatus,
        ready: bool,
        reason: Reason,
        what: &str,
    ) {
        condition(status, object.generation, self.now, ready, reason, what);
    }
}

pub(super) fn short(object: &SavepointObject) -> String {
    object.uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect()
}

/// The pod that does something for a savepoint while its job does not run.
pub(super) fn store_name(job: &str, object: &SavepointObject, what: &str) -> String {
    names::store_pod(job, &format!("{what}-{}", short(object)))
}

pub(super) fn timeout(object: &SavepointObject) -> i64 {
    let given = object.spec.timeout.as_ref().and_then(|timeout| timeout.millis().ok());
    i64::try_from(given.unwrap_or(3_600_000)).unwrap_or(i64::MAX)
}

pub(super) fn stalled(status: &SavepointStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "Stalled")
}

pub(super) fn condition(
    status: &mut SavepointStatus,
    generation: i64,
    now: Millis,
    ready: bool,
    reason: Reason,
    what: &str,
) {
    let mut set = |kind: &str, value: &str| {
        let old = status.conditions.iter().position(|c| c.type_ == kind);
        let old = old.map(|at| status.conditions.remove(at));
        let since = old.filter(|old| old.status == value).map(|old| old.last_transition_time);
        status.conditions.push(Condition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: reason.name().to_owned(),
            message: reason.tell(what),
            observed_generation: Some(generation),
            last_transition_time: since.unwrap_or_else(|| time(now)),
        });
    };
    set("Ready", if ready { "True" } else { "False" });
    if reason.entry().stalled {
        set("Stalled", "True");
    }
}
