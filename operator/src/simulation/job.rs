//! A model of a job as the operator sees it: what its store remembers, and what the
//! process that leads it does. It follows the worker's rules for what it accepts.

use super::node::args;
use super::server::text;
use super::world::World;
use crate::observed::Millis;
use crate::shell::kinds::What;
use millrace_crds::names;
use millrace_protocol::config::{DesiredState, Live, OnExistingState, Revision};
use millrace_protocol::control::{SavepointState, State};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Store {
    /// By namespace and name: the uids that owned it, newest last; `None`: a tombstone.
    pub homes: BTreeMap<String, Vec<Option<String>>>,
    pub chains: BTreeMap<String, Chain>,
    /// Complete savepoints, by path.
    pub manifests: BTreeMap<String, String>,
    /// How often each savepoint was begun.
    pub begun: BTreeMap<String, u32>,
    pub away: bool,
}

/// What the head record says.
#[derive(Debug, Clone)]
pub struct Chain {
    pub version: u64,
    pub attempt: u64,
    pub end: Option<State>,
    pub config: Live,
    pub program: String,
    pub latest: u64,
    pub latest_at: Millis,
    pub owner: u64,
    pub restore_nonce: u64,
    pub restarts: u64,
    pub failures: u32,
    pub pins: BTreeMap<String, String>,
}

/// What a worker's process knows.
pub struct Process {
    pub id: u64,
    pub revision: Revision,
    pub config_hash: String,
    pub live: Live,
    pub image: String,
    pub lead: Lead,
    pub running_since: Option<Millis>,
    pub generation: u64,
    pub proposal: Option<(Live, bool)>,
    pub hold: Option<Millis>,
    pub wanted: Vec<(String, String)>,
    pub savepoints: BTreeMap<String, (SavepointState, String)>,
    pub message: &'static str,
    pub reason: &'static str,
    pub checkpoint_at: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lead {
    Reading(Millis),
    Waiting,
    Restoring(Millis),
    Running,
    Stopping(Millis),
    Held,
    Ended(State),
}

impl Process {
    pub fn new(
        revision: Revision,
        config_hash: String,
        live: Live,
        image: String,
        at: Millis,
    ) -> Self {
        Self {
            id: 0,
            revision,
            config_hash,
            live,
            image,
            lead: Lead::Reading(at),
            running_since: None,
            generation: 0,
            proposal: None,
            hold: None,
            wanted: Vec::new(),
            savepoints: BTreeMap::new(),
            message: "",
            reason: "",
            checkpoint_at: 0,
        }
    }

    fn program(&self) -> String {
        self.revision.args.join(" ")
    }

    fn refuse(&mut self, reason: &'static str, message: &'static str) {
        (self.lead, self.reason, self.message) = (Lead::Ended(State::Refused), reason, message);
    }
}

impl World {
    /// Since when an attempt of this job processes records.
    pub fn attempt_since(&self, job: &str) -> Option<Millis> {
        let mut all = self.pods.values().filter(|pod| pod.job == job && pod.ends.is_none());
        all.find_map(|pod| pod.process.as_ref()?.running_since)
    }

    pub fn wanted_workers(&self, job: &str) -> Option<u64> {
        self.store.chains.get(job).map(|chain| u64::from(chain.config.workers))
    }

    fn connected(&self, job: &str, program: &str, below: u32) -> Vec<u32> {
        self.pods
            .values()
            .filter(|pod| pod.job == job && pod.component == names::WORKER && pod.ordinal < below)
            .filter(|pod| pod.ends.is_none())
            // The leader asks, and so is there.
            .filter(|pod| {
                pod.ordinal == 0 || pod.process.as_ref().is_some_and(|p| p.program() == program)
            })
            .map(|pod| pod.ordinal)
            .collect()
    }

    pub fn told_to_go(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let job = pod.job.clone();
        let leads = pod.process.as_mut().filter(|process| process.lead == Lead::Running);
        if leads.is_some()
            && let Some(chain) = self.store.chains.get_mut(&job)
        {
            chain.latest += 1;
            chain.version += 1;
        }
    }

    /// What the process of pod 0 does in a moment.
    pub fn lead(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if pod.component != names::WORKER || pod.ordinal != 0 || pod.ends.is_some() {
            if pod.ends.is_some_and(|at| at <= self.server.now + 1_000) {
                pod.process = None;
            }
            return;
        }
        let job = pod.job.clone();
        let Some(mut process) = pod.process.take() else { return };
        self.led(&job, &mut process);
        let poison = process.image.ends_with(":poison") && process.lead == Lead::Running;
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.process = Some(process);
        }
        if poison && self.rng.bool() {
            self.fail(uid, &job);
        }
        if !poison && self.chance(self.faults.pods) {
            self.fail(uid, &job);
        }
    }

    fn fail(&mut self, uid: &str, job: &str) {
        let Some(process) = self.pods.get_mut(uid).and_then(|pod| pod.process.as_mut()) else {
            return;
        };
        let Some(chain) = self.store.chains.get_mut(job) else { return };
        if process.lead != Lead::Running {
            return;
        }
        process.running_since = None;
        chain.restarts += 1;
        chain.failures += 1;
        chain.version += 1;
        process.lead = Lead::Waiting;
        let most = chain.config.restart.max_restarts;
        if most.is_some_and(|most| u64::from(chain.failures) > u64::from(most)) {
            chain.end = Some(State::Failed);
            (process.lead, process.message) = (Lead::Ended(State::Failed), "too many failures");
        }
    }

    fn led(&mut self, job: &str, process: &mut Process) {
        let now = self.server.now;
        if self.store.away {
            return;
        }
        if process.hold.is_some_and(|until| until < now) {
            process.hold = None;
            if process.lead == Lead::Held {
                process.lead = Lead::Waiting;
            }
        }
        let fenced = |chain: &Chain, process: &Process| chain.owner != process.id;
        match process.lead {
            Lead::Reading(at) if at <= now => return self.read(job, process),
            Lead::Reading(_) => return,
            _ => {}
        }
        let waits = process.lead == Lead::Ended(State::Refused);
        if let Some((live, _)) = process.proposal.take_if(|_| process.reason == "Outdated" && waits)
        {
            (process.live, process.lead) = (live, Lead::Reading(now));
            (process.reason, process.message) = ("", "");
            return;
        }
        let Some(chain) = self.store.chains.get(job).cloned() else { return };
        if self.superseded(job, process) {
            process.running_since = None;
            process.lead = Lead::Ended(State::Superseded);
            return;
        }
        if fenced(&chain, process) && !waits {
            process.running_since = None;
            process.lead = Lead::Ended(State::Parked);
            return;
        }
        match process.lead {
            Lead::Waiting => self.wait(job, process, &chain),
            Lead::Restoring(at) if at <= now => {
                process.lead = Lead::Running;
                process.running_since = Some(now);
                process.checkpoint_at = now + 4_000;
            }
            Lead::Running => self.run(job, process, &chain),
            Lead::Stopping(at) if at <= now => self.stopped(job, process, &chain),
            Lead::Held => {
                if process.proposal.as_ref().is_some_and(|(_, force)| *force) {
                    self.adopt(job, process);
                }
                self.savepoints_of_latest(job, process);
            }
            Lead::Ended(end) => self.rest(job, process, end),
            _ => {}
        }
    }

    fn superseded(&self, job: &str, process: &Process) -> bool {
        let home = self.store.homes.get(&process.revision.name);
        home.is_some_and(|all| all.last().is_none_or(|last| last.as_deref() != Some(job)))
    }

    /// The start: whose home is this, what was accepted.
    fn read(&mut self, job: &str, process: &mut Process) {
        let home = self.store.homes.entry(process.revision.name.clone()).or_default();
        let owner = home.last().cloned();
        if owner.as_ref().is_none_or(|owner| owner.as_deref() != Some(job)) {
            if home.iter().flatten().any(|uid| uid == job) {
                process.lead = Lead::Ended(State::Superseded);
                return;
            }
            let earlier = matches!(owner, Some(Some(_)));
            if earlier && process.revision.on_existing_state == OnExistingState::Refuse {
                return process.refuse("EarlierStateFound", "an earlier job left state");
            }
            home.push(Some(job.to_owned()));
        }
        self.server_ids(process);
        // A file that is for other processes says nothing to this one.
        let own = process.live.revision == process.config_hash;
        let program = process.program();
        let now = self.server.now;
        if !own && !self.store.chains.contains_key(job) {
            return process.refuse("Outdated", "the configuration is for other processes");
        }
        let chain = self.store.chains.entry(job.to_owned()).or_insert_with(|| Chain {
            version: 0,
            attempt: 0,
            end: None,
            config: process.live.clone(),
            program: program.clone(),
            latest: 0,
            latest_at: now,
            owner: 0,
            restore_nonce: process.live.restore.as_ref().map_or(0, |restore| restore.nonce),
            restarts: 0,
            failures: 0,
            pins: BTreeMap::new(),
        });
        chain.version += 1;
        let same = process.live.generation == chain.config.generation;
        let newer = process.live.generation > chain.config.generation;
        let edited = own && (newer || same && chain.config.revision != process.config_hash);
        if edited {
            chain.config = process.live.clone();
            chain.program.clone_from(&program);
            let other = chain.end.take();
            if other == Some(State::Finished) && !process.image.ends_with(":finite") {
                chain.end = None;
            }
            chain.failures = 0;
        } else if chain.program != program {
            let reason = if own { "" } else { "Outdated" };
            return process.refuse(reason, "another program was accepted");
        }
        chain.owner = process.id;
        process.lead = match (chain.end, chain.config.desired) {
            (Some(end), _) => Lead::Ended(end),
            (None, DesiredState::Suspended) => {
                chain.end = Some(State::Suspended);
                Lead::Ended(State::Suspended)
            }
            (None, DesiredState::Running) => Lead::Waiting,
        };
        for (id, target) in chain.pins.clone() {
            process.savepoints.insert(id, (SavepointState::Exporting, target));
        }
    }

    fn server_ids(&mut self, process: &mut Process) {
        self.ips += 1;
        process.id = self.ips;
    }

    fn wait(&mut self, job: &str, process: &mut Process, chain: &Chain) {
        if process.hold.is_some() {
            process.lead = Lead::Held;
            return;
        }
        let wanted = u32::from(chain.config.workers);
        let here = self.connected(job, &chain.program, wanted);
        if let Some((live, force)) = process.proposal.clone()
            && (force || live.generation > chain.config.generation)
        {
            let few = u32::from(live.workers);
            let enough = self.connected(job, &chain.program, few).len() == few as usize;
            let stuck = here.len() < wanted as usize;
            if enough || stuck || live.desired == DesiredState::Suspended {
                self.adopt(job, process);
            }
            return;
        }
        if chain.config.desired == DesiredState::Suspended {
            self.store.chains.get_mut(job).unwrap().end = Some(State::Suspended);
            process.lead = Lead::Ended(State::Suspended);
            return;
        }
        if here.len() == wanted as usize {
            let at = self.between(100, 2_000);
            let chain = self.store.chains.get_mut(job).unwrap();
            chain.attempt += 1;
            chain.version += 1;
            process.generation = chain.config.generation;
            process.lead = Lead::Restoring(at);
        }
    }

    fn run(&mut self, job: &str, process: &mut Process, chain: &Chain) {
        let now = self.server.now;
        let wanted = u32::from(chain.config.workers);
        if self.connected(job, &chain.program, wanted).len() < wanted as usize {
            process.running_since = None;
            process.lead = Lead::Waiting;
            let chain = self.store.chains.get_mut(job).unwrap();
            chain.restarts += 1;
            chain.version += 1;
            return;
        }
        if process.hold.is_some() {
            process.lead = Lead::Stopping(self.between(100, 3_000));
            return;
        }
        if let Some((live, force)) = process.proposal.clone()
            && (force || live.generation > chain.config.generation)
        {
            let place = live.workers != chain.config.workers
                || live.parallelism != chain.config.parallelism;
            let enough = u32::from(live.workers);
            let here = self.connected(job, &chain.program, enough).len() >= enough as usize;
            if live.desired == DesiredState::Suspended || (place && here) {
                process.lead = Lead::Stopping(self.between(100, 3_000));
                return;
            }
            if !place {
                self.adopt(job, process);
                process.generation = live.generation;
            }
        }
        if let Some((id, target)) = process.wanted.pop() {
            self.begin(job, process, &id, &target);
        }
        self.export(job, process);
        if now >= process.checkpoint_at && !self.at_rest && !process.image.ends_with(":poison") {
            process.checkpoint_at = now + 10_000;
            let chain = self.store.chains.get_mut(job).unwrap();
            (chain.latest, chain.latest_at) = (chain.latest + 1, now);
            chain.version += 1;
            if process.image.ends_with(":finite") && chain.latest > 2 {
                chain.end = Some(State::Finished);
                process.running_since = None;
                process.lead = Lead::Ended(State::Finished);
            }
        }
    }

    fn begin(&mut self, job: &str, process: &mut Process, id: &str, target: &str) {
        let place = format!("{target}/{id}");
        let chain = self.store.chains.get_mut(job).unwrap();
        if self.store.manifests.contains_key(&place) {
            process.savepoints.insert(id.to_owned(), (SavepointState::Complete, place));
            return;
        }
        if !chain.pins.contains_key(id) {
            chain.pins.insert(id.to_owned(), target.to_owned());
            chain.version += 1;
            chain.latest += 1;
            let times = self.store.begun.entry(id.to_owned()).or_default();
            *times += 1;
            let once = *times == 1;
            self.promise(once, || format!("savepoint {id} is begun again, to {target}"));
            self.note(format!("savepoint {id} begins"));
        }
        process.savepoints.insert(id.to_owned(), (SavepointState::Exporting, target.to_owned()));
    }

    fn export(&mut self, job: &str, process: &mut Process) {
        for (id, (state, place)) in &mut process.savepoints {
            if *state != SavepointState::Exporting || self.rng.bool() {
                continue;
            }
            let path = format!("{place}/{id}");
            self.store.manifests.insert(path.clone(), job.to_owned());
            let chain = self.store.chains.get_mut(job).unwrap();
            chain.pins.remove(id);
            chain.version += 1;
            (*state, *place) = (SavepointState::Complete, path);
        }
    }

    fn savepoints_of_latest(&mut self, job: &str, process: &mut Process) {
        while let Some((id, target)) = process.wanted.pop() {
            if self.store.chains[job].latest == 0 {
                process.savepoints.insert(id, (SavepointState::SavepointFailed, String::new()));
                continue;
            }
            self.begin(job, process, &id, &target);
        }
        self.export(job, process);
    }

    fn stopped(&mut self, job: &str, process: &mut Process, _: &Chain) {
        process.running_since = None;
        let chain = self.store.chains.get_mut(job).unwrap();
        chain.latest += 1;
        chain.version += 1;
        process.lead = Lead::Waiting;
        if process.hold.is_some() {
            process.lead = Lead::Held;
        } else if process.proposal.is_some() {
            self.adopt(job, process);
        }
    }

    fn adopt(&mut self, job: &str, process: &mut Process) {
        let Some((live, force)) = process.proposal.take() else { return };
        let chain = self.store.chains.get_mut(job).unwrap();
        if !force && live.generation <= chain.config.generation {
            return;
        }
        if let Some(restore) = &live.restore {
            chain.restore_nonce = chain.restore_nonce.max(restore.nonce);
        }
        let suspended = live.desired == DesiredState::Suspended;
        chain.config = live;
        chain.version += 1;
        if suspended && process.lead == Lead::Waiting {
            chain.end = Some(State::Suspended);
            process.lead = Lead::Ended(State::Suspended);
        }
    }

    /// No attempt runs, and none will by itself.
    fn rest(&mut self, job: &str, process: &mut Process, end: State) {
        let chain = self.store.chains[job].clone();
        let edit = process
            .proposal
            .as_ref()
            .is_some_and(|(live, force)| *force || live.generation > chain.config.generation);
        if edit && matches!(end, State::Suspended | State::Failed | State::Refused) {
            self.adopt(job, process);
            let chain = self.store.chains.get_mut(job).unwrap();
            (chain.end, chain.failures) = (None, 0);
            process.lead = Lead::Waiting;
            if chain.config.desired == DesiredState::Suspended {
                chain.end = Some(State::Suspended);
                process.lead = Lead::Ended(State::Suspended);
            }
            return;
        }
        if matches!(end, State::Suspended | State::Failed | State::Finished) {
            self.savepoints_of_latest(job, process);
        }
    }

    /// Whether the user wants gone what this pod deletes.
    pub fn is_to_go(&self, pod: &Value) -> bool {
        let (args, job) = (args(pod), text(pod, "/metadata/labels/millrace.dev~1job-uid"));
        let arg = |n: usize| args.get(n).map(String::as_str).unwrap_or_default();
        let (what, field, value) = match arg(1) {
            "delete" => (What::StreamJob, "/metadata/uid", job),
            "delete-savepoint" => (What::Savepoint, "/status/path", arg(2)),
            _ => return false,
        };
        self.server.list(what).any(|object| {
            text(object, field) == value
                && object["spec"]["deletionPolicy"] == "Delete"
                && object["metadata"]["deletionTimestamp"].is_string()
        })
    }

    /// A store pod's work, and how it ends.
    pub fn store_work(&mut self, uid: &str, args: &[String]) -> (i32, String) {
        let job = self.pods[uid].job.clone();
        if self.store.away {
            return (1, "the store does not answer".to_owned());
        }
        let arg = |n: usize| args.get(n).map(String::as_str).unwrap_or_default();
        match arg(1) {
            "delete" => {
                let live = self.attempt_since(&job).is_none();
                self.promise(live, || format!("the data of {job} go while it runs"));
                let wanted = self.asked.contains(uid);
                self.promise(wanted, || format!("the data of {job} go, and nobody asked"));
                self.store.chains.remove(&job);
                let home = self.pods[uid].process.as_ref().map(|p| p.revision.name.clone());
                let all = self.store.homes.entry(home.unwrap_or_default()).or_default();
                if all.last().is_some_and(|last| last.as_deref() == Some(job.as_str())) {
                    all.push(None);
                }
                (0, String::new())
            }
            "savepoint" => {
                let (id, target) = (arg(2).to_owned(), arg(3).to_owned());
                let place = format!("{target}/{id}");
                let Some(chain) = self.store.chains.get_mut(&job) else {
                    return (1, "no such job".to_owned());
                };
                if !self.store.manifests.contains_key(&place) {
                    if chain.pins.remove(&id).is_none() {
                        let times = self.store.begun.entry(id.clone()).or_default();
                        *times += 1;
                        let once = *times == 1;
                        self.promise(once, || format!("savepoint {id} is begun again by a pod"));
                    }
                    self.store.manifests.insert(place.clone(), job);
                }
                (0, place)
            }
            "probe-savepoint" => match self.store.manifests.get(arg(2)) {
                Some(job) => (0, format!("a savepoint of job {job}")),
                None => (2, format!("there is no savepoint {}", arg(2))),
            },
            "delete-savepoint" => {
                let path = arg(2).to_owned();
                let wanted = self.asked.contains(uid);
                self.promise(wanted, || format!("savepoint {path} goes, and nobody asked"));
                self.store.manifests.remove(&path);
                (0, String::new())
            }
            other => (2, format!("nobody does {other}")),
        }
    }
}
