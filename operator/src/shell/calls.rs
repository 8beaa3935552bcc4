//! Small questions to the API server.

use crate::observed::Forbidden;
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

/// The uid of `kube-system` names a cluster; empty if we may not look.
pub(crate) async fn cluster_id(client: &Client) -> String {
    let api: Api<Namespace> = Api::all(client.clone());
    match api.get_metadata("kube-system").await {
        Ok(namespace) => namespace.uid().unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "the cluster has no name: its kube-system namespace cannot be read");
            String::new()
        }
    }
}

/// Whether a namespace is being deleted.
pub(crate) async fn terminating(client: &Client, namespace: &str) -> kube::Result<bool> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = api.get_metadata_opt(namespace).await?;
    Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

/// The newest reason why a StatefulSet could not make a pod, and when it was one.
pub(crate) async fn set_failure(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> kube::Result<Option<Forbidden>> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let fields = format!("involvedObject.name={name},involvedObject.uid={uid},reason=FailedCreate");
    let events = api.list(&ListParams::default().fields(&fields).limit(50)).await?.items;
    let told = events.into_iter().filter_map(|event| {
        let at = event.last_timestamp.map(|at| at.0).or(event.event_time.map(|at| at.0));
        Some(Forbidden { why: event.message?, at: at.map_or(0, |at| at.as_millisecond()) })
    });
    Ok(told.max_by_key(|event| event.at))
}
