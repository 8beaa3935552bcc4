//! Registered savepoints: read by a pod of the job that is to start from one, with that job's
//! image and credentials, for nobody else has any. It waits until that has told what is there.

use super::savepoints::{condition, short, stalled, store_name};
use super::status::time;
use super::upgrade::{LEAST_WAIT_MS, LONGEST_WAIT_MS, disturbed, pod_words};
use super::{Action, Draft};
use crate::observed::{Container, Kind, Millis, Ownership, Pod, SavepointObject};
use crate::reasons::Reason;
use millrace_crds::names;
use millrace_crds::render::{self, StoreWork};
use millrace_crds::revision;
use millrace_crds::savepoint::{SavepointJob, SavepointStatus};
use serde::Deserialize;

/// What the pod says of a savepoint that it has read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Found {
    message: String,
    size_bytes: Option<i64>,
    format_version: Option<i64>,
    job: String,
    attempt: Option<i64>,
    max_parallelism: Option<i32>,
}

impl<'a> Draft<'a> {
    /// Reads the savepoint that the job is to start from, if it was registered and not read.
    pub(super) fn probe(&mut self) {
        let Some((object, path)) = self.unread() else { return };
        let name = store_name(&self.o.job.id.name, object, "probe");
        let mut status = object.status.clone();
        status.observed_generation = Some(object.generation);
        (status.id, status.path) = (Some(object.uid.clone()), Some(path.clone()));
        self.look_again(5_000);
        match self.o.pods.iter().find(|pod| pod.name == name) {
            Some(pod) => self.probed(object, pod, &mut status),
            None => {
                self.make_probe(object, path);
                self.reads(object, &mut status, "");
            }
        }
        self.savepoints.push((object.name.clone(), status));
    }

    /// What `restoreFrom` names, and where it is said to be.
    fn unread(&self) -> Option<(&'a SavepointObject, String)> {
        let from = self.o.job.spec.restore_from.as_ref()?;
        if self.o.job.status.restore_nonce.is_some_and(|done| done >= from.nonce) {
            return None;
        }
        let named = from.savepoint_ref.as_ref()?;
        let object = self.o.savepoints.iter().find(|object| object.name == named.name)?;
        let known = object.status.completed_at.is_some() || object.deleting.is_some();
        let path = object.spec.existing.as_ref().filter(|_| !known)?.path.clone();
        Some((object, path))
    }

    fn probed(&mut self, object: &SavepointObject, pod: &Pod, status: &mut SavepointStatus) {
        match &pod.container {
            Container::Ended(end) if end.code == 0 => {
                let found: Found = serde_json::from_str(&end.message).unwrap_or_default();
                (status.size_bytes, status.format_version) =
                    (found.size_bytes, found.format_version);
                status.job = Some(SavepointJob {
                    uid: found.job,
                    attempt: found.attempt,
                    max_parallelism: found.max_parallelism,
                    ..SavepointJob::default()
                });
                status.completed_at = Some(time(self.now));
                status.conditions.retain(|condition| condition.type_ != "Stalled");
                let (of, now) = (object.generation, self.now);
                condition(status, of, now, true, Reason::Completed, &found.message);
            }
            Container::Ended(_) if disturbed(pod) => {
                self.retry(pod.name.clone(), pod.uid.clone(), pod.created);
                self.reads(object, status, "");
            }
            Container::Ended(end) => {
                let why = super::pods::told(&end.message).0;
                let (of, now) = (object.generation, self.now);
                condition(status, of, now, false, Reason::SavepointUnreadable, &why);
                let wait = (self.unreadable_for(status) / 4).clamp(LEAST_WAIT_MS, LONGEST_WAIT_MS);
                if now - pod.created > wait && pod.deleting.is_none() {
                    let (name, uid) = (pod.name.clone(), pod.uid.clone());
                    self.act(Action::Delete { kind: "v1/Pod", name, uid });
                }
            }
            _ => self.reads(object, status, &pod_words(pod)),
        }
    }

    /// What the last try said stands until this one has ended.
    fn reads(&self, object: &SavepointObject, status: &mut SavepointStatus, what: &str) {
        if !stalled(status) {
            condition(status, object.generation, self.now, false, Reason::Probing, what);
        }
    }

    fn unreadable_for(&self, status: &SavepointStatus) -> Millis {
        let since = status.conditions.iter().find(|condition| condition.type_ == "Stalled");
        since.map_or(0, |since| self.now - since.last_transition_time.0.as_millisecond())
    }

    /// Of the revision that is committed, or else of the first one, which nothing else makes
    /// before the job knows where it starts from.
    fn make_probe(&mut self, object: &SavepointObject, path: String) {
        let job = &self.o.job;
        let hash = match &self.o.set {
            Some(set) => set.revision.clone(),
            None => revision::hash(&job.stored),
        };
        let key = (Kind::ConfigMap, names::revision(&job.id.name, &hash));
        match self.o.children.get(&key).map(|child| &child.owner) {
            Some(Ownership::Ours) => {}
            // That it is in the way is told by who makes the children.
            Some(_) => return,
            None => match render::revision_config(&self.owner(), &job.spec, &job.stored, &hash) {
                Ok(map) => self.act(Action::Create(map)),
                Err(_) => return,
            },
        }
        if let Ok(template) = self.template(&hash) {
            self.ensure_account();
            let what = format!("probe-{}", short(object));
            let work = StoreWork::ProbeSavepoint { path };
            let pod = render::store_pod(&self.owner(), &template, &hash, &what, &work);
            self.act(Action::Create(pod));
        }
    }
}
