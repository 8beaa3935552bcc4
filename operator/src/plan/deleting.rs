//! The end of a job: rows 43 to 47.

use super::{Action, Draft, Verdict};
use crate::observed::Container;
use crate::reasons::Reason;
use millrace_crds::names;
use millrace_crds::render::{self, StoreWork};
use millrace_crds::streamjob::DeletionPolicy;

/// For so long an unreachable store keeps an object.
const PATIENCE_MS: i64 = 600_000;

impl Draft<'_> {
    /// The finalizer is there exactly while data would have to go.
    pub(super) fn finalizer(&mut self) {
        let wanted = self.o.job.spec.deletion_policy == DeletionPolicy::Delete;
        if wanted != self.o.job.finalizer {
            self.act(Action::Finalizer(wanted));
        }
    }

    pub(super) fn deleting(&mut self) -> Verdict {
        let verdict = Verdict::new("Deleting", Reason::Deleting, "");
        self.look_again(2_000);
        if !self.o.job.finalizer {
            return verdict;
        }
        let keep = self.o.job.spec.deletion_policy == DeletionPolicy::Retain;
        if self.o.namespace_terminating && !keep {
            self.left_behind(" Pods cannot be made any more: its namespace is being deleted.");
        }
        if keep || self.o.namespace_terminating {
            self.act(Action::Finalizer(false));
            return verdict;
        }
        let since = self.o.job.deleting.unwrap_or(self.now);
        if let Some(set) = &self.o.set {
            if !set.deleting {
                self.act(Action::Delete {
                    kind: "apps/v1/StatefulSet",
                    name: names::main(&self.o.job.id.name),
                    uid: set.uid.clone(),
                });
            }
        } else if self.o.workers().next().is_none() && self.data_is_gone() {
            self.act(Action::Finalizer(false));
            return verdict;
        }
        self.free_pods();
        if self.now - since > PATIENCE_MS {
            // Alone: what failed until now would keep it from being done.
            self.actions.clear();
            self.left_behind("");
            self.act(Action::Finalizer(false));
        }
        verdict
    }

    fn left_behind(&mut self, why: &str) {
        let place = millrace_crds::config::storage(&self.o.job.id, &self.o.job.spec.storage);
        let place = place.map(|place| place.to_string()).unwrap_or_default();
        self.event(true, Reason::DataLeftBehind, &format!("Data is left at {place}.{why}"));
    }

    /// A store pod has deleted it; makes one, and another if that one failed.
    fn data_is_gone(&mut self) -> bool {
        let name = names::store_pod(&self.o.job.id.name, "delete");
        match self.o.pods.iter().find(|pod| pod.name == name) {
            Some(pod) => match &pod.container {
                Container::Ended(end) if end.code == 0 => return true,
                // Another try would end as this one did, and the job as it always did.
                container if self.never_ran() && unfit(container) => {
                    self.left_behind(
                        " There is at most what its program wrote before it first failed: no \
                         attempt ever ran.",
                    );
                    return true;
                }
                Container::Ended(_) if pod.deleting.is_none() => {
                    self.retry(pod.name.clone(), pod.uid.clone(), pod.created);
                }
                _ => {}
            },
            None => {
                let known = self.o.job.status.revision.clone().unwrap_or_default();
                let hash = [known.current, known.previous]
                    .into_iter()
                    .find(|hash| self.o.revisions.contains_key(hash))
                    .or_else(|| self.o.revisions.keys().next().cloned());
                // Without a revision nothing was ever started, so that there is nothing.
                let Some(hash) = hash else { return true };
                if let Ok(template) = self.template(&hash) {
                    self.ensure_account();
                    let pod = render::store_pod(
                        &self.owner(),
                        &template,
                        &hash,
                        "delete",
                        &StoreWork::Delete,
                    );
                    self.act(Action::Create(pod));
                }
            }
        }
        false
    }

    /// No attempt was ever seen to run, nor what one left: a revision that runs becomes the
    /// current one.
    pub(super) fn never_ran(&self) -> bool {
        let status = &self.o.job.status;
        status.revision.as_ref().is_none_or(|known| known.current.is_empty())
            && status.last_checkpoint.is_none()
    }

    /// A pod that failed makes room for another after a while.
    pub(super) fn retry(&mut self, name: String, uid: String, created: i64) {
        if self.now - created > 15_000 {
            self.act(Action::Delete { kind: "v1/Pod", name, uid });
        }
    }
}

/// The image or the program is to blame, and not the store.
fn unfit(container: &Container) -> bool {
    match container {
        Container::Ended(end) => !super::pods::blames_storage(end),
        Container::Waiting { reason, .. } => super::pods::PULL.contains(&reason.as_str()),
        Container::Unknown | Container::Running => false,
    }
}
