//! Carries out what the coordinator wants, and tells it what happened.

use crate::api::stream::{Controls, controls};
use crate::connector::Committed;
use crate::coordinator::{
    self, Base, CheckpointReport, CommitOutcome, Config, Coordinator, Desired, Effect, Event,
    Failure, FilesIn, Level, Note, Outcome, RestoreChoice, StopMode,
};
use crate::data::{Fail, Res, Ts};
use crate::graph::{Graph, NodeKind};
use crate::job::check;
use crate::job::deploy::{DeploySpec, Deployment, Registry, slots};
use crate::job::program::{check_shapes, describe};
use crate::job::{JobOptions, WrapStore};
use crate::runtime::pool::Pool;
use crate::runtime::slot::{Control, Report, Tell, panic_text};
use crate::runtime::snapshot::Barrier;
use crate::runtime::source::wall_clock;
use crate::store::directory::DirectoryStore;
use crate::store::lock::OwnerLock;
use crate::store::opener::is_url;
use crate::store::{Access, ObjectStore, Opener, StoreError, probe};
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::{Attempt, JobUid, Slot, Uid};
use millrace_protocol::manifest::{Manifest, PendingCommit};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why a job could not be run to its end.
#[derive(Debug, Error)]
pub enum JobError {
    /// The user must change something; nothing was touched.
    #[error("{0}")]
    User(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// What a running job shows.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The job's identity, once known.
    pub job: Option<JobUid>,
    /// The attempt that runs.
    pub attempt: Option<Attempt>,
    /// Whether its tasks run.
    pub running: bool,
    /// The newest complete checkpoint, and when it completed.
    pub checkpoint: Option<(CheckpointReport, Instant)>,
    /// The last failures, newest last.
    pub failures: Vec<String>,
    /// Restarts so far.
    pub restarts: u64,
    /// Savepoints that ended: (id, place or reason).
    pub savepoints: Vec<(String, Result<String, String>)>,
    /// One entry per node of the graph.
    pub nodes: Vec<Stats>,
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

#[derive(Default)]
struct Shared {
    status: Status,
    metrics: Registry,
}

/// Steers a running job and looks at it.
#[derive(Clone)]
pub struct Handle {
    tell: Sender<Msg>,
    inbox: Arc<Mutex<Option<Receiver<Msg>>>>,
    shared: Arc<Mutex<Shared>>,
    graph: Arc<Graph>,
}

enum Msg {
    Event(Event),
    Report(Attempt, Report),
    DeployFailed(Attempt, String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// A handle for a job of this graph, to be given to [`run`].
    pub fn new(graph: Graph) -> Self {
        let (tell, inbox) = channel();
        let inbox = Arc::new(Mutex::new(Some(inbox)));
        Self { tell, inbox, shared: Arc::default(), graph: Arc::new(graph) }
    }

    /// Stops with a checkpoint, from which the job can go on.
    pub fn stop(&self, mode: StopMode) {
        let _ = self.tell.send(Msg::Event(Event::RequestStop { mode }));
    }

    /// Stops at once.
    pub fn cancel(&self) {
        let _ = self.tell.send(Msg::Event(Event::Cancel));
    }

    /// Asks for a savepoint `target/id`. Asked twice, it is taken once.
    pub fn savepoint(&self, id: &str, target: &Path) {
        let (id, target) = (id.to_owned(), target.display().to_string());
        let _ = self.tell.send(Msg::Event(Event::RequestSavepoint { id, target }));
    }

    /// How the job is doing.
    pub fn status(&self) -> Status {
        let shared = lock(&self.shared);
        let mut status = shared.status.clone();
        status.nodes = self
            .graph
            .nodes()
            .iter()
            .map(|node| {
                let mut stats =
                    Stats { name: node.name.clone(), kind: Some(node.kind), ..Stats::default() };
                let mut watermark: Option<Ts> = None;
                for ((_, _), m) in shared.metrics.iter().filter(|((id, _), _)| *id == node.id) {
                    stats.parallelism += 1;
                    stats.rows_in += m.rows_in.get();
                    stats.rows_out += m.rows_out.get();
                    stats.late_dropped += m.late_dropped.get();
                    stats.state_bytes += m.state_bytes.get().unsigned_abs();
                    stats.state_entries += m.state_entries.get().unsigned_abs();
                    stats.busy_ns += m.busy_ns.get();
                    stats.blocked_ms += m.blocked_ms.get();
                    if let Some(w) = m.watermark() {
                        watermark = Some(watermark.map_or(w, |lowest| lowest.min(w)));
                    }
                }
                stats.watermark = watermark;
                stats
            })
            .collect();
        status
    }
}

/// Runs a job until it ends; blocks.
pub fn run(handle: &Handle, options: JobOptions) -> Result<Outcome, JobError> {
    let max = options.max_parallelism;
    handle.graph.check(options.parallelism, max).map_err(JobError::User)?;
    let lock = match is_url(&options.storage) {
        true => None,
        false => Some(
            OwnerLock::acquire(Path::new(&options.storage))
                .map_err(|e| JobError::User(e.to_string()))?,
        ),
    };
    run_owned(handle, options, lock)
}

/// Runs a job in a storage directory that this process holds already, which it
/// gives up at the end; blocks. Of storage that is no directory the lock is on one that
/// stands for it on this machine, if at all.
pub fn run_owned(
    handle: &Handle,
    mut options: JobOptions,
    owner_lock: Option<OwnerLock>,
) -> Result<Outcome, JobError> {
    let Some(inbox) = lock(&handle.inbox).take() else {
        return Err(JobError::Failed("this handle has run a job already".to_owned()));
    };
    let max = options.max_parallelism;
    handle.graph.check(options.parallelism, max).map_err(JobError::User)?;
    if let RestoreChoice::Path(path) = &mut options.from {
        // The job remembers where it came from, wherever its next process is started.
        if !is_url(path) {
            let absolute = std::path::absolute(&*path)
                .map_err(|e| JobError::User(format!("cannot find {path}: {e}")))?;
            *path = absolute.display().to_string();
        }
    }
    let user = |error: StoreError| JobError::User(error.to_string());
    if let Some(lock) = owner_lock.as_ref().filter(|_| !is_url(&options.storage)) {
        let directory = DirectoryStore::open(lock.directory()).map_err(user)?;
        directory.remove_leftovers(lock).map_err(user)?;
    }
    let store = options.opener.open(&options.storage, Access::Write).map_err(user)?;
    let mut rng = fastrand::Rng::new();
    probe(store.as_ref(), &format!("{:016x}", rng.u64(..)))
        .map_err(|e| JobError::User(e.to_string()))?;
    let store = wrap(&options.wrap_store, store);
    let program = describe(&handle.graph, options.parallelism, max);
    let count = slots(&handle.graph, options.parallelism);
    let config = Config {
        owner: Owner {
            pod: format!("local-{:016x}", rng.u64(..)),
            process: std::process::id(),
            address: "local".to_owned(),
        },
        config: ConfigRef {
            generation: 0,
            hash: String::new(),
            program: program.fingerprint.clone(),
        },
        program,
        slots: (0..count).map(Slot).collect(),
        from: options.from.clone(),
        desired: Desired::Running,
        allow_unclaimed_state: options.allow_unclaimed_state,
        checkpoints: options.checkpoints.clone(),
        restart: options.restart.clone(),
        shapes: check_shapes,
        fresh_job: JobUid(format!("{:016x}", rng.u64(..))),
        seed: (rng.u64(..), rng.u64(..)),
        epoch_ms: wall_clock().unsigned_abs(),
        watch_every: Duration::from_secs(2),
        sweep_every: Duration::from_secs(3600),
        block: Config::BLOCK,
    };
    let mut shell = Shell {
        coordinator: Coordinator::new(config),
        graph: Arc::clone(&handle.graph),
        tell: handle.tell.clone(),
        inbox,
        shared: Arc::clone(&handle.shared),
        store,
        pool: Arc::new(Pool::new(16)),
        committers: Arc::default(),
        deployment: None,
        ready: BTreeSet::new(),
        ended: BTreeSet::new(),
        timer: None,
        begun: Instant::now(),
        base: None,
        refused: None,
        options,
    };
    let outcome = shell.run();
    // Held until here: one live process per directory.
    drop(owner_lock);
    outcome
}

fn wrap(wrapper: &Option<WrapStore>, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    match wrapper {
        Some(wrapper) => wrapper(store),
        None => store,
    }
}

struct Shell {
    coordinator: Coordinator,
    graph: Arc<Graph>,
    tell: Sender<Msg>,
    inbox: Receiver<Msg>,
    shared: Arc<Mutex<Shared>>,
    store: Arc<dyn ObjectStore>,
    pool: Arc<Pool>,
    /// Made when the job's uid is known.
    committers: Arc<Mutex<Option<Controls>>>,
    deployment: Option<Deployment>,
    ready: BTreeSet<Slot>,
    ended: BTreeSet<Slot>,
    timer: Option<Duration>,
    begun: Instant,
    /// What the attempt starts from: manifest, where its files are, and for people.
    base: Option<(Arc<Manifest>, Arc<dyn ObjectStore>, String)>,
    /// What only the user can mend.
    refused: Option<String>,
    options: JobOptions,
}

impl Shell {
    fn run(&mut self) -> Result<Outcome, JobError> {
        let mut next = Some(Event::Start);
        loop {
            let mut event = match next.take() {
                Some(event) => event,
                None => match self.wait() {
                    Some(event) => event,
                    None => continue,
                },
            };
            if let Event::TaskFailed { failure, .. } = &event {
                self.note_failure(failure);
                if let Some(why) = self.damage() {
                    self.refused.get_or_insert(why);
                    next = Some(std::mem::replace(&mut event, Event::Cancel));
                    self.base = None;
                }
            }
            let effects = self.coordinator.step(event, self.begun.elapsed());
            for effect in effects {
                if let Some(outcome) = self.carry_out(effect) {
                    if let Some(deployment) = self.deployment.take() {
                        deployment.stop();
                    }
                    if let Some(why) = self.refused.take() {
                        return Err(JobError::User(why));
                    }
                    return match outcome {
                        Outcome::Refused(why) => Err(JobError::User(why)),
                        Outcome::Failed(why) => Err(JobError::Failed(why)),
                        other => Ok(other),
                    };
                }
            }
        }
    }

    /// The next event, or `None` for a message that was no event.
    fn wait(&mut self) -> Option<Event> {
        let message = match self.timer {
            Some(at) => {
                let left = at.saturating_sub(self.begun.elapsed());
                match self.inbox.recv_timeout(left) {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Timeout) => {
                        self.timer = None;
                        return Some(Event::Tick);
                    }
                    // `self.tell` keeps it connected.
                    Err(RecvTimeoutError::Disconnected) => return Some(Event::Cancel),
                }
            }
            None => self.inbox.recv().ok()?,
        };
        match message {
            Msg::Event(event) => Some(event),
            Msg::DeployFailed(attempt, cause) => {
                let failure = Failure { operator: None, subtask: None, cause };
                Some(Event::TaskFailed { attempt, failure })
            }
            Msg::Report(attempt, report) => {
                let current = self.deployment.as_ref().filter(|d| d.attempt == attempt)?.len();
                match report {
                    Report::Event(event) => Some(event),
                    Report::Refused(why) => {
                        let failure = Failure { operator: None, subtask: None, cause: why.clone() };
                        self.refused.get_or_insert(why);
                        // The slot is gone: an attempt that waits for it to be ready has failed.
                        let failed = Event::TaskFailed { attempt, failure };
                        let _ = self.tell.send(Msg::Event(failed));
                        Some(Event::Cancel)
                    }
                    Report::Ready(slot) => {
                        self.ready.insert(slot);
                        (self.ready.len() == current).then(|| {
                            lock(&self.shared).status.running = true;
                            Event::TasksDeployed { attempt }
                        })
                    }
                    Report::Ended(slot) => {
                        self.ended.insert(slot);
                        (self.ended.len() == current).then_some(Event::InputEnded { attempt })
                    }
                }
            }
        }
    }

    /// What is wrong with the files that the attempt could not be started from.
    fn damage(&self) -> Option<String> {
        let (manifest, store, root) = self.base.as_ref()?;
        let running = lock(&self.shared).status.running;
        (!running).then(|| check::damage(manifest, store, root)).flatten()
    }

    fn note_failure(&self, failure: &Failure) {
        let mut shared = lock(&self.shared);
        let failures = &mut shared.status.failures;
        failures.push(failure.to_string());
        if failures.len() > 10 {
            failures.remove(0);
        }
    }

    fn send(&self) -> impl Fn(Event) + Send + 'static {
        let tell = self.tell.clone();
        move |event| {
            let _ = tell.send(Msg::Event(event));
        }
    }

    /// Carries out an effect; the outcome if it was the last.
    fn carry_out(&mut self, effect: Effect) -> Option<Outcome> {
        match effect {
            Effect::Store(ticket, call) => {
                let (send, store) = (self.send(), Arc::clone(&self.store));
                self.pool.spawn("store", move || {
                    let answer = call.run(store.as_ref());
                    send(Event::StoreAnswered { ticket, answer });
                });
            }
            Effect::ReadRestore { path } => {
                let (send, opener) = (self.send(), Arc::clone(&self.options.opener));
                self.pool.spawn("restore", move || {
                    let result = coordinator::export::find(opener.as_ref(), &path);
                    send(Event::RestoreRead { result });
                });
            }
            Effect::Commit(batch, items) => {
                let (send, committers) = (self.send(), Arc::clone(&self.committers));
                let (graph, job) = (Arc::clone(&self.graph), self.job());
                self.pool.spawn("commit", move || {
                    let outcomes = commit_all(&graph, job.as_ref(), &committers, &items);
                    send(Event::CommitEnded { batch, outcomes });
                });
            }
            Effect::AbortOthers { attempt, sinks } => {
                let (send, committers) = (self.send(), Arc::clone(&self.committers));
                let (graph, job) = (Arc::clone(&self.graph), self.job());
                self.pool.spawn("commit", move || {
                    let result = abort_others(&graph, job.as_ref(), &committers, &sinks);
                    send(Event::OthersAborted {
                        attempt,
                        result: result.map_err(|e| e.to_string()),
                    });
                });
            }
            Effect::Deploy { attempt, base } => {
                if let Err(cause) = self.deploy(attempt, base) {
                    let _ = self.tell.send(Msg::DeployFailed(attempt, cause.to_string()));
                }
            }
            Effect::CancelTasks { attempt } => {
                lock(&self.shared).status.running = false;
                let deployment = self.deployment.take();
                let send = self.send();
                self.pool.spawn("cancel", move || {
                    if let Some(deployment) = deployment {
                        deployment.stop();
                    }
                    send(Event::SlotsJoined { attempt });
                });
            }
            Effect::TriggerBarrier { attempt, checkpoint, base, kind } => {
                let barrier = Barrier { attempt, checkpoint, base, kind };
                self.tell_slots(attempt, &Control::Trigger(barrier));
            }
            Effect::NotifyComplete { attempt, checkpoint } => {
                self.tell_slots(attempt, &Control::Complete(checkpoint));
            }
            Effect::NotifyAborted { attempt, checkpoint } => {
                self.tell_slots(attempt, &Control::Aborted(checkpoint));
            }
            Effect::ExportSavepoint { id, target, manifest } => {
                let (send, store) = (self.send(), Arc::clone(&self.store));
                let opener = Arc::clone(&self.options.opener);
                self.pool.spawn("export", move || {
                    let result = export(store.as_ref(), opener.as_ref(), &id, &target, &manifest);
                    send(Event::SavepointExported { id, result });
                });
            }
            Effect::SavepointEnded { id, result } => {
                match &result {
                    Ok(place) => tracing::info!(savepoint = %id, place, "savepoint is complete"),
                    Err(why) => tracing::error!(savepoint = %id, why, "savepoint failed"),
                }
                lock(&self.shared).status.savepoints.push((id, result));
            }
            Effect::SetTimer(at) => self.timer = Some(at),
            Effect::Report(report) => {
                lock(&self.shared).status.checkpoint = Some((report, Instant::now()));
            }
            Effect::Log(note) => log(&self.options.name, &note),
            Effect::Ended(outcome) => return Some(outcome),
        }
        None
    }

    fn job(&self) -> Option<JobUid> {
        Some(self.coordinator.job().clone())
    }

    fn deploy(&mut self, attempt: Attempt, base: Option<Base>) -> Res {
        let job = self.job().ok_or_else(|| Fail::from("the job has no uid yet"))?;
        self.ready.clear();
        self.ended.clear();
        self.base = None;
        let base = match base {
            None => None,
            Some(base) => {
                let (store, root): (Arc<dyn ObjectStore>, _) = match &base.files {
                    FilesIn::Home => (Arc::clone(&self.store), self.options.storage.clone()),
                    FilesIn::Savepoint(path) => {
                        let target = coordinator::export::target_of(path)
                            .ok_or_else(|| Fail::from(format!("{path} is no savepoint")))?;
                        (self.options.opener.open(&target, Access::Read)?, target)
                    }
                };
                self.base = Some((Arc::clone(&base.manifest), Arc::clone(&store), root));
                Some((base, store))
            }
        };
        let tell = self.tell.clone();
        let reports: Tell = Arc::new(move |report| {
            let _ = tell.send(Msg::Report(attempt, report));
        });
        let spec = DeploySpec {
            graph: &self.graph,
            options: &self.options,
            job: job.clone(),
            attempt,
            base,
            store: &self.store,
            pool: &self.pool,
        };
        let deployment = Deployment::start(spec, &reports)?;
        let mut shared = lock(&self.shared);
        if shared.status.attempt.is_some() {
            shared.status.restarts += 1;
        }
        shared.status.job = Some(job);
        shared.status.attempt = Some(attempt);
        shared.metrics = deployment.metrics.clone();
        drop(shared);
        self.deployment = Some(deployment);
        Ok(())
    }

    fn tell_slots(&self, attempt: Attempt, control: &Control) {
        if let Some(deployment) = self.deployment.as_ref().filter(|d| d.attempt == attempt) {
            deployment.tell(control);
        }
    }
}

fn log(job: &str, note: &Note) {
    let attempt = note.attempt.map(|a| a.0);
    let checkpoint = note.checkpoint.map(|c| c.0);
    match note.level {
        Level::Debug => tracing::debug!(job, attempt, checkpoint, "{}", note.text),
        Level::Info => tracing::info!(job, attempt, checkpoint, "{}", note.text),
        Level::Warn => tracing::warn!(job, attempt, checkpoint, "{}", note.text),
        Level::Error => tracing::error!(job, attempt, checkpoint, "{}", note.text),
    }
}

/// Runs `f` with the sinks' committing halves, made when first needed.
fn with_committers<T>(
    graph: &Graph,
    job: Option<&JobUid>,
    committers: &Mutex<Option<Controls>>,
    f: impl FnOnce(&mut Controls) -> Res<T>,
) -> Res<T> {
    let mut committers = lock(committers);
    let made = match committers.as_mut() {
        Some(made) => made,
        None => {
            let job = job.ok_or_else(|| Fail::from("the job has no uid yet"))?;
            committers.insert(controls(graph, job)?)
        }
    };
    catch_unwind(AssertUnwindSafe(|| f(made))).unwrap_or_else(|panic| {
        Err(Fail::from(format!("a committer panicked: {}", panic_text(panic.as_ref()))))
    })
}

fn commit_all(
    graph: &Graph,
    job: Option<&JobUid>,
    committers: &Mutex<Option<Controls>>,
    items: &[PendingCommit],
) -> Vec<(millrace_protocol::manifest::CommitId, CommitOutcome)> {
    let one = |item: &PendingCommit| -> Res<CommitOutcome> {
        with_committers(graph, job, committers, |made| {
            let Some(control) = made.get_mut(&item.sink) else {
                return Err(Fail::from(format!("the program has no sink {:?}", item.sink.0)));
            };
            Ok(match control.commit(item)? {
                Committed::Done | Committed::Before => CommitOutcome::Done,
                Committed::Lost(why) => CommitOutcome::Lost(why),
            })
        })
    };
    items
        .iter()
        .map(|item| {
            let outcome = one(item).unwrap_or_else(|e| CommitOutcome::Failed(e.to_string()));
            (item.id, outcome)
        })
        .collect()
}

fn abort_others(
    graph: &Graph,
    job: Option<&JobUid>,
    committers: &Mutex<Option<Controls>>,
    sinks: &[(Uid, Vec<PendingCommit>)],
) -> Res {
    with_committers(graph, job, committers, |made| {
        for (uid, keep) in sinks {
            if let Some(control) = made.get_mut(uid) {
                control.abort_others(keep)?;
            }
        }
        Ok(())
    })
}

fn export(
    store: &dyn ObjectStore,
    opener: &dyn Opener,
    id: &str,
    target: &str,
    manifest: &Manifest,
) -> Result<(), String> {
    let to = opener.open(target, Access::Write).map_err(|e| e.to_string())?;
    coordinator::export::export(store, to.as_ref(), id, manifest).map_err(|e| e.to_string())
}
