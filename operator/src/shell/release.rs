//! Commands of the chart's hooks: before an uninstall, and its test.

use super::client::client;
use super::kinds::What;
use super::leader;
use super::options::Options;
use anyhow::Context;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use millrace_crds::names;
use serde_json::json;

/// Fails unless a controller leads and the resources are known.
pub async fn probe(options: &Options) -> anyhow::Result<()> {
    let client = client().await?;
    let namespace = options.namespaces.first().map(String::as_str);
    for what in [What::StreamJob, What::Savepoint] {
        let one = ListParams::default().limit(1);
        what.scope(&client, namespace).list(&one).await.with_context(|| {
            format!("{what:?} objects cannot be listed: are the definitions installed?")
        })?;
    }
    let api: Api<Lease> = Api::namespaced(client, &options.own_namespace);
    let lease = api.get(&options.name).await.context("no controller has ever led")?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|name| !name.is_empty());
    let holder = holder.context("no controller leads")?;
    tracing::info!(holder, "a controller leads");
    Ok(())
}

/// Takes our finalizer off all objects, and our name off all jobs, while no controller
/// acts: one that leads would put them back. The lead is not given back either, so that
/// none takes it in the moment before they are all removed.
pub async fn release(options: &Options) -> anyhow::Result<()> {
    let client = client().await?;
    let api: Api<Lease> = Api::namespaced(client.clone(), &options.own_namespace);
    let identity = options.identity();
    leader::seize(&api, &options.name, &identity, leader::LEASE).await?;
    tokio::select! {
        released = release_all(&client, options) => released,
        lost = leader::hold(&api, &options.name, &identity) => lost,
    }
}

async fn release_all(client: &Client, options: &Options) -> anyhow::Result<()> {
    let us = format!("{}/{}", options.own_namespace, options.name);
    let scopes: Vec<Option<&str>> = match options.namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().map(|namespace| Some(namespace.as_str())).collect(),
    };
    for scope in scopes {
        for what in [What::StreamJob, What::Savepoint] {
            let all = what.scope(client, scope).list(&ListParams::default()).await?;
            for object in all.items {
                let meta = &object.metadata;
                let namespace = meta.namespace.clone().unwrap_or_default();
                let name = meta.name.clone().unwrap_or_default();
                let api = what.api(client, &namespace);
                let theirs = object.data["status"]["controller"].as_str().is_some_and(|c| c != us);
                if theirs {
                    continue;
                }
                let mut list = meta.finalizers.clone().unwrap_or_default();
                if list.iter().any(|name| name == names::FINALIZER) {
                    list.retain(|name| name != names::FINALIZER);
                    let patch = json!({"metadata": {"finalizers": list}});
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
                }
                if what == What::StreamJob && !object.data["status"]["controller"].is_null() {
                    let patch = json!({"status": {"controller": null}});
                    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
                }
                tracing::info!(namespace, name, kind = ?what, "released");
            }
        }
    }
    Ok(())
}
