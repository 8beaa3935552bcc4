//! Random schedules of several coordinators over one faulty store: lost, late
//! and doubled calls, stale lists, crashes between any two effects, zombies.
//! A broken run prints its seed.

use super::slots::{Tasks, deploy};
use super::world::{Fate, World};
use crate::coordinator::effect::{BarrierKind, StoreCall};
use crate::coordinator::state::Mutation;
use crate::coordinator::*;
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::{Attempt, JobUid, Slot, Uid};
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::manifest::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub const SLOTS: u64 = 2;
pub const LIMIT: u64 = 12;

pub fn spec(uid: &str, role: Role) -> OperatorSpec {
    OperatorSpec {
        uid: Uid::from(uid),
        uid_by_user: true,
        name: uid.to_owned(),
        kind: "test".to_owned(),
        role,
        parallelism: SLOTS as u16,
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
        claim: ClaimRule::Confirmed,
        keepalive: None,
        stays: false,
        existing: Existing::Same,
        cluster: String::new(),
        from: RestoreChoice::Latest,
        restore: None,
        desired: Desired::Running,
        allow_unclaimed_state: false,
        checkpoints: CheckpointPolicy {
            interval: Some(Duration::from_secs(1)),
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(3),
            tolerated_failures: 2,
            retained: 1 + (seed % 2) as u32,
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

enum Work {
    Store(Ticket, StoreCall),
    Commit(Batch, Vec<PendingCommit>),
    Abort(Attempt, Vec<PendingCommit>),
    Export(String, std::sync::Arc<Manifest>),
}

struct Node {
    coordinator: Coordinator,
    now: Duration,
    timer: Option<Duration>,
    work: Vec<Work>,
    control: VecDeque<Effect>,
    /// With the slot whose events must stay in order.
    events: Vec<(Option<u64>, Event)>,
    tasks: Option<Tasks>,
    ended: Option<Outcome>,
    /// Stands still for so many of its turns: a zombie in the making.
    paused: u32,
}

pub struct Model {
    world: World,
    nodes: Vec<Node>,
    random: fastrand::Rng,
    chaos: bool,
    started: u32,
    seed: u64,
    mutation: Option<Mutation>,
}

impl Node {
    fn step(&mut self, event: Event) {
        for effect in self.coordinator.step(event, self.now) {
            match effect {
                Effect::Store(ticket, call) => self.work.push(Work::Store(ticket, call)),
                Effect::Commit(batch, items) => self.work.push(Work::Commit(batch, items)),
                Effect::AbortOthers { attempt, sinks } => {
                    let keep = sinks.into_iter().flat_map(|(_, keep)| keep).collect();
                    self.work.push(Work::Abort(attempt, keep));
                }
                Effect::ExportSavepoint { id, manifest, .. } => {
                    self.work.push(Work::Export(id, manifest));
                }
                Effect::SetTimer(at) => self.timer = Some(at),
                Effect::Ended(outcome) => {
                    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
                    self.ended = Some(outcome);
                }
                Effect::Log(_) | Effect::Report(_) | Effect::SavepointEnded { .. } => {}
                Effect::ReadRestore { .. } => unreachable!("no savepoints to start from"),
                control => self.control.push_back(control),
            }
        }
    }
}

impl Model {
    fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let world = World::new(1 + seed % 2);
        let random = fastrand::Rng::with_seed(seed);
        Self { world, nodes: Vec::new(), random, chaos: true, started: 0, seed, mutation }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.chaos && self.random.u32(0..100) < percent
    }

    fn start(&mut self) {
        self.started += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(u64::from(self.started));
        let config = Config { block: self.world.block, ..config(self.started, seed) };
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
            ended: None,
            paused: 0,
        };
        node.step(Event::Start);
        let worker = WorkerId { ordinal: 0, process: "p".into() };
        node.step(Event::WorkerJoined { worker, slots: 4 });
        self.nodes.push(node);
    }

    /// The process is gone; what it had sent may arrive yet.
    fn crash(&mut self, at: usize) {
        let node = self.nodes.swap_remove(at);
        for work in node.work {
            match work {
                Work::Store(
                    _,
                    call @ (StoreCall::PutIfAbsent { .. } | StoreCall::Delete { .. }),
                ) if self.random.bool() => self.world.limbo.push(call),
                Work::Commit(_, items) if self.random.bool() => {
                    items.iter().for_each(|item| self.world.commit(item));
                }
                _ => {}
            }
        }
    }

    fn act(&mut self) {
        if self.nodes.is_empty() || (self.chance(2) && self.started < 5) {
            return self.start();
        }
        if !self.world.limbo.is_empty() && self.random.u32(0..12) == 0 {
            let at = self.random.usize(0..self.world.limbo.len());
            let call = self.world.limbo.swap_remove(at);
            self.world.apply(&call, false);
            return;
        }
        let at = self.random.usize(0..self.nodes.len());
        if self.nodes[at].ended.is_some() {
            if self.chaos {
                self.nodes.swap_remove(at);
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
        match self.random.u32(0..100) {
            0..35 => self.deliver(at),
            35..65 => self.work(at),
            65..78 => self.control(at),
            78..96 => self.slot(at),
            _ => self.tick(at),
        }
    }

    fn disturb(&mut self, at: usize) -> Event {
        let attempt = self.nodes[at].coordinator.attempt().unwrap_or(Attempt(0));
        let failure = Failure { operator: None, subtask: None, cause: "injected".into() };
        match self.random.u32(0..10) {
            0..4 => Event::TaskFailed { attempt, failure },
            4..8 => {
                let id = format!("s{}", self.random.u32(0..3));
                Event::RequestSavepoint { id, target: "t".into() }
            }
            8 => Event::RequestStop { mode: StopMode::Suspend },
            _ => Event::Cancel,
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

    fn tick(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(timer) = node.timer.take() {
            node.now = node.now.max(timer);
        }
        node.step(Event::Tick);
    }

    fn work(&mut self, at: usize) {
        if self.nodes[at].work.is_empty() {
            return;
        }
        let picked = self.random.usize(0..self.nodes[at].work.len());
        let work = self.nodes[at].work.swap_remove(picked);
        let fails = self.chance(10);
        let event = match work {
            Work::Store(ticket, call) => {
                let fate = match self.chaos.then(|| self.random.u32(0..100)) {
                    Some(0..5) => Fate::AnswerLost,
                    Some(5..8) => Fate::Vanishes,
                    Some(8..13) => Fate::Late,
                    Some(13..18) => Fate::Doubled,
                    Some(18..21) => Fate::Fails,
                    _ => Fate::Fine,
                };
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
                        return CommitOutcome::Failed("injected".into());
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
                Event::OthersAborted { attempt, result: Err("injected".into()) }
            }
            Work::Abort(attempt, keep) => {
                self.world.abort_others(attempt, &keep);
                Event::OthersAborted { attempt, result: Ok(()) }
            }
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
                Event::SavepointExported { id, result: Ok(()) }
            }
        };
        self.nodes[at].events.push((None, event));
    }

    fn control(&mut self, at: usize) {
        let fails = self.chance(5);
        let node = &mut self.nodes[at];
        let Some(effect) = node.control.pop_front() else { return };
        match effect {
            Effect::Deploy { attempt, base, .. } => {
                let owner = self.world.head().is_some_and(|head| head.attempt == attempt);
                let event = match deploy(&self.world, attempt, base) {
                    Ok(tasks) if !fails => {
                        node.tasks = Some(tasks);
                        Event::TasksDeployed { attempt }
                    }
                    result => {
                        if let (Err(why), true) = (result, owner) {
                            self.world.broken(format!("attempt {attempt}: {why}"));
                        }
                        let cause = "injected".to_owned();
                        let failure = Failure { operator: None, subtask: None, cause };
                        Event::TaskFailed { attempt, failure }
                    }
                };
                node.events.push((None, event));
            }
            Effect::CancelTasks { attempt } => {
                node.tasks = None;
                node.events.push((None, Event::SlotsJoined { attempt }));
            }
            Effect::TriggerBarrier { attempt, checkpoint, base, kind } => {
                if let Some(tasks) = node.tasks.as_mut().filter(|tasks| tasks.attempt == attempt) {
                    tasks.stopped |= matches!(kind, BarrierKind::Stop(_));
                    for slot in &mut tasks.slots {
                        slot.barriers.push_back((checkpoint, base.is_none(), kind));
                    }
                }
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
        let Some(tasks) = &mut node.tasks else { return };
        let attempt = tasks.attempt;
        let picked = self.random.usize(0..tasks.slots.len());
        let stopped = tasks.stopped;
        let slot = &mut tasks.slots[picked];
        if slot.barriers.is_empty() || (!stopped && slot.position < LIMIT && self.random.bool()) {
            if slot.position < LIMIT && !stopped {
                slot.position += 1;
            } else if !tasks.end_sent && tasks.slots.iter().all(|slot| slot.position == LIMIT) {
                tasks.end_sent = true;
                node.events.push((None, Event::InputEnded { attempt }));
            }
            return;
        }
        let Some((mut checkpoint, mut anew, mut kind)) = slot.barriers.pop_front() else { return };
        // A later barrier may overtake an earlier one.
        while self.random.bool() {
            let Some(next) = slot.barriers.pop_front() else { break };
            (checkpoint, anew, kind) = next;
        }
        let prepared = slot.prepare(attempt, open && !kind.is_last(), &mut self.world);
        let event = if decline {
            let (slot, reason) = (Slot(slot.id as u16), "injected".to_owned());
            Event::Declined { attempt, checkpoint, slot, reason, prepared }
        } else {
            let snapshot =
                slot.snapshot(attempt, checkpoint, full || anew, prepared, &mut self.world);
            Event::Acknowledge { attempt, checkpoint, snapshot }
        };
        let lane = Some(slot.id);
        if self.random.u32(0..20) == 0 {
            node.events.push((lane, event.clone()));
        }
        node.events.push((lane, event));
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
    // Faults stop, all processes are gone, late calls have arrived: a new one finishes the job.
    while !model.nodes.is_empty() {
        model.crash(0);
    }
    for call in std::mem::take(&mut model.world.limbo) {
        model.world.apply(&call, false);
    }
    model.chaos = false;
    model.start();
    for _ in 0..20_000 {
        if model.nodes[0].ended.is_some() || model.world.violation.is_some() {
            break;
        }
        model.act();
    }
    if model.world.violation.is_none() {
        match &model.nodes[0].ended {
            Some(Outcome::Finished | Outcome::FinishedBefore) => {
                model.world.check_output(SLOTS, LIMIT);
            }
            ended => model.world.broken(format!("no progress: {ended:?}")),
        }
    }
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
    });
    model.world.violation
}

thread_local! {
    /// Entries, attempts, checkpoints, floors, suspensions, entries with pins, gap puts.
    static STATS: std::cell::RefCell<[usize; 7]> = const { std::cell::RefCell::new([0; 7]) };
}

#[test]
fn random_schedules_keep_every_invariant() {
    let schedules = std::env::var("MODEL_SCHEDULES").ok().and_then(|n| n.parse().ok());
    let first = std::env::var("MODEL_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + schedules.unwrap_or(20_000_u64) {
        if let Some(broken) = run(seed, None) {
            panic!("seed {seed}: {broken}");
        }
    }
    println!("{:?}", STATS.with_borrow(|stats| *stats));
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
