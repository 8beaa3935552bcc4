//! What one pass over a job sees: plain data, gathered by the shell, judged by `plan`.

use millrace_crds::config::Identity;
use millrace_crds::render::Commit;
use millrace_crds::savepoint::{SavepointSpec, SavepointStatus};
use millrace_crds::streamjob::{StreamJobSpec, StreamJobStatus};
use millrace_protocol::control;
use serde_json::Value;
use std::collections::BTreeMap;

/// Milliseconds since 1970.
pub type Millis = i64;

/// A job and everything that belongs to it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The resource.
    pub job: Job,
    /// Its children by kind and name.
    pub children: BTreeMap<(Kind, String), Child>,
    /// Its StatefulSet, if it is there and ours.
    pub set: Option<Set>,
    /// Its revisions, by hash.
    pub revisions: BTreeMap<String, Revision>,
    /// Its pods, of all components.
    pub pods: Vec<Pod>,
    /// What its coordinator said.
    pub coordinator: Coordinator,
    /// The Savepoint objects of its namespace that name it, or that it names.
    pub savepoints: Vec<SavepointObject>,
    /// The nodes its pods are on; empty without permission to look at nodes.
    pub nodes: BTreeMap<String, Node>,
    /// Why the StatefulSet could not make a pod, from its events.
    pub forbidden: Option<Forbidden>,
    /// Whether its namespace is being deleted.
    pub namespace_terminating: bool,
    /// What this process remembers of earlier passes; may be lost at any time.
    pub memory: Memory,
    /// Who we are.
    pub us: Us,
}

/// An event of a StatefulSet that could not make a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    /// In the API server's words.
    pub why: String,
    /// When it was so the last time.
    pub at: Millis,
}

/// Pods are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    /// Since when this process has seen it.
    pub since: Millis,
    /// They were when it first looked, so that it may have begun long ago.
    pub before: bool,
}

/// The controller itself.
#[derive(Debug, Clone)]
pub struct Us {
    /// `namespace/name`, unique in the cluster.
    pub controller: String,
    /// Its version.
    pub version: String,
    /// Whether a status is written anew only to show a newer checkpoint.
    pub refreshes: bool,
}

/// The resource.
#[derive(Debug, Clone)]
pub struct Job {
    /// Namespace, name, uid, cluster.
    pub id: Identity,
    /// `metadata.generation`.
    pub generation: i64,
    /// When its deletion was asked for.
    pub deleting: Option<Millis>,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// Annotation `millrace.dev/check-only`.
    pub check_only: bool,
    /// The spec as it is stored.
    pub stored: Value,
    /// The spec as it is understood.
    pub spec: StreamJobSpec,
    /// The status as it is stored.
    pub status: StreamJobStatus,
    /// The generation was just read from a quorum, not from a cache.
    pub quorum: bool,
}

/// Kinds of children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// The ServiceAccount.
    ServiceAccount,
    /// The Service.
    Service,
    /// The PodDisruptionBudget.
    DisruptionBudget,
    /// The StatefulSet.
    StatefulSet,
}

/// An object of a child's name.
#[derive(Debug, Clone)]
pub struct Child {
    /// Its uid.
    pub uid: String,
    /// Whose it is.
    pub owner: Ownership,
    /// What it holds; null where only its metadata is watched.
    pub body: Value,
}

/// Whose an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// Its controller is this StreamJob's uid.
    Ours,
    /// Its controller is a StreamJob of this name and another uid.
    Earlier,
    /// Anyone's.
    Stranger,
}

/// The StatefulSet.
#[derive(Debug, Clone)]
pub struct Set {
    /// Its uid.
    pub uid: String,
    /// Hash of the revision of its template.
    pub revision: String,
    /// `spec.replicas`.
    pub replicas: u32,
    /// When its template was committed.
    pub commit: Commit,
    /// Someone else changed its spec, or we do not know that nobody did.
    pub drifted: bool,
    /// It is being deleted.
    pub deleting: bool,
}

/// A stored revision.
#[derive(Debug, Clone)]
pub struct Revision {
    /// Uid of its ConfigMap.
    pub uid: String,
    /// Hash of `revision.json`: what live parts name.
    pub config_hash: String,
    /// `statefulset.json`.
    pub set: String,
    /// The image.
    pub image: String,
    /// `spec.restartNonce` of then.
    pub nonce: i64,
    /// Version of who rendered it.
    pub rendered_by: String,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// worker, check or store.
    pub component: String,
    /// Label of its revision.
    pub revision: String,
    /// Number of a worker.
    pub ordinal: Option<u32>,
    /// When it was made.
    pub created: Millis,
    /// When its deletion was asked for, and the grace it got.
    pub deleting: Option<(Millis, Millis)>,
    /// Condition Ready.
    pub ready: bool,
    /// Why it is not scheduled, if it is not.
    pub unschedulable: Option<String>,
    /// Where it is.
    pub node: Option<String>,
    /// Its only or main container.
    pub container: Container,
    /// How its container ended the last time.
    pub last_end: Option<End>,
    /// Reason of its phase Failed, such as Evicted.
    pub failed: Option<String>,
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// The kubelet has said nothing yet.
    Unknown,
    /// Not running.
    Waiting {
        /// Such as ImagePullBackOff.
        reason: String,
        /// In the kubelet's words.
        message: String,
    },
    /// Running.
    Running,
    /// Ended.
    Ended(End),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its exit code.
    pub code: i32,
    /// Such as OOMKilled.
    pub reason: String,
    /// What it wrote into its termination log, or its last lines.
    pub message: String,
    /// When.
    pub at: Millis,
}

/// What the coordinator said.
#[derive(Debug, Clone)]
pub enum Coordinator {
    /// Pod 0 does not run, so nobody was asked.
    Absent,
    /// It did not answer.
    Unreachable {
        /// Since when; known to this process only.
        since: Millis,
        /// What happened.
        why: String,
    },
    /// It did.
    Answered(Box<control::Status>),
}

/// A Savepoint object.
#[derive(Debug, Clone)]
pub struct SavepointObject {
    /// Its name.
    pub name: String,
    /// Its uid, which is the savepoint's id.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// When it was made.
    pub created: Millis,
    /// When its deletion was asked for.
    pub deleting: Option<Millis>,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// Annotation with its path: a backup was restored if the status is empty.
    pub annotated_path: Option<String>,
    /// Made by the clock for this job.
    pub scheduled: bool,
    /// It is to go, and these jobs start from it.
    pub readers: Vec<String>,
    /// Its spec.
    pub spec: SavepointSpec,
    /// Its status.
    pub status: SavepointStatus,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Condition Ready.
    pub ready: bool,
    /// Since when it is as it is.
    pub since: Millis,
    /// It has the taint out-of-service.
    pub out_of_service: bool,
}

/// What this process remembers of a job.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Revision whose StatefulSet a dry run accepted, or why it did not.
    pub dry_run: Option<(String, Result<(), String>)>,
    /// Deletions of pods in CrashLoopBackOff: by ordinal, when last and how often.
    pub crash_deletes: BTreeMap<u32, (Millis, u32)>,
    /// Since when pod 0's coordinator reports that a worker is lost, by ordinal.
    pub worker_lost: BTreeMap<u32, Millis>,
    /// Since when a node was seen to be gone.
    pub node_gone: BTreeMap<String, Millis>,
    /// There are fewer pods than the StatefulSet should have.
    pub lack: Option<Lack>,
    /// When we last looked at the StatefulSet's events.
    pub looked_at_events: Option<Millis>,
    /// Highest head version that this process has seen.
    pub head_version: u64,
}

impl Observed {
    /// The worker pods.
    pub fn workers(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.component == millrace_crds::names::WORKER)
    }

    /// A worker's pod.
    pub fn worker(&self, ordinal: u32) -> Option<&Pod> {
        self.workers().find(|pod| pod.ordinal == Some(ordinal))
    }

    /// Whether pod 0 is one of a revision that was replaced: it may still be heard, but is
    /// on its way out.
    pub fn is_history(&self) -> bool {
        let committed = self.set.as_ref().map(|set| &set.revision);
        self.worker(0).is_some_and(|pod| committed.is_some_and(|hash| *hash != pod.revision))
    }

    /// What the coordinator said, if it did.
    pub fn answer(&self) -> Option<&control::Status> {
        match &self.coordinator {
            Coordinator::Answered(status) => Some(status),
            _ => None,
        }
    }

    /// The coordinator's state, if it answered.
    pub fn state(&self) -> Option<control::State> {
        self.answer().map(control::Status::state)
    }
}
