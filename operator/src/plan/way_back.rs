//! How a job that fails again and again is started from where it was well: nobody does that by
//! himself, for it repeats output.

use super::{Draft, Verdict};
use crate::reasons::Reason;
use millrace_crds::config;
use millrace_protocol::control;
use serde_json::json;

/// So many restarts of a new revision are a reason to tell of the one before.
const MANY: u64 = 3;

impl Draft<'_> {
    /// The line that starts the job from its newest point before the revision that fails: the
    /// checkpoint through which that was upgraded to, if it is kept still, or else its last
    /// savepoint.
    pub(super) fn way_back(&self) -> String {
        let (what, path, image) = match (self.stop_checkpoint(), &self.status.last_savepoint) {
            (Some((id, path)), _) => {
                (format!("The upgrade went through checkpoint {id}"), path, self.image_before())
            }
            (None, Some(last)) => {
                (format!("Its last savepoint is {}", last.path), last.path.clone(), None)
            }
            (None, None) => return String::new(),
        };
        let wished = self.o.job.spec.restore_from.as_ref().map_or(0, |from| from.nonce);
        let nonce = wished.max(self.o.job.status.restore_nonce.unwrap_or(0)) + 1;
        let from = json!({"path": path, "nonce": nonce, "savepointRef": null, "empty": null});
        let mut spec = json!({"restoreFrom": from});
        if let Some(image) = image {
            spec["image"] = json!(image);
        }
        let id = &self.o.job.id;
        format!(
            "{what}: kubectl patch streamjob {} -n {} --type merge -p {} starts it from there; \
             what it wrote since stays.",
            id.name,
            id.namespace,
            quoted(&json!({"spec": spec}).to_string())
        )
    }

    /// A revision that failed often since it took the place of another one.
    pub(super) fn failing_again(&self, answer: &control::Status, mut verdict: Verdict) -> Verdict {
        let upgraded = self.status.revision.as_ref().is_some_and(|of| !of.previous.is_empty());
        if verdict.reason == Reason::Restarting && upgraded && answer.restarts >= MANY {
            verdict.what = format!("{} {}", verdict.what, self.way_back()).trim().to_owned();
        }
        verdict
    }

    /// The checkpoint that was the newest when the revision was committed: the one through
    /// which the job was stopped for it.
    fn stop_checkpoint(&self) -> Option<(u64, String)> {
        let known = self.status.revision.as_ref()?;
        let set = self.o.set.as_ref().filter(|set| set.revision == known.current)?;
        let id =
            Some(set.commit.after_checkpoint).filter(|id| *id > 0 && !known.previous.is_empty());
        let points = &self.o.answer()?.restore_points;
        let point = points.iter().find(|point| Some(point.checkpoint) == id)?;
        let place = config::storage(&self.o.job.id, &self.o.job.spec.storage).ok()?;
        Some((point.checkpoint, format!("{place}/{}", point.manifest)))
    }

    /// The image of the revision before, if that was another one.
    fn image_before(&self) -> Option<&str> {
        let known = self.status.revision.as_ref()?;
        let before = self.o.revisions.get(&known.previous)?.image.as_str();
        Some(before).filter(|before| self.o.job.spec.image.as_deref() != Some(before))
    }
}

/// One argument of a shell, whatever it holds: a path is the user's own text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
