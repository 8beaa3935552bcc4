//! Does what a plan asks for, one action after the other.

use super::Shell;
use super::kinds::What;
use super::observe::{label, ownership, short};
use super::pass::Remembered;
use super::{calls, coordinator};
use crate::observed::{Child, Kind, Observed, Ownership};
use crate::plan::Action;
use anyhow::{Context, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use millrace_crds::config::Identity;
use millrace_crds::names;
use millrace_crds::render::{self, Owner};
use serde_json::{Value, json};

/// Does one action.
pub(crate) async fn execute(
    shell: &Shell,
    id: &Identity,
    observed: &Observed,
    memory: &mut Remembered,
    action: Action,
) -> anyhow::Result<()> {
    ensure!(shell.leader.leads(), "the lead is lost");
    let text = format!("{action:?}");
    let name = text.split([' ', '(']).next().unwrap_or_default().to_owned();
    tracing::info!(namespace = id.namespace, job = id.name, action = summary(&action), "acts");
    shell.metrics.actions.get_or_create(&vec![("action".to_owned(), name)]).inc();
    match action {
        Action::Create(object) => create(shell, id, memory, object).await,
        Action::CreateToken => {
            let token = coordinator::token(&shell.master_key, &id.uid)?;
            let owner = Owner { id, version: env!("CARGO_PKG_VERSION") };
            let object: DynamicObject = serde_json::from_value(render::secret(&owner, &token))?;
            let api = What::Secret.api(&shell.client, &id.namespace);
            match api.create(&manager(), &object).await {
                Err(error) if !taken(&error) => Err(error).context("the token's Secret"),
                _ => Ok(()),
            }
        }
        Action::Apply { uid, object } => apply(shell, memory, uid, object).await,
        Action::DryRun { revision, object } => {
            dry_run(shell, observed, memory, revision, object).await
        }
        Action::Delete { kind, name, uid } => {
            let what = What::parse(kind).context("a kind that nobody deletes")?;
            delete(shell, what, &id.namespace, &name, uid, false).await
        }
        Action::DeletePod { name, uid, force, why } => {
            if why == crate::plan::Why::CrashLoop
                && let Some(ordinal) = names::ordinal(&id.name, &name)
            {
                let entry = memory.plan.crash_deletes.entry(ordinal).or_insert((0, 0));
                *entry = ((shell.now)(), entry.1.saturating_add(1));
            }
            delete(shell, What::Pod, &id.namespace, &name, uid, force).await
        }
        Action::QuorumGet => {
            memory.quorum = true;
            Ok(())
        }
        Action::LookAtSetEvents => {
            memory.plan.looked_at_events = Some((shell.now)());
            if let Some(set) = &observed.set {
                let main = names::main(&id.name);
                memory.forbidden =
                    calls::set_failure(&shell.client, &id.namespace, &main, &set.uid).await?;
            }
            Ok(())
        }
        Action::Finalizer(on) => {
            finalizer(shell, What::StreamJob, &id.namespace, &id.name, on).await
        }
        Action::SavepointFinalizer { name, on } => {
            finalizer(shell, What::Savepoint, &id.namespace, &name, on).await
        }
        Action::AnnotateSavepoint { name, path } => {
            let patch = json!({"metadata": {"annotations": {names::ANNOTATION_PATH: path}}});
            let api = What::Savepoint.api(&shell.client, &id.namespace);
            let written = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            shell.cache.wrote(What::Savepoint, written);
            Ok(())
        }
        call => told(memory, call).await,
    }
}

/// Calls to the coordinator.
async fn told(memory: &mut Remembered, call: Action) -> anyhow::Result<()> {
    let Some((_, coordinator)) = &mut memory.coordinator else { return Ok(()) };
    let result = match call {
        Action::Propose { live, force } => coordinator.propose(live.encode()?, force).await,
        Action::HoldStop => coordinator.hold().await,
        Action::ReleaseStop => coordinator.release().await,
        Action::WantSavepoints(wanted) => coordinator.want(wanted).await,
        other => bail!("nobody does {other:?}"),
    };
    result.map_err(|why| anyhow::anyhow!("the coordinator: {why}"))
}

fn manager() -> PostParams {
    PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

fn taken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}

/// What and by which name.
fn target(object: &Value) -> anyhow::Result<(What, String, String)> {
    let what = object["kind"].as_str().and_then(What::parse).context("a kind without a name")?;
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    Ok((what, text("namespace"), text("name")))
}

async fn create(
    shell: &Shell,
    id: &Identity,
    memory: &mut Remembered,
    object: Value,
) -> anyhow::Result<()> {
    let (what, namespace, name) = target(&object)?;
    let api = what.api(&shell.client, &namespace);
    let made: DynamicObject = serde_json::from_value(object)?;
    match api.create(&manager(), &made).await {
        Ok(made) => {
            written(shell, memory, what, made);
            Ok(())
        }
        // The clock's savepoint of this time: that someone took its label changes nothing.
        Err(error) if taken(&error) && what == What::Savepoint => Ok(()),
        Err(error) if taken(&error) => {
            // Ours that the cache does not show yet, or not ours: the next pass must know.
            let Some(there) = api.get_metadata_opt(&name).await? else { return Ok(()) };
            let there = DynamicObject { types: None, metadata: there.metadata, data: Value::Null };
            let owner = ownership(&there, id);
            let kind = child_kind(what);
            if let (Some(kind), true) = (kind, owner != Ownership::Ours) {
                let uid = there.metadata.uid.unwrap_or_default();
                let told = format!("{what:?} {name} is in the way");
                memory.foreign.insert((kind, name), Child { uid, owner, body: Value::Null });
                bail!(told);
            }
            if owner == Ownership::Ours && label(&there, names::LABEL_JOB) != Some(&id.name) {
                show(shell, what, &made, &there.metadata).await?;
                // What was planned was planned without it.
                bail!("{name} had lost the labels by which it is watched");
            }
            bail!("{name} exists and is not in the cache yet")
        }
        Err(error) => {
            let object = json!(made);
            let result = Err(error);
            refusal(memory, &object, &result);
            result.map(drop).with_context(|| format!("creating {what:?} {name}"))
        }
    }
}

/// Brings an object of ours back into the watches, which go by its labels: puts these back
/// and touches nothing else, for what it is to hold beside is decided when it is seen.
async fn show(
    shell: &Shell,
    what: What,
    wanted: &DynamicObject,
    there: &ObjectMeta,
) -> anyhow::Result<()> {
    let namespace = there.namespace.clone().unwrap_or_default();
    let name = there.name.clone().unwrap_or_default();
    let uid = there.uid.clone().unwrap_or_default();
    if what == What::Pod {
        // One that runs once: another takes its place.
        return delete(shell, what, &namespace, &name, uid, false).await;
    }
    let mut labels = wanted.metadata.labels.clone().unwrap_or_default();
    if what == What::StatefulSet {
        // Of the template that is committed, which need not be the one that was to be made.
        labels.remove(names::LABEL_REVISION);
    }
    let patch = json!({"metadata": {"uid": uid, "labels": labels}});
    let api = what.api(&shell.client, &namespace);
    let mut shown = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .with_context(|| format!("putting back the labels of {what:?} {name}"))?;
    if what == What::ConfigMap {
        // Only its metadata is watched.
        shown.data = Value::Null;
    }
    shell.cache.wrote(what, shown);
    Ok(())
}

/// What the API server has against an object, if that is its verdict on the object.
fn verdict(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            Some(status.message.chars().take(1_000).collect())
        }
        _ => None,
    }
}

/// A StatefulSet that is refused without a dry run is remembered like one with.
fn refusal(memory: &mut Remembered, object: &Value, result: &kube::Result<DynamicObject>) {
    if object["kind"] == "StatefulSet"
        && let Err(error) = result
        && let Some(why) = verdict(error)
        && let Some(hash) = object["metadata"]["labels"][names::LABEL_REVISION].as_str()
    {
        memory.plan.dry_run = Some((hash.to_owned(), Err(why)));
    }
}

fn child_kind(what: What) -> Option<Kind> {
    match what {
        What::ConfigMap => Some(Kind::ConfigMap),
        What::ServiceAccount => Some(Kind::ServiceAccount),
        What::Service => Some(Kind::Service),
        What::DisruptionBudget => Some(Kind::DisruptionBudget),
        What::StatefulSet => Some(Kind::StatefulSet),
        _ => None,
    }
}

/// The cache shows what we wrote before its watch does, and a set's generation tells
/// later whether anyone else wrote.
fn written(shell: &Shell, memory: &mut Remembered, what: What, mut object: DynamicObject) {
    if what == What::ConfigMap {
        // Only its metadata is watched: that it need not be read is known now.
        let meta = &object.metadata;
        let version = (meta.uid.clone(), meta.resource_version.clone());
        let body = short(std::mem::take(&mut object.data));
        memory.bodies.insert(meta.name.clone().unwrap_or_default(), (version, body));
    }
    if what == What::StatefulSet {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        memory.set_generation = Some((uid, object.metadata.generation.unwrap_or(0)));
    }
    shell.cache.wrote(what, object);
}

async fn apply(
    shell: &Shell,
    memory: &mut Remembered,
    uid: String,
    mut object: Value,
) -> anyhow::Result<()> {
    let (what, namespace, name) = target(&object)?;
    // The uid makes it an update of what was seen to be ours, never a create or an adoption.
    object["metadata"]["uid"] = json!(uid);
    let api = what.api(&shell.client, &namespace);
    if what == What::StatefulSet
        && let Some(there) = api.get_metadata_opt(&name).await?
        && let Some(patch) = own_by_apply(&there.metadata)
    {
        api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("taking over the fields of {name}"))?;
    }
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let result = api.patch(&name, &params, &Patch::Apply(&object)).await;
    refusal(memory, &object, &result);
    let applied = result.with_context(|| format!("applying {what:?} {name}"))?;
    written(shell, memory, what, applied);
    Ok(())
}

/// What we POSTed counts as an update: an apply would drop none of its fields, and a new
/// revision that lacks some would keep the old one's. From here on it counts as applied.
fn own_by_apply(meta: &ObjectMeta) -> Option<Value> {
    let ours = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(names::FIELD_MANAGER)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    let mut list = meta.managed_fields.clone()?;
    let at = list.iter().position(|entry| ours(entry, "Update"))?;
    if list.iter().any(|entry| ours(entry, "Apply")) {
        list.remove(at);
    } else {
        list[at].operation = Some("Apply".to_owned());
    }
    Some(json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version,
        "managedFields": list}}))
}

async fn dry_run(
    shell: &Shell,
    observed: &Observed,
    memory: &mut Remembered,
    revision: String,
    mut object: Value,
) -> anyhow::Result<()> {
    let (what, namespace, name) = target(&object)?;
    let Some(set) = &observed.set else { return Ok(()) };
    object["metadata"]["uid"] = json!(set.uid);
    let params = PatchParams::apply(names::FIELD_MANAGER).force().dry_run();
    let api = what.api(&shell.client, &namespace);
    let result = match api.patch(&name, &params, &Patch::Apply(&object)).await {
        Ok(_) => Ok(()),
        // Only a verdict on the object is one; anything else is tried again.
        Err(error) => match verdict(&error) {
            Some(why) => Err(why),
            None => return Err(error).context("dry run"),
        },
    };
    memory.plan.dry_run = Some((revision, result));
    Ok(())
}

async fn delete(
    shell: &Shell,
    what: What,
    namespace: &str,
    name: &str,
    uid: String,
    force: bool,
) -> anyhow::Result<()> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        grace_period_seconds: force.then_some(0),
        ..DeleteParams::background()
    };
    match what.api(&shell.client, namespace).delete(name, &params).await {
        // Gone, or another object of that name: both are what was wanted.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("deleting {what:?} {name}")),
        Ok(_) => Ok(()),
    }
}

/// Puts our finalizer on an object, or takes it off, leaving others' alone.
pub(crate) async fn finalizer(
    shell: &Shell,
    what: What,
    namespace: &str,
    name: &str,
    on: bool,
) -> anyhow::Result<()> {
    let api = what.api(&shell.client, namespace);
    let Some(object) = api.get_metadata_opt(name).await? else { return Ok(()) };
    let mut list = object.metadata.finalizers.clone().unwrap_or_default();
    list.retain(|name| name != names::FINALIZER);
    if on {
        list.push(names::FINALIZER.to_owned());
    }
    let version = &object.metadata.resource_version;
    let patch = json!({"metadata": {"finalizers": list, "resourceVersion": version}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).context("writing the finalizer"),
        Ok(written) => {
            if on {
                shell.cache.wrote(what, written);
            }
            Ok(())
        }
    }
}

/// For the log: never a body, which may hold what a user would not log.
pub(crate) fn summary(action: &Action) -> String {
    let named = |verb: &str, object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{verb} {} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
    };
    match action {
        Action::Create(object) => named("create", object),
        Action::Apply { object, .. } => named("apply", object),
        Action::DryRun { object, .. } => named("dry-run", object),
        Action::Delete { kind, name, .. } => format!("delete {kind} {name}"),
        Action::DeletePod { name, why, .. } => format!("delete pod {name} ({why:?})"),
        Action::Propose { live, force } => {
            format!(
                "propose generation {}{}",
                live.generation,
                if *force { " by force" } else { "" }
            )
        }
        Action::WantSavepoints(wanted) => {
            let wanted: Vec<&str> = wanted.iter().map(|(id, _)| id.as_str()).collect();
            format!("want savepoints {}", wanted.join(" "))
        }
        Action::AnnotateSavepoint { name, .. } => format!("annotate savepoint {name}"),
        other => format!("{other:?}"),
    }
}
