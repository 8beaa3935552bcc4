//! The settings of a job that have a default in the controller: absent here means that
//! default, which may become better one day without touching what is stored.

use crate::duration::{DurationText, LostNodeText, PauseText};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where keyed state lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct State {
    /// None: Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
}

/// A state backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Backend {
    /// In memory.
    Memory,
    /// In memory as far as the budget goes, the rest in files on the pod's local disk.
    Disk,
    /// In memory as far as the budget goes, the rest in RocksDB on the pod's local disk.
    RocksDB,
}

/// When checkpoints are taken and kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Between two of them. None: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
    /// One that takes longer is given up. None: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Least time between the end of one and the begin of the next. None: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_pause: Option<PauseText>,
    /// How many are kept. None: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub retained: Option<i32>,
    /// So many failures in a row are borne. None: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub tolerated_failures: Option<i32>,
    /// How barriers pass rows that wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
}

/// How barriers pass rows that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alignment {
    /// None: AlignedThenUnaligned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<AlignmentMode>,
    /// How long AlignedThenUnaligned waits. None: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
}

/// Whether barriers overtake rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AlignmentMode {
    /// Never.
    Aligned,
    /// At once.
    Unaligned,
    /// After a while.
    AlignedThenUnaligned,
}

/// Savepoints made by the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Savepoints {
    /// A Savepoint object is made so often, with deletionPolicy Delete.
    pub interval: DurationText,
    /// How many of these are kept. None: 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub retained: Option<i32>,
}

/// What happens when the program, its arguments or its pods change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Savepoint: stop through a fresh one if the job can give one, else its newest
    /// checkpoint. LastCheckpoint: its newest checkpoint at once.
    #[serde(default)]
    pub mode: UpgradeMode,
    /// From new pods to the first complete checkpoint. None: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// What to do with a new program that does not get healthy.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Uids of operators whose state may be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(max = 256)))]
    pub drop_state: Option<Vec<String>>,
}

/// Through what an upgrade goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeMode {
    /// A fresh stop checkpoint.
    #[default]
    Savepoint,
    /// The newest checkpoint there is.
    LastCheckpoint,
}

/// What to do with a new program that does not get healthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// Take the old one again, unless the new one completed a checkpoint.
    #[default]
    RollBack,
    /// Keep the new one and wait for an edit.
    Keep,
}

/// What happens after a failure: a delay that doubles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// None: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<DurationText>,
    /// None: 1m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<DurationText>,
    /// A job that ran so long begins with the first delay again. None: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_after: Option<DurationText>,
    /// None: never give up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_restarts: Option<i32>,
}

/// What the job bears of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// A worker on a node that is lost for so long is replaced; longer than a worker
    /// without its coordinator goes on, which is 10s. None: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_node_timeout: Option<LostNodeText>,
    /// How many workers may be evicted at a time. None: 50%.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// How workers talk to one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.exchange) || self.exchange != 'Mutual' || has(self.secretRef)")
    .message("exchange: Mutual needs secretRef, a Secret with tls.crt, tls.key and ca.crt"))]
pub struct Tls {
    /// None: Plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
    /// With the keys that cert-manager writes: tls.crt, tls.key, ca.crt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// Whether the exchange is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exchange {
    /// As it is.
    Plaintext,
    /// TLS, both sides with certificates.
    Mutual,
}

/// An object in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct NameRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
