//! The resource `Savepoint`: state that belongs to the user. Never owned by a StreamJob.

use crate::duration::DurationText;
use crate::streamjob::DeletionPolicy;
use crate::tuning::NameRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// State of a job at one moment, self-contained: taken now, or registered from where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Savepoint",
    namespaced,
    status = "SavepointStatus",
    shortname = "svp",
    category = "all",
    category = "millrace",
    derive = "PartialEq",
    doc = "State of a StreamJob at one moment. Other jobs can start from it.",
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.jobRef.name"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Size", type_ = "integer", json_path = ".status.sizeBytes"),
    printcolumn(name = "Completed", type_ = "date", json_path = ".status.completedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Path", type_ = "string", json_path = ".status.path", priority = 1)
)]
#[x_kube(
    validation = Rule::new("has(self.jobRef) != has(self.existing)")
        .message("set exactly one of jobRef (take one now) and existing (register one)"),
    validation = Rule::new("has(self.jobRef) == has(oldSelf.jobRef) && (!has(self.jobRef) || !has(oldSelf.jobRef) || self.jobRef.name == oldSelf.jobRef.name) && has(self.existing) == has(oldSelf.existing) && (!has(self.existing) || !has(oldSelf.existing) || self.existing.path == oldSelf.existing.path) && has(self.path) == has(oldSelf.path) && (!has(self.path) || !has(oldSelf.path) || self.path == oldSelf.path)")
        .message("only deletionPolicy and timeout of a Savepoint can be changed: create another one")
)]
pub struct SavepointSpec {
    /// Take one of this job now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_ref: Option<NameRef>,
    /// Register one that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing: Option<Existing>,
    /// Where to. None: `savepoints/<uid>` in the job's own place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// Given up after this. None: 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Whether the files that its own manifest lists are deleted with the object.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// A savepoint that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Existing {
    /// Its directory or URL.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
}

/// What became of a savepoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct SavepointStatus {
    /// The generation that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The object's uid: known before the savepoint is begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Format of its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_version: Option<i64>,
    /// Of all its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// The job it was taken of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<SavepointJob>,
    /// When it was first asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Ready; Stalled while True.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The job that a savepoint was taken of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(!default)]
pub struct SavepointJob {
    /// Its uid.
    pub uid: String,
    /// The attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    /// Its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Parallelism of the attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<i32>,
    /// Number of key groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallelism: Option<i32>,
}
