//! Every schedule that departs from the calm one in at most two places.
//!
//! In the calm schedule whatever can be done is done at once and in order, and nothing
//! goes wrong. A departure is one thing that happens otherwise at one step: a crash, a call
//! that is lost, late or doubled, two things in the other order, a rival, a worker that goes,
//! a wish of the user. Random walks rarely do just the two things that matter, with calm
//! in between; here each pair comes once.

use super::*;

/// What happens otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Departure {
    /// The process dies, and another one starts; what it had sent arrives later, or never.
    Crash {
        arrives: bool,
    },
    /// A second process starts, and the first stands still; or they change places again.
    Switch,
    /// The call that is due comes to this.
    Call(Fate),
    /// What is due happens after what follows it.
    Later,
    /// A late call arrives.
    Arrival,
    /// A worker's process is replaced by another.
    Replaced,
    /// Of a task.
    Failure,
    Savepoint,
    Suspend,
    Edit,
}

const DEPARTURES: [Departure; 15] = [
    Departure::Crash { arrives: true },
    Departure::Crash { arrives: false },
    Departure::Switch,
    Departure::Call(Fate::AnswerLost),
    Departure::Call(Fate::Vanishes),
    Departure::Call(Fate::Late),
    Departure::Call(Fate::Doubled),
    Departure::Call(Fate::Fails),
    Departure::Later,
    Departure::Arrival,
    Departure::Replaced,
    Departure::Failure,
    Departure::Savepoint,
    Departure::Suspend,
    Departure::Edit,
];

impl Departure {
    /// Whether it is about `first`, however long that is ago.
    fn ends(self, first: Self) -> bool {
        match self {
            Self::Switch => first == Self::Switch,
            Self::Arrival => matches!(
                first,
                Self::Crash { arrives: true } | Self::Call(Fate::Late | Fate::Doubled)
            ),
            _ => false,
        }
    }
}

/// No schedule that gets somewhere is longer.
const STEPS: usize = 600;

struct Schedule {
    model: Model,
    /// Which of the nodes is at it.
    at: usize,
    /// Slots take turns.
    turns: usize,
}

impl Schedule {
    fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut model = Model::new(seed, mutation);
        model.chaos = false;
        model.start();
        Self { model, at: 0, turns: 0 }
    }

    fn node(&mut self) -> &mut Node {
        &mut self.model.nodes[self.at]
    }

    fn is_over(&self) -> bool {
        let node = &self.model.nodes[self.at];
        node.ended.is_some() || node.is_finished()
    }

    /// What is due happens.
    fn step(&mut self) {
        let at = self.at;
        if !self.node().control.is_empty() {
            self.model.control(at);
        } else if !self.node().work.is_empty() {
            self.model.work_on(at, 0, Fate::Fine);
        } else if !self.node().events.is_empty() {
            let (_, event) = self.node().events.remove(0);
            self.node().step(event);
        } else if !self.slot() {
            let node = self.node();
            if let Some(timer) = node.timer.take() {
                node.now = node.now.max(timer);
            }
            node.step(Event::Tick);
        }
    }

    /// A slot takes a barrier, or, every second time, reads a row; time passes in between.
    fn slot(&mut self) -> bool {
        self.turns += 1;
        let turn = self.turns;
        let at = self.at;
        let Some(tasks) = self.model.nodes[at].tasks.as_mut() else { return false };
        let attempt = tasks.attempt;
        if let Some(slot) = tasks.slots.iter_mut().find(|slot| !slot.barriers.is_empty()) {
            let lane = Some(slot.id);
            let answer = Answer { full: false, open: turn.is_multiple_of(3), decline: false };
            let event = slot.barrier(&answer, &mut self.model.random, &mut self.model.world);
            self.node().events.extend(event.map(|event| (lane, event)));
            return true;
        }
        let lanes: usize = tasks.slots.iter().map(|slot| slot.lanes.len()).sum();
        let ended = lanes as u64 == LANES
            && tasks.slots.iter().all(|slot| slot.is_at_end() && !slot.stopped);
        if ended && !tasks.end_sent {
            tasks.end_sent = true;
            self.node().events.push((None, Event::InputEnded { attempt }));
            return true;
        }
        if turn.is_multiple_of(2) {
            return false;
        }
        tasks.slots.iter_mut().for_each(|slot| {
            for _ in 0..4 {
                slot.read();
            }
        });
        true
    }

    /// Does it; false if there is nothing here that could.
    fn depart(&mut self, departure: Departure) -> bool {
        let at = self.at;
        match departure {
            Departure::Crash { arrives } => {
                self.model.crash_with(at, |_| arrives);
                self.model.start();
                self.at = self.model.nodes.len() - 1;
            }
            Departure::Switch if self.model.nodes.len() > 1 => self.at = 1 - at.min(1),
            Departure::Switch => {
                self.model.start();
                self.at = self.model.nodes.len() - 1;
            }
            Departure::Call(fate) => {
                let due = self.node().control.is_empty() && !self.node().work.is_empty();
                if !due || !matches!(self.node().work[0], Work::Store(..)) {
                    return false;
                }
                self.model.work_on(at, 0, fate);
            }
            Departure::Later => {
                let node = self.node();
                if node.work.len() > 1 {
                    node.work.rotate_left(1);
                } else if node.work.is_empty() && node.events.len() > 1 {
                    // Those of a slot stay in order.
                    if node.events[0].0.is_some() && node.events[0].0 == node.events[1].0 {
                        return false;
                    }
                    node.events.swap(0, 1);
                } else {
                    return false;
                }
            }
            Departure::Arrival => {
                if self.model.world.limbo.is_empty() {
                    return false;
                }
                let call = self.model.world.limbo.remove(0);
                self.model.world.apply(&call, false);
            }
            Departure::Replaced => {
                let process = self.model.process();
                let node = self.node();
                let Some(worker) = node.workers.remove(&0) else { return false };
                node.bury(&worker);
                node.step(Event::WorkerLost { worker, cause: "injected".into() });
                node.join(0, process, SLOTS);
            }
            Departure::Failure => {
                let Some(attempt) = self.node().coordinator.attempt() else { return false };
                let failure = Failure { operator: None, subtask: None, cause: "injected".into() };
                self.node().step(Event::TaskFailed { attempt, failure });
            }
            Departure::Savepoint => {
                let (id, target) = ("s0".into(), "t".into());
                self.node().step(Event::RequestSavepoint { id, target });
            }
            Departure::Suspend => self.node().step(Event::RequestStop { mode: StopMode::Suspend }),
            Departure::Edit => {
                if !self.model.cluster {
                    return false;
                }
                let generation = self.model.proposals.len() as u64 + 1;
                let edit = proposal(generation, &mut self.model.random);
                self.model.proposals.insert(generation, edit.clone());
                self.node().step(Event::Propose { proposal: Box::new(edit) });
            }
        }
        true
    }
}

/// Plays the calm schedule with departures before some of its steps. Answers its length
/// if all of them could be made.
fn play(
    seed: u64,
    mutation: Option<Mutation>,
    departures: &[(usize, Departure)],
) -> Result<Option<usize>, String> {
    let mut schedule = Schedule::new(seed, mutation);
    let mut left = departures.iter().peekable();
    let mut length = 0;
    while length < STEPS && !(schedule.is_over() && left.peek().is_none()) {
        while let Some((_, departure)) = left.next_if(|(step, _)| *step == length) {
            if !schedule.depart(*departure) {
                return Ok(None);
            }
        }
        if !schedule.is_over() {
            schedule.step();
        }
        if let Some(broken) = schedule.model.world.violation.take() {
            return Err(broken);
        }
        length += 1;
    }
    if left.peek().is_none() {
        schedule.model.finish();
    }
    match schedule.model.world.violation {
        Some(broken) => Err(broken),
        None => Ok(Some(length)),
    }
}

/// All schedules of a seed with up to two departures, the second less than `reach` steps
/// after the first unless it ends what that began, that are the `part`th of so many. Answers their number, or the one that broke
/// something.
fn explore(
    seed: u64,
    mutation: Option<Mutation>,
    reach: usize,
    (part, parts): (usize, usize),
) -> Result<usize, String> {
    let tell =
        |departures: &[(usize, Departure)], why| format!("seed {seed} {departures:?}: {why}");
    let try_it = |departures: &[(usize, Departure)]| {
        play(seed, mutation, departures).map_err(|why| tell(departures, why))
    };
    let calm = try_it(&[])?.unwrap_or(0);
    let mut played = 1;
    for step in (0..calm).skip(part).step_by(parts) {
        for first in DEPARTURES {
            let Some(length) = try_it(&[(step, first)])? else { continue };
            played += 1;
            for later in step..length {
                let far = later >= step + reach;
                for second in DEPARTURES.into_iter().filter(|second| !far || second.ends(first)) {
                    played += usize::from(try_it(&[(step, first), (later, second)])?.is_some());
                }
            }
        }
    }
    Ok(played)
}

/// Of a process by itself, and of one in a cluster.
const SEEDS: [u64; 2] = [0, 1];

#[test]
fn every_pair_of_departures_keeps_every_invariant() {
    let reach = std::env::var("MODEL_REACH").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let mut played = 0;
    for seed in SEEDS {
        let parts = THREADS as usize;
        let explore = move |part| explore(seed, None, reach, (part, parts));
        let threads: Vec<_> =
            (0..parts).map(|part| std::thread::spawn(move || explore(part))).collect();
        for thread in threads {
            played += thread.join().unwrap().unwrap_or_else(|broken| panic!("{broken}"));
        }
    }
    println!("{played} schedules");
    assert!(played > 10_000, "only {played} schedules");
}

#[test]
fn a_pair_of_departures_shows_every_mutation() {
    for mutation in [
        Mutation::ClaimDoesNotFreeze,
        Mutation::NoFloorCheck,
        Mutation::DeleteWhileUnknown,
        Mutation::SweepOwnAttempt,
        Mutation::AbortBeforeClaim,
        Mutation::NoCarryOver,
    ] {
        let found = explore(0, Some(mutation), 1, (0, 1));
        println!("{mutation:?}: {}", found.expect_err(&format!("{mutation:?} was not noticed")));
    }
}
