//! Runs a piece of dataflow step by step.

use super::input::{Input, InputTask, Queue};
use super::output::{Collect, Output};
use super::snapshot::Snapshot;
use super::{Stutter, lock};
use crate::api::env::Env;
use crate::api::pipe::{Head, Pipe};
use crate::api::stream::DataStream;
use crate::connector::DeadLetters;
use crate::coordinator::BarrierKind;
use crate::data::{Fail, Res, Rows, Ts};
use crate::graph::{
    AttemptCx, BuildCx, Fresh, Graph, NodeId, NodeKind, NodeSpec, Output as HeadOutput, Restore,
    SpillTo, joined,
};
use crate::runtime::channel::{Channel, TaskWaker};
use crate::runtime::flight::Recorded;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::pool::Pool;
use crate::runtime::signal::Signal;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use crate::runtime::task::{Progress, Task, Turn};
use crate::state::{DeltaWriter, SnapshotSpec};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid, Uid};
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::any::type_name;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the piece of dataflow under test is put between inputs and outputs.
pub struct TestEnv {
    env: Env,
    stutter: Stutter,
    restarts: RefCell<Vec<Box<dyn Fn()>>>,
}

impl TestEnv {
    /// An input; `name` is unique in the harness. Its rows are sent by one subtask, in
    /// the order in which they are put in.
    pub fn input<T: Send + 'static>(&self, name: &str) -> (Input<T>, DataStream<T>) {
        let queue: Queue<T> = Arc::new(Mutex::new(VecDeque::new()));
        let mut graph = self.env.graph_mut();
        let node = graph.add(NodeSpec {
            name: name.to_owned(),
            uid: Some(name.to_owned()),
            kind: NodeKind::Source,
            parallelism: Some(1),
            head: None,
            states: Vec::new(),
            types: type_name::<T>().to_owned(),
        });
        let output = HeadOutput::<T>::new(node);
        let (built, stutter, source) = (output.clone(), self.stutter.clone(), Arc::clone(&queue));
        graph.set_factory(
            node,
            Box::new(move |cx| {
                let task: Box<dyn Task> = Box::new(InputTask {
                    uid: cx.graph.node(node).uid.clone(),
                    queue: Arc::clone(&source),
                    out: built.build(cx)?,
                    rows: Rows::default(),
                    stutter: stutter.clone(),
                    announced: false,
                    ended: false,
                    barrier: None,
                    metrics: cx.metrics(node),
                });
                Ok(task)
            }),
        );
        drop(graph);
        let restarted = Arc::clone(&queue);
        self.restarts.borrow_mut().push(Box::new(move || lock(&restarted).clear()));
        (Input::new(queue), DataStream::new(self.env.clone(), output, Head::new()))
    }

    /// Ends a stream in an output of the test.
    pub fn output<T: Send + 'static, P: Pipe<Out = T>>(
        &self,
        stream: DataStream<T, P>,
    ) -> Output<T> {
        let output = Output::new();
        let (to, stutter) = (output.clone(), self.stutter.clone());
        stream.attach(move |cx| {
            let (to, stutter) = (to.clone(), stutter.clone());
            Ok(Collect { to, subtask: cx.subtask, stutter, blocked: false })
        });
        let restarted = output.clone();
        self.restarts.borrow_mut().push(Box::new(move || restarted.restart()));
        output
    }

    /// For sources and streams that are not the test's own.
    pub fn env(&self) -> &Env {
        &self.env
    }
}

struct Subtask {
    task: Box<dyn Task>,
    index: u16,
    groups: KeyGroupRange,
    /// Whether barriers are given to it, rather than coming through its channels.
    root: bool,
    parts: SnapshotParts,
    passed: bool,
}

struct NoDeadLetters;

impl DeadLetters for NoDeadLetters {
    fn put(&self, _: &Uid, _: &str, _: u64, _: &str, _: &[u8]) {}
}

/// Runs a piece of dataflow without threads, clock or files. See the
/// [module's documentation](super).
pub struct Harness {
    graph: Graph,
    max: MaxParallelism,
    parallelism: u16,
    now: Ts,
    subtasks: Vec<Subtask>,
    signal: Arc<Signal>,
    pool: Arc<Pool>,
    attempt: u64,
    checkpoint: u64,
    last: Option<Snapshot>,
    stutter: Stutter,
    restarts: Vec<Box<dyn Fn()>>,
    /// Set in tests of the engine's own operators.
    spill: Option<SpillTo>,
}

/// What a round came to.
enum Round {
    /// Something was done, or there is something to do.
    Worked,
    /// Somebody waits for room.
    Waited,
    /// Nothing is to be done.
    Rested,
}

/// Rounds in which all wait, before it is taken for waiting for another thread.
const PATIENCE: usize = 1000;

/// Rounds without an end in sight: an operator that never comes to rest.
const ROUNDS: usize = 10_000_000;

impl Harness {
    /// Builds what `build` describes, at parallelism 1 and 128 key groups, with the
    /// clock at 0. What `build` answers (inputs and outputs) comes back beside the harness.
    pub fn new<R>(build: impl FnOnce(&TestEnv) -> R) -> Res<(Self, R)> {
        Self::at_parallelism(1, build)
    }

    /// As [`Harness::new`], with `parallelism` subtasks of every operator.
    pub fn at_parallelism<R>(
        parallelism: u16,
        build: impl FnOnce(&TestEnv) -> R,
    ) -> Res<(Self, R)> {
        let test = TestEnv {
            env: Env::new(),
            stutter: Stutter::default(),
            restarts: RefCell::new(Vec::new()),
        };
        let ends = build(&test);
        let max = MaxParallelism::new(128)?;
        let TestEnv { env, stutter, restarts } = test;
        let graph = env.into_graph();
        graph.check(parallelism, max)?;
        let mut harness = Self {
            graph,
            max,
            parallelism,
            now: 0,
            subtasks: Vec::new(),
            signal: Arc::new(Signal::new(0)),
            pool: Arc::new(Pool::new(4)),
            attempt: 0,
            checkpoint: 0,
            last: None,
            stutter,
            restarts: restarts.into_inner(),
            spill: own_spill(),
        };
        harness.start(Box::new(Fresh))?;
        Ok((harness, ends))
    }

    /// From now on rows travel in batches of random size, and outputs are full at random
    /// moments: what comes out must not depend on it. Equal seeds disturb equally.
    pub fn stutter(&mut self, seed: u64) {
        self.stutter.seed(seed);
    }

    /// Builds all tasks anew.
    fn start(&mut self, restore: Box<dyn Restore>) -> Res {
        self.attempt += 1;
        let graph = &self.graph;
        let parallelisms = graph.parallelisms(self.parallelism);
        let of = |node: NodeId| parallelisms[node.0 as usize];
        let nodes = graph.nodes().iter().map(|n| n.id).filter(|n| graph.is_task(*n));
        let layout: Vec<(NodeId, u16)> =
            nodes.flat_map(|n| (0..of(n)).map(move |subtask| (n, subtask))).collect();
        let signal = Arc::new(Signal::new(layout.len()));
        let waker = |node: NodeId, subtask: u16| TaskWaker {
            signal: Arc::clone(&signal),
            task: layout.iter().position(|l| *l == (node, subtask)).unwrap_or(0),
        };
        let mut channels = HashMap::new();
        for edge in graph.edges() {
            let (ups, downs) = (of(edge.from), of(edge.to));
            for (up, down) in (0..ups).flat_map(|up| (0..downs).map(move |down| (up, down))) {
                if joined(edge.partitioning, up, ups, down, downs) {
                    let channel = Channel::new(waker(edge.from, up), waker(edge.to, down));
                    channels.insert((edge.id, up, down), Arc::new(channel));
                }
            }
        }
        let mut metrics = HashMap::new();
        for node in graph.nodes() {
            for subtask in 0..of(node.id) {
                metrics.insert((node.id, subtask), Arc::<NodeMetrics>::default());
            }
        }
        let attempt = AttemptCx {
            job: JobUid("test".to_owned()),
            attempt: Attempt(self.attempt),
            max_parallelism: self.max,
            parallelisms: parallelisms.clone(),
            pool: Arc::clone(&self.pool),
            dead_letters: Arc::new(NoDeadLetters),
            channels,
            metrics,
            restore,
            spill: self.spill.clone(),
        };
        let mut subtasks = Vec::with_capacity(layout.len());
        for (node, subtask) in &layout {
            let waker = waker(*node, *subtask);
            let mut cx = BuildCx { graph, attempt: &attempt, subtask: *subtask, waker };
            subtasks.push(Subtask {
                task: graph.build(*node, &mut cx)?,
                index: *subtask,
                groups: self.max.range(*subtask, of(*node)),
                root: !graph.edges().iter().any(|e| e.to == *node),
                parts: SnapshotParts::default(),
                passed: false,
            });
        }
        self.subtasks = subtasks;
        self.signal = signal;
        Ok(())
    }

    /// One round of all tasks, downstream first.
    fn round(&mut self) -> Res<Round> {
        let (mut worked, mut blocked) = (false, false);
        for subtask in self.subtasks.iter_mut().rev() {
            let mut passed = None;
            let mut turn = Turn {
                now: self.now,
                overtaking: None,
                parts: &mut subtask.parts,
                passed: &mut passed,
                overtaken: &mut Recorded::default(),
            };
            let progress = subtask.task.run(&mut turn).map_err(|cause| {
                Fail::from(format!("operator {:?}: {cause}", subtask.task.name()))
            })?;
            worked |= progress == Progress::Worked;
            blocked |= progress == Progress::Blocked;
            if let Some(barrier) = passed {
                subtask.passed = true;
                let (base, all) = (barrier.base, subtask.groups);
                let none = KeyGroupRange { start: all.start, end: all.start };
                let fold = if base.is_none() { all } else { none };
                let spec = SnapshotSpec { checkpoint: barrier.checkpoint, base, fold };
                for (_, table) in subtask.task.tables() {
                    table.begin(&spec)?;
                }
            }
        }
        if worked {
            return Ok(Round::Worked);
        }
        for subtask in &mut self.subtasks {
            blocked |= subtask.task.flush()?;
        }
        for word in 0..self.signal.words() {
            worked |= self.signal.take(word) != 0;
        }
        Ok(match (worked, blocked) {
            (true, _) => Round::Worked,
            (false, true) => Round::Waited,
            (false, false) => Round::Rested,
        })
    }

    /// Runs until nothing is left to do before something new is put in. An error of the
    /// functions under test comes back with the operator's name.
    pub fn run(&mut self) -> Res {
        let mut waited = 0;
        for _ in 0..ROUNDS {
            match self.round()? {
                Round::Worked => waited = 0,
                Round::Waited if waited < PATIENCE => waited += 1,
                Round::Waited | Round::Rested => return Ok(()),
            }
        }
        Err(Fail::from("the dataflow does not come to rest"))
    }

    /// As [`Harness::run`], over and over until `done`, for work that goes on in other
    /// threads (async I/O). Fails after ten seconds.
    pub fn run_until(&mut self, mut done: impl FnMut() -> bool) -> Res {
        for _ in 0..10_000 {
            self.run()?;
            if done() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Fail::from("what was waited for did not happen in ten seconds"))
    }

    /// Wakes all tasks, as if something had happened outside: sources look for new rows.
    pub fn nudge(&self) {
        (0..self.subtasks.len()).for_each(|task| self.signal.wake(task));
    }

    /// Sets the clock, in milliseconds since the epoch, and runs. It does not go back.
    pub fn advance_to(&mut self, now: Ts) -> Res {
        self.now = self.now.max(now);
        self.run()
    }

    /// Number of keys (times windows) that have state, over all operators and subtasks:
    /// to see that state is given up.
    pub fn keys(&mut self) -> u64 {
        let tables = self.subtasks.iter_mut().flat_map(|s| s.task.tables());
        tables.map(|(_, table)| table.sizes().keys).sum()
    }

    /// The clock.
    pub fn now(&self) -> Ts {
        self.now
    }

    /// Runs, then takes a checkpoint. As in a job, it consists of what changed since the
    /// one before.
    pub fn snapshot(&mut self) -> Res<Snapshot> {
        self.run()?;
        self.snapshot_at_once()
    }

    /// As [`Harness::snapshot`], with the barrier before anything else that is to be done.
    pub fn snapshot_at_once(&mut self) -> Res<Snapshot> {
        self.checkpoint += 1;
        let checkpoint = CheckpointId(self.checkpoint);
        let barrier = Barrier {
            attempt: Attempt(self.attempt),
            checkpoint,
            base: self.last.as_ref().map(|s| s.checkpoint),
            kind: BarrierKind::Periodic,
            unaligned_at: None,
        };
        for subtask in &mut self.subtasks {
            subtask.passed = false;
            subtask.parts = SnapshotParts::default();
            if subtask.root {
                subtask.task.trigger(barrier.clone());
            }
        }
        for _ in 0..10_000 {
            self.run()?;
            if self.subtasks.iter().all(|s| s.passed) {
                break;
            }
            // Room comes from another thread (async I/O).
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut snapshot = Snapshot::after(self.last.as_ref(), checkpoint, self.max);
        for subtask in &mut self.subtasks {
            if !subtask.passed {
                let name = subtask.task.name();
                return Err(Fail::from(format!("operator {name:?} has not passed the barrier")));
            }
            let parts = std::mem::take(&mut subtask.parts);
            for list in parts.lists {
                snapshot.add_list(subtask.index, list);
            }
            for (uid, time) in parts.event_times {
                snapshot.add_event_time(&uid, subtask.groups, &time);
            }
            if let Some(bytes) = drain(subtask, self.max)? {
                snapshot.add_file(subtask.groups, bytes);
            }
            for (_, table) in subtask.task.tables() {
                table.completed(checkpoint);
            }
        }
        self.last = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Forgets everything and goes on from a snapshot, with `parallelism` subtasks.
    /// Inputs are emptied, outputs keep what they have; the clock stays.
    pub fn restore(&mut self, snapshot: &Snapshot, parallelism: u16) -> Res {
        self.graph.check(parallelism, self.max)?;
        self.parallelism = parallelism;
        self.restarts.iter().for_each(|restart| restart());
        self.checkpoint = self.checkpoint.max(snapshot.checkpoint.0);
        self.last = Some(snapshot.clone());
        self.start(Box::new(snapshot.clone()))
    }
}

#[cfg(test)]
thread_local! {
    /// Whether this thread's harnesses have a tier from the start, and no memory for tables.
    pub(crate) static SPILLS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn own_spill() -> Option<SpillTo> {
    let tiers = Arc::new(crate::state::tier::MemoryTiers::default());
    SPILLS.get().then(|| SpillTo { tiers, budget: crate::state::budget::Budget::new(0) })
}

#[cfg(not(test))]
fn own_spill() -> Option<SpillTo> {
    None
}

/// What a subtask's tables owe the checkpoint, as a state file.
fn drain(subtask: &mut Subtask, max: MaxParallelism) -> Res<Option<Vec<u8>>> {
    let uid = subtask.task.uid().clone();
    let mut tables = subtask.task.tables();
    if tables.is_empty() {
        return Ok(None);
    }
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let put = Arc::clone(&bytes);
    let put = Box::new(move |block: Vec<u8>| {
        lock(&put).extend(block);
        Ok(())
    });
    let mut writer = DeltaWriter::new(max, put);
    for (state, table) in &mut tables {
        writer.section(&uid, state, &table.schema()?)?;
        while !table.drain(&mut writer, 1024)? {}
    }
    writer.finish()?;
    let bytes = std::mem::take(&mut *lock(&bytes));
    Ok(Some(bytes))
}
