//! The one table: each reason that a condition or an event may name, what it means, and
//! what to do.

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// CamelCase, stable.
    pub reason: &'static str,
    /// Whether someone must act: such a reason stands in the condition Stalled.
    pub stalled: bool,
    /// What it means.
    pub meaning: &'static str,
    /// What to do; empty if nothing.
    pub remedy: &'static str,
}

macro_rules! reasons {
    ($($name:ident, $stalled:literal, $meaning:literal, $remedy:literal;)*) => {
        /// Why something is as it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason { $(#[doc = $meaning] $name,)* }

        /// All of them.
        pub const TABLE: &[Entry] = &[$(Entry {
            reason: stringify!($name), stalled: $stalled, meaning: $meaning, remedy: $remedy,
        },)*];

        impl Reason {
            /// Its line of the table.
            pub fn entry(self) -> &'static Entry {
                &TABLE[self as usize]
            }

            /// The reason of this name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    Running, false, "All subtasks run, and the spec of this generation is in effect.", "";
    Starting, false, "The job's pods are being made, or it reads its state.", "";
    PodsPending, false, "Pods cannot be scheduled.", "Free or add nodes, or lower spec.resources or spec.workers.";
    PodsForbidden, false, "The cluster refuses to make pods.", "Raise the quota, or let the policy admit these pods: the message is the API server's.";
    ImagePullFailed, false, "The image cannot be pulled, or a pod's configuration is incomplete.", "Correct spec.image, or add imagePullSecrets in spec.podTemplate.spec.";
    InvalidProgram, true, "The program refuses to start.", "Correct the image or spec.job.program.args.";
    StorageUnusable, true, "The place of the job's state cannot be used.", "Correct spec.storage, its Secret, or the permissions of the service account.";
    InvalidSpec, true, "The spec cannot be obeyed.", "Correct the field that the message names.";
    NameConflict, true, "An object of a name that this job needs belongs to someone else.", "Delete or rename that object, or create the job under another name.";
    WaitingForOldChildren, false, "Objects of an earlier job of this name are still being removed.", "";
    EarlierStateFound, true, "An earlier job of this name left state in this place.", "Set spec.onExistingState to Resume to go on from it, or to Ignore to start empty.";
    StateMissing, true, "The job had state, and the store has none.", "Restore the bucket, or start empty with spec.restoreFrom: {empty: {}, nonce: <a higher number>}.";
    TakenOver, true, "Another job has taken over this job's state.", "Delete this job; the other one goes on.";
    CoordinatorUnreachable, false, "Pod 0 is ready, and its control port does not answer.", "Let a NetworkPolicy admit the controller to port 7070 of the job's pods.";
    Restarting, false, "The job restarts from its newest checkpoint.", "";
    RestartsExhausted, true, "The job failed more often than spec.restart.maxRestarts allows.", "Look at status.lastFailure and the pods' logs, then edit the job or raise spec.restartNonce.";
    CheckingUpgrade, false, "The new program is tried beside the old one, which runs.", "";
    CheckPassed, false, "The new program would start from the newest checkpoint; the annotation millrace.dev/check-only keeps it from being started.", "Remove the annotation millrace.dev/check-only to upgrade.";
    CheckFailed, true, "The new program would not start, so the old one runs on.", "Correct the field that the message names, or undo the edit.";
    StoppingWithSavepoint, false, "The job stops through a savepoint.", "";
    StoppingPods, false, "The job's pods stop; it goes on from its newest checkpoint.", "";
    UsedCheckpoint, false, "The upgrade goes through the newest checkpoint.", "";
    ReplacingPods, false, "Pods of the new revision are made.", "";
    UpgradePlanned, false, "What an upgrade will do.", "";
    UpgradeCancelled, false, "The edit was undone before anything was replaced.", "";
    Upgraded, false, "The new revision completed its first checkpoint.", "";
    RolledBack, true, "The new revision did not get healthy, so the old one runs again.", "Undo the edit, or correct it: each revision's ConfigMap holds its spec.yaml.";
    UpgradeFailed, true, "The new revision does not get healthy.", "Edit the job; spec.upgrade.onFailure: Keep forbids the way back.";
    Rescaling, false, "The number of workers or the parallelism changes.", "";
    WaitingForWorkers, false, "New workers are on their way.", "";
    Applying, false, "The running job takes over new settings.", "";
    Suspending, false, "The job stops with a checkpoint.", "";
    Suspended, false, "The job is stopped, its state is kept.", "";
    Finished, false, "The input ended and all output is committed.", "";
    PodEvicted, false, "A pod was evicted.", "";
    PodStuck, false, "A pod does not end although its node is healthy.", "Look at the pod's volumes and finalizers: it is never deleted by force.";
    FreedLostPod, false, "A pod on a lost node was deleted by force; attempts are fenced, so that this is safe.", "";
    FreedCrashedPod, false, "A pod that waited out a long back-off was replaced.", "";
    Deleting, false, "The job is being deleted.", "";
    DataLeftBehind, false, "The object is gone and its data is not: it could not be deleted for 10 minutes, the program never ran, or no job is left to delete it with.", "Delete the path that the message names by hand.";
    OperatedBy, false, "Another controller looks after this job.", "Uninstall one of the two, or let them watch different namespaces.";
    GenerationReset, false, "The cluster's own store was restored from a backup: the job had accepted a later generation.", "";
    SavepointNotReady, false, "The savepoint that spec.restoreFrom names is not ready.", "Wait for it, or name another one.";
    WaitingForJob, false, "The savepoint waits until the job runs.", "";
    Taking, false, "The savepoint is being taken.", "";
    Completed, false, "The savepoint is complete.", "";
    Registered, false, "The savepoint is registered, and nothing was read of it: it is read with the image and credentials of the first job that is to start from it.", "Name it in spec.restoreFrom.savepointRef of a StreamJob.";
    Probing, false, "The manifest of a registered savepoint is being read.", "";
    SavepointUnreadable, true, "A registered savepoint cannot be read with the image and credentials of the job that is to start from it.", "Register the right path as another Savepoint, or mend the job's credentials: it is read again every few minutes.";
    Adopted, false, "The savepoint was complete before: its path stands in its annotation.", "";
    TimedOut, true, "The savepoint was not complete in time.", "Create another Savepoint, perhaps with a longer spec.timeout.";
    SavepointFailed, true, "The savepoint could not be taken.", "Create another Savepoint.";
    JobNotFound, false, "There is no StreamJob of this name.", "Create it, or delete this Savepoint.";
    CheckpointsComplete, false, "Checkpoints complete.", "";
    CheckpointsFail, false, "Checkpoints fail.", "Look at the coordinator's log (pod 0) for the failing operator; raise spec.checkpoint.timeout if they only need longer.";
    NoCheckpointYet, false, "No checkpoint was taken yet.", "";
    NotRunning, false, "No attempt processes records.", "";
    Resumed, false, "The job processes records again; the message says where the time went.", "";
    OutputResumed, false, "The first checkpoint after a gap is complete; the message says for how long none was, and so nothing committed.", "";
}

impl Reason {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().reason
    }

    /// What happened, in words of the moment, and what to do.
    pub fn tell(self, what: &str) -> String {
        let entry = self.entry();
        let what = if what.is_empty() { entry.meaning } else { what };
        let gap = match entry.remedy.is_empty() {
            true => "",
            false if what.ends_with(['.', '!', '?', ')']) => " ",
            // What programs say of themselves rarely ends a sentence.
            false => ". ",
        };
        format!("{what}{gap}{}", entry.remedy)
    }
}

impl Reason {
    /// What happened, of a message that [`Reason::tell`] made.
    pub fn untell(self, message: &str) -> String {
        message.strip_suffix(self.entry().remedy).unwrap_or(message).trim().to_owned()
    }
}

/// The table for the documentation.
pub fn markdown() -> String {
    let mut text = "| reason | what it means | what to do |\n|---|---|---|\n".to_owned();
    for entry in TABLE {
        text.push_str(&format!("| {} | {} | {} |\n", entry.reason, entry.meaning, entry.remedy));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_table() {
        // Of the checkout that is tested: the test may have been built in another one.
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
        let path = std::path::PathBuf::from(package).join("../docs/kubernetes.md");
        let page = std::fs::read_to_string(&path).unwrap();
        assert!(
            page.contains(&markdown()),
            "{} has another table of reasons: put the output of `millrace-operator reasons` there",
            path.display()
        );
    }

    #[test]
    fn every_reason_is_found_by_its_name_and_says_what_to_do() {
        for entry in TABLE {
            let reason = Reason::parse(entry.reason).unwrap();
            assert_eq!(reason.name(), entry.reason);
            assert!(!entry.meaning.is_empty());
            assert!(!entry.stalled || !entry.remedy.is_empty(), "{}", entry.reason);
        }
    }
}
