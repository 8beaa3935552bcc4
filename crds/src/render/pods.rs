//! Pods that run once: the check of a new revision, and work on the store of a job that
//! does not run.

use super::{Owner, labels};
use crate::config;
use crate::names;
use serde_json::{Value, json};

/// What a store pod does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreWork {
    /// Delete all data of the job but its tombstone.
    Delete,
    /// Make the newest restore point self-contained.
    Savepoint {
        /// The savepoint's id.
        id: String,
        /// The directory it goes to: it becomes `<target>/<id>`.
        target: String,
    },
    /// Delete the files that a savepoint's own manifest lists.
    DeleteSavepoint {
        /// Where it is.
        path: String,
    },
    /// Read a savepoint's manifest.
    ProbeSavepoint {
        /// Where it is.
        path: String,
    },
}

impl StoreWork {
    fn args(&self) -> Vec<String> {
        let (verb, texts): (_, &[&str]) = match self {
            Self::Delete => ("delete", &[]),
            Self::Savepoint { id, target } => ("savepoint", &[id, target]),
            Self::DeleteSavepoint { path } => ("delete-savepoint", &[path]),
            Self::ProbeSavepoint { path } => ("probe-savepoint", &[path]),
        };
        // What follows is no option, whatever it begins with.
        let known = ["store", verb, "--config", config::REVISION_FILE, "--"];
        // The kubelet takes `$(NAME)` for a variable of the container, and `$$` for `$`.
        let texts = texts.iter().map(|text| text.replace('$', "$$"));
        known.into_iter().map(str::to_owned).chain(texts).collect()
    }
}

/// The pod that tries a revision before anything stops: its template, image, arguments.
pub fn check_pod(owner: &Owner<'_>, template: &Value, hash: &str) -> Value {
    let args = ["check", "--config", config::REVISION_FILE, "--live", config::LIVE_FILE];
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let name = names::check_pod(&owner.id.name, hash);
    once(owner, template, name, names::CHECK, hash, args)
}

/// A pod that works on the store with the job's image, service account and credentials.
pub fn store_pod(
    owner: &Owner<'_>,
    template: &Value,
    hash: &str,
    what: &str,
    work: &StoreWork,
) -> Value {
    let name = names::store_pod(&owner.id.name, what);
    let mut pod = once(owner, template, name, names::STORE, hash, work.args());
    // It reads neither, and may be there to clear up after a job that never had them.
    for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        match volume["name"].as_str() {
            Some("millrace-live") => volume["configMap"]["optional"] = json!(true),
            Some("millrace-token") => volume["secret"]["optional"] = json!(true),
            _ => {}
        }
    }
    pod
}

fn once(
    owner: &Owner<'_>,
    template: &Value,
    name: String,
    component: &str,
    hash: &str,
    args: Vec<String>,
) -> Value {
    let mut spec = template["spec"].clone();
    spec["restartPolicy"] = json!("Never");
    // Sidecars would keep the pod from ending; init containers may fetch what the program
    // needs, so they stay.
    if let Some(containers) = spec["containers"].as_array_mut() {
        containers.retain(|container| container["name"] == "worker");
        for container in containers {
            container["args"] = json!(args);
            if let Some(container) = container.as_object_mut() {
                container.remove("readinessProbe");
            }
            // Only pods of a StatefulSet have an index.
            if let Some(env) = container["env"].as_array_mut() {
                env.retain(|env| env["name"] != "MILLRACE_INDEX");
            }
        }
    }
    let mut metadata = owner.metadata(name, component);
    // The template's labels first: admission and network policies may look at the user's.
    let mut all = template["metadata"]["labels"].clone();
    if let (Some(all), Value::Object(ours)) = (all.as_object_mut(), labels(owner.id, component)) {
        all.extend(ours);
        all.insert(names::LABEL_REVISION.to_owned(), json!(hash));
    }
    metadata["labels"] = all;
    metadata["annotations"] = template["metadata"]["annotations"].clone();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}
