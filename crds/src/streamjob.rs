//! The resource `StreamJob`: what a user applies.

use crate::duration::{DurationText, LEAST_LOST_NODE_MS};
use crate::podtemplate::PodTemplate;
use crate::storage::Storage;
use crate::tuning::{Checkpoint, Disruption, NameRef, Restart, Savepoints, State, Tls, Upgrade};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A job: a program, its workers, where its state is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "StreamJob",
    namespaced,
    status = "StreamJobStatus",
    shortname = "sj",
    category = "all",
    category = "millrace",
    derive = "PartialEq",
    doc = "A stateful stream processing job.",
    scale(
        spec_replicas_path = ".spec.workers",
        status_replicas_path = ".status.workers",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".status.workers"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(
        name = "Checkpoints",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"CheckpointHealthy\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Parallelism",
        type_ = "integer",
        json_path = ".status.parallelism",
        priority = 1
    ),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    validation = Rule::new("self.metadata.name.size() <= 43 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must have at most 43 characters, begin with a letter, and consist of lower-case letters, digits and hyphens")
)]
#[x_kube(
    validation = Rule::new("self.workers >= 1")
        .message("workers must be at least 1; to stop the job and keep its state set spec.desiredState to Suspended"),
    validation = Rule::new("self.maxParallelism == oldSelf.maxParallelism")
        .message("maxParallelism cannot be changed: put the old number back into the manifest, or create a new job from a savepoint"),
    validation = Rule::new("!has(self.parallelism) || self.parallelism <= self.workers * self.slotsPerWorker")
        .message("parallelism must not exceed workers x slotsPerWorker: raise workers, or lower parallelism"),
    validation = Rule::new("self.workers * self.slotsPerWorker <= self.maxParallelism && (!has(self.parallelism) || self.parallelism <= self.maxParallelism)")
        .message("workers x slotsPerWorker and parallelism must not exceed maxParallelism"),
    validation = Rule::new("!has(self.job.program) || (has(self.image) && self.image != '')")
        .message("image is required with job.program"),
    validation = Rule::new("has(self.storage) == has(oldSelf.storage)")
        .message("storage cannot be added or removed")
)]
pub struct StreamJobSpec {
    /// The image of the job's program.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub image: Option<String>,
    /// What to run.
    pub job: Job,
    /// Number of pods. This is what /scale, and so kubectl scale, HPA and KEDA write.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 10_000))]
    pub workers: i32,
    /// Threads of a worker that run the dataflow.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_024))]
    pub slots_per_worker: i32,
    /// Subtasks of operators that say nothing else. None: workers x slotsPerWorker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32_768))]
    pub parallelism: Option<i32>,
    /// Number of key groups, the upper bound of parallelism. Immutable.
    #[serde(default = "max_parallelism")]
    #[schemars(range(min = 1, max = 32_768))]
    pub max_parallelism: i32,
    /// Suspended: stop with a checkpoint, keep the state, run no pods.
    #[serde(default)]
    pub desired_state: DesiredState,
    /// Another number restarts the job: savepoint, new pods, restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub restart_nonce: Option<i64>,
    /// What to do when an earlier job of this name left state in the same place.
    #[serde(default)]
    pub on_existing_state: OnExistingState,
    /// Where the first state comes from; obeyed again when nonce has grown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
    /// Where checkpoints and savepoints are kept.
    pub storage: Storage,
    /// Where keyed state lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// When checkpoints are taken and kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Savepoints made by the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub savepoints: Option<Savepoints>,
    /// What happens when the program, its arguments or its pods change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// What happens after a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// What the job bears of its cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disruption: Option<Disruption>,
    /// Whether the job's data is deleted with it.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Of each worker. None: a CPU request of slotsPerWorker, and a memory limit and
    /// request of 1Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// None: one is made for the job. Its token is not mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// How workers talk to one another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Merged into the pods: maps by key, containers, environment and ports by name,
    /// mounts by mountPath; a volume of the same name is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

fn one() -> i32 {
    1
}

fn max_parallelism() -> i32 {
    1024
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.program)").message("set job.program"))]
pub struct Job {
    /// The program of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
}

/// A program built with the DataStream API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.args) || self.args.map(a, a.size()).sum() <= 131072")
    .message("the arguments must not have more than 128 KiB in all"))]
pub struct Program {
    /// Its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 256),
        inner(length(max = 4096)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub args: Option<Vec<String>>,
}

/// Whether a job should run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// It should.
    #[default]
    Running,
    /// It should stop with a checkpoint and go on from there one day.
    Suspended,
}

/// What to do with state that an earlier job of the same name left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExistingState {
    /// Do not start.
    #[default]
    Refuse,
    /// Go on from it.
    Resume,
    /// Start empty.
    Ignore,
}

/// Whether data is deleted with its object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes too.
    Delete,
}

/// Where state comes from by the user's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.savepointRef), has(self.path), has(self.empty)].filter(x, x).size() == 1")
    .message("set exactly one of savepointRef, path and empty"))]
pub struct RestoreFrom {
    /// A Savepoint object of the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub savepoint_ref: Option<NameRef>,
    /// A savepoint's directory or URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// Start empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty: Option<Empty>,
    /// Obeyed at the first start, later only when it has grown.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub nonce: i64,
}

/// Nothing to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Empty {}

/// CPU and memory of a worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.limits) && 'memory' in self.limits ? quantity(string(self.limits['memory'])).compareTo(quantity('128Mi')) >= 0 : !has(self.requests) || !('memory' in self.requests) || quantity(string(self.requests['memory'])).compareTo(quantity('128Mi')) >= 0")
    .message("the memory limit must be at least 128Mi; without one the request is the limit"))]
pub struct Resources {
    /// At most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: Option<BTreeMap<String, Quantity>>,
    /// At least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: Option<BTreeMap<String, Quantity>>,
}

impl Resources {
    /// As a container has it.
    pub fn requirements(&self) -> ResourceRequirements {
        ResourceRequirements {
            limits: self.limits.clone(),
            requests: self.requests.clone(),
            ..ResourceRequirements::default()
        }
    }
}

/// How a job is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct StreamJobStatus {
    /// The generation that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For people: Pending, Starting, Running, Restarting, Rescaling, Upgrading,
    /// Suspending, Suspended, Finished, Failed, Deleting, Unknown. Programs look at the
    /// conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Number of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<i32>,
    /// Selects the worker pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Of the running attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<i32>,
    /// Of the revision in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The controller that looks after this job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Number of the life of the job's data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<i64>,
    /// Number of the deployment of the job's tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    /// Last `restoreFrom.nonce` obeyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_nonce: Option<i64>,
    /// Renderings of what needs new processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionStatus>,
    /// The newest complete one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<LastCheckpoint>,
    /// The newest complete one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_savepoint: Option<LastSavepoint>,
    /// Before the running attempt, unless that is the job's first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_gap: Option<LastGap>,
    /// Since the current revision began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<i64>,
    /// The last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Ready, Available, CheckpointHealthy, UpgradeSucceeded, Complete; Reconciling and
    /// Stalled while True.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Renderings of what needs new processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct RevisionStatus {
    /// In effect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub current: String,
    /// In effect before.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub previous: String,
    /// Tried and refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failed: String,
    /// Version of the controller that rendered the current one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rendered_by: String,
}

/// A complete checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct LastCheckpoint {
    /// Its number.
    pub id: i64,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// From its trigger on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Of the state that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
}

/// A complete savepoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct LastSavepoint {
    /// Where it is.
    pub path: String,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
}

/// Between the attempt that runs and the one before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct LastGap {
    /// The attempt that followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    /// Restart, Rescale, Resume; Takeover: by the coordinator of another process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// When the checkpoint that it goes on from was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_at: Option<Time>,
    /// When all of its tasks ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_at: Option<Time>,
    /// When its first checkpoint was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_checkpoint_at: Option<Time>,
    /// Between these two checkpoints, by the clocks of the processes that took them: for so
    /// long nothing was committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

/// A failure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct LastFailure {
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// In which attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// What went wrong, at most 1 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl StreamJobSpec {
    /// Subtasks of operators that say nothing else.
    pub fn effective_parallelism(&self) -> i32 {
        self.parallelism.unwrap_or_else(|| self.workers.saturating_mul(self.slots_per_worker))
    }

    /// How long a node may be lost, in milliseconds.
    pub fn lost_node_timeout_ms(&self) -> u64 {
        let given = self.disruption.as_ref().and_then(|d| d.lost_node_timeout.as_ref());
        let given = given.and_then(|text| text.millis().ok()).unwrap_or(60_000);
        // An object stored under another schema may say less.
        given.max(LEAST_LOST_NODE_MS)
    }

    /// The memory limit of a worker, as a quantity.
    pub fn memory_limit(&self) -> String {
        let given = self.resources.as_ref();
        let lists = given.into_iter().flat_map(|r| [&r.limits, &r.requests]).flatten();
        let limit = lists.into_iter().find_map(|list| list.get("memory"));
        limit.map_or_else(|| "1Gi".to_owned(), |limit| limit.0.clone())
    }

    /// From new pods to the first complete checkpoint, in milliseconds.
    pub fn upgrade_timeout_ms(&self) -> u64 {
        millis_or(self.upgrade.as_ref().and_then(|u| u.timeout.as_ref()), 600_000)
    }

    /// A checkpoint that takes longer is given up, in milliseconds.
    pub fn checkpoint_timeout_ms(&self) -> u64 {
        millis_or(self.checkpoint.as_ref().and_then(|c| c.timeout.as_ref()), 600_000)
    }
}

/// What the schema let through is a duration; an object stored under another schema may
/// hold something else, and then the default does less harm than no job at all.
pub(crate) fn millis_or(text: Option<&DurationText>, default: u64) -> u64 {
    text.and_then(|text| text.millis().ok()).unwrap_or(default)
}
