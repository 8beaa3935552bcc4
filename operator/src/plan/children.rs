//! The children: made if they are missing, put back if they were edited, and never touched
//! if they are not ours.

use super::{Action, Draft, Target, Verdict};
use crate::observed::{Kind, Ownership};
use crate::reasons::Reason;
use millrace_crds::names;
use millrace_crds::render::{self, Commit};
use millrace_crds::revision;
use serde_json::Value;

impl Draft<'_> {
    /// Sees to the children; a verdict if that is all that can be done now.
    pub(super) fn children(&mut self, target: &Target) -> Option<Verdict> {
        if let Some(verdict) = self.foreign(target) {
            return Some(verdict);
        }
        self.collect_revisions(target);
        match self.missing(target) {
            Ok(()) => None,
            Err(error) => Some(Verdict::stalled(Reason::InvalidSpec, &error)),
        }
    }

    fn foreign(&mut self, target: &Target) -> Option<Verdict> {
        let name = &self.o.job.id.name;
        let main = names::main(name);
        let mut needed = vec![
            (Kind::ConfigMap, names::revision(name, &target.revision)),
            (Kind::ConfigMap, names::live(name)),
            (Kind::Service, main.clone()),
            (Kind::DisruptionBudget, main.clone()),
            (Kind::StatefulSet, main.clone()),
        ];
        if self.o.job.spec.service_account_name.is_none() {
            needed.push((Kind::ServiceAccount, main));
        }
        for key in needed {
            match self.o.children.get(&key).map(|child| &child.owner) {
                Some(Ownership::Stranger) => {
                    let what = format!("{:?} {} exists and is not this job's.", key.0, key.1);
                    return Some(Verdict::stalled(Reason::NameConflict, &what));
                }
                Some(Ownership::Earlier) => {
                    self.look_again(2_000);
                    let what = format!("{:?} {} of an earlier job is still there.", key.0, key.1);
                    return Some(Verdict::pending(Reason::WaitingForOldChildren, &what));
                }
                Some(Ownership::Ours) | None => {}
            }
        }
        None
    }

    fn missing(&mut self, target: &Target) -> Result<(), String> {
        let owner = self.owner();
        let job = &self.o.job;
        let text = |error: render::RenderError| error.to_string();
        self.ensure_revision(target)?;
        if let Some(live) = &target.live
            && !self.o.children.contains_key(&(Kind::ConfigMap, names::live(&job.id.name)))
        {
            self.act(Action::Create(render::live_config(&owner, live).map_err(text)?));
        }
        if self.o.set.is_none() || self.waits_for_token() {
            self.act(Action::CreateToken);
        }
        self.ensure_account();
        self.ensure(Kind::Service, render::service(&owner));
        self.ensure(Kind::DisruptionBudget, render::disruption_budget(&owner, &job.spec));
        if self.o.set.is_none() {
            // Pods that outlived their StatefulSet belong to what they run.
            let left = self.o.workers().map(|pod| pod.revision.clone()).next();
            let hash = left
                .filter(|hash| self.o.revisions.contains_key(hash))
                .unwrap_or_else(|| target.revision.clone());
            let replicas = if target.suspended || self.complete() { 0 } else { target.workers };
            let commit = Commit { at_ms: self.now, after_checkpoint: self.last_checkpoint() };
            self.act(Action::Create(self.set(&hash, replicas, commit)?));
            self.look_again(1_000);
        } else if let Some(set) = &self.o.set
            && set.drifted
            && !set.deleting
            && self.o.revisions.contains_key(&set.revision)
        {
            let object = self.set(&set.revision, set.replicas, set.commit)?;
            self.act(Action::Apply { uid: set.uid.clone(), object });
        }
        Ok(())
    }

    /// POSTs the revision that is to run, unless it is stored.
    fn ensure_revision(&mut self, target: &Target) -> Result<(), String> {
        let job = &self.o.job;
        let key = (Kind::ConfigMap, names::revision(&job.id.name, &target.revision));
        if self.o.children.contains_key(&key) || target.revision != target.desired {
            return Ok(());
        }
        let object =
            render::revision_config(&self.owner(), &job.spec, &job.stored, &target.revision)
                .map_err(|error| error.to_string())?;
        self.act(Action::Create(object));
        Ok(())
    }

    /// Pods are refused while their service account is not there.
    pub(super) fn ensure_account(&mut self) {
        if self.o.job.spec.service_account_name.is_none() {
            self.ensure(Kind::ServiceAccount, render::service_account(&self.owner()));
        }
    }

    fn ensure(&mut self, kind: Kind, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match self.o.children.get(&(kind, name)) {
            None => self.act(Action::Create(object)),
            Some(child) if !child.body.is_null() && !within(&object, &child.body) => {
                self.act(Action::Apply { uid: child.uid.clone(), object });
            }
            Some(_) => {}
        }
    }

    /// The StatefulSet of a revision: as it is stored, rendered only if it never was.
    pub(super) fn set(&self, hash: &str, replicas: u32, commit: Commit) -> Result<Value, String> {
        let job = &self.o.job;
        let owner = self.owner();
        let text = |error: render::RenderError| error.to_string();
        match self.o.revisions.get(hash) {
            Some(stored) => render::stateful_set(&owner, &stored.set, hash, replicas, commit),
            None => {
                let rendered =
                    render::revision_config(&owner, &job.spec, &job.stored, hash).map_err(text)?;
                let stored = rendered["data"]["statefulset.json"].as_str().unwrap_or_default();
                render::stateful_set(&owner, stored, hash, replicas, commit)
            }
        }
        .map_err(text)
    }

    /// Keeps the revisions that anything may still need.
    fn collect_revisions(&mut self, target: &Target) {
        let known = self.status.revision.clone().unwrap_or_default();
        let mut keep = vec![known.current, known.previous, known.failed, target.revision.clone()];
        keep.push(revision::hash(&self.o.job.stored));
        keep.extend(self.o.set.iter().map(|set| set.revision.clone()));
        keep.extend(self.o.pods.iter().map(|pod| pod.revision.clone()));
        let outdated: Vec<_> = self
            .o
            .revisions
            .iter()
            .filter(|(hash, _)| !keep.contains(hash))
            .map(|(hash, stored)| Action::Delete {
                kind: "v1/ConfigMap",
                name: names::revision(&self.o.job.id.name, hash),
                uid: stored.uid.clone(),
            })
            .collect();
        self.actions.extend(outdated);
    }

    /// A pod that was scheduled waits for its volumes: perhaps the token was deleted.
    fn waits_for_token(&self) -> bool {
        self.o.workers().any(|pod| {
            let waiting = matches!(&pod.container,
                crate::observed::Container::Waiting { reason, .. } if reason == "ContainerCreating");
            waiting && pod.node.is_some() && self.now - pod.created > 10_000
        })
    }

    pub(super) fn last_checkpoint(&self) -> u64 {
        let told = self.o.answer().and_then(|answer| answer.last_checkpoint.as_ref());
        let stored = self.o.job.status.last_checkpoint.as_ref();
        let stored = stored.and_then(|last| u64::try_from(last.id).ok()).unwrap_or(0);
        told.map_or(stored, |told| told.id.max(stored))
    }
}

/// Whether everything that is wanted is there; the API server adds its own.
pub(super) fn within(wanted: &Value, there: &Value) -> bool {
    match (wanted, there) {
        (Value::Object(wanted), Value::Object(there)) => wanted
            .iter()
            .all(|(key, value)| there.get(key).is_some_and(|there| within(value, there))),
        (Value::Array(wanted), Value::Array(there)) => {
            wanted.len() == there.len() && wanted.iter().zip(there).all(|(w, t)| within(w, t))
        }
        (wanted, there) => wanted == there,
    }
}
