//! Gathers what a plan looks at: from the cache, from immutable bodies read once, and from
//! the job's coordinator.

use super::Shell;
use super::cache::savepoint_key;
use super::coordinator;
use super::hidden;
use super::kinds::What;
use super::pass::Remembered;
use super::pods;
use crate::observed::{
    self, Child, Job, Kind, Lack, Millis, Observed, Ownership, Revision, SavepointObject, Set, Us,
};
use anyhow::Context;
use kube::api::DynamicObject;
use millrace_crds::config::Identity;
use millrace_crds::names;
use millrace_crds::render::Commit;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CHILDREN: [(Kind, What); 5] = [
    (Kind::ConfigMap, What::ConfigMap),
    (Kind::ServiceAccount, What::ServiceAccount),
    (Kind::Service, What::Service),
    (Kind::DisruptionBudget, What::DisruptionBudget),
    (Kind::StatefulSet, What::StatefulSet),
];

/// The StreamJob as a plan sees it.
pub(crate) fn job(shell: &Shell, object: &DynamicObject, quorum: bool) -> anyhow::Result<Job> {
    let meta = &object.metadata;
    let stored = object.data["spec"].clone();
    let annotations = meta.annotations.as_ref();
    Ok(Job {
        id: Identity {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            cluster: shell.cluster.clone(),
        },
        generation: meta.generation.unwrap_or(0),
        deleting: meta.deletion_timestamp.as_ref().map(|at| at.0.as_millisecond()),
        finalizer: meta.finalizers.iter().flatten().any(|name| name == names::FINALIZER),
        check_only: annotations
            .and_then(|all| all.get(names::ANNOTATION_CHECK_ONLY))
            .is_some_and(|value| value == "true"),
        spec: serde_json::from_value(stored.clone())
            .context("the stored spec is not understood")?,
        stored,
        status: match &object.data["status"] {
            Value::Null => Default::default(),
            status => serde_json::from_value(status.clone())
                .context("the stored status is not understood")?,
        },
        quorum,
    })
}

/// A Savepoint as a plan sees it.
pub(crate) fn savepoint(object: &DynamicObject) -> anyhow::Result<SavepointObject> {
    let meta = &object.metadata;
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    Ok(SavepointObject {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or(0),
        created: meta.creation_timestamp.as_ref().map_or(0, |at| at.0.as_millisecond()),
        deleting: meta.deletion_timestamp.as_ref().map(|at| at.0.as_millisecond()),
        finalizer: meta.finalizers.iter().flatten().any(|name| name == names::FINALIZER),
        annotated_path: annotation(names::ANNOTATION_PATH),
        readers: Vec::new(),
        scheduled: meta.labels.iter().flatten().any(|(key, _)| key == names::LABEL_SCHEDULED_FOR),
        spec: serde_json::from_value(object.data["spec"].clone())?,
        status: match &object.data["status"] {
            Value::Null => Default::default(),
            status => serde_json::from_value(status.clone())?,
        },
    })
}

/// Everything about a job.
pub(crate) async fn observe(
    shell: &Shell,
    job: Job,
    memory: &mut Remembered,
    now: Millis,
) -> anyhow::Result<Observed> {
    let (namespace, name) = (job.id.namespace.clone(), job.id.name.clone());
    let mut children = strangers(shell, &job.id, memory).await?;
    let mut revisions = BTreeMap::new();
    let mut set = None;
    for (kind, what) in CHILDREN {
        for object in shell.cache.of_job(what, &namespace, &name) {
            let owner = ownership(&object, &job.id);
            let child_name = object.metadata.name.clone().unwrap_or_default();
            let mut body = object.data.clone();
            if owner == Ownership::Ours && kind == Kind::ConfigMap {
                body = config_map(shell, memory, &object).await?;
                if let Some(hash) = label(&object, names::LABEL_REVISION) {
                    revisions.insert(hash.to_owned(), revision(&object, &body));
                }
            }
            if owner == Ownership::Ours && kind == Kind::StatefulSet {
                set = Some(stateful_set(&object, memory));
            }
            if kind == Kind::StatefulSet {
                body = Value::Null;
            } else if kind != Kind::ConfigMap {
                body = whole(&object, what);
            }
            let uid = object.metadata.uid.clone().unwrap_or_default();
            children.insert((kind, child_name), Child { uid, owner, body });
        }
    }
    let mut objects: Vec<_> = shell
        .cache
        .of_job(What::Pod, &namespace, &name)
        .into_iter()
        .filter(|pod| label(pod, names::LABEL_JOB_UID) == Some(job.id.uid.as_str()))
        .collect();
    // Before its first attempt nothing runs that a plan could overlook.
    if job.status.attempt.is_some() {
        hidden::find(shell, &job.id, set.as_ref(), &mut objects, memory, now).await?;
    }
    let pods: Vec<_> = objects.iter().map(|object| pods::pod(&name, object)).collect();
    let zero = pods.iter().position(|pod| pod.ordinal == Some(0));
    let address = zero
        .filter(|at| pods[*at].container == observed::Container::Running)
        .and_then(|at| pods::ip(&objects[at]).map(str::to_owned));
    let coordinator = ask(shell, &job.id.uid, address, memory, now).await;
    remember_losses(&coordinator, &pods, memory, now);
    remember_lack(set.as_ref(), &pods, memory, now);
    let mut nodes = BTreeMap::new();
    if shell.watches_nodes {
        for name in pods.iter().filter_map(|pod| pod.node.clone()) {
            match shell.cache.get(What::Node, "", &name) {
                Some(node) => {
                    memory.plan.node_gone.remove(&name);
                    nodes.insert(name, pods::node(&node));
                }
                None => {
                    memory.plan.node_gone.entry(name).or_insert(now);
                }
            }
        }
    }
    let mut savepoints = shell.cache.of_job(What::Savepoint, &namespace, &name);
    let restores = job.spec.restore_from.as_ref().and_then(|from| from.savepoint_ref.as_ref());
    let named =
        restores.and_then(|named| shell.cache.get(What::Savepoint, &namespace, &named.name));
    // Of another job, or of none.
    savepoints.extend(named.filter(|object| savepoint_key(object) != name));
    let mut savepoints: Vec<_> =
        savepoints.iter().filter_map(|object| savepoint(object).ok()).collect();
    for going in savepoints.iter_mut().filter(|object| object.deleting.is_some()) {
        going.readers = readers(shell, &namespace, going, now);
    }
    let namespace_terminating = job.deleting.is_some()
        && job.finalizer
        && super::calls::terminating(&shell.client, &namespace).await?;
    Ok(Observed {
        children,
        set,
        revisions,
        pods,
        coordinator,
        savepoints,
        nodes,
        forbidden: memory.forbidden.clone(),
        namespace_terminating,
        memory: memory.plan.clone(),
        us: Us {
            controller: shell.controller.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            refreshes: shell.refreshes,
        },
        job,
    })
}

/// The jobs that start from a savepoint, in whatever namespace.
fn readers(shell: &Shell, namespace: &str, going: &SavepointObject, now: Millis) -> Vec<String> {
    let mut all = Vec::new();
    shell.cache.each(What::StreamJob, |object| {
        if let Ok(job) = job(shell, &object, false)
            && crate::plan::reads(&job, namespace, going, now)
        {
            all.push(format!("{}/{}", job.id.namespace, job.id.name));
        }
    });
    all
}

/// Objects that were in the way of a POST, as far as they still are: they lack the label
/// by which ours are watched.
async fn strangers(
    shell: &Shell,
    id: &Identity,
    memory: &mut Remembered,
) -> anyhow::Result<BTreeMap<(Kind, String), Child>> {
    for (kind, name) in memory.foreign.keys().cloned().collect::<Vec<_>>() {
        let Some((_, what)) = CHILDREN.iter().find(|(known, _)| *known == kind) else { continue };
        let there = what.api(&shell.client, &id.namespace).get_metadata_opt(&name).await?;
        let owner = there.map(|there| {
            let there = DynamicObject { types: None, metadata: there.metadata, data: Value::Null };
            ownership(&there, id)
        });
        match owner {
            None | Some(Ownership::Ours) => drop(memory.foreign.remove(&(kind, name))),
            Some(owner) => {
                if let Some(child) = memory.foreign.get_mut(&(kind, name)) {
                    child.owner = owner;
                }
            }
        }
    }
    Ok(memory.foreign.clone())
}

pub(crate) fn label<'a>(object: &'a DynamicObject, key: &str) -> Option<&'a str> {
    object.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Whose an object is, by its controller reference and nothing else.
pub(crate) fn ownership(object: &DynamicObject, id: &Identity) -> Ownership {
    let owners = object.metadata.owner_references.iter().flatten();
    match owners.into_iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) if owner.uid == id.uid => Ownership::Ours,
        Some(owner) if owner.kind == "StreamJob" && owner.name == id.name => Ownership::Earlier,
        _ => Ownership::Stranger,
    }
}

// Objects of a list come without their kind.
fn whole(object: &DynamicObject, what: What) -> Value {
    let resource = what.resource();
    let mut body = object.data.clone();
    body["metadata"] = json!(object.metadata);
    body["apiVersion"] = json!(resource.api_version);
    body["kind"] = json!(resource.kind);
    body
}

/// What is ever read of a ConfigMap; the rest is for workers and for people.
const READ: [&str; 4] = ["revision-hash", "statefulset.json", "image", "live.json"];

/// The body of a ConfigMap: watched by its metadata, read when its version is new.
async fn config_map(
    shell: &Shell,
    memory: &mut Remembered,
    object: &DynamicObject,
) -> anyhow::Result<Value> {
    let meta = &object.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let version = (meta.uid.clone(), meta.resource_version.clone());
    if let Some((known, body)) = memory.bodies.get(&name)
        && *known == version
    {
        return Ok(body.clone());
    }
    let namespace = meta.namespace.clone().unwrap_or_default();
    let read = What::ConfigMap.api(&shell.client, &namespace).get(&name).await?;
    let version = (read.metadata.uid.clone(), read.metadata.resource_version.clone());
    let body = short(read.data);
    memory.bodies.insert(name, (version, body.clone()));
    Ok(body)
}

/// What is read of a ConfigMap's body.
pub(crate) fn short(mut body: Value) -> Value {
    if let Some(data) = body["data"].as_object_mut() {
        data.retain(|key, _| READ.contains(&key.as_str()));
    }
    body
}

fn revision(object: &DynamicObject, body: &Value) -> Revision {
    let text = |key: &str| body["data"][key].as_str().unwrap_or_default().to_owned();
    let annotation = |key: &str| {
        let all = object.metadata.annotations.as_ref();
        all.and_then(|all| all.get(key)).cloned().unwrap_or_default()
    };
    Revision {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        config_hash: text("revision-hash"),
        set: text("statefulset.json"),
        image: text("image"),
        nonce: annotation(names::ANNOTATION_NONCE).parse().unwrap_or(0),
        rendered_by: annotation(names::ANNOTATION_RENDERED_BY),
    }
}

fn stateful_set(object: &DynamicObject, memory: &Remembered) -> Set {
    let number = |key: &str| {
        let all = object.metadata.annotations.as_ref();
        all.and_then(|all| all.get(key)).and_then(|text| text.parse().ok())
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let known = (uid.clone(), object.metadata.generation.unwrap_or(0));
    // The label of the template is the truth; the one on the set is for people.
    let template = &object.data["spec"]["template"]["metadata"]["labels"];
    let replicas = object.data["spec"]["replicas"].as_u64().unwrap_or(1);
    Set {
        revision: template[names::LABEL_REVISION].as_str().unwrap_or_default().to_owned(),
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        commit: Commit {
            at_ms: number(names::ANNOTATION_COMMITTED_AT).unwrap_or(0),
            after_checkpoint: number(names::ANNOTATION_COMMITTED_AFTER)
                .and_then(|id| u64::try_from(id).ok())
                .unwrap_or(0),
        },
        drifted: memory.set_generation.as_ref() != Some(&known),
        deleting: object.metadata.deletion_timestamp.is_some(),
        uid,
    }
}

async fn ask(
    shell: &Shell,
    uid: &str,
    address: Option<String>,
    memory: &mut Remembered,
    now: Millis,
) -> observed::Coordinator {
    let Some(address) = address else {
        (memory.coordinator, memory.unreachable) = (None, None);
        return observed::Coordinator::Absent;
    };
    if memory.coordinator.as_ref().is_none_or(|(known, _)| *known != address) {
        let made = coordinator::token(&shell.master_key, uid)
            .map_err(|error| error.to_string())
            .and_then(|token| (shell.connect)(&address, &token));
        memory.coordinator = made.ok().map(|made| (address.clone(), made));
    }
    let answer = match &mut memory.coordinator {
        Some((_, coordinator)) => coordinator.status().await,
        None => Err("its address makes no sense".to_owned()),
    };
    match answer {
        // Facts of a record that is not the newest are no facts.
        Ok(status) if status.head_version < memory.plan.head_version => {
            unreachable(memory, now, "a coordinator of the past answered".to_owned())
        }
        Ok(status) => {
            memory.unreachable = None;
            memory.plan.head_version = status.head_version;
            observed::Coordinator::Answered(Box::new(status))
        }
        Err(why) => unreachable(memory, now, why),
    }
}

fn unreachable(memory: &mut Remembered, now: Millis, why: String) -> observed::Coordinator {
    let since = *memory.unreachable.get_or_insert(now);
    observed::Coordinator::Unreachable { since, why }
}

/// Since when there are not as many pods as there should be.
fn remember_lack(set: Option<&Set>, pods: &[observed::Pod], memory: &mut Remembered, now: Millis) {
    let before = !std::mem::replace(&mut memory.seen, true);
    let there = pods.iter().filter(|pod| pod.component == names::WORKER).count();
    if set.is_some_and(|set| there < set.replicas as usize) {
        memory.plan.lack.get_or_insert(Lack { since: now, before });
    } else {
        // The next time they are missing it is for a reason of its own.
        (memory.plan.lack, memory.forbidden) = (None, None);
        memory.plan.looked_at_events = None;
    }
}

/// Since when each worker is lost, as far as this process has seen.
fn remember_losses(
    coordinator: &observed::Coordinator,
    pods: &[observed::Pod],
    memory: &mut Remembered,
    now: Millis,
) {
    let here: Vec<u32> = match coordinator {
        observed::Coordinator::Answered(status) => {
            status.workers.iter().filter(|w| w.connected).map(|w| w.ordinal).collect()
        }
        _ => Vec::new(),
    };
    let lost = &mut memory.plan.worker_lost;
    for ordinal in pods.iter().filter_map(|pod| pod.ordinal) {
        if here.contains(&ordinal) {
            lost.remove(&ordinal);
        } else {
            lost.entry(ordinal).or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_ours_by_its_uid_and_not_by_its_name() {
        let own = str::to_owned;
        let id = Identity { namespace: own("n"), name: own("a"), uid: own("u"), cluster: own("c") };
        let owned = |owner: Value| -> Ownership {
            let meta = json!({"name": "a-millrace", "ownerReferences": [owner]});
            ownership(&serde_json::from_value(json!({"metadata": meta})).unwrap(), &id)
        };
        let by = |name: &str, uid: &str, controls: bool| {
            owned(json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "StreamJob",
                "name": name, "uid": uid, "controller": controls}))
        };
        assert_eq!(by("a", "u", true), Ownership::Ours);
        assert_eq!(by("a", "v", true), Ownership::Earlier);
        assert_eq!(by("b", "v", true), Ownership::Stranger);
        assert_eq!(by("a", "u", false), Ownership::Stranger);
    }
}
