//! A simulated kubelet: containers start, end, are started again later and later.

use super::cluster::NODES;
use super::job::Process;
use super::server::{Key, deleting, key, text, time, uid};
use super::world::World;
use crate::observed::Millis;
use crate::shell::kinds::What;
use millrace_crds::names;
use millrace_protocol::config::{Live, Revision};
use serde_json::{Value, json};

/// What a node knows of a pod.
pub struct Running {
    pub of: Key,
    pub job: String,
    pub component: String,
    pub ordinal: u32,
    pub node: Option<String>,
    pub ip: String,
    pub phase: Phase,
    pub restarts: u32,
    pub process: Option<Process>,
    /// Told to end: gone then.
    pub ends: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    New,
    Starting(Millis),
    Running,
    BackOff(Millis),
    Done,
}

impl World {
    pub fn run_pods(&mut self) {
        let objects: Vec<(Key, String)> = self
            .server
            .list(What::Pod)
            .map(|pod| (key(What::Pod, pod), uid(pod).to_owned()))
            .collect();
        let there: std::collections::BTreeSet<&String> =
            objects.iter().map(|(_, uid)| uid).collect();
        self.pods.retain(|uid, _| there.contains(uid));
        for (of, uid) in &objects {
            self.run_pod(of, uid);
        }
        for (_, uid) in &objects {
            self.lead(uid);
        }
        for (of, uid) in &objects {
            self.readiness(of, uid);
        }
    }

    fn run_pod(&mut self, of: &Key, uid: &str) {
        let Some(object) = self.server.objects.get(of).cloned() else { return };
        let now = self.server.now;
        if !self.pods.contains_key(uid) {
            self.ips += 1;
            let label = |key: &str| text(&object["metadata"]["labels"][key], "").to_owned();
            let job = label(names::LABEL_JOB);
            self.pods.insert(
                uid.to_owned(),
                Running {
                    ordinal: names::ordinal(&job, &of.2).unwrap_or(0),
                    job: label(names::LABEL_JOB_UID),
                    component: label(names::LABEL_COMPONENT),
                    of: of.clone(),
                    node: None,
                    ip: format!("10.0.{}.{}", self.ips / 250, self.ips % 250),
                    phase: Phase::New,
                    restarts: 0,
                    process: None,
                    ends: None,
                },
            );
        }
        let (phase, ends, node) = {
            let pod = &self.pods[uid];
            (pod.phase, pod.ends, pod.node.clone())
        };
        if node.as_ref().is_some_and(|node| self.down.contains_key(node)) {
            // Its kubelet says nothing any more.
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.process = None;
                pod.phase = Phase::BackOff(now);
            }
            return;
        }
        if deleting(&object) {
            match ends {
                None => {
                    let grace = if self.chance(50) { 40_000 } else { 4_000 };
                    let at = self.between(100, grace);
                    self.told_to_go(uid);
                    self.pods.get_mut(uid).unwrap().ends = Some(at);
                }
                Some(at) if at <= now => {
                    self.pods.remove(uid);
                    self.server.remove(of);
                }
                Some(_) => {}
            }
            return;
        }
        match phase {
            Phase::New => self.schedule(of, uid),
            Phase::Starting(at) | Phase::BackOff(at) if at <= now => self.start(of, uid, &object),
            Phase::Running => {
                if self.component(uid) != names::WORKER {
                    self.once(of, uid, &object);
                } else if self.chance(self.faults.pods) {
                    let reason = if self.rng.bool() { "OOMKilled" } else { "Error" };
                    self.ended(of, uid, 137, reason, "");
                }
            }
            _ => {}
        }
    }

    fn component(&self, uid: &str) -> String {
        self.pods[uid].component.clone()
    }

    fn schedule(&mut self, of: &Key, uid: &str) {
        let up: Vec<_> = NODES.iter().filter(|node| !self.down.contains_key(**node)).collect();
        if up.is_empty() || self.chance(self.faults.pods * 5) {
            let words = json!([{"type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": "0/3 nodes are available"}]);
            self.server.edit(of, |pod| {
                pod["status"] = json!({"phase": "Pending", "conditions": words});
            });
            return;
        }
        let node = (*up[self.rng.usize(0..up.len())]).to_owned();
        let at = self.between(200, 2_000);
        self.server.edit(of, |pod| {
            pod["spec"]["nodeName"] = json!(node);
            pod["status"] = json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True"}]});
        });
        waiting(self, of, "ContainerCreating");
        let pod = self.pods.get_mut(uid).unwrap();
        (pod.node, pod.phase) = (Some(node), Phase::Starting(at));
    }

    fn start(&mut self, of: &Key, uid: &str, object: &Value) {
        let image = text(object, "/spec/containers/0/image");
        if self.at_rest && (image.ends_with(":crash") || image.ends_with(":usererror")) {
            // It would end again and again.
            return;
        }
        let later = self.between(3_000, 6_000);
        if image.ends_with(":nopull") {
            waiting(self, of, "ImagePullBackOff");
            self.pods.get_mut(uid).unwrap().phase = Phase::Starting(later);
            return;
        }
        let Some(process) = self.mounted(of, object) else {
            self.pods.get_mut(uid).unwrap().phase = Phase::Starting(later);
            return;
        };
        self.note(format!("{} starts", of.2));
        let (ip, now) = (self.pods[uid].ip.clone(), time(self.server.now));
        self.server.edit(of, |pod| {
            pod["status"]["phase"] = json!("Running");
            pod["status"]["podIP"] = json!(ip);
            pod["status"]["containerStatuses"][0]["state"] = json!({"running": {"startedAt": now}});
        });
        let pod = self.pods.get_mut(uid).unwrap();
        pod.phase = Phase::Running;
        pod.process = Some(process);
        if self.pods[uid].component == names::WORKER {
            if image.ends_with(":usererror") {
                let words = json!({"code": "InvalidProgram", "message": "no such topic", "remedy": "name another"});
                self.ended(of, uid, 2, "Error", &words.to_string());
            } else if image.ends_with(":crash") {
                self.ended(of, uid, 1, "Error", "panicked");
            }
        }
    }

    /// The files that a container starts with; none: it has to wait for them.
    fn mounted(&mut self, of: &Key, object: &Value) -> Option<Process> {
        let label = |key: &str| text(&object["metadata"]["labels"][key], "").to_owned();
        let (job, hash) = (label(names::LABEL_JOB), label(names::LABEL_REVISION));
        let uid = label(names::LABEL_JOB_UID);
        let map = self.server.get(What::ConfigMap, &of.1, &names::revision(&job, &hash))?;
        let bytes = text(map, "/data/revision.json").as_bytes();
        let revision = Revision::decode("revision", bytes).unwrap();
        let config_hash = text(map, "/data/revision-hash").to_owned();
        let live = match self.server.get(What::ConfigMap, &of.1, &names::live(&job)) {
            Some(live) => Live::decode("live", text(live, "/data/live.json").as_bytes()).ok()?,
            None if is_optional(object, "millrace-live") => {
                let nothing = json!({"format": 1, "generation": 0, "revision": "", "workers": 1, "parallelism": 1});
                serde_json::from_value(nothing).unwrap()
            }
            None => return None,
        };
        let token = self.server.get(What::Secret, &of.1, &names::token_secret(&job, &uid));
        if token.is_none() && !is_optional(object, "millrace-token") {
            return None;
        }
        let at = self.between(100, 1_500);
        let image = text(object, "/spec/containers/0/image").to_owned();
        Some(Process::new(revision, config_hash, live, image, at))
    }

    /// A check or a store pod.
    fn once(&mut self, of: &Key, uid: &str, object: &Value) {
        if self.chance(400) {
            return;
        }
        if self.chance(self.faults.pods * 5) {
            self.pods.get_mut(uid).unwrap().phase = Phase::Done;
            self.over(of, 143, "Error", "evicted");
            return self.server.edit(of, |pod| pod["status"]["reason"] = json!("Evicted"));
        }
        let image = text(object, "/spec/containers/0/image");
        let (code, message) = if self.component(uid) == names::STORE {
            self.store_work(uid, &args(object))
        } else if image.ends_with(":usererror") {
            (2, "would not start".to_owned())
        } else {
            (0, "keeps all".to_owned())
        };
        self.pods.get_mut(uid).unwrap().phase = Phase::Done;
        self.over(of, code, "", &json!({"message": message}).to_string());
    }

    fn over(&mut self, of: &Key, code: i32, reason: &str, message: &str) {
        self.note(format!("{} is over with {code}", of.2));
        let at = time(self.server.now);
        self.server.edit(of, |pod| {
            pod["status"]["containerStatuses"] = json!([{"name": "worker", "state": {"terminated":
                {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}}}]);
            pod["status"]["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
        });
    }

    pub fn ended(&mut self, of: &Key, uid: &str, code: i32, reason: &str, message: &str) {
        self.note(format!("{} ends with {code}", of.2));
        let at = time(self.server.now);
        let end = json!({"terminated":
            {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}});
        let pod = self.pods.get_mut(uid).unwrap();
        pod.process = None;
        pod.restarts += 1;
        let wait = (5_000i64 << pod.restarts.min(6)).min(120_000);
        pod.phase = Phase::BackOff(self.server.now + wait);
        self.server.edit(of, |pod| {
            pod["status"]["containerStatuses"] = json!([{"name": "worker", "lastState": end,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}]);
        });
    }

    fn readiness(&mut self, of: &Key, uid: &str) {
        let Some(pod) = self.pods.get(uid).filter(|pod| pod.component == names::WORKER) else {
            return;
        };
        let up = pod.node.as_ref().is_some_and(|node| !self.down.contains_key(node));
        let ready = pod.process.is_some() && up && self.attempt_since(&pod.job).is_some();
        let Some(object) = self.server.objects.get(of) else { return };
        let list = object["status"]["conditions"].as_array();
        let shown =
            list.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        if shown != ready && object["status"].is_object() {
            let value = if ready { "True" } else { "False" };
            self.server.edit(of, |pod| {
                pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": value}]);
            });
        }
    }
}

fn waiting(world: &mut World, of: &Key, reason: &str) {
    let state =
        json!([{"name": "worker", "state": {"waiting": {"reason": reason, "message": "wait"}}}]);
    let shown = world.server.objects.get(of).map(|pod| &pod["status"]["containerStatuses"]);
    if shown != Some(&state) {
        world.server.edit(of, |pod| pod["status"]["containerStatuses"] = state);
    }
}

/// What a pod's program is told.
/// The pod starts without what this volume shows.
fn is_optional(pod: &Value, volume: &str) -> bool {
    let all = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut of = all.filter(|of| of["name"] == volume);
    of.any(|of| of["configMap"]["optional"] == true || of["secret"]["optional"] == true)
}

pub fn args(pod: &Value) -> Vec<String> {
    let all = pod.pointer("/spec/containers/0/args").and_then(Value::as_array);
    let all = all.into_iter().flatten().map(|arg| arg.as_str().unwrap_or_default());
    // What is said in words, without where its configuration is.
    let all =
        all.filter(|arg| !["--config", "--", millrace_crds::config::REVISION_FILE].contains(arg));
    all.map(|arg| arg.replace("$$", "$")).collect()
}
