//! Pods and nodes as a plan sees them.

use crate::observed::{Container, End, Millis, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use millrace_crds::names;
use serde_json::Value;

/// Milliseconds of a time as Kubernetes writes it.
pub(crate) fn millis(text: &Value) -> Option<Millis> {
    text.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

/// The pod's address.
pub(crate) fn ip(pod: &DynamicObject) -> Option<&str> {
    pod.data["status"]["podIP"].as_str()
}

/// A pod of a job.
pub(crate) fn pod(job: &str, object: &DynamicObject) -> Pod {
    let meta = &object.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let label = |key: &str| {
        meta.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
    };
    let status = &object.data["status"];
    let condition = |kind: &str| {
        status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind)
    };
    let component = label(names::LABEL_COMPONENT);
    let grace = meta.deletion_grace_period_seconds.unwrap_or(60) * 1_000;
    let list = status["containerStatuses"].as_array();
    let main = list.into_iter().flatten().find(|c| c["name"] == "worker");
    Pod {
        uid: meta.uid.clone().unwrap_or_default(),
        revision: label(names::LABEL_REVISION),
        ordinal: (component == names::WORKER).then(|| names::ordinal(job, &name)).flatten(),
        component,
        created: meta.creation_timestamp.as_ref().map_or(0, |at| at.0.as_millisecond()),
        deleting: meta.deletion_timestamp.as_ref().map(|at| (at.0.as_millisecond() - grace, grace)),
        ready: condition("Ready").is_some_and(|c| c["status"] == "True"),
        unschedulable: condition("PodScheduled")
            .filter(|c| c["status"] == "False" && c["reason"] == "Unschedulable")
            .map(|c| c["message"].as_str().unwrap_or_default().to_owned()),
        node: object.data["spec"]["nodeName"].as_str().map(str::to_owned),
        container: main.map_or(Container::Unknown, |main| container(&main["state"])),
        last_end: main.and_then(|main| end(&main["lastState"]["terminated"])),
        failed: (status["phase"] == "Failed")
            .then(|| status["reason"].as_str().unwrap_or("Failed").to_owned()),
        name,
    }
}

fn container(state: &Value) -> Container {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(end) = end(&state["terminated"]) {
        return Container::Ended(end);
    }
    match (&state["waiting"], &state["running"]) {
        (Value::Object(waiting), _) => Container::Waiting {
            reason: waiting.get("reason").map(text).unwrap_or_default(),
            message: waiting.get("message").map(text).unwrap_or_default(),
        },
        (_, Value::Object(_)) => Container::Running,
        _ => Container::Unknown,
    }
}

fn end(terminated: &Value) -> Option<End> {
    let text = |key: &str| terminated[key].as_str().unwrap_or_default().to_owned();
    terminated.is_object().then(|| End {
        code: terminated["exitCode"].as_i64().and_then(|c| i32::try_from(c).ok()).unwrap_or(-1),
        reason: text("reason"),
        message: text("message"),
        at: millis(&terminated["finishedAt"]).unwrap_or(0),
    })
}

/// A node.
pub(crate) fn node(object: &DynamicObject) -> Node {
    let list = object.data["status"]["conditions"].as_array();
    let ready = list.into_iter().flatten().find(|c| c["type"] == "Ready");
    let taints = object.data["spec"]["taints"].as_array();
    let out =
        taints.into_iter().flatten().find(|t| t["key"] == "node.kubernetes.io/out-of-service");
    let since = match out {
        Some(taint) => millis(&taint["timeAdded"]),
        None => ready.and_then(|ready| millis(&ready["lastTransitionTime"])),
    };
    Node {
        ready: ready.is_some_and(|ready| ready["status"] == "True"),
        // A taint without a time was put there by hand, by someone who knows.
        since: since.unwrap_or(0),
        out_of_service: out.is_some(),
    }
}
