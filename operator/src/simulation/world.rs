//! Everything outside of the operator: the API server, the cluster, the jobs' processes
//! and their store, the clock, the faults, and the list of broken promises.

use super::http::Call;
use super::job::Store;
use super::node::Running;
use super::server::{Key, Server, deleting, text, uid};
use crate::observed::Millis;
use crate::shell::kinds::What;
use k8s_openapi::jiff::Timestamp;
use millrace_crds::names;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

pub type Shared = Arc<Mutex<World>>;

/// How often things go wrong, in thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub api: u32,
    pub control: u32,
    pub pods: u32,
    pub watches: u32,
    /// The operator dies after so many more steps, again and again.
    pub crashes: Option<u32>,
}

pub struct World {
    pub server: Server,
    pub store: Store,
    pub pods: BTreeMap<String, Running>,
    /// Pods that were made to delete what the user wanted gone: uids.
    pub asked: BTreeSet<String>,
    /// Nodes that are down, and since when.
    pub down: BTreeMap<String, Millis>,
    pub rng: fastrand::Rng,
    pub faults: Faults,
    /// Writes that will happen after their callers gave up.
    pub late: Vec<(Millis, Call)>,
    pub broken: Vec<String>,
    pub writes: u64,
    /// Events written, and written again.
    pub events: u64,
    pub writes_before_rest: u64,
    /// Pods, nodes, calls or the store failed, so that an upgrade may have failed too.
    pub rough: bool,
    pub reads: u64,
    pub asks: u64,
    /// Coordinators that the operator keeps a connection to, by address, and when they were
    /// asked last.
    pub open: BTreeMap<String, Millis>,
    /// Steps until the operator dies.
    pub steps_left: Option<u32>,
    pub dead: bool,
    /// The operator has lost its lead, and may not know.
    pub overslept: bool,
    pub ips: u64,
    /// Jobs take no checkpoints by the clock.
    pub at_rest: bool,
    pub tracing: bool,
    pub trace: Vec<String>,
    /// When the pass under way began.
    pub pass_began: Millis,
    /// A late write is being done: what it was decided on is history.
    pub is_late: bool,
}

impl World {
    pub fn new(seed: u64, now: Millis) -> Self {
        Self {
            server: Server { now, ..Server::default() },
            store: Store::default(),
            pods: BTreeMap::new(),
            asked: BTreeSet::new(),
            down: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
            faults: Faults::default(),
            late: Vec::new(),
            broken: Vec::new(),
            writes: 0,
            events: 0,
            writes_before_rest: 0,
            rough: false,
            reads: 0,
            asks: 0,
            open: BTreeMap::new(),
            steps_left: None,
            dead: false,
            overslept: false,
            ips: 0,
            at_rest: false,
            tracing: false,
            trace: Vec::new(),
            pass_began: now,
            is_late: false,
        }
    }

    pub fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.rng.u32(0..1_000) < thousandths
    }

    pub fn between(&mut self, least: i64, most: i64) -> Millis {
        self.server.now + self.rng.i64(least..=most)
    }

    pub fn note(&mut self, words: String) {
        if self.tracing {
            self.trace.push(format!("{:>8} {words}", self.server.now - super::START));
        }
    }

    pub fn promise(&mut self, kept: bool, words: impl FnOnce() -> String) {
        if !kept {
            let words = words();
            self.note(format!("BROKEN {words}"));
            self.broken.push(words);
        }
    }

    /// Counts what the operator does, until it dies.
    pub fn step_of_operator(&mut self, acts: bool) -> Result<(), &'static str> {
        if self.dead {
            return Err("this process is dead");
        }
        if acts && let Some(left) = &mut self.steps_left {
            if *left == 0 {
                self.dead = true;
                return Err("this process is dead");
            }
            *left -= 1;
        }
        Ok(())
    }

    /// The StreamJob that controls an object, also through a StatefulSet.
    fn owner(&self, object: &Value) -> Option<(String, String)> {
        let owners = object["metadata"]["ownerReferences"].as_array()?;
        let owner = owners.iter().find(|owner| owner["controller"] == true)?;
        match text(owner, "/kind") {
            "StreamJob" => Some((text(owner, "/name").to_owned(), text(owner, "/uid").to_owned())),
            "StatefulSet" => {
                let job = text(object, "/metadata/labels/millrace.dev~1job").to_owned();
                let uid = text(object, "/metadata/labels/millrace.dev~1job-uid").to_owned();
                Some((job, uid))
            }
            _ => None,
        }
    }

    /// Whether the operator may do this, by the promises it gives.
    pub fn judge(&mut self, call: &Call, of: &Key) {
        let Some(object) = self.server.objects.get(of).cloned() else { return };
        let what = of.0;
        let seen = call.body["metadata"]["resourceVersion"].is_string();
        let shared = call.body["metadata"]["finalizers"].is_array();
        self.promise(seen || !shared, || {
            format!("finalizers of {of:?} are written, whatever others wrote meanwhile")
        });
        if what == What::StreamJob && shared {
            self.judge_letting_go(call, &object);
        }
        if matches!(what, What::StreamJob | What::Savepoint) {
            let spec = !call.body["spec"].is_null() && call.method == "PATCH";
            self.promise(!spec, || format!("the spec of {of:?} is written"));
            let scheduled = text(&object, "/metadata/labels/millrace.dev~1scheduled-for");
            let mine = call.method != "DELETE" || !scheduled.is_empty();
            self.promise(mine, || format!("{of:?} is deleted, which is the user's"));
            return;
        }
        if call.method == "POST" {
            return;
        }
        let same = |wanted: &Value| wanted.as_str().is_none_or(|wanted| wanted == uid(&object));
        let uid_given = match call.method.as_str() {
            "DELETE" => &call.body["preconditions"]["uid"],
            _ => &call.body["metadata"]["uid"],
        };
        self.promise(uid_given.is_string(), || format!("{} of {of:?} without a uid", call.method));
        if !same(uid_given) {
            return;
        }
        let owner = self.owner(&object);
        let job = self
            .server
            .list(What::StreamJob)
            .find(|job| owner.as_ref().is_some_and(|(_, uid)| text(job, "/metadata/uid") == uid));
        let job = job.cloned();
        let (late, verb) = (self.is_late, &call.method);
        let gone = owner.as_ref().is_some_and(|(_, owner)| self.went(owner));
        self.promise(!gone || late, || format!("{verb} of {of:?}, which is an earlier job's"));
        self.promise(owner.is_some() || late, || format!("{verb} of {of:?}, which is not ours"));
        if what == What::StatefulSet && call.method == "PATCH" {
            self.judge_set(call, &object, job.as_ref());
        }
        if what == What::Pod && call.method == "DELETE" {
            self.judge_pod(call, &object, job.as_ref());
        }
    }

    /// A job of this uid is not there any more, and was not when the pass began.
    fn went(&self, job: &str) -> bool {
        let all = self.server.log.get(&What::StreamJob).into_iter().flatten();
        let mut gone = all.filter(|change| change.gone && uid(&change.object) == job);
        gone.any(|change| self.pass_began - change.at > 15_000)
    }

    /// A job whose data is to go with it goes after its data.
    fn judge_letting_go(&mut self, call: &Call, job: &Value) {
        let ours = |object: &Value| {
            let all = object["metadata"]["finalizers"].as_array().into_iter().flatten();
            all.into_iter().any(|name| name == names::FINALIZER)
        };
        let wanted = job["spec"]["deletionPolicy"] == "Delete";
        if !(wanted && deleting(job) && ours(job) && !ours(&call.body)) {
            return;
        }
        // Ten minutes are enough, and in a namespace that goes nothing can be done.
        let since = text(job, "/metadata/deletionTimestamp").parse::<Timestamp>().unwrap();
        let over = self.server.now - since.as_millisecond() > 500_000
            || self.server.terminating.contains(text(job, "/metadata/namespace"));
        let place = format!("{}/{}", text(job, "/metadata/namespace"), name_of(job));
        let owner = self.store.homes.get(&place).and_then(|all| all.last());
        let there = owner.is_some_and(|owner| owner.as_deref() == Some(uid(job)))
            && self.store.chains.get(uid(job)).is_some_and(|chain| chain.latest > 0);
        let late = self.is_late;
        self.promise(!there || over || late, || format!("{place} is let go, its data is there"));
    }

    /// Whether the operator may make this.
    pub fn judge_made(&mut self, object: &Value) {
        let args = object.pointer("/spec/containers/0/args").and_then(Value::as_array);
        let saves = args.is_some_and(|args| args.get(1).is_some_and(|word| word == "savepoint"));
        if object["kind"] != "Pod" || !saves {
            return;
        }
        let job = text(object, "/metadata/labels/millrace.dev~1job-uid");
        let since = self.attempt_since(job);
        let runs = since.is_some_and(|since| self.pass_began - since > 15_000);
        let (made, late) = (name_of(object), self.is_late);
        self.promise(!runs || late, || format!("{made} saves beside an attempt that runs"));
    }

    fn judge_set(&mut self, call: &Call, old: &Value, job: Option<&Value>) {
        const REVISION: &str = "/spec/template/metadata/labels/millrace.dev~1revision";
        if call.body["spec"].is_null() {
            return;
        }
        let (before, after) = (text(old, REVISION), text(&call.body, REVISION));
        let job_uid = text(old, "/metadata/labels/millrace.dev~1job-uid").to_owned();
        let since = self.attempt_since(&job_uid);
        if before != after {
            // What was seen may be a little old when it is acted upon.
            let runs = since.is_some_and(|since| self.pass_began - since > 15_000);
            let (before, after) = (before.to_owned(), after.to_owned());
            self.promise(!runs || self.is_late, || {
                format!("the template changes from {before} to {after} while an attempt runs")
            });
            return;
        }
        let replicas = |object: &Value| object["spec"]["replicas"].as_u64().unwrap_or(0);
        let (many, few) = (replicas(old), replicas(&call.body));
        let wanted = self.wanted_workers(&job_uid);
        if few < many && few > 0 && since.is_some() && !self.is_late {
            let enough = wanted.is_none_or(|wanted| few >= wanted);
            self.promise(enough, || {
                format!("{few} replicas are left of {many}, {wanted:?} are in use")
            });
        }
        let _ = job;
    }

    fn judge_pod(&mut self, call: &Call, pod: &Value, job: Option<&Value>) {
        if text(pod, "/metadata/labels/app.kubernetes.io~1component") != names::WORKER {
            return;
        }
        let revision = text(pod, "/metadata/labels/millrace.dev~1revision").to_owned();
        let namespace = text(pod, "/metadata/namespace");
        let name = job.map(|job| names::main(text(job, "/metadata/name"))).unwrap_or_default();
        let set = self.server.get(What::StatefulSet, namespace, &name);
        let committed = set.map(|set| {
            text(set, "/spec/template/metadata/labels/millrace.dev~1revision").to_owned()
        });
        // It waits out a back-off, or did when it was looked at.
        let waits = pod.pointer("/status/containerStatuses/0/lastState/terminated").is_some();
        let node = text(pod, "/spec/nodeName").to_owned();
        let lost = self.down.contains_key(&node);
        let force = call.body["gracePeriodSeconds"] == 0;
        let mine = name_of(pod);
        let late = self.is_late;
        self.promise(!force || lost || late, || {
            format!("{mine} is killed, its node {node} is well")
        });
        let wrong = committed.is_none_or(|committed| committed != revision);
        self.promise(wrong || waits || lost || late, || {
            format!("{mine} is deleted though it is of the committed revision and runs")
        });
    }
}

fn name_of(object: &Value) -> String {
    super::server::name(object).to_owned()
}
