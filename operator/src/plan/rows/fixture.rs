//! A job in a cluster, as one pass sees it, to be bent by each test.

use crate::observed::*;
use crate::plan::{Action, Plan, plan};
use millrace_crds::config::Identity;
use millrace_crds::render::{self, Commit, Owner};
use millrace_crds::revision;
use millrace_crds::streamjob::{RevisionStatus, StreamJobStatus};
use millrace_crds::{names, render as children};
use millrace_protocol::control::{self, State};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const NOW: Millis = 1_700_000_000_000;

pub fn id() -> Identity {
    let own = str::to_owned;
    Identity { namespace: own("shop"), name: own("orders"), uid: own("uid-1"), cluster: own("c") }
}

pub fn spec() -> Value {
    json!({"image": "acme/orders:1", "job": {"program": {"args": []}}, "workers": 2,
           "storage": {"s3": {"bucket": "b"}}})
}

/// The spec with fields of another.
pub fn with(extra: Value) -> Value {
    let mut spec = spec();
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

fn stored(hash_of: &Value) -> (String, Revision, Value) {
    let id = id();
    let owner = Owner { id: &id, version: "0.1.0" };
    let hash = revision::hash(hash_of);
    let typed = serde_json::from_value(hash_of.clone()).unwrap();
    let map = render::revision_config(&owner, &typed, hash_of, &hash).unwrap();
    let text = |key: &str| map["data"][key].as_str().unwrap().to_owned();
    let revision = Revision {
        uid: format!("cm-{hash}"),
        config_hash: text("revision-hash"),
        set: text("statefulset.json"),
        image: text("image"),
        nonce: typed.restart_nonce.unwrap_or(0),
        rendered_by: "0.1.0".to_owned(),
    };
    (hash, revision, map)
}

pub struct Case {
    pub o: Observed,
    pub now: Millis,
}

impl Case {
    /// Just applied: nothing is there.
    pub fn new(spec: Value) -> Self {
        let job = Job {
            id: id(),
            generation: 1,
            deleting: None,
            finalizer: false,
            check_only: false,
            spec: serde_json::from_value(spec.clone()).unwrap(),
            stored: spec,
            status: StreamJobStatus::default(),
            quorum: false,
        };
        let o = Observed {
            job,
            children: BTreeMap::new(),
            set: None,
            revisions: BTreeMap::new(),
            pods: Vec::new(),
            coordinator: Coordinator::Absent,
            savepoints: Vec::new(),
            nodes: BTreeMap::new(),
            forbidden: None,
            namespace_terminating: false,
            memory: Memory::default(),
            us: Us {
                controller: "sys/millrace".to_owned(),
                version: "0.1.0".to_owned(),
                refreshes: true,
            },
        };
        Self { o, now: NOW }
    }

    /// It runs, and has for a while.
    pub fn running(spec: Value) -> Self {
        let mut case = Self::new(spec.clone());
        let hash = revision::hash(&spec);
        case.o.job.status.revision =
            Some(RevisionStatus { current: hash, ..RevisionStatus::default() });
        case.commit(&spec);
        case.o.job.status.attempt = Some(1);
        case.answer(State::Running);
        case.settle();
        case
    }

    /// Children, StatefulSet and pods of a spec are there.
    pub fn commit(&mut self, spec: &Value) {
        self.store(spec);
        let (hash, revision, _) = stored(spec);
        let id = id();
        let owner = Owner { id: &id, version: "0.1.0" };
        let typed = serde_json::from_value(spec.clone()).unwrap();
        let generation = u64::try_from(self.o.job.generation).unwrap();
        let begun = self.o.job.status.revision.is_some();
        let live =
            millrace_crds::config::live(&typed, generation, revision.config_hash, None, begun)
                .unwrap();
        let main = names::main("orders");
        let list = [
            (Kind::ConfigMap, names::live("orders"), children::live_config(&owner, &live).unwrap()),
            (Kind::Service, main.clone(), children::service(&owner)),
            (Kind::ServiceAccount, main.clone(), children::service_account(&owner)),
            (Kind::DisruptionBudget, main.clone(), children::disruption_budget(&owner, &typed)),
            (Kind::StatefulSet, main, Value::Null),
        ];
        for (kind, name, body) in list {
            let uid = format!("{kind:?}");
            self.o.children.insert((kind, name), Child { uid, owner: Ownership::Ours, body });
        }
        self.o.set = Some(Set {
            uid: "set".to_owned(),
            revision: hash.clone(),
            replicas: u32::try_from(typed.workers).unwrap(),
            commit: Commit { at_ms: self.now, after_checkpoint: 0 },
            drifted: false,
            deleting: false,
        });
        self.o.pods = (0..u32::try_from(typed.workers).unwrap()).map(|n| pod(n, &hash)).collect();
    }

    /// The ConfigMap of a revision is there.
    pub fn store(&mut self, spec: &Value) {
        let (hash, revision, map) = stored(spec);
        let child = Child { uid: revision.uid.clone(), owner: Ownership::Ours, body: map };
        self.o.children.insert((Kind::ConfigMap, names::revision("orders", &hash)), child);
        self.o.revisions.insert(hash, revision);
    }

    /// The coordinator answers with what the committed revision would.
    pub fn answer(&mut self, state: State) -> &mut control::Status {
        let set = self.o.set.clone().unwrap();
        let spec = &self.o.job.spec;
        let count = self.o.pods.iter().filter(|p| p.ordinal.is_some()).count();
        let workers = (0..u32::try_from(count).unwrap()).map(|ordinal| control::Worker {
            ordinal,
            connected: true,
            slots: 1,
            slots_in_use: vec![0],
            ..control::Worker::default()
        });
        let status = control::Status {
            state: state.into(),
            attempt: 1,
            head_version: 9,
            accepted_generation: u64::try_from(self.o.job.generation).unwrap(),
            accepted_revision: self.o.revisions[&set.revision].config_hash.clone(),
            running_generation: u64::try_from(self.o.job.generation).unwrap(),
            parallelism: u32::try_from(spec.effective_parallelism()).unwrap(),
            workers_wanted: u32::try_from(spec.workers).unwrap(),
            workers: workers.collect(),
            last_checkpoint: Some(control::CheckpointStatus {
                id: 7,
                completed_at_ms: NOW - 1_000,
                ..Default::default()
            }),
            incarnation: 1,
            ..control::Status::default()
        };
        self.o.coordinator = Coordinator::Answered(Box::new(status));
        self.told()
    }

    pub fn told(&mut self) -> &mut control::Status {
        match &mut self.o.coordinator {
            Coordinator::Answered(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// The user edits the spec.
    pub fn edit(&mut self, spec: Value) {
        self.o.job.spec = serde_json::from_value(spec.clone()).unwrap();
        self.o.job.stored = spec;
        self.o.job.generation += 1;
    }

    pub fn plan(&self) -> Plan {
        plan(&self.o, self.now)
    }

    /// The plan, its status written.
    pub fn pass(&mut self) -> Plan {
        let plan = self.plan();
        self.o.job.status = plan.status.clone();
        plan
    }

    /// Statuses are written until nothing changes.
    pub fn settle(&mut self) {
        for _ in 0..4 {
            self.pass();
        }
    }

    pub fn pod(&mut self, ordinal: u32) -> &mut Pod {
        self.o.pods.iter_mut().find(|pod| pod.ordinal == Some(ordinal)).unwrap()
    }

    /// The check pod of the desired revision ended, with this code and message.
    pub fn checked(&mut self, code: i32, message: &str) {
        let hash = revision::hash(&self.o.job.stored);
        let mut check = pod(0, &hash);
        check.name = names::check_pod("orders", &hash);
        check.uid = format!("check-{hash}");
        check.component = names::CHECK.to_owned();
        check.ordinal = None;
        check.created = self.now;
        check.container = ended(code, "", message);
        self.o.pods.retain(|pod| pod.component != names::CHECK);
        self.o.pods.push(check);
        self.o.memory.dry_run = Some((hash, Ok(())));
    }

    /// Everything is gone as the end of its pods leaves it.
    pub fn no_pods(&mut self) {
        self.o.pods.clear();
        self.o.coordinator = Coordinator::Absent;
    }
}

pub fn pod(ordinal: u32, hash: &str) -> Pod {
    Pod {
        name: names::worker_pod("orders", ordinal),
        uid: format!("pod-{ordinal}-{hash}"),
        component: names::WORKER.to_owned(),
        revision: hash.to_owned(),
        ordinal: Some(ordinal),
        created: NOW - 60_000,
        deleting: None,
        ready: true,
        unschedulable: None,
        node: Some("n1".to_owned()),
        container: Container::Running,
        last_end: None,
        failed: None,
    }
}

pub fn ended(code: i32, reason: &str, message: &str) -> Container {
    Container::Ended(end(code, reason, message))
}

pub fn end(code: i32, reason: &str, message: &str) -> End {
    End { code, reason: reason.to_owned(), message: message.to_owned(), at: NOW }
}

pub fn waiting(reason: &str) -> Container {
    Container::Waiting { reason: reason.to_owned(), message: "words".to_owned() }
}

impl Plan {
    pub fn condition(&self, kind: &str) -> Option<(&str, &str)> {
        let found = self.status.conditions.iter().find(|c| c.type_ == kind)?;
        Some((found.status.as_str(), found.reason.as_str()))
    }
    #[track_caller]
    pub fn ready(&self, status: &str, reason: &str) -> &Self {
        assert_eq!(self.condition("Ready"), Some((status, reason)), "{self:#?}");
        self
    }
    #[track_caller]
    pub fn stalled(&self, reason: &str) -> &Self {
        assert_eq!(self.condition("Stalled"), Some(("True", reason)), "{self:#?}");
        self
    }
    #[track_caller]
    pub fn state(&self, state: &str) -> &Self {
        assert_eq!(self.status.state.as_deref(), Some(state), "{self:#?}");
        self
    }
    /// Replicas and revision of the StatefulSet that is to be applied.
    pub fn applies_set(&self) -> Option<(u64, String)> {
        self.actions.iter().find_map(|action| match action {
            Action::Apply { object, .. } | Action::Create(object)
                if object["kind"] == "StatefulSet" =>
            {
                let revision = &object["metadata"]["labels"][names::LABEL_REVISION];
                Some((object["spec"]["replicas"].as_u64()?, revision.as_str()?.to_owned()))
            }
            _ => None,
        })
    }
    pub fn applies(&self, kind: &str) -> bool {
        self.actions
            .iter()
            .any(|action| matches!(action, Action::Apply { object, .. } if object["kind"] == kind))
    }
    pub fn creates(&self) -> Vec<String> {
        let created = self.actions.iter().filter_map(|action| match action {
            Action::Create(object) => {
                let kind = object["kind"].as_str()?;
                Some(format!("{kind}/{}", object["metadata"]["name"].as_str()?))
            }
            _ => None,
        });
        created.collect()
    }
    pub fn deletes_pods(&self) -> usize {
        self.actions.iter().filter(|a| matches!(a, Action::DeletePod { .. })).count()
    }
    pub fn proposes(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Propose { .. }))
    }
    pub fn event(&self, reason: &str) -> bool {
        self.events.iter().any(|event| event.reason == reason)
    }
}
