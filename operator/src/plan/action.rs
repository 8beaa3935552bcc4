//! What a plan may ask the shell to do.

use millrace_protocol::config::Live;
use serde_json::Value;

/// One step; each is harmless when repeated.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// POST a child; that it exists is no success: look again.
    Create(Value),
    /// POST the Secret of the control API's token; that it exists is a success.
    CreateToken,
    /// Server-side apply onto the object of this uid, which was seen to be ours.
    Apply {
        /// Of the object that was seen.
        uid: String,
        /// What is to be.
        object: Value,
    },
    /// Ask the API server whether it would take this StatefulSet.
    DryRun {
        /// The revision it belongs to.
        revision: String,
        /// The object.
        object: Value,
    },
    /// DELETE with a uid precondition.
    Delete {
        /// API version and kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// DELETE a worker's pod with a uid precondition.
    DeletePod {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Without waiting for its kubelet.
        force: bool,
        /// Under which clause of P7.
        why: Why,
    },
    /// Tell the coordinator what the job should be.
    Propose {
        /// The live part.
        live: Live,
        /// Also if its generation is lower than what was accepted.
        force: bool,
    },
    /// Ask the coordinator to stop and to hold.
    HoldStop,
    /// Let a held job go on.
    ReleaseStop,
    /// All savepoints that are wanted: id and target.
    WantSavepoints(Vec<(String, String)>),
    /// Read the StreamJob past all caches.
    QuorumGet,
    /// Find out why pods are missing.
    LookAtSetEvents,
    /// Put our finalizer on the StreamJob, or take it off.
    Finalizer(bool),
    /// The same for a Savepoint.
    SavepointFinalizer {
        /// Its name.
        name: String,
        /// Put it on.
        on: bool,
    },
    /// Write a savepoint's path into its annotation.
    AnnotateSavepoint {
        /// Its name.
        name: String,
        /// Where it is.
        path: String,
    },
}

/// The clauses under which a worker's pod may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its revision is not the committed one.
    WrongRevision,
    /// Its node is lost.
    LostNode,
    /// It waits out a back-off after a signal or for lack of memory.
    CrashLoop,
}

/// For people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Type Warning, not Normal.
    pub warning: bool,
    /// Of the table.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// Told by every plan for as long as it is so of this, and to people once.
    pub standing: Option<String>,
}
