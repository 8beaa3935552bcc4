//! The pod template of a revision.

use super::overlay;
use crate::config::{self, Identity};
use crate::names;
use crate::streamjob::StreamJobSpec;
use crate::tuning::Exchange;
use serde_json::{Value, json};

/// The service account that pods run under.
pub fn service_account_name(id: &Identity, spec: &StreamJobSpec) -> String {
    spec.service_account_name.clone().unwrap_or_else(|| names::main(&id.name))
}

/// The whole pod template of a revision.
pub fn pod_template(id: &Identity, spec: &StreamJobSpec, hash: &str) -> Value {
    let mut labels = super::labels(id, names::WORKER);
    labels[names::LABEL_REVISION] = json!(hash);
    let ours = labels.clone();
    let mut template = json!({
        "metadata": {
            "labels": labels,
            "annotations": {
                // Without it a node with one of our emptyDirs is never scaled down.
                "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "state,millrace-tmp",
                "kubectl.kubernetes.io/default-container": "worker",
            },
        },
        "spec": pod_spec(id, spec, hash),
    });
    if let Some(over) = &spec.pod_template {
        overlay::merge(&mut template, &over.0);
    }
    // A selector that matches its own pods is not the user's to change.
    if let (Some(labels), Value::Object(ours)) =
        (template["metadata"]["labels"].as_object_mut(), ours)
    {
        labels.extend(ours);
    }
    template
}

fn pod_spec(id: &Identity, spec: &StreamJobSpec, hash: &str) -> Value {
    let lost = spec.lost_node_timeout_ms().div_ceil(1_000);
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": lost});
    let (volumes, mounts) = volumes(id, spec, hash);
    json!({
        "serviceAccountName": service_account_name(id, spec),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65_532, "runAsGroup": 65_532, "fsGroup": 65_532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            toleration("node.kubernetes.io/unreachable"),
            toleration("node.kubernetes.io/not-ready"),
        ],
        "containers": [container(id, spec, mounts)],
        "volumes": volumes,
    })
}

fn container(id: &Identity, spec: &StreamJobSpec, mounts: Value) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!({
        "name": "worker",
        "image": spec.image.clone().unwrap_or_default(),
        "args": [
            "worker", "--index", "$(MILLRACE_INDEX)",
            "--config", config::REVISION_FILE, "--live", config::LIVE_FILE,
        ],
        "env": [
            field("MILLRACE_INDEX", "metadata.labels['apps.kubernetes.io/pod-index']"),
            field("MILLRACE_POD_UID", "metadata.uid"),
            field("MILLRACE_POD_NAME", "metadata.name"),
            field("MILLRACE_POD_IP", "status.podIP"),
            field("MILLRACE_NAMESPACE", "metadata.namespace"),
            {"name": "MILLRACE_SERVICE", "value": names::main(&id.name)},
            {"name": "MILLRACE_TOKEN_FILE", "value": config::TOKEN_FILE},
            {"name": "MILLRACE_MEMORY_LIMIT", "valueFrom": {"resourceFieldRef":
                {"containerName": "worker", "resource": "limits.memory"}}},
        ],
        "ports": [
            {"name": "control", "containerPort": names::PORT_CONTROL, "protocol": "TCP"},
            {"name": "exchange", "containerPort": names::PORT_EXCHANGE, "protocol": "TCP"},
            {"name": "metrics", "containerPort": names::PORT_METRICS, "protocol": "TCP"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "metrics", "scheme": "HTTP"},
            "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3, "successThreshold": 1,
        },
        "resources": resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    })
}

fn resources(spec: &StreamJobSpec) -> Value {
    let mut resources = json!({});
    if let Some(given) = &spec.resources {
        resources = json!(given);
    }
    let has = |resources: &Value, list: &str, what: &str| !resources[list][what].is_null();
    if !has(&resources, "requests", "cpu") && !has(&resources, "limits", "cpu") {
        resources["requests"]["cpu"] = json!(spec.slots_per_worker.to_string());
    }
    if !has(&resources, "limits", "memory") {
        resources["limits"]["memory"] = json!(spec.memory_limit());
    }
    if !has(&resources, "requests", "memory") {
        resources["requests"]["memory"] = resources["limits"]["memory"].clone();
    }
    resources
}

fn volumes(id: &Identity, spec: &StreamJobSpec, hash: &str) -> (Value, Value) {
    let mut volumes = vec![
        json!({"name": "state", "emptyDir": {}}),
        json!({"name": "millrace-tmp", "emptyDir": {}}),
        json!({"name": "millrace-revision", "configMap": {
            "name": names::revision(&id.name, hash),
            "items": [{"key": "revision.json", "path": "revision.json"}]}}),
        json!({"name": "millrace-live", "configMap": {"name": names::live(&id.name)}}),
        json!({"name": "millrace-token", "secret": {"secretName": names::token_secret(&id.name, &id.uid),
            "items": [{"key": "token", "path": "token"}], "defaultMode": 0o440}}),
    ];
    let mut mounts = vec![
        json!({"name": "state", "mountPath": config::STATE_DIR}),
        json!({"name": "millrace-tmp", "mountPath": "/tmp"}),
        json!({"name": "millrace-revision", "mountPath": "/etc/millrace/revision", "readOnly": true}),
        json!({"name": "millrace-live", "mountPath": "/etc/millrace/live", "readOnly": true}),
        json!({"name": "millrace-token", "mountPath": "/etc/millrace/token", "readOnly": true}),
    ];
    let mut secret = |name: &str, secret: &str, at: &str, items: Value| {
        // Optional: the worker names what is missing, the kubelet only waits in silence.
        let mut source = json!({"secretName": secret, "optional": true, "defaultMode": 0o440});
        if !items.is_null() {
            source["items"] = items;
        }
        volumes.push(json!({"name": name, "secret": source}));
        mounts.push(json!({"name": name, "mountPath": at, "readOnly": true}));
    };
    if let Some(s3) = &spec.storage.s3 {
        if let Some(credentials) = &s3.credentials {
            let given = &credentials.secret_ref;
            let item = |key: &Option<String>, path: &str| json!({"key": key.clone().unwrap_or_else(|| path.to_owned()), "path": path});
            let items = json!([
                item(&given.access_key_id_key, "accessKeyId"),
                item(&given.secret_access_key_key, "secretAccessKey"),
                item(&given.session_token_key, "sessionToken"),
            ]);
            secret("millrace-credentials", &given.name, config::CREDENTIALS_DIR, items);
        }
        if let Some(ca) = &s3.ca_secret_ref {
            let items = json!([{"key": ca.key, "path": "ca.crt"}]);
            secret("millrace-ca", &ca.name, "/etc/millrace/ca", items);
        }
    }
    if let Some(tls) = &spec.tls
        && let (Some(Exchange::Mutual), Some(keys)) = (tls.exchange, &tls.secret_ref)
    {
        secret("millrace-tls", &keys.name, config::TLS_DIR, Value::Null);
    }
    if let Some(volume) = &spec.storage.volume {
        volumes.push(json!({"name": "millrace-storage",
            "persistentVolumeClaim": {"claimName": volume.claim_name}}));
        mounts.push(json!({"name": "millrace-storage", "mountPath": config::STORAGE_DIR}));
    }
    (Value::Array(volumes), Value::Array(mounts))
}
