//! A slot: one thread that runs one subtask of every operator to completion.
//!
//! Each round gives every ready task a bounded turn, downstream first; then a snapshot
//! that drains gets a bounded turn; when nothing is left to do, buffers are flushed and
//! the thread sleeps until it is woken or a timer is due. Nothing here blocks.

#[cfg(test)]
mod tests;

use crate::coordinator::{BarrierKind, Event, Failure};
use crate::data::{Fail, Res, Ts, UserError};
use crate::graph::{AttemptCx, BuildCx, Graph, NodeId};
use crate::runtime::channel::{Channel, TaskWaker};
use crate::runtime::flight::Recorded;
use crate::runtime::signal::Signal;
use crate::runtime::slot_snapshot::{SlotSnapshots, SnapshotHome};
use crate::runtime::snapshot::Barrier;
use crate::runtime::source::wall_clock;
use crate::runtime::task::{Progress, Task, Turn};
use crate::state::Kept;
use crate::state::budget::Budget;
use millrace_protocol::ids::{Attempt, CheckpointId, Slot, Subtask, Uid};
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::FileRef;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// Buffered rows leave at the latest after this time, also under load.
const LINGER: Duration = Duration::from_millis(5);

/// How long a task whose sink has no room waits before it is asked again.
const RETRY: Duration = Duration::from_millis(1);

/// What a slot is told.
#[derive(Debug, Clone)]
pub enum Control {
    /// Inject a barrier.
    Trigger(Barrier),
    /// A checkpoint is complete.
    Complete(CheckpointId),
    /// A checkpoint was given up.
    Aborted(CheckpointId),
}

/// What a slot says.
pub enum Report {
    /// Its tasks are built and their state is loaded.
    Ready(Slot),
    /// All of its tasks have ended.
    Ended(Slot),
    /// For the coordinator.
    Event(Event),
    /// Only the user can mend it: the job is not to be tried again.
    Refused(String),
}

/// Whom slots report to.
pub type Tell = Arc<dyn Fn(Report) + Send + Sync>;

/// What a slot is made of.
pub struct SlotSpec {
    /// Which.
    pub slot: Slot,
    /// The graph.
    pub graph: Arc<Graph>,
    /// The attempt.
    pub attempt: Arc<AttemptCx>,
    /// The task nodes of this slot, upstream first.
    pub nodes: Vec<NodeId>,
    /// Wakes it.
    pub signal: Arc<Signal>,
    /// What it is told.
    pub control: Receiver<Control>,
    /// Whom it reports to.
    pub reports: Tell,
    /// Set to stop it.
    pub cancel: Arc<AtomicBool>,
    /// Where its part of checkpoints goes.
    pub snapshots: SnapshotHome,
    /// The key groups of each task.
    pub groups: Vec<KeyGroupRange>,
    /// The checkpoint it is restored from, with the slot's files.
    pub base: Option<(CheckpointId, Vec<FileRef>)>,
    /// The ends of its channels to other processes whose rows barriers may overtake.
    pub outgoing: Vec<Arc<Channel>>,
}

/// What a slot's tables hold in memory after the stop checkpoint of a rescale.
pub struct KeptSlot {
    /// The attempt that ran it.
    pub attempt: Attempt,
    /// The checkpoint, if it is complete.
    pub checkpoint: CheckpointId,
    /// Rows by operator and state.
    pub states: Vec<(Uid, &'static str, Box<dyn Kept>)>,
}

/// Runs a slot to its end; the thread's main function. Answers what may stay in memory.
pub fn run(spec: SlotSpec) -> Option<KeptSlot> {
    let (reports, slot, attempt) = (Arc::clone(&spec.reports), spec.slot, spec.attempt.attempt);
    let mut at = At { names: Vec::new(), current: None };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut slot = SlotLoop::start(spec, &mut at)?;
        slot.run(&mut at)?;
        Ok::<_, Fail>(slot.keep())
    }));
    let cause = match outcome {
        Ok(Ok(kept)) => {
            return kept.map(|(checkpoint, states)| KeptSlot { attempt, checkpoint, states });
        }
        Ok(Err(cause)) => {
            if let Some(error) = cause.downcast_ref::<UserError>() {
                let operator = at.current.and_then(|i| at.names.get(i).cloned());
                let operator = operator.map_or(String::new(), |o| format!("operator {o:?}: "));
                reports(Report::Refused(format!("{operator}{error}")));
                return None;
            }
            cause.to_string()
        }
        Err(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
    };
    let operator = at.current.and_then(|i| at.names.get(i).cloned());
    let failure = Failure { operator, subtask: at.current.map(|_| Subtask(slot.0)), cause };
    tracing::warn!(%slot, %attempt, %failure, "a task failed");
    reports(Report::Event(Event::TaskFailed { attempt, failure }));
    None
}

/// The task that is being worked on, for errors.
struct At {
    names: Vec<String>,
    current: Option<usize>,
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

/// The rows that a slot keeps: the checkpoint that they are of, and operators' states.
type KeptStates = (CheckpointId, Vec<(Uid, &'static str, Box<dyn Kept>)>);

struct SlotLoop {
    slot: Slot,
    tasks: Vec<Box<dyn Task>>,
    again: Vec<bool>,
    signal: Arc<Signal>,
    control: Receiver<Control>,
    reports: Tell,
    cancel: Arc<AtomicBool>,
    snapshots: SlotSnapshots,
    /// Of what tables hold.
    budget: Option<Arc<Budget>>,
    ended_told: bool,
    /// The checkpoint under way whose barrier may overtake rows: tasks look for it.
    overtaking: Option<CheckpointId>,
    /// Tasks that had no room when they were asked last: whoever wakes the slot, they are
    /// asked again, as a sink does not say when it has some.
    blocked: Vec<bool>,
    /// Of tasks that have passed the stop barrier of a rescale: its checkpoint. They have no
    /// turn any more, not even for a timer, unless that is given up.
    closed: Vec<Option<CheckpointId>>,
    last_sizes: Instant,
}

impl SlotLoop {
    fn start(spec: SlotSpec, at: &mut At) -> Res<Self> {
        spec.signal.attach();
        let mut tasks = Vec::with_capacity(spec.nodes.len());
        for (index, node) in spec.nodes.iter().enumerate() {
            at.names.push(spec.graph.node(*node).name.clone());
            at.current = Some(index);
            let mut cx = BuildCx {
                graph: &spec.graph,
                attempt: &spec.attempt,
                subtask: spec.slot.0,
                waker: TaskWaker { signal: Arc::clone(&spec.signal), task: index },
            };
            tasks.push(spec.graph.build(*node, &mut cx)?);
        }
        (spec.reports)(Report::Ready(spec.slot));
        Ok(Self {
            slot: spec.slot,
            again: vec![true; tasks.len()],
            blocked: vec![false; tasks.len()],
            closed: vec![None; tasks.len()],
            tasks,
            signal: spec.signal,
            control: spec.control,
            reports: spec.reports,
            cancel: spec.cancel,
            budget: spec.attempt.spill.as_ref().map(|s| Arc::clone(&s.budget)),
            snapshots: SlotSnapshots::new(spec.snapshots, spec.groups, spec.base, spec.outgoing),
            ended_told: false,
            overtaking: None,
            last_sizes: Instant::now(),
        })
    }

    fn run(&mut self, at: &mut At) -> Res {
        let mut last_flush = Instant::now();
        loop {
            if self.cancel.load(Ordering::Acquire) {
                return Ok(());
            }
            // In this order: who leaves a message sets a bit after it. A message that came
            // between the two, had they been the other way round, would lie there until
            // something else wakes the slot.
            self.take_ready();
            if !self.take_controls()? {
                return Ok(());
            }
            let worked = self.round(at)?;
            at.current = None;
            if self.budget.as_ref().is_some_and(|budget| budget.asks()) {
                (self.reports)(Report::Event(Event::RequestCheckpoint));
            }
            let draining = self.snapshots.turn(&mut self.tasks)?;
            let now = Instant::now();
            if worked || draining {
                if now.duration_since(last_flush) >= LINGER {
                    last_flush = now;
                    self.flush(at)?;
                    self.note_sizes(now);
                }
                continue;
            }
            last_flush = now;
            self.flush(at)?;
            self.tell_end();
            self.sleep();
        }
    }

    /// Takes what it was told; false if the shell is gone.
    fn take_controls(&mut self) -> Res<bool> {
        loop {
            match self.control.try_recv() {
                Ok(Control::Trigger(barrier)) => {
                    self.overtaking = barrier.unaligned_at.map(|_| barrier.checkpoint);
                    self.closed.fill(None);
                    for (task, again) in self.tasks.iter_mut().zip(&mut self.again) {
                        task.trigger(barrier.clone());
                        *again = true;
                    }
                }
                Ok(Control::Complete(checkpoint)) => {
                    self.overtaking = self.overtaking.filter(|c| *c > checkpoint);
                    self.snapshots.completed(checkpoint, &mut self.tasks);
                }
                Ok(Control::Aborted(checkpoint)) => {
                    self.overtaking = self.overtaking.filter(|c| *c > checkpoint);
                    self.closed.fill(None);
                    self.snapshots.aborted(checkpoint, &mut self.tasks);
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    /// Notes whom to look at.
    fn take_ready(&mut self) {
        for word in 0..self.signal.words() {
            let mut bits = self.signal.take(word);
            while bits != 0 {
                let index = word * 64 + bits.trailing_zeros() as usize;
                if let Some(again) = self.again.get_mut(index) {
                    *again = true;
                }
                bits &= bits - 1;
            }
        }
    }

    /// One turn for each ready task, downstream first.
    fn round(&mut self, at: &mut At) -> Res<bool> {
        let now = wall_clock();
        let mut worked = false;
        let mut begun = Instant::now();
        for index in (0..self.tasks.len()).rev() {
            let task = &mut self.tasks[index];
            let due = self.again[index] || task.next_time().is_some_and(|t| t <= now);
            if !due || self.closed[index].is_some() {
                continue;
            }
            at.current = Some(index);
            let (mut passed, mut overtaken) = (None, Recorded::default());
            let mut turn = Turn {
                now,
                overtaking: self.overtaking.map(|_| self.snapshots.room()),
                parts: self.snapshots.parts(index),
                passed: &mut passed,
                overtaken: &mut overtaken,
            };
            let progress = task.run(&mut turn)?;
            if let Some(barrier) = passed {
                if barrier.kind == BarrierKind::Rescale {
                    self.closed[index] = Some(barrier.checkpoint);
                }
                self.snapshots.passed(index, &barrier, task.as_mut(), overtaken)?;
            }
            let ended = Instant::now();
            let spent = ended.duration_since(begun).as_nanos() as u64;
            begun = ended;
            let metrics = self.tasks[index].metrics();
            match progress {
                Progress::Worked => {
                    metrics.busy_ns.add(spent);
                    worked = true;
                }
                Progress::Idle => {}
                Progress::Blocked => {
                    metrics.blocked_since(now);
                }
            }
            if progress != Progress::Blocked {
                metrics.unblocked(now);
            }
            self.again[index] = progress == Progress::Worked;
            self.blocked[index] = progress == Progress::Blocked;
        }
        Ok(worked)
    }

    fn flush(&mut self, at: &mut At) -> Res {
        for (index, task) in self.tasks.iter_mut().enumerate() {
            at.current = Some(index);
            self.blocked[index] |= task.flush()?;
        }
        at.current = None;
        Ok(())
    }

    fn note_sizes(&mut self, now: Instant) {
        if now.duration_since(self.last_sizes) < Duration::from_millis(500) {
            return;
        }
        self.last_sizes = now;
        for task in &mut self.tasks {
            let (mut keys, mut memory) = (0, 0);
            for (_, table) in task.tables() {
                let sizes = table.sizes();
                keys += sizes.keys;
                memory += sizes.memory;
            }
            task.metrics().state_entries.set(keys as i64);
            task.metrics().state_bytes.set(memory as i64);
        }
    }

    fn tell_end(&mut self) {
        if !self.ended_told && self.tasks.iter().all(|t| t.ended()) {
            self.ended_told = true;
            (self.reports)(Report::Ended(self.slot));
        }
    }

    /// What the tables hold, if nothing was done since the stop barrier of a rescale.
    fn keep(&mut self) -> Option<KeptStates> {
        let checkpoint = (*self.closed.first()?)?;
        if self.closed.iter().any(|closed| *closed != Some(checkpoint)) {
            return None;
        }
        let mut states = Vec::new();
        for task in &mut self.tasks {
            let uid = task.uid().clone();
            for (state, table) in task.tables() {
                let rows = table.keep(checkpoint);
                states.extend(rows.map(|rows| (uid.clone(), state, rows)));
            }
        }
        Some((checkpoint, states))
    }

    fn sleep(&mut self) {
        self.note_sizes(Instant::now());
        let open = self.tasks.iter().zip(&self.closed).filter(|(_, closed)| closed.is_none());
        let due: Option<Ts> = open.filter_map(|(task, _)| task.next_time()).min();
        let mut timeout = due.map(|t| {
            let wait = t.saturating_sub(wall_clock()).clamp(0, 3_600_000);
            Duration::from_millis(wait.unsigned_abs())
        });
        if self.snapshots.waits() {
            timeout = Some(timeout.map_or(RETRY, |t| t.min(RETRY)));
        }
        if self.blocked.contains(&true) {
            timeout = Some(timeout.map_or(RETRY, |t| t.min(RETRY)));
            self.again
                .iter_mut()
                .zip(&self.blocked)
                .for_each(|(again, blocked)| *again |= *blocked);
        }
        let cancel = Arc::clone(&self.cancel);
        self.signal.park(timeout, || cancel.load(Ordering::SeqCst));
    }
}

/// The error of a slot that could not be started.
pub fn start_failure(error: std::io::Error) -> Fail {
    Fail::from(format!("could not start a slot's thread: {error}"))
}
