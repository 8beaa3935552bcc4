//! Nodes and their kubelets.

use crate::{Job, Pod, Shared, coordinator};
use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{self, ConfigMap, Node, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use millrace_crds::names;
use millrace_protocol::config::Live;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

/// A node that is silent for four times as long is lost.
const BEAT: Duration = Duration::from_secs(4);
/// How many pods are seen to at once.
const HANDS: usize = 16;

/// Registers nodes, and keeps them alive.
pub async fn nodes(client: Client, nodes: usize) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let name = |number: usize| format!("crowd-{number}");
    for number in 0..nodes {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name(number), "labels": {"lab.millrace.dev/crowd": "yes"}},
            // Nobody else's pods come here.
            "spec": {"taints": [{"key": "lab.millrace.dev/crowd", "effect": "NoSchedule"}]},
        }))?;
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made.context("registering a node")?),
        }
        let room = json!({"cpu": "100000", "memory": "100000Gi", "pods": "100000", "ephemeral-storage": "100000Gi"});
        let now = Timestamp::now();
        let ready = json!({"type": "Ready", "status": "True", "reason": "Played", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now});
        let status =
            json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
        api.patch_status(&name(number), &PatchParams::default(), &Patch::Merge(&status)).await?;
    }
    loop {
        for number in 0..nodes {
            let now = Timestamp::now();
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name(number)},
                "spec": {"holderIdentity": name(number), "leaseDurationSeconds": 40,
                    "renewTime": format!("{now:.6}")}});
            let params = PatchParams::apply("crowd").force();
            if let Err(error) = leases.patch(&name(number), &params, &Patch::Apply(&lease)).await {
                eprintln!("the lease of {} is not renewed: {error}", name(number));
            }
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Sees to all pods of jobs on our nodes.
pub async fn pods(client: Client, shared: Shared) -> anyhow::Result<()> {
    let api: Api<v1::Pod> = Api::all(client.clone());
    let config = watcher::Config::default().labels("app.kubernetes.io/managed-by=millrace");
    let events = watcher::watcher(api, config).default_backoff().applied_objects();
    let changes = events.map_err(|error| eprintln!("watch broken, tried again: {error}"));
    changes
        .for_each_concurrent(HANDS, |pod| async {
            let Ok(pod) = pod else { return };
            if let Err(error) = one(&client, &shared, &pod).await {
                eprintln!("{}: {error:#}", pod.name_any());
            }
        })
        .await;
    anyhow::bail!("the watch ended")
}

async fn one(client: &Client, shared: &Shared, pod: &v1::Pod) -> anyhow::Result<()> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if !node.starts_with("crowd-") {
        return Ok(());
    }
    let (uid, name) = (pod.uid().unwrap_or_default(), pod.name_any());
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<v1::Pod> = Api::namespaced(client.clone(), &namespace);
    if pod.metadata.deletion_timestamp.is_some() {
        forget(shared, &uid);
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        return match api.delete(&name, &now).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop).context("deleting"),
        };
    }
    if pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some()) {
        return Ok(());
    }
    let ip = place(client, shared, pod, &namespace).await?;
    let status = running(ip, node);
    let params = PatchParams::default();
    match api.patch_status(&name, &params, &Patch::Strategic(&status)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).context("its status"),
    }
}

/// Gives a pod an address, and reads what its volumes would show to its process.
async fn place(
    client: &Client,
    shared: &Shared,
    pod: &v1::Pod,
    namespace: &str,
) -> anyhow::Result<Ipv4Addr> {
    let (job, uid) = (pod.labels().get(names::LABEL_JOB), pod.labels().get(names::LABEL_JOB_UID));
    let (Some(job), Some(uid)) = (job, uid) else { anyhow::bail!("a pod of no job") };
    let ordinal = names::ordinal(job, &pod.name_any()).context("no worker's name")?;
    if ordinal == 0 {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let read = api.get(&names::live(job)).await.context("the live part")?;
        let text = read.data.as_ref().and_then(|data| data.get("live.json"));
        let live = Live::decode("live", text.context("no live.json")?.as_bytes())?;
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let read = api.get(&names::token_secret(job, uid)).await.context("the token")?;
        let token = read.data.as_ref().and_then(|data| data.get("token")).context("no token")?;
        let tls = coordinator::tls(std::str::from_utf8(&token.0)?)?;
        let job = Job { live, began_ms: Timestamp::now().as_millisecond(), tls };
        shared.lock().jobs.entry(uid.clone()).or_insert(job);
    }
    let mut stage = shared.lock();
    stage.given += 1;
    let ip = Ipv4Addr::from_bits(shared.network.to_bits() + stage.given);
    stage.pods.insert(pod.uid().unwrap_or_default(), Pod { job: uid.clone(), ordinal, ip });
    if ordinal == 0 {
        stage.coordinators.insert(ip, uid.clone());
    }
    Ok(ip)
}

fn forget(shared: &Shared, uid: &str) {
    let mut stage = shared.lock();
    let Some(pod) = stage.pods.remove(uid) else { return };
    if pod.ordinal == 0 {
        stage.coordinators.remove(&pod.ip);
    }
}

fn running(ip: Ipv4Addr, node: &str) -> Value {
    let now = Timestamp::now();
    let yes = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let conditions: Vec<_> =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
            .map(yes)
            .into();
    let container = json!({"name": "worker", "ready": true, "started": true, "restartCount": 0,
        "image": "played", "imageID": "played", "containerID": format!("played://{node}/{ip}"),
        "state": {"running": {"startedAt": now}}});
    json!({"status": {"phase": "Running", "startTime": now, "hostIP": "10.89.0.1",
        "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions,
        "containerStatuses": [container]}})
}
