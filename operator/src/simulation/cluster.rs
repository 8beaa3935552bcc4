//! Controllers of the simulated cluster: StatefulSets, garbage, nodes.

use super::server::{deleting, key, name, text, time, uid};
use super::world::World;
use crate::shell::kinds::What;
use millrace_crds::names;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub const NODES: [&str; 3] = ["n1", "n2", "n3"];

impl World {
    pub fn make_nodes(&mut self) {
        for node in NODES {
            let object = json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node, "namespace": ""},
                "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True",
                    "lastTransitionTime": time(self.server.now)}]}});
            let _ = self.server.create(What::Node, object);
        }
    }

    /// Everything that happens by itself.
    pub fn tick(&mut self) {
        let now = self.server.now;
        let late = std::mem::take(&mut self.late);
        let (due, wait): (Vec<_>, Vec<_>) = late.into_iter().partition(|(at, _)| *at <= now);
        self.late = wait;
        for (_, call) in due {
            self.is_late = true;
            let _ = self.obey(&call);
            self.is_late = false;
        }
        self.nodes();
        self.garbage();
        for key in self.server.keys(What::StatefulSet) {
            if self.chance(800)
                && let Some(set) = self.server.objects.get(&key).cloned()
            {
                self.stateful_set(&set);
            }
        }
        self.run_pods();
    }

    fn stateful_set(&mut self, set: &Value) {
        if deleting(set) {
            return;
        }
        let namespace = text(set, "/metadata/namespace").to_owned();
        let replicas = u32::try_from(set["spec"]["replicas"].as_u64().unwrap_or(0)).unwrap();
        let base = name(set).to_owned();
        for ordinal in 0..replicas {
            let pod = format!("{base}-{ordinal}");
            if self.server.get(What::Pod, &namespace, &pod).is_some() {
                let of = (What::Pod, namespace.clone(), pod);
                // A pod that failed for good is made anew.
                let failed = self.server.objects[&of]["status"]["phase"] == "Failed";
                if failed {
                    self.server.remove(&of);
                }
                continue;
            }
            let mut meta = set["spec"]["template"]["metadata"].clone();
            meta["name"] = json!(pod);
            meta["namespace"] = json!(namespace);
            meta["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet",
                "name": base, "uid": uid(set), "controller": true}]);
            let spec = set["spec"]["template"]["spec"].clone();
            let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec});
            let _ = self.server.create(What::Pod, object);
        }
        let surplus: Vec<_> = self
            .server
            .list(What::Pod)
            .filter(|pod| owned_by(pod, uid(set)) && !deleting(pod))
            .filter(|pod| {
                let ordinal = name(pod).rsplit('-').next().and_then(|n| n.parse::<u32>().ok());
                ordinal.is_some_and(|ordinal| ordinal >= replicas)
            })
            .map(|pod| key(What::Pod, pod))
            .collect();
        for pod in surplus {
            let _ = self.server.delete(&pod, None, None);
        }
    }

    /// Objects whose owner is gone go too.
    fn garbage(&mut self) {
        let uids: BTreeSet<&str> = self.server.objects.values().map(uid).collect();
        let orphans: Vec<_> = self
            .server
            .objects
            .iter()
            .filter(|(_, object)| {
                let owners = object["metadata"]["ownerReferences"].as_array();
                owners.is_some_and(|all| !all.iter().any(|o| uids.contains(text(o, "/uid"))))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in orphans {
            if self.chance(600) {
                let _ = self.server.delete(&key, None, None);
            }
        }
    }

    fn nodes(&mut self) {
        let now = self.server.now;
        for node in NODES {
            let since = self.down.get(node).copied();
            let of = (What::Node, String::new(), node.to_owned());
            let ready = self.server.objects.get(&of).is_some_and(|node| {
                node.pointer("/status/conditions/0/status") == Some(&json!("True"))
            });
            let well = since.is_none_or(|since| now - since < 10_000);
            if ready != well {
                self.note(format!("node {node} is {}", if well { "ready" } else { "not ready" }));
                let value = if well { "True" } else { "False" };
                self.server.edit(&of, |node| {
                    node["status"]["conditions"][0]["status"] = json!(value);
                    node["status"]["conditions"][0]["lastTransitionTime"] = json!(time(now));
                });
            }
            if since.is_some_and(|since| now - since > 70_000) {
                let stuck: Vec<_> = self
                    .server
                    .list(What::Pod)
                    .filter(|pod| text(pod, "/spec/nodeName") == node && !deleting(pod))
                    .map(|pod| key(What::Pod, pod))
                    .collect();
                for pod in stuck {
                    let _ = self.server.delete(&pod, None, None);
                }
            }
        }
    }

    pub fn workers_of<'a>(&'a self, job_uid: &'a str) -> impl Iterator<Item = &'a Value> {
        self.server.list(What::Pod).filter(move |pod| {
            text(pod, "/metadata/labels/millrace.dev~1job-uid") == job_uid
                && text(pod, "/metadata/labels/app.kubernetes.io~1component") == names::WORKER
        })
    }
}

pub fn owned_by(object: &Value, owner: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|all| all.iter().any(|o| text(o, "/uid") == owner))
}
