//! One schedule: trouble, then rest, then the end of everything.

use super::START;
use super::operator::Operator;
use super::user::SPACE;
use super::world::{Faults, Shared, World};
use crate::observed::Millis;
use crate::shell::kinds::What;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;

/// What became of it.
pub struct Told {
    pub broken: Vec<String>,
    pub trace: Vec<String>,
    pub passes: u64,
    pub writes: u64,
}

pub struct Run {
    pub world: Shared,
    pub operator: Option<Operator>,
    back_at: Millis,
    pub runtime: Runtime,
    nodes: bool,
    passes: u64,
}

/// Silence for so long is rest: longer than anything waits for.
const SILENCE: Millis = 150_000;
/// Rest must come within this.
const PATIENCE: Millis = 3_600_000;

pub fn schedule(seed: u64, tracing: bool) -> Told {
    let mut run = Run::new(seed, tracing);
    run.trouble();
    run.rest("trouble");
    if run.well() {
        run.check_rest();
    }
    if run.well() {
        run.end();
    }
    let passes = run.passes + run.operator.as_ref().map_or(0, |operator| operator.passes);
    drop(run.operator);
    let mut world = run.world.lock().unwrap();
    Told {
        broken: std::mem::take(&mut world.broken),
        trace: std::mem::take(&mut world.trace),
        passes,
        writes: world.writes,
    }
}

impl Run {
    /// A world in which nothing has happened.
    pub fn new(seed: u64, tracing: bool) -> Self {
        fastrand::seed(seed);
        let mut world = World::new(seed, START);
        world.tracing = tracing;
        world.make_nodes();
        let nodes = world.rng.bool();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = Arc::new(Mutex::new(world));
        Self { world, operator: None, back_at: START, runtime, nodes, passes: 0 }
    }

    pub fn well(&self) -> bool {
        self.world.lock().unwrap().broken.is_empty()
    }

    /// The operator sleeps, the cluster does not.
    pub fn step(&mut self, mut wait: Millis, lags: bool) {
        let now = {
            let mut world = self.world.lock().unwrap();
            while wait > 0 {
                let some = wait.min(2_000);
                wait -= some;
                world.server.now += some;
                world.tick();
            }
            world.server.now
        };
        if self.operator.is_none() && now >= self.back_at {
            self.world.lock().unwrap().dead = false;
            let _guard = self.runtime.enter();
            self.operator = Some(Operator::start(&self.world, self.nodes));
        }
        let Some(operator) = &mut self.operator else { return };
        operator.hear(lags);
        operator.work(&self.runtime);
        if self.world.lock().unwrap().dead {
            self.kill(now);
        }
    }

    fn kill(&mut self, now: Millis) {
        let overslept = self.world.lock().unwrap().rng.bool();
        if let Some(operator) = self.operator.as_mut().filter(|_| overslept) {
            operator.oversleeps(&self.runtime);
        }
        let mut world = self.world.lock().unwrap();
        world.note("the operator dies".to_owned());
        self.passes += self.operator.as_ref().map_or(0, |operator| operator.passes);
        self.back_at = match world.rng.u8(0..10) {
            0 => now + world.rng.i64(10_000..150_000),
            _ => now + world.rng.i64(100..2_000),
        };
        drop(world);
        self.operator = None;
    }

    fn trouble(&mut self) {
        let (steps, lags) = {
            let mut world = self.world.lock().unwrap();
            let often = |world: &mut World, most: u32| {
                if world.rng.bool() { world.rng.u32(0..most) } else { 0 }
            };
            world.faults = Faults {
                api: often(&mut world, 150),
                control: often(&mut world, 150),
                pods: often(&mut world, 20),
                watches: often(&mut world, 50),
                // Nothing may take for granted that two steps happen in one life.
                crashes: match world.rng.u8(0..5) {
                    0 => Some(1),
                    1 => Some(world.rng.u32(1..8)),
                    _ => None,
                },
            };
            world.rough = world.faults.pods > 0;
            let words = format!("{:?}", world.faults);
            world.note(words);
            world.apply_job("a");
            (world.rng.u32(10..50), world.rng.bool())
        };
        let mut savepoints = 0;
        for _ in 0..steps {
            let wait = {
                let mut world = self.world.lock().unwrap();
                if world.chance(300) {
                    let job = if world.chance(150) { "b" } else { "a" };
                    world.act(job, &mut savepoints);
                }
                match world.rng.u8(0..10) {
                    0 => world.rng.i64(5_000..40_000),
                    _ => world.rng.i64(100..2_000),
                }
            };
            self.step(wait, lags);
        }
        let mut world = self.world.lock().unwrap();
        world.faults = Faults::default();
        world.steps_left = None;
        world.down.clear();
        world.store.away = false;
        world.note("the trouble is over".to_owned());
    }

    /// Goes on until nothing happens any more.
    pub fn rest(&mut self, after: &str) {
        let began = self.world.lock().unwrap().server.now;
        let mut silent_since = began;
        let mut counts = (0, 0);
        self.back_at = began;
        loop {
            let (now, next) = {
                let mut world = self.world.lock().unwrap();
                let now = world.server.now;
                let seen = (world.server.changes, 0);
                if seen != counts {
                    (counts, silent_since) = (seen, now);
                }
                if now - began > PATIENCE / 2 {
                    // Whatever the clock of checkpoints changes has been seen.
                    world.at_rest = true;
                }
                let settled = now - silent_since > 40_000;
                if settled {
                    world.at_rest = true;
                } else {
                    world.writes_before_rest = world.writes;
                }
                // What goes waits ten minutes for a store.
                let goes = world.server.objects.values().any(super::server::deleting);
                let silence = if goes { 5 * SILENCE } else { SILENCE };
                if now - silent_since > silence {
                    world.note(format!("rest after the {after}"));
                    return;
                }
                if now - began > PATIENCE {
                    let why = self.operator.as_ref().map(|o| o.failed.clone()).unwrap_or_default();
                    world.promise(false, || format!("no rest after the {after}; failed: {why}"));
                    return;
                }
                (now, if settled { 10_000 } else { 500 + world.rng.i64(0..500) })
            };
            let due = self.operator.as_ref().and_then(Operator::due).unwrap_or(now + next);
            self.step(next.min((due - now).max(100)), false);
        }
    }

    /// Everything is deleted, and goes.
    fn end(&mut self) {
        {
            let mut world = self.world.lock().unwrap();
            world.note("USER deletes everything".to_owned());
            let mut all = world.server.keys(What::StreamJob);
            all.extend(world.server.keys(What::Savepoint));
            for of in all {
                let _ = world.server.delete(&of, None, None);
            }
        }
        self.rest("end");
        let mut world = self.world.lock().unwrap();
        let strangers = world.strangers();
        let left: Vec<_> = world
            .server
            .objects
            .iter()
            .filter(|((what, _, name), _)| {
                let stranger = strangers.iter().any(|(w, n)| w == what && n == name);
                *what != What::Node && !stranger
            })
            .map(|((what, _, name), _)| format!("{what:?} {name}"))
            .collect();
        world.promise(left.is_empty(), || format!("left in {SPACE} after the end: {left:?}"));
    }
}
