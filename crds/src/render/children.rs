//! The children of a StreamJob, each with its controller owner reference.

use super::template;
use crate::config::{self, ConfigError, Identity};
use crate::names;
use crate::streamjob::StreamJobSpec;
use millrace_protocol::config::Live;
use millrace_protocol::format::FormatError;
use serde_json::{Value, json};

/// Why a child cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The user must change the spec.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A record cannot be written.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Who owns the children.
pub struct Owner<'a> {
    /// The StreamJob.
    pub id: &'a Identity,
    /// Version of who renders.
    pub version: &'a str,
}

/// Labels of everything that belongs to a job.
pub fn labels(id: &Identity, component: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "millrace",
        "app.kubernetes.io/instance": id.name,
        "app.kubernetes.io/managed-by": "millrace",
        names::LABEL_COMPONENT: component,
        names::LABEL_JOB: id.name,
        names::LABEL_JOB_UID: id.uid,
    })
}

fn selector(id: &Identity) -> Value {
    json!({names::LABEL_JOB_UID: id.uid, names::LABEL_COMPONENT: names::WORKER})
}

impl Owner<'_> {
    /// Metadata of a child.
    pub fn metadata(&self, name: String, component: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.id.namespace,
            "labels": labels(self.id, component),
            "ownerReferences": [{
                "apiVersion": "millrace.dev/v1alpha1", "kind": "StreamJob",
                "name": self.id.name, "uid": self.id.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    }
}

/// The immutable ConfigMap of a revision: what workers are told, and the whole StatefulSet,
/// which later versions of the controller apply as it is stored and never render again.
pub fn revision_config(
    owner: &Owner<'_>,
    spec: &StreamJobSpec,
    stored: &Value,
    hash: &str,
) -> Result<Value, RenderError> {
    let revision = config::revision(owner.id, spec)?;
    let manifest = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "StreamJob",
        "metadata": {"name": owner.id.name, "namespace": owner.id.namespace},
        "spec": stored,
    });
    let mut metadata = owner.metadata(names::revision(&owner.id.name, hash), "revision");
    metadata["labels"][names::LABEL_REVISION] = json!(hash);
    metadata["annotations"] = json!({
        names::ANNOTATION_RENDERED_BY: owner.version,
        names::ANNOTATION_NONCE: spec.restart_nonce.unwrap_or(0).to_string(),
    });
    let text = |error: serde_json::Error| FormatError::damaged("revision", error.to_string());
    let yaml = serde_yaml_ng::to_string(&manifest)
        .map_err(|error| FormatError::damaged("spec.yaml", error.to_string()))?;
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": true,
        "data": {
            "revision.json": String::from_utf8_lossy(&revision.encode()?),
            "revision-hash": revision.hash()?,
            "statefulset.json": serde_json::to_string(&set_spec(owner.id, spec, hash)).map_err(text)?,
            "spec.yaml": yaml,
            "image": spec.image.clone().unwrap_or_default(),
        },
    }))
}

fn set_spec(id: &Identity, spec: &StreamJobSpec, hash: &str) -> Value {
    json!({
        "serviceName": names::main(&id.name),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector(id)},
        "template": template::pod_template(id, spec, hash),
    })
}

/// When and after what a template was committed: kept on the StatefulSet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Commit {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Newest checkpoint at that time; 0: none.
    pub after_checkpoint: u64,
}

/// The StatefulSet: the stored text of a revision with a number of replicas.
pub fn stateful_set(
    owner: &Owner<'_>,
    stored: &str,
    hash: &str,
    replicas: u32,
    commit: Commit,
) -> Result<Value, RenderError> {
    let mut spec: Value = serde_json::from_str(stored)
        .map_err(|error| FormatError::damaged("statefulset.json", error.to_string()))?;
    spec["replicas"] = json!(replicas);
    let mut metadata = owner.metadata(names::main(&owner.id.name), names::WORKER);
    metadata["labels"][names::LABEL_REVISION] = json!(hash);
    metadata["annotations"] = json!({
        names::ANNOTATION_COMMITTED_AT: commit.at_ms.to_string(),
        names::ANNOTATION_COMMITTED_AFTER: commit.after_checkpoint.to_string(),
    });
    Ok(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}))
}

/// The ConfigMap of the live part: one name for ever, for it is mounted by every revision.
pub fn live_config(owner: &Owner<'_>, live: &Live) -> Result<Value, RenderError> {
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": owner.metadata(names::live(&owner.id.name), "live"),
        "data": {"live.json": String::from_utf8_lossy(&live.encode()?)},
    }))
}

/// The Secret with the token of the control API.
pub fn secret(owner: &Owner<'_>, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": owner.metadata(names::token_secret(&owner.id.name, &owner.id.uid), "token"),
        "immutable": true,
        "stringData": {"token": token},
    })
}

/// The service account of a job that names none.
pub fn service_account(owner: &Owner<'_>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": owner.metadata(names::main(&owner.id.name), names::WORKER),
        "automountServiceAccountToken": false,
    })
}

/// The headless Service: names for pods, also before they are ready.
pub fn service(owner: &Owner<'_>) -> Value {
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": owner.metadata(names::main(&owner.id.name), names::WORKER),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector(owner.id),
            "ports": [
                port("control", names::PORT_CONTROL),
                port("exchange", names::PORT_EXCHANGE),
                port("metrics", names::PORT_METRICS),
            ],
        },
    })
}

/// The PodDisruptionBudget: a drain takes some of the workers, not all at once.
pub fn disruption_budget(owner: &Owner<'_>, spec: &StreamJobSpec) -> Value {
    let max = spec.disruption.as_ref().and_then(|d| d.max_unavailable.as_ref());
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": owner.metadata(names::main(&owner.id.name), names::WORKER),
        "spec": {
            "maxUnavailable": max.map_or_else(|| json!("50%"), |max| json!(max)),
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(owner.id)},
        },
    })
}
