//! Random schedules of several coordinators over one faulty store: lost, late
//! and doubled calls, stale lists, crashes between any two effects, zombies.
//! A broken run prints its seed.

mod exhaustive;

use super::slots::{Answer, SimSlot, Tasks, deploy};
use super::world::{Fate, World};
use crate::coordinator::effect::StoreCall;
use crate::coordinator::state::Mutation;
use crate::coordinator::*;
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::manifest::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub const SLOTS: u16 = 2;
/// Rows come in so many lanes, each with so many rows.
pub const LANES: u64 = 2;
pub const LIMIT: u64 = 12;
/// Ordinals that workers have.
const ORDINALS: u16 = 3;
const SILENCE: Duration = Duration::from_secs(20);

pub fn spec(uid: &str, role: Role) -> OperatorSpec {
    OperatorSpec {
        uid: Uid::from(uid),
        uid_by_user: true,
        name: uid.to_owned(),
        kind: "test".to_owned(),
        role,
        parallelism: SLOTS,
        keyed: Vec::new(),
        lists: Vec::new(),
        committable: None,
    }
}

pub fn config(process: u32, seed: u64) -> Config {
    let mut source = spec("source", Role::Source);
    source.lists.push(ListSpec {
        name: "position".into(),
        shape: ShapeBytes::default(),
        redistribution: Redistribution::PerSubtask,
        in_flight: false,
    });
    Config {
        owner: Owner { process, ..Owner::default() },
        config: ConfigRef::default(),
        program: ProgramSpec {
            fingerprint: "f".into(),
            max_parallelism: MaxParallelism::DEFAULT,
            hash_version: 1,
            operators: vec![source, spec("sink", Role::Sink)],
            committers: Vec::new(),
        },
        body: Arc::from([]),
        workers: 2,
        outdated: false,
        begun: false,
        claim: ClaimRule::Confirmed,
        keepalive: None,
        stays: false,
        existing: Existing::Same,
        cluster: String::new(),
        from: RestoreChoice::Latest,
        restore: None,
        desired: Desired::Running,
        unclaimed: crate::coordinator::Unclaimed::Refused,
        checkpoints: CheckpointPolicy {
            interval: Some(Duration::from_secs(1)),
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(3),
            tolerated_failures: 2,
            retained: 1 + (seed % 2) as u32,
            unaligned_after: None,
        },
        restart: RestartPolicy::FixedDelay { attempts: u32::MAX, delay: Duration::from_secs(1) },
        shapes: |_, _| Ok(()),
        fresh_job: JobUid::from("job"),
        seed: (seed, u64::from(process)),
        epoch_ms: 0,
        watch_every: Duration::from_secs(5),
        sweep_every: Duration::from_secs(3),
        block: 2,
    }
}

/// What may be accepted, by generation. Half of them suspend nothing, move nothing, or
/// take more slots than there often are.
pub fn proposal(generation: u64, random: &mut fastrand::Rng) -> Proposal {
    let base = config(0, random.u64(..));
    let mut program = base.program;
    let parallelism = random.u16(1..=LANES as u16);
    program.operators.iter_mut().for_each(|operator| operator.parallelism = parallelism);
    let hash = format!("h{generation}");
    Proposal {
        config: ConfigRef { generation, hash, program: String::new() },
        body: Arc::from(generation.to_le_bytes()),
        program,
        workers: random.u16(1..=ORDINALS),
        desired: if random.u32(0..6) == 0 { Desired::Suspended } else { Desired::Running },
        checkpoints: CheckpointPolicy {
            interval: Some(Duration::from_secs(random.u64(1..3))),
            ..base.checkpoints
        },
        restart: base.restart,
        restore: None,
        overrides: false,
    }
}

pub enum Work {
    Store(Ticket, StoreCall),
    Commit(Batch, Vec<PendingCommit>),
    Abort(Attempt, Vec<PendingCommit>),
    Find(String),
    Export(String, Arc<Manifest>),
}

pub struct Node {
    pub coordinator: Coordinator,
    now: Duration,
    timer: Option<Duration>,
    pub work: Vec<Work>,
    pub control: VecDeque<Effect>,
    /// With the slot whose events must stay in order.
    pub events: Vec<(Option<u64>, Event)>,
    tasks: Option<Tasks>,
    /// Processes that are connected, by ordinal.
    workers: BTreeMap<u16, WorkerId>,
    /// Slots that lost their coordinator, or it them: they know nothing of it.
    zombies: Vec<SimSlot>,
    ended: Option<Outcome>,
    /// Stands still for so many of its turns: a zombie in the making.
    paused: u32,
}

pub struct Model {
    pub world: World,
    pub nodes: Vec<Node>,
    /// Of processes that are gone.
    zombies: Vec<SimSlot>,
    random: fastrand::Rng,
    pub chaos: bool,
    /// Whether the job has numbered configurations and several workers.
    pub cluster: bool,
    proposals: BTreeMap<u64, Proposal>,
    placements: BTreeMap<Attempt, Vec<WorkerId>>,
    processes: u64,
    started: u32,
    seed: u64,
    mutation: Option<Mutation>,
}

impl Node {
    pub fn step(&mut self, event: Event) {
        for effect in self.coordinator.step(event, self.now) {
            match effect {
                Effect::Store(ticket, call) => self.work.push(Work::Store(ticket, call)),
                Effect::Commit(batch, items) => self.work.push(Work::Commit(batch, items)),
                Effect::AbortOthers { attempt, sinks } => {
                    let keep = sinks.into_iter().flat_map(|(_, keep)| keep).collect();
                    self.work.push(Work::Abort(attempt, keep));
                }
                Effect::FindSavepoint { id, .. } => self.work.push(Work::Find(id)),
                Effect::ExportSavepoint { id, manifest, .. } => {
                    self.work.push(Work::Export(id, manifest));
                }
                Effect::SetTimer(at) => self.timer = Some(at),
                Effect::Ended(outcome) => {
                    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
                    self.ended = Some(outcome);
                }
                Effect::Log(_)
                | Effect::Failed { .. }
                | Effect::Report(_)
                | Effect::SavepointEnded { .. }
                | Effect::ProposalAnswered { .. } => {}
                Effect::ReadRestore { .. } => unreachable!("no savepoints to start from"),
                control => self.control.push_back(control),
            }
        }
    }

    /// A process of this ordinal connects, another than before.
    fn join(&mut self, ordinal: u16, process: u64, slots: u16) {
        let worker = WorkerId { ordinal, process: process.to_string() };
        if let Some(older) = self.workers.insert(ordinal, worker.clone()) {
            self.bury(&older);
        }
        self.step(Event::WorkerJoined { worker, slots });
    }

    /// What runs in that process goes on as a zombie.
    fn bury(&mut self, worker: &WorkerId) {
        let Some(tasks) = &mut self.tasks else { return };
        let (lost, left) = std::mem::take(&mut tasks.slots)
            .into_iter()
            .partition::<Vec<_>, _>(|slot| slot.worker == *worker);
        tasks.slots = left;
        self.zombies.extend(lost);
    }

    fn is_quiet(&self) -> bool {
        self.work.is_empty() && self.events.is_empty() && self.control.is_empty()
    }

    fn is_finished(&self) -> bool {
        let phase = self.coordinator.head().map(|head| head.phase);
        let finished = matches!(self.ended, Some(Outcome::Finished | Outcome::FinishedBefore));
        finished || phase == Some(millrace_protocol::head::Phase::Finished)
    }
}

impl Model {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let first = Proposal { desired: Desired::Running, ..proposal(1, &mut random) };
        Self {
            world: World::new(1 + seed % 2),
            nodes: Vec::new(),
            zombies: Vec::new(),
            random,
            chaos: true,
            cluster: !seed.is_multiple_of(4),
            proposals: BTreeMap::from([(1, first)]),
            placements: BTreeMap::new(),
            processes: 0,
            started: 0,
            seed,
            mutation,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.chaos && self.random.u32(0..100) < percent
    }

    fn process(&mut self) -> u64 {
        self.processes += 1;
        self.processes
    }

    /// The configuration that a new process finds: the newest, or one before.
    fn config(&mut self, seed: u64) -> Config {
        let local = Config { block: self.world.block, ..config(self.started, seed) };
        if !self.cluster {
            return local;
        }
        let newest = self.proposals.len() as u64;
        let oldest = newest.saturating_sub(2).max(1);
        let known = if self.chaos { self.random.u64(oldest..=newest) } else { newest };
        let found = self.proposals[&known].clone();
        let late = if self.chaos { self.random.bool() } else { self.nodes.len() == 1 };
        Config {
            config: found.config,
            body: found.body,
            program: found.program,
            workers: found.workers,
            claim: if late { ClaimRule::AfterSilence(SILENCE) } else { ClaimRule::Confirmed },
            keepalive: Some(SILENCE / 3),
            stays: true,
            desired: found.desired,
            checkpoints: found.checkpoints,
            ..local
        }
    }

    pub fn start(&mut self) {
        self.started += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(u64::from(self.started));
        let config = self.config(seed);
        let mut coordinator = Coordinator::new(config);
        coordinator.mutation = self.mutation;
        let mut node = Node {
            coordinator,
            now: Duration::ZERO,
            timer: None,
            work: Vec::new(),
            control: VecDeque::new(),
            events: Vec::new(),
            tasks: None,
            workers: BTreeMap::new(),
            zombies: Vec::new(),
            ended: None,
            paused: 0,
        };
        node.step(Event::Start);
        for ordinal in 0..ORDINALS {
            if !self.cluster || !self.chaos || self.random.bool() {
                node.join(ordinal, self.process(), SLOTS);
            }
        }
        self.nodes.push(node);
    }

    /// The process is gone; what it had sent may arrive yet, and its workers live on.
    pub fn crash(&mut self, at: usize) {
        self.crash_with(at, |random| random.bool());
    }

    /// The same; whether a call arrives is asked for each.
    fn crash_with(&mut self, at: usize, mut arrives: impl FnMut(&mut fastrand::Rng) -> bool) {
        let node = self.nodes.swap_remove(at);
        self.zombies.extend(node.zombies);
        self.zombies.extend(node.tasks.into_iter().flat_map(|tasks| tasks.slots));
        for work in node.work {
            match work {
                Work::Store(
                    _,
                    call @ (StoreCall::PutIfAbsent { .. } | StoreCall::Delete { .. }),
                ) if arrives(&mut self.random) => self.world.limbo.push(call),
                Work::Commit(_, items) if arrives(&mut self.random) => {
                    items.iter().for_each(|item| self.world.commit(item));
                }
                _ => {}
            }
        }
    }

    pub fn act(&mut self) {
        if self.nodes.is_empty() || (self.chance(2) && self.started < 5) {
            return self.start();
        }
        if !self.world.limbo.is_empty() && self.random.u32(0..12) == 0 {
            let at = self.random.usize(0..self.world.limbo.len());
            let call = self.world.limbo.swap_remove(at);
            self.world.apply(&call, false);
            return;
        }
        if self.chance(2) {
            self.haunt();
        }
        let at = self.random.usize(0..self.nodes.len());
        if self.nodes[at].ended.is_some() {
            if self.chaos {
                self.crash(at);
            }
            return;
        }
        if self.nodes[at].paused > 0 && self.chaos {
            self.nodes[at].paused -= 1;
            return;
        }
        if self.chance(1) && self.started < 5 {
            match self.random.bool() {
                true => return self.crash(at),
                false => self.nodes[at].paused = self.random.u32(0..600),
            }
        }
        if self.chance(2) {
            let event = self.disturb(at);
            self.nodes[at].step(event);
            return;
        }
        if self.cluster && self.chance(2) {
            return self.churn(at);
        }
        match self.random.u32(0..100) {
            0..35 => self.deliver(at),
            35..65 => self.work(at),
            65..78 => self.control(at),
            78..96 => self.slot(at),
            _ => self.tick(at),
        }
    }

    /// A slot that nobody listens to goes on: it reads, stages, uploads.
    fn haunt(&mut self) {
        let of_nodes = self.nodes.iter_mut().flat_map(|node| &mut node.zombies);
        let zombies: Vec<_> = of_nodes.chain(&mut self.zombies).collect();
        let Some(slot) = self.random.choice(zombies) else { return };
        for _ in 0..self.random.u32(1..4) {
            slot.read();
        }
        let answer = Answer { full: self.random.bool(), open: self.random.bool(), decline: false };
        slot.barrier(&answer, &mut self.random, &mut self.world);
    }

    /// A worker is lost, or one joins.
    fn churn(&mut self, at: usize) {
        let (ordinal, slots) = (self.random.u16(0..ORDINALS), self.random.u16(1..=SLOTS));
        let process = self.process();
        let node = &mut self.nodes[at];
        match node.workers.get(&ordinal).cloned() {
            Some(worker) if self.random.bool() => {
                node.workers.remove(&ordinal);
                node.bury(&worker);
                // Noticed at once, or later.
                let lost = Event::WorkerLost { worker, cause: "injected".into() };
                match self.random.bool() {
                    true => node.step(lost),
                    false => node.events.push((None, lost)),
                }
            }
            _ => node.join(ordinal, process, slots),
        }
    }

    fn disturb(&mut self, at: usize) -> Event {
        let attempt = self.nodes[at].coordinator.attempt().unwrap_or(Attempt(0));
        let failure = Failure { operator: None, subtask: None, cause: "injected".into() };
        let kinds = if self.cluster { 20 } else { 10 };
        match self.random.u32(0..kinds) {
            0..4 => Event::TaskFailed { attempt, failure },
            4..8 => {
                let id = format!("s{}", self.random.u32(0..3));
                Event::RequestSavepoint { id, target: "t".into() }
            }
            8 => Event::RequestStop { mode: StopMode::Suspend },
            9 => Event::Cancel,
            10..17 => {
                // A new one, or one again, perhaps an old one.
                let newest = self.proposals.len() as u64;
                let generation = match self.random.bool() {
                    true => newest + 1,
                    false => self.random.u64(newest.saturating_sub(2).max(1)..=newest),
                };
                let random = &mut self.random;
                let known = self.proposals.entry(generation);
                let proposal = known.or_insert_with(|| proposal(generation, random)).clone();
                Event::Propose { proposal: Box::new(proposal) }
            }
            17 => Event::HoldStop { hold: Duration::from_secs(self.random.u64(1..30)) },
            18 => Event::ReleaseStop,
            _ => Event::RequestCheckpoint,
        }
    }

    fn deliver(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.events.is_empty() {
            return;
        }
        let picked = self.random.usize(0..node.events.len());
        let lane = node.events[picked].0;
        let first = node.events.iter().position(|event| lane.is_some() && event.0 == lane);
        let (_, event) = node.events.remove(first.unwrap_or(picked));
        node.step(event);
    }

    /// Time passes: at will, or, once faults have stopped, at the same pace for all.
    fn tick(&mut self, at: usize) {
        if self.chaos {
            let node = &mut self.nodes[at];
            if let Some(timer) = node.timer.take() {
                node.now = node.now.max(timer);
            }
            return node.step(Event::Tick);
        }
        if !self.nodes.iter().all(Node::is_quiet) {
            return;
        }
        let due = |node: &Node| node.timer.map(|timer| timer.saturating_sub(node.now));
        let Some(pause) = self.nodes.iter().filter_map(due).min() else { return };
        for node in &mut self.nodes {
            node.now += pause;
            if node.timer.is_some_and(|timer| timer <= node.now) {
                node.timer = None;
                node.step(Event::Tick);
            }
        }
    }

    fn work(&mut self, at: usize) {
        if self.nodes[at].work.is_empty() {
            return;
        }
        let picked = self.random.usize(0..self.nodes[at].work.len());
        let fate = match self.chaos.then(|| self.random.u32(0..100)) {
            Some(0..5) => Fate::AnswerLost,
            Some(5..8) => Fate::Vanishes,
            Some(8..13) => Fate::Late,
            Some(13..18) => Fate::Doubled,
            Some(18..21) => Fate::Fails,
            _ => Fate::Fine,
        };
        self.work_on(at, picked, fate);
    }

    /// One of a node's calls is carried out.
    pub fn work_on(&mut self, at: usize, picked: usize, fate: Fate) {
        let work = self.nodes[at].work.remove(picked);
        let fails = self.chance(10);
        let event = match work {
            Work::Store(ticket, call) => {
                let stale = self.chance(15);
                let answer = self.world.call(&call, fate, stale);
                let event = Event::StoreAnswered { ticket, answer };
                if self.chance(5) {
                    self.nodes[at].events.push((None, event.clone()));
                }
                event
            }
            Work::Commit(batch, items) => {
                let outcome = |world: &mut World, item: &PendingCommit, fails: bool| {
                    if fails {
                        return CommitOutcome::Failed(Hindrance::Passing("injected".into()));
                    }
                    world.commit(item);
                    CommitOutcome::Done
                };
                let mut outcomes = Vec::new();
                for item in &items {
                    let fails = self.chance(10);
                    outcomes.push((item.id, outcome(&mut self.world, item, fails)));
                }
                Event::CommitEnded { batch, outcomes }
            }
            Work::Abort(attempt, _) if fails => {
                Event::OthersAborted { attempt, result: Err(Hindrance::Passing("injected".into())) }
            }
            Work::Abort(attempt, keep) => {
                self.world.abort_others(attempt, &keep);
                Event::OthersAborted { attempt, result: Ok(()) }
            }
            Work::Find(id) => Event::SavepointFound { id, result: Ok(None) },
            Work::Export(id, manifest) => {
                let pinned = self.world.head().is_some_and(|head| {
                    head.pins
                        .iter()
                        .any(|pin| pin.savepoint == id && pin.at.checkpoint == manifest.checkpoint)
                });
                let there = |file: &FileRef| self.world.objects.contains_key(&file.key);
                if pinned && !manifest.files.iter().all(there) {
                    self.world.broken(format!("savepoint {id} cannot be exported"));
                }
                let at = (manifest.attempt, manifest.checkpoint);
                let result = Ok(export::Exported { at, bytes: manifest.state_bytes() });
                Event::SavepointExported { id, result }
            }
        };
        self.nodes[at].events.push((None, event));
    }

    /// An attempt is placed as its configuration says, and once.
    fn check_placement(&mut self, attempt: Attempt, slots: u16, placement: &[WorkerId]) {
        if let Some(other) = self.placements.insert(attempt, placement.to_vec()) {
            let why = format!("attempt {attempt} is placed on {other:?} and on {placement:?}");
            self.world.broken(why);
        }
        if placement.len() != usize::from(slots) {
            self.world.broken(format!("{slots} slots on {placement:?}"));
        }
        let mut entries = self.world.chain.values().rev();
        let config = entries.find(|record| record.attempt == attempt).map(|record| &record.config);
        let accepted = config.and_then(|config| self.proposals.get(&config.generation));
        if let Some(accepted) = accepted.filter(|_| self.cluster) {
            let outside = placement.iter().find(|worker| worker.ordinal >= accepted.workers);
            if outside.is_some() || accepted.program.slots() != slots {
                let why = format!("{placement:?} for {} workers", accepted.workers);
                self.world.broken(why);
            }
        }
    }

    pub fn control(&mut self, at: usize) {
        let fails = self.chance(5);
        let Some(effect) = self.nodes[at].control.pop_front() else { return };
        match effect {
            Effect::Deploy { attempt, base, program, placement } => {
                self.check_placement(attempt, program.slots(), &placement);
                let node = &mut self.nodes[at];
                let owner = self.world.head().is_some_and(|head| head.attempt == attempt);
                match deploy(&self.world, attempt, base, &placement) {
                    Ok(tasks) if !fails => {
                        node.tasks = Some(tasks);
                        let gone: Vec<_> = placement
                            .iter()
                            .filter(|worker| node.workers.get(&worker.ordinal) != Some(*worker))
                            .collect();
                        // Whoever is gone answers nothing, and is noticed.
                        gone.iter().for_each(|worker| node.bury(worker));
                        if gone.is_empty() {
                            node.events.push((None, Event::TasksDeployed { attempt }));
                        }
                    }
                    result => {
                        if let (Err(why), true) = (result, owner) {
                            self.world.broken(format!("attempt {attempt}: {why}"));
                        }
                        let cause = "injected".to_owned();
                        let failure = Failure { operator: None, subtask: None, cause };
                        node.events.push((None, Event::TaskFailed { attempt, failure }));
                    }
                }
            }
            Effect::CancelTasks { attempt } => {
                let node = &mut self.nodes[at];
                node.tasks = None;
                node.events.push((None, Event::SlotsJoined { attempt }));
            }
            Effect::TriggerBarrier { attempt, checkpoint, base, kind, .. } => {
                let node = &mut self.nodes[at];
                if let Some(tasks) = node.tasks.as_mut().filter(|tasks| tasks.attempt == attempt) {
                    for slot in &mut tasks.slots {
                        slot.barriers.push_back((checkpoint, base.is_none(), kind));
                    }
                }
            }
            Effect::ReadConfig { config, body } => {
                let generation = u64::from_le_bytes(body[..].try_into().unwrap());
                assert_eq!(generation, config.generation);
                let result = Ok(Box::new(self.proposals[&generation].clone()));
                let node = &mut self.nodes[at];
                node.events.push((None, Event::ConfigRead { config, result }));
            }
            _ => {}
        }
    }

    /// A slot reads a row, or takes a barrier.
    fn slot(&mut self, at: usize) {
        let full = self.random.u32(0..4) == 0;
        let open = self.random.u32(0..3) == 0;
        let decline = self.chance(6);
        let node = &mut self.nodes[at];
        let Some(tasks) = node.tasks.as_mut().filter(|tasks| !tasks.slots.is_empty()) else {
            return;
        };
        let attempt = tasks.attempt;
        let picked = self.random.usize(0..tasks.slots.len());
        let all_there = tasks.slots.iter().map(|slot| slot.lanes.len()).sum::<usize>() == 2;
        let slot = &mut tasks.slots[picked];
        if slot.barriers.is_empty() || self.random.bool() && !slot.is_at_end() && !slot.stopped {
            if !slot.read()
                && !tasks.end_sent
                && all_there
                && tasks.slots.iter().all(|slot| slot.is_at_end() && !slot.stopped)
            {
                tasks.end_sent = true;
                node.events.push((None, Event::InputEnded { attempt }));
            }
            return;
        }
        let answer = Answer { full, open, decline };
        let lane = Some(slot.id);
        let Some(event) = slot.barrier(&answer, &mut self.random, &mut self.world) else { return };
        if self.random.u32(0..20) == 0 {
            node.events.push((lane, event.clone()));
        }
        node.events.push((lane, event));
    }

    /// Faults stop; the job must come to its end.
    pub fn finish(&mut self) {
        // Faults stop, all processes are gone, late calls have arrived: new ones finish the job.
        while !self.nodes.is_empty() {
            self.crash(0);
        }
        for call in std::mem::take(&mut self.world.limbo) {
            self.world.apply(&call, false);
        }
        self.chaos = false;
        self.start();
        if self.cluster {
            // One more that waits for its turn, and must not take it.
            self.start();
        }
        let newest = self.proposals.len() as u64 + 1;
        let last = proposal(newest, &mut self.random);
        let last = Proposal { desired: Desired::Running, ..last };
        self.proposals.insert(newest, last.clone());
        let before = self.world.head().map_or(0, |head| head.attempt.0);
        for n in 0..30_000 {
            if self.nodes[0].is_finished() || self.world.violation.is_some() {
                break;
            }
            if self.cluster && u32::is_multiple_of(n, 100) {
                let proposal = Box::new(last.clone());
                self.nodes[0].step(Event::Propose { proposal });
            }
            self.act();
        }
        if self.world.violation.is_none() {
            let claims = self.world.head().map_or(0, |head| head.attempt.0) - before;
            if !self.nodes[0].is_finished() {
                let status: Vec<_> =
                    self.nodes.iter().map(|node| node.coordinator.status()).collect();
                self.world.broken(format!("no progress: {status:#?}"));
            } else if claims > 4 {
                self.world.broken(format!("{claims} claims without a fault"));
            } else {
                self.world.check_output(LANES, LIMIT);
            }
        }
    }
}

/// Runs one schedule; answers what was broken.
fn run(seed: u64, mutation: Option<Mutation>) -> Option<String> {
    let mut model = Model::new(seed, mutation);
    let steps = model.random.u32(100..700);
    for _ in 0..steps {
        model.act();
        if model.world.violation.is_some() {
            return model.world.violation;
        }
    }
    model.finish();
    STATS.with_borrow_mut(|stats| {
        let head = model.world.head();
        stats[0] += model.world.chain.len();
        stats[1] += head.map_or(0, |head| head.attempt.0 as usize);
        stats[2] += head.map_or(0, |head| head.last_checkpoint.0 as usize);
        stats[3] += model.world.objects.keys().filter(|key| key.as_str().contains("floor")).count();
        stats[4] += model
            .world
            .chain
            .values()
            .filter(|r| r.phase == millrace_protocol::head::Phase::Suspended)
            .count();
        stats[5] += model.world.chain.values().filter(|r| !r.pins.is_empty()).count();
        stats[6] += model.world.overs;
        let mut chain = model.world.chain.values().map(|record| record.config.generation);
        let mut last = chain.next();
        stats[7] += chain.filter(|at| last.replace(*at) != Some(*at)).count();
        stats[8] += model.placements.len();
    });
    model.world.violation
}

thread_local! {
    /// Entries, attempts, checkpoints, floors, suspensions, entries with pins, gap puts,
    /// accepted edits, placements.
    static STATS: std::cell::RefCell<[usize; 9]> = const { std::cell::RefCell::new([0; 9]) };
}

/// Runs so many schedules side by side.
const THREADS: u64 = 4;

#[test]
fn random_schedules_keep_every_invariant() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let schedules = number("MODEL_SCHEDULES").unwrap_or(100_000_u64);
    let first = number("MILLRACE_SEED").unwrap_or(0);
    let part = move |thread: u64| {
        let mut seeds = (first + thread..first + schedules).step_by(THREADS as usize);
        let broken = seeds.find_map(|seed| run(seed, None).map(|why| (seed, why)));
        (broken, STATS.with_borrow(|stats| *stats))
    };
    let threads: Vec<_> = (0..THREADS).map(|n| std::thread::spawn(move || part(n))).collect();
    let mut sum = [0; 9];
    for thread in threads {
        let (broken, stats) = thread.join().unwrap();
        if let Some((seed, broken)) = broken {
            panic!("MILLRACE_SEED={seed}: {broken}");
        }
        sum.iter_mut().zip(stats).for_each(|(sum, n)| *sum += n);
    }
    println!("{sum:?}");
}

fn is_caught(mutation: Mutation) {
    let found = (0..40_000).find_map(|seed| run(seed, Some(mutation)).map(|why| (seed, why)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{mutation:?} was not noticed"));
    println!("{mutation:?}: seed {seed}: {why}");
}

#[test]
fn a_claim_that_does_not_freeze_is_caught() {
    is_caught(Mutation::ClaimDoesNotFreeze);
}

#[test]
fn a_floor_left_unread_is_caught() {
    is_caught(Mutation::NoFloorCheck);
}

#[test]
fn a_delete_before_the_append_is_known_is_caught() {
    is_caught(Mutation::DeleteWhileUnknown);
}

#[test]
fn a_sweep_of_the_own_attempt_is_caught() {
    is_caught(Mutation::SweepOwnAttempt);
}

#[test]
fn an_abort_before_the_claim_is_caught() {
    is_caught(Mutation::AbortBeforeClaim);
}

#[test]
fn pending_commits_left_behind_are_caught() {
    is_caught(Mutation::NoCarryOver);
}
