//! Steering a running job from other threads, and looking at it.

use crate::coordinator::{self, CheckpointReport, Event, StopMode, Verdict};
use crate::data::Ts;
use crate::graph::{Graph, NodeKind};
use crate::job::crew::{Crew, Member};
use crate::job::order::Word;
use crate::runtime::source::wall_clock;
use millrace_protocol::config::Live;
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a running job shows.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The job's identity, once known.
    pub job: Option<JobUid>,
    /// The attempt that runs.
    pub attempt: Option<Attempt>,
    /// Whether its tasks run.
    pub running: bool,
    /// The generation of the configuration that they were started with.
    pub generation: Option<u64>,
    /// The newest complete checkpoint, and when it completed.
    pub checkpoint: Option<(CheckpointReport, Instant)>,
    /// The last failures, newest last.
    pub failures: Vec<FailureNote>,
    /// Restarts after failures, since this program first ran.
    pub restarts: u64,
    /// Savepoints that ended: (id, place or reason).
    pub savepoints: Vec<(String, Result<String, String>)>,
    /// One entry per node of the graph.
    pub nodes: Vec<Stats>,
    /// When this was looked at, milliseconds since 1970.
    pub at_ms: Ts,
    /// The workers that are there: (ordinal, slots, slots in use).
    pub workers: Vec<(u16, u16, u16)>,
}

/// A failure, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureNote {
    /// When, milliseconds since 1970.
    pub at_ms: Ts,
    /// Of which attempt.
    pub attempt: Option<Attempt>,
    /// On which worker, if one is to blame.
    pub worker: Option<u16>,
    /// Of which operator, if one is to blame.
    pub operator: Option<String>,
    /// If only a checkpoint has failed, which. Of several in a row the newest is shown.
    pub checkpoint: Option<CheckpointId>,
    /// What.
    pub message: String,
}

/// Counters of a node, over its subtasks.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Option<NodeKind>,
    /// Number of subtasks.
    pub parallelism: u16,
    /// Rows taken and given.
    pub rows_in: u64,
    /// See `rows_in`.
    pub rows_out: u64,
    /// Late rows that were dropped.
    pub late_dropped: u64,
    /// Lowest watermark of its subtasks.
    pub watermark: Option<Ts>,
    /// Bytes and entries of keyed state.
    pub state_bytes: u64,
    /// See `state_bytes`.
    pub state_entries: u64,
    /// Nanoseconds of work, over all subtasks.
    pub busy_ns: u64,
    /// Milliseconds of waiting for room, over all subtasks.
    pub blocked_ms: u64,
}

/// What the shell and its handles share.
#[derive(Default)]
pub(super) struct Shared {
    pub status: Status,
    pub crew: Crew,
    /// Of the last entry of the chain that was won; 0: none yet.
    pub head_version: u64,
}

/// Takes the answer to a proposal.
pub(super) type Answer = Box<dyn FnOnce(Verdict) + Send>;

/// What the shell is told.
pub(super) enum Msg {
    Event(Event),
    /// By the process of a worker.
    Word(u16, String, Word),
    Joined(Member),
    Lost(u16, String, String),
    /// Somebody looks at the coordinator.
    Look(Box<dyn FnOnce(coordinator::Status) + Send>),
    /// Somebody proposes a configuration.
    Propose(Box<Live>, bool, Answer),
}

/// Steers a running job and looks at it.
#[derive(Clone)]
pub struct Handle {
    pub(super) tell: Sender<Msg>,
    pub(super) inbox: Arc<Mutex<Option<Receiver<Msg>>>>,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) graph: Arc<Graph>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// A handle for a job of this graph, to be given to [`super::run`].
    pub fn new(graph: Graph) -> Self {
        Self::of(Arc::new(graph))
    }

    /// The same, for a graph that others use too.
    pub fn of(graph: Arc<Graph>) -> Self {
        let (tell, inbox) = channel();
        let inbox = Arc::new(Mutex::new(Some(inbox)));
        Self { tell, inbox, shared: Arc::default(), graph }
    }

    /// The program.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// Tells the coordinator something.
    pub fn event(&self, event: Event) {
        // A job that is over listens no more.
        let _ = self.tell.send(Msg::Event(event));
    }

    /// Stops with a checkpoint, from which the job can go on.
    pub fn stop(&self, mode: StopMode) {
        self.event(Event::RequestStop { mode });
    }

    /// Stops at once.
    pub fn cancel(&self) {
        self.event(Event::Cancel);
    }

    /// Asks for a savepoint `target/id`. Asked twice, it is taken once.
    pub fn savepoint(&self, id: &str, target: &Path) {
        let (id, target) = (id.to_owned(), target.display().to_string());
        self.event(Event::RequestSavepoint { id, target });
    }

    /// A worker is there, connected and of the same program. It replaces an older process
    /// of its ordinal.
    pub fn joined(&self, member: Member) {
        let _ = self.tell.send(Msg::Joined(member));
    }

    /// A worker's process is lost.
    pub fn lost(&self, ordinal: u16, process: &str, cause: &str) {
        let _ = self.tell.send(Msg::Lost(ordinal, process.to_owned(), cause.to_owned()));
    }

    /// A worker's process has said something.
    pub fn word(&self, ordinal: u16, process: &str, word: Word) {
        let _ = self.tell.send(Msg::Word(ordinal, process.to_owned(), word));
    }

    /// The version of the last entry of the job's chain that was won here; 0: none yet.
    pub fn head_version(&self) -> u64 {
        lock(&self.shared).head_version
    }

    /// Calls `f` with what the coordinator shows; dropped without a call if the job is over.
    pub fn look(&self, f: impl FnOnce(coordinator::Status) + Send + 'static) {
        let _ = self.tell.send(Msg::Look(Box::new(f)));
    }

    /// Proposes a configuration; `answer` is called, or dropped if the job is over.
    pub fn propose(
        &self,
        live: Live,
        overrides: bool,
        answer: impl FnOnce(Verdict) + Send + 'static,
    ) {
        let _ = self.tell.send(Msg::Propose(Box::new(live), overrides, Box::new(answer)));
    }

    /// How the job is doing.
    pub fn status(&self) -> Status {
        let shared = lock(&self.shared);
        let mut status = shared.status.clone();
        status.at_ms = wall_clock();
        let counters = shared.crew.counters();
        let placement = shared.crew.placement().map_or(&[][..], |(_, workers)| workers);
        let used = |ordinal| placement.iter().filter(|w| **w == ordinal).count();
        let member = |m: &Member| {
            let used = u16::try_from(used(m.peer.ordinal)).unwrap_or(u16::MAX);
            (m.peer.ordinal, m.slots, used)
        };
        status.workers = shared.crew.members().map(member).collect();
        drop(shared);
        let nodes = self.graph.nodes().iter();
        status.nodes = nodes
            .map(|node| {
                let mut stats =
                    Stats { name: node.name.clone(), kind: Some(node.kind), ..Stats::default() };
                for c in counters.iter().filter(|c| c.node == node.id.0) {
                    stats.parallelism += 1;
                    stats.rows_in += c.rows_in;
                    stats.rows_out += c.rows_out;
                    stats.late_dropped += c.late_dropped;
                    stats.state_bytes += c.state_bytes;
                    stats.state_entries += c.state_entries;
                    stats.busy_ns += c.busy_ns;
                    stats.blocked_ms += c.blocked_ms;
                    if let Some(w) = c.watermark {
                        stats.watermark = Some(stats.watermark.map_or(w, |lowest| lowest.min(w)));
                    }
                }
                stats
            })
            .collect();
        status
    }
}
