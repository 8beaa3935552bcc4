//! Worker pods that are there and are not seen, because someone took or changed the labels by
//! which they are watched and found.
//!
//! Such a pod goes on with what it does. A plan that took it for gone would commit another
//! revision beside it, so that it is looked for by its name before anything is planned.

use super::Shell;
use super::kinds::What;
use super::observe::label;
use super::pass::Remembered;
use crate::observed::{Millis, Set};
use anyhow::Context;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, Patch, PatchParams};
use millrace_crds::config::Identity;
use millrace_crds::{names, render};
use serde_json::json;

/// The same ones are looked for again after this.
const AGAIN: Millis = 10_000;
/// So many at a time: those in use are the lowest.
const AT_A_TIME: usize = 4;

/// Looks for workers that are missing among the `pods` of a job, and gives them back their
/// labels.
pub(super) async fn find(
    shell: &Shell,
    id: &Identity,
    set: Option<&Set>,
    pods: &mut Vec<DynamicObject>,
    memory: &mut Remembered,
    now: Millis,
) -> anyhow::Result<()> {
    let there: Vec<&str> = pods
        .iter()
        .filter(|pod| label(pod, names::LABEL_COMPONENT) == Some(names::WORKER))
        .filter_map(|pod| pod.metadata.name.as_deref())
        .collect();
    let ordinals = 0..set.map_or(0, |set| set.replicas);
    let missing = ordinals
        .map(|ordinal| names::worker_pod(&id.name, ordinal))
        .filter(|name| !there.contains(&name.as_str()));
    let missing: Vec<String> = missing.take(AT_A_TIME).collect();
    let Some(set) = set.filter(|_| !missing.is_empty()) else {
        memory.sought = None;
        return Ok(());
    };
    let just = |(at, names): &(Millis, Vec<String>)| now - at < AGAIN && *names == missing;
    if memory.sought.as_ref().is_some_and(just) {
        return Ok(());
    }
    let api = What::Pod.api(&shell.client, &id.namespace);
    for name in &missing {
        let Some(found) = api.get_metadata_opt(name).await? else { continue };
        if found.metadata.deletion_timestamp.is_some() || !is_ours(&found.metadata, id, set) {
            continue;
        }
        tracing::warn!(namespace = id.namespace, pod = name, "gets back its labels");
        let patch = json!({"metadata": {
            "uid": found.metadata.uid, "labels": render::labels(id, names::WORKER),
        }});
        let shown = api
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("putting back the labels of pod {name}"))?;
        shell.cache.wrote(What::Pod, shown.clone());
        pods.retain(|pod| pod.metadata.name.as_ref() != Some(name));
        pods.push(shown);
    }
    memory.sought = Some((now, missing));
    Ok(())
}

/// The StatefulSet's; or one that it let go of because it does not select it any more, which
/// a label says still.
fn is_ours(pod: &ObjectMeta, id: &Identity, set: &Set) -> bool {
    let mut owners = pod.owner_references.iter().flatten();
    match owners.find(|owner| owner.controller == Some(true)) {
        Some(owner) => owner.uid == set.uid,
        None => {
            let label = |key: &str| pod.labels.as_ref().and_then(|all| all.get(key));
            match label(names::LABEL_JOB_UID) {
                Some(uid) => *uid == id.uid,
                None => label(names::LABEL_JOB) == Some(&id.name),
            }
        }
    }
}
