//! What users, administrators and accidents do, at random.

use super::cluster::NODES;
use super::server::{deleting, key, name};
use super::world::World;
use crate::shell::kinds::What;
use millrace_crds::names;
use serde_json::{Value, json};

pub const SPACE: &str = "shop";
const GOOD: [&str; 3] = ["orders:1", "orders:2", "orders:3"];
const BAD: [&str; 6] = [
    "orders:nopull",
    "orders:usererror",
    "orders:crash",
    "orders:poison",
    "orders:forbidden",
    "orders:finite",
];

impl World {
    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.rng.usize(0..all.len())]
    }

    pub fn apply_job(&mut self, job: &str) {
        let policy = self.pick(&["Retain", "Delete"]);
        let existing = self.pick(&["Refuse", "Resume", "Ignore"]);
        let mode = self.pick(&["Savepoint", "LastCheckpoint"]);
        let on_failure = self.pick(&["RollBack", "RollBack", "Keep"]);
        let image = if self.chance(150) { self.pick(&BAD) } else { self.pick(&GOOD) };
        let state = if self.chance(100) { "Suspended" } else { "Running" };
        let workers = self.rng.i32(1..=3);
        let object = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "StreamJob",
            "metadata": {"name": job, "namespace": SPACE},
            "spec": {"image": image, "job": {"program": {"args": ["a"]}}, "workers": workers,
                "slotsPerWorker": 1, "maxParallelism": 1024, "desiredState": state,
                "onExistingState": existing, "deletionPolicy": policy,
                "storage": {"s3": {"bucket": "b", "prefix": ""}},
                "checkpoint": {"timeout": "40s"}, "restart": {"maxRestarts": 4},
                "upgrade": {"mode": mode, "onFailure": on_failure, "timeout": "60s"}}});
        self.note(format!("USER applies {job} {}", object["spec"]));
        let _ = self.server.create(What::StreamJob, object);
    }

    fn edit_job(&mut self, job: &str) {
        let of = (What::StreamJob, SPACE.to_owned(), job.to_owned());
        let (field, value) = match self.rng.u8(0..12) {
            0..=2 => ("/spec/workers", json!(self.rng.i32(1..=4))),
            3..=4 => ("/spec/image", json!(self.pick(&GOOD))),
            5 => ("/spec/image", json!(self.pick(&BAD))),
            6 => ("/spec/job/program/args", json!([self.pick(&["a", "b"])])),
            7 => ("/spec/desiredState", json!("Suspended")),
            8 => ("/spec/desiredState", json!("Running")),
            9 => ("/spec/restartNonce", json!(self.rng.i32(1..4))),
            10 => ("/spec/deletionPolicy", json!(self.pick(&["Retain", "Delete"]))),
            _ => ("/spec/podTemplate", self.overlay()),
        };
        self.note(format!("USER edits {job} {field} {value}"));
        self.server.edit(&of, |object| set(object, field, value));
    }

    fn overlay(&mut self) -> Value {
        match self.rng.u8(0..3) {
            0 => json!({"spec": {"nodeSelector": {"disk": "fast"}}}),
            1 => {
                json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}]}]}})
            }
            _ => Value::Null,
        }
    }

    /// One thing that somebody does.
    pub fn act(&mut self, job: &str, savepoints: &mut u32) {
        let of = (What::StreamJob, SPACE.to_owned(), job.to_owned());
        if !self.server.objects.contains_key(&of) {
            return self.apply_job(job);
        }
        match self.rng.u8(0..24) {
            0..=9 => self.edit_job(job),
            10..=12 => {
                *savepoints += 1;
                let policy = self.pick(&["Retain", "Delete"]);
                let named = format!("svp{savepoints}");
                self.note(format!("USER wants {named} of {job}"));
                let _ = self.server.create(What::Savepoint, json!({
                    "apiVersion": "millrace.dev/v1alpha1", "kind": "Savepoint",
                    "metadata": {"name": named, "namespace": SPACE},
                    "spec": {"jobRef": {"name": job}, "timeout": "100s", "deletionPolicy": policy}}));
            }
            13 => {
                let all = self.server.keys(What::Savepoint);
                if !all.is_empty() {
                    let of = all[self.rng.usize(0..all.len())].clone();
                    self.note(format!("USER deletes {}", of.2));
                    let _ = self.server.delete(&of, None, None);
                }
            }
            14 => {
                self.note(format!("USER deletes {job}"));
                let _ = self.server.delete(&of, None, None);
            }
            15..=16 => self.lose_pod(),
            17 => {
                let node = self.pick(&NODES).to_owned();
                self.note(format!("NODE {node} dies"));
                let now = self.server.now;
                self.rough = true;
                self.down.entry(node).or_insert(now);
            }
            18 => self.down.clear(),
            19 => {
                self.rough = true;
                self.store.away = !self.store.away;
            }
            20 => self.meddle(job),
            21 => {
                self.note("USER edits twice".to_owned());
                self.edit_job(job);
                self.edit_job(job);
            }
            _ => self.stranger(job),
        }
    }

    fn lose_pod(&mut self) {
        let all: Vec<_> = self
            .server
            .list(What::Pod)
            .filter(|pod| !deleting(pod))
            .map(|pod| key(What::Pod, pod))
            .collect();
        if !all.is_empty() {
            let of = all[self.rng.usize(0..all.len())].clone();
            self.note(format!("USER deletes pod {}", of.2));
            let _ = self.server.delete(&of, None, None);
        }
    }

    /// A child is edited or deleted by hand.
    fn meddle(&mut self, job: &str) {
        let main = (SPACE.to_owned(), names::main(job));
        let at = |what| (what, main.0.clone(), main.1.clone());
        self.note(format!("USER meddles with the children of {job}"));
        match self.rng.u8(0..9) {
            8 => {
                let mut of = at(What::StatefulSet);
                match self.rng.u8(0..4) {
                    0 => of.0 = What::Service,
                    1 => of.0 = What::DisruptionBudget,
                    2 => of = (What::ConfigMap, SPACE.to_owned(), names::live(job)),
                    _ => {}
                }
                // A stranger's is how we know it.
                self.server.edit(&of, |child| {
                    let labels = &mut child["metadata"]["labels"];
                    if labels["whose"].is_null() {
                        *labels = json!({});
                    }
                });
            }
            0 => self.server.edit(&at(What::StatefulSet), |set| set["spec"]["replicas"] = json!(7)),
            1 => self.server.edit(&at(What::Service), |s| s["spec"]["ports"] = json!([])),
            2 => drop(self.server.delete(&at(What::Service), None, None)),
            3 => drop(self.server.delete(&at(What::DisruptionBudget), None, None)),
            4 => drop(self.server.delete(&at(What::StatefulSet), None, None)),
            5 => {
                let live = (What::ConfigMap, SPACE.to_owned(), names::live(job));
                drop(self.server.delete(&live, None, None));
            }
            6 => drop(self.server.delete(&at(What::ServiceAccount), None, None)),
            _ => self.server.edit(&at(What::ServiceAccount), |account| {
                account["automountServiceAccountToken"] = json!(true);
            }),
        }
    }

    /// Somebody else's object of a name that a job needs.
    fn stranger(&mut self, job: &str) {
        let what = [What::Service, What::StatefulSet, What::ConfigMap][self.rng.usize(0..3)];
        let kind = what.resource().kind;
        let named = if what == What::ConfigMap { names::live(job) } else { names::main(job) };
        let object = json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"name": named, "namespace": SPACE, "labels": {"whose": "stranger"}},
            "spec": {}, "data": {"mine": "yes"}});
        if self.server.create(what, object).is_ok() {
            self.note(format!("USER makes a stranger {kind} {named}"));
        }
    }

    pub fn strangers(&self) -> Vec<(What, String)> {
        let mine = |object: &Value| object["metadata"]["labels"]["whose"] == "stranger";
        let all = self.server.objects.iter().filter(|(_, object)| mine(object));
        all.map(|(key, object)| (key.0, name(object).to_owned())).collect()
    }
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.split('/').skip(1) {
        at = &mut at[part];
    }
    *at = value;
}
