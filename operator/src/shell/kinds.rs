//! The kinds of objects we deal with.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    StreamJob,
    Savepoint,
    ConfigMap,
    ServiceAccount,
    Service,
    DisruptionBudget,
    StatefulSet,
    Pod,
    Node,
    Secret,
}

impl What {
    const ALL: [Self; 10] = [
        Self::StreamJob,
        Self::Savepoint,
        Self::ConfigMap,
        Self::ServiceAccount,
        Self::Service,
        Self::DisruptionBudget,
        Self::StatefulSet,
        Self::Pod,
        Self::Node,
        Self::Secret,
    ];

    /// Group, version, kind, plural.
    fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::StreamJob => ("millrace.dev", "v1alpha1", "StreamJob", "streamjobs"),
            Self::Savepoint => ("millrace.dev", "v1alpha1", "Savepoint", "savepoints"),
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::DisruptionBudget => {
                ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            }
            Self::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::Node => ("", "v1", "Node", "nodes"),
            Self::Secret => ("", "v1", "Secret", "secrets"),
        }
    }

    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    pub fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }

    /// Of everything in the cluster, or in one namespace.
    pub fn scope(self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => self.api(client, namespace),
            None => Api::all_with(client.clone(), &self.resource()),
        }
    }

    pub fn parse(kind: &str) -> Option<Self> {
        let kind = kind.rsplit('/').next()?;
        Self::ALL.into_iter().find(|what| what.names().2 == kind)
    }
}
