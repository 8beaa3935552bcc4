//! One life of the operator's process: the real shell around the real plan, with caches
//! that lag, and a queue like the real one.

use super::control::Way;
use super::http::client;
use super::server::{Change, text};
use super::world::Shared;
use crate::observed::Millis;
use crate::shell::Shell;
use crate::shell::cache::{self, JobKey, WATCHED};
use crate::shell::events::Recorder;
use crate::shell::kept::Cache;
use crate::shell::kinds::What;
use crate::shell::leader::Leader;
use crate::shell::metrics::Metrics;
use crate::shell::pass::{self, Remembered};
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// As with `watch_nodes`.
fn watched() -> impl Iterator<Item = What> {
    WATCHED.into_iter().chain([What::Node])
}

/// No watch lags more than this.
const LAG: Millis = 8_000;

#[derive(Default)]
struct Slot {
    due: Option<Millis>,
    told: bool,
    failures: u32,
    memory: Remembered,
}

pub struct Operator {
    world: Shared,
    shell: Shell,
    read: BTreeMap<What, usize>,
    slots: BTreeMap<JobKey, Slot>,
    dirty: UnboundedSender<JobKey>,
    marked: UnboundedReceiver<JobKey>,
    pub passes: u64,
    pub failed: String,
}

impl Operator {
    pub fn start(world: &Shared, watches_nodes: bool) -> Self {
        let client = client(world);
        let (dirty, marked) = unbounded_channel();
        let leader = Leader::default();
        leader.set(Some(Instant::now() + Duration::from_secs(86_400)));
        let (clock, ways) = (world.clone(), world.clone());
        let shell = Shell {
            recorder: Recorder::new(client.clone(), "sys".to_owned()),
            client,
            cache: Cache::default(),
            leader,
            metrics: Metrics::default(),
            controller: "sys/millrace".to_owned(),
            cluster: "c".to_owned(),
            master_key: vec![7; 32],
            watches_nodes,
            refreshes: true,
            connect: Box::new(move |ip, _| {
                Ok(Box::new(Way { world: ways.clone(), ip: ip.to_owned() }))
            }),
            now: Box::new(move || clock.lock().unwrap().server.now),
        };
        let mut operator = Self {
            world: world.clone(),
            shell,
            read: BTreeMap::new(),
            slots: BTreeMap::new(),
            dirty,
            marked,
            passes: 0,
            failed: String::new(),
        };
        for what in watched() {
            operator.list(what);
        }
        operator
    }

    /// A watch begins anew.
    fn list(&mut self, what: What) {
        let (objects, end) = {
            let world = self.world.lock().unwrap();
            let all: Vec<Value> = world.server.list(what).cloned().collect();
            (all, world.server.log.get(&what).map_or(0, Vec::len))
        };
        let mut seen = BTreeSet::new();
        let mut take = |event| cache::take(&self.shell, what, None, event, &mut seen, &self.dirty);
        take(Event::Init);
        for object in objects.into_iter().filter(|object| shown(what, object)) {
            take(Event::InitApply(dynamic(what, object)));
        }
        take(Event::InitDone);
        self.read.insert(what, end);
    }

    /// Watches tell some of what they have not told yet.
    pub fn hear(&mut self, lags: bool) {
        for what in watched() {
            let (dropped, news) = {
                let mut world = self.world.lock().unwrap();
                let faults = world.faults.watches;
                let dropped = world.chance(faults);
                let from = self.read.get(&what).copied().unwrap_or(0);
                let now = world.server.now;
                let all = world.server.log.get(&what).map(|log| log[from..].to_vec());
                let mut all: Vec<Change> = all.unwrap_or_default();
                if lags && !all.is_empty() {
                    let least = all.iter().filter(|change| now - change.at > LAG).count();
                    let most = world.rng.usize(0..=all.len()).max(least);
                    all.truncate(most);
                }
                (dropped, all)
            };
            if dropped {
                self.list(what);
                continue;
            }
            *self.read.entry(what).or_default() += news.len();
            for Change { object, gone, .. } in news {
                let hidden = !shown(what, &object);
                let mut object = dynamic(what, object);
                if hidden {
                    // What loses its label is gone, as far as a watch by labels knows: it
                    // tells of it as it was.
                    let meta = &object.metadata;
                    let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
                    let before =
                        self.shell.cache.get(what, namespace.unwrap_or(""), name.unwrap_or(""));
                    let Some(before) = before else { continue };
                    object = before;
                }
                let event =
                    if gone || hidden { Event::Delete(object) } else { Event::Apply(object) };
                let mut seen = BTreeSet::new();
                cache::take(&self.shell, what, None, event, &mut seen, &self.dirty);
            }
        }
        let now = self.world.lock().unwrap().server.now;
        while let Ok(key) = self.marked.try_recv() {
            let slot = self.slots.entry(key).or_default();
            slot.due = Some(slot.due.map_or(now + 50, |due| due.min(now + 50)));
            slot.told = true;
        }
    }

    /// When the next pass is due.
    pub fn due(&self) -> Option<Millis> {
        self.slots.values().filter_map(|slot| slot.due).min()
    }

    /// It was paused for longer than its lease, and goes on where it was.
    pub fn oversleeps(&mut self, runtime: &tokio::runtime::Runtime) {
        self.shell.leader.set(None);
        {
            let mut world = self.world.lock().unwrap();
            world.note("the operator has overslept".to_owned());
            (world.dead, world.steps_left, world.overslept) = (false, None, true);
        }
        for (key, slot) in &mut self.slots {
            let _ = runtime.block_on(pass::pass(&self.shell, key, &mut slot.memory, true));
        }
        self.world.lock().unwrap().overslept = false;
    }

    /// All passes that are due.
    pub fn work(&mut self, runtime: &tokio::runtime::Runtime) {
        let now = self.world.lock().unwrap().server.now;
        let due: Vec<JobKey> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.due.is_some_and(|due| due <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            {
                let mut world = self.world.lock().unwrap();
                world.pass_began = now;
                world.steps_left = world.faults.crashes;
            }
            let slot = self.slots.get_mut(&key).unwrap();
            slot.due = None;
            let told = std::mem::take(&mut slot.told);
            self.passes += 1;
            let result = runtime.block_on(pass::pass(&self.shell, &key, &mut slot.memory, told));
            if self.world.lock().unwrap().dead {
                return;
            }
            match result {
                Ok(Some(after)) => {
                    slot.failures = 0;
                    let at = now + i64::try_from(after).unwrap();
                    slot.due = Some(slot.due.map_or(at, |due| due.min(at)));
                }
                Ok(None) => {
                    self.slots.remove(&key);
                }
                Err(error) => {
                    self.failed = format!("{error:#}");
                    self.world.lock().unwrap().note(format!("pass failed: {error:#}"));
                    slot.failures += 1;
                    slot.told = true;
                    slot.due = Some(now + (200i64 << slot.failures.min(8)).min(30_000));
                }
            }
        }
    }
}

fn shown(what: What, object: &Value) -> bool {
    match what {
        What::StreamJob | What::Savepoint | What::Node => true,
        _ => !text(object, "/metadata/labels/millrace.dev~1job").is_empty(),
    }
}

fn dynamic(what: What, object: Value) -> DynamicObject {
    let object = match what {
        What::ConfigMap => json!({"metadata": object["metadata"]}),
        _ => object,
    };
    serde_json::from_value(object).unwrap()
}
