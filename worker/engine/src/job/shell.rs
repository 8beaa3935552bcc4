//! Carries out what the coordinator wants, and tells it what happened.

use crate::coordinator::{
    self, Base, ClaimRule, Config, Coordinator, Desired, Effect, Event, Existing, Failure, Level,
    Note, Outcome, ProgramSpec, Proposal, RestoreChoice, Verdict, WorkerId,
};
use crate::data::Ts;
use crate::exchange::{Listener, Security};
use crate::graph::Graph;
use crate::job::agent::{Agent, AgentSpec};
use crate::job::check;
use crate::job::committing::Committers;
use crate::job::crew::{Heard, Member};
use crate::job::handle::{Answer, FailureNote, Handle, Msg, Shared, lock};
use crate::job::order::{BaseOrder, DeployOrder, Order, Peer, Word};
use crate::job::program::{check_shapes, default_parallelism, describe};
use crate::job::proposed::Proposed;
use crate::job::{JobOptions, WrapStore, savepoint_store};
use crate::runtime::pool::Pool;
use crate::runtime::snapshot::Barrier;
use crate::runtime::source::wall_clock;
use crate::store::directory::DirectoryStore;
use crate::store::lock::OwnerLock;
use crate::store::opener::is_url;
use crate::store::{Access, ObjectStore, Opener, StoreError, probe_patiently};
use millrace_protocol::config::Live;
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::{Attempt, JobUid};
use millrace_protocol::manifest::Manifest;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why a job could not be run to its end.
#[derive(Debug, Error)]
pub enum JobError {
    /// The user must change something; nothing was touched.
    #[error("{0}")]
    User(String),
    /// The same, about the place of the job's data.
    #[error("{0}")]
    Storage(String),
    /// Another job's state is there, and nobody said what is to become of it.
    #[error("{0}")]
    EarlierState(String),
    /// The job has run before, and its storage holds nothing of it.
    #[error("{0}")]
    StateMissing(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
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
    let store = wrap(&options.wrap_store, store);
    let process = format!("{:016x}", fastrand::u64(..));
    let agents = local_agents(handle, &options, &store, &process)?;
    let owner = Owner {
        pod: format!("local-{process}"),
        process: std::process::id(),
        address: "local".to_owned(),
    };
    let workers = options.loopback.unwrap_or(1);
    let outcome = lead(handle, options, store, Lead { workers, ..Lead::local(owner) });
    drop(agents);
    // Held until here: one live process per directory.
    drop(owner_lock);
    outcome
}

/// How a job is led.
pub struct Lead {
    /// The process that leads it.
    pub owner: Owner,
    /// What the job should be, numbered; none: what the options say counts, each time.
    pub proposed: Option<Proposed>,
    /// How many workers there may be, where nothing is proposed.
    pub workers: u16,
    /// What is to become of the job, where nothing is proposed.
    pub desired: Desired,
    /// The job, where it is known; none: the one that is there, or a new one.
    pub job: Option<JobUid>,
    /// When the job may be claimed.
    pub claim: ClaimRule,
    /// How often others must see that the owner lives.
    pub keepalive: Option<Duration>,
    /// What to do with a home that is another job's.
    pub existing: Existing,
    /// Whether to stay when the job has come to an end, and go on when told to.
    pub stays: bool,
}

impl Lead {
    /// Of a process that holds the lock of a storage directory.
    pub fn local(owner: Owner) -> Self {
        Self {
            owner,
            proposed: None,
            workers: 1,
            desired: Desired::Running,
            job: None,
            claim: ClaimRule::Confirmed,
            keepalive: None,
            existing: Existing::Same,
            stays: false,
        }
    }
}

/// Leads a job whose workers say through `handle` that they are there, until it ends;
/// blocks. The caller sees to it that no other process leads it, as far as it can.
pub fn lead(
    handle: &Handle,
    options: JobOptions,
    store: Arc<dyn ObjectStore>,
    lead: Lead,
) -> Result<Outcome, JobError> {
    let Some(inbox) = lock(&handle.inbox).take() else {
        return Err(JobError::Failed("this handle has run a job already".to_owned()));
    };
    let max = options.max_parallelism;
    handle.graph.check(options.parallelism, max).map_err(JobError::User)?;
    let mut rng = fastrand::Rng::new();
    probe_patiently(store.as_ref(), || format!("{:016x}", rng.u64(..)))
        .map_err(|e| JobError::Storage(e.to_string()))?;
    let program = describe(&handle.graph, options.parallelism, max);
    let mut config = Config {
        owner: lead.owner,
        config: ConfigRef {
            generation: 0,
            hash: String::new(),
            program: program.fingerprint.clone(),
        },
        program,
        body: Arc::from([]),
        workers: lead.workers,
        claim: lead.claim,
        keepalive: lead.keepalive,
        stays: lead.stays,
        existing: lead.existing,
        outdated: false,
        begun: false,
        cluster: String::new(),
        from: options.from.clone(),
        restore: None,
        desired: lead.desired,
        unclaimed: options.unclaimed.clone(),
        checkpoints: options.checkpoints.clone(),
        restart: options.restart.clone(),
        shapes: check_shapes,
        fresh_job: lead.job.unwrap_or_else(|| JobUid(format!("{:016x}", rng.u64(..)))),
        seed: (rng.u64(..), rng.u64(..)),
        epoch_ms: wall_clock().unsigned_abs(),
        watch_every: Duration::from_secs(2),
        sweep_every: Duration::from_secs(3600),
        block: Config::BLOCK,
    };
    if let Some(proposed) = &lead.proposed {
        proposed.configure(&mut config, &handle.graph, max).map_err(JobError::User)?;
    }
    let mut shell = Shell {
        coordinator: Coordinator::new(config),
        committers: Committers::new(&handle.graph),
        graph: Arc::clone(&handle.graph),
        tell: handle.tell.clone(),
        inbox,
        shared: Arc::clone(&handle.shared),
        store,
        pool: Arc::new(Pool::new(16)),
        timer: None,
        begun: Instant::now(),
        base: None,
        refused: None,
        answers: Vec::new(),
        proposed: lead.proposed,
        rng,
        options,
    };
    shell.run()
}

/// The agents of a job that runs in this process alone: one, with room for whatever the job
/// needs, or several that reach each other over loopback.
fn local_agents(
    handle: &Handle,
    options: &JobOptions,
    store: &Arc<dyn ObjectStore>,
    process: &str,
) -> Result<Vec<Agent>, JobError> {
    let failed = |error: crate::data::Fail| JobError::Failed(error.to_string());
    let mut agents = Vec::new();
    for ordinal in 0..options.loopback.unwrap_or(1) {
        let listener = match options.loopback {
            None => None,
            Some(_) => {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                Some(Listener::bind(any, Security::Plain).map_err(failed)?)
            }
        };
        let exchange = listener.as_ref().map_or(String::new(), |l| l.address().to_string());
        let spec = AgentSpec {
            ordinal,
            graph: Arc::clone(&handle.graph),
            options: options.clone(),
            store: Arc::clone(store),
            process: process.to_owned(),
            listener,
            stop_within: None,
        };
        let (to, of) = (handle.clone(), process.to_owned());
        let speak = Arc::new(move |word| to.word(ordinal, &of, word));
        let agent = Agent::start(spec, speak).map_err(failed)?;
        handle.joined(Member {
            peer: Peer { ordinal, process: process.to_owned(), exchange },
            slots: u16::MAX,
            link: Box::new(agent.link()),
            watch: Some(agent.watch()),
        });
        agents.push(agent);
    }
    Ok(agents)
}

fn wrap(wrapper: &Option<WrapStore>, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    match wrapper {
        Some(wrapper) => wrapper(store),
        None => store,
    }
}

struct Shell {
    coordinator: Coordinator,
    committers: Committers,
    graph: Arc<Graph>,
    tell: Sender<Msg>,
    inbox: Receiver<Msg>,
    shared: Arc<Mutex<Shared>>,
    store: Arc<dyn ObjectStore>,
    pool: Arc<Pool>,
    timer: Option<Duration>,
    begun: Instant,
    /// What the attempt starts from: manifest, where its files are, and for people.
    base: Option<(Arc<Manifest>, Arc<dyn ObjectStore>, String)>,
    /// What only the user can mend.
    refused: Option<String>,
    /// Who waits for the answer to a proposal, by its generation.
    answers: Vec<(u64, Answer)>,
    proposed: Option<Proposed>,
    rng: fastrand::Rng,
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
            if let Event::TaskFailed { attempt, failure } = &event {
                self.note_failure(Some(*attempt), None, failure);
                if let Some(why) = self.damage() {
                    self.base = None;
                    event = self.refused(*attempt, why);
                }
            }
            let effects = self.coordinator.step(event, self.begun.elapsed());
            let owned = self.coordinator.attempt().and_then(|_| self.coordinator.head());
            lock(&self.shared).head_version = owned.map_or(0, |head| head.version.0);
            for effect in effects {
                if let Some(outcome) = self.carry_out(effect) {
                    if let Some(why) = self.refused.take() {
                        return Err(JobError::User(why));
                    }
                    return match outcome {
                        Outcome::Refused(why) => Err(JobError::User(why)),
                        Outcome::EarlierState(why) => Err(JobError::EarlierState(why)),
                        Outcome::StateMissing(why) => Err(JobError::StateMissing(why)),
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
            Msg::Word(ordinal, process, word) => self.hear(ordinal, &process, word),
            Msg::Joined(member) => {
                let (ordinal, process) = (member.peer.ordinal, member.peer.process.clone());
                // One with a watch is in this process.
                if member.watch.is_none() {
                    let slots = member.slots;
                    tracing::info!(worker = ordinal, process, slots, "a worker is there");
                }
                let slots = member.slots;
                let replaced = lock(&self.shared).crew.join(member);
                if let Some(replaced) = replaced
                    && let Some(joined) = self.gone(ordinal, &replaced.peer.process)
                {
                    let _ = self.tell.send(Msg::Event(joined));
                }
                // It takes the place of the one before.
                Some(Event::WorkerJoined { worker: WorkerId { ordinal, process }, slots })
            }
            Msg::Lost(ordinal, process, cause) => {
                tracing::warn!(worker = ordinal, process, cause, "a worker is lost");
                let attempt = lock(&self.shared).crew.runs(ordinal, &process);
                if let Some(attempt) = attempt {
                    let cause = format!("worker {ordinal} is lost: {cause}");
                    let failure = Failure { operator: None, subtask: None, cause };
                    self.note_failure(Some(attempt), Some(ordinal), &failure);
                }
                lock(&self.shared).crew.lose(ordinal, &process)?;
                if let Some(joined) = self.gone(ordinal, &process) {
                    let _ = self.tell.send(Msg::Event(joined));
                }
                Some(Event::WorkerLost { worker: WorkerId { ordinal, process }, cause })
            }
            Msg::Look(look) => {
                look(self.coordinator.status());
                None
            }
            Msg::Propose(live, overrides, answer) => self.propose(&live, overrides, answer),
        }
    }

    /// A process is gone: whether the attempt that is being stopped has nobody left.
    fn gone(&self, ordinal: u16, process: &str) -> Option<Event> {
        let attempt = lock(&self.shared).crew.gone(ordinal, process)?;
        Some(Event::SlotsJoined { attempt })
    }

    fn propose(&mut self, live: &Live, overrides: bool, answer: Answer) -> Option<Event> {
        let max = self.options.max_parallelism;
        let made = match &self.proposed {
            Some(proposed) => proposed.proposal(live, &self.graph, max),
            None => Err("this job was started with a command line, which counts".to_owned()),
        };
        match made {
            Ok(proposal) => {
                self.answers.push((live.generation, answer));
                let proposal = Box::new(Proposal { overrides, ..proposal });
                Some(Event::Propose { proposal })
            }
            Err(why) => {
                answer(Verdict::Invalid(why));
                None
            }
        }
    }

    /// What a worker's process has said.
    fn hear(&mut self, ordinal: u16, process: &str, word: Word) -> Option<Event> {
        match word {
            Word::Acknowledge { attempt, checkpoint, snapshot } => {
                return Some(Event::Acknowledge { attempt, checkpoint, snapshot });
            }
            Word::Declined { attempt, checkpoint, slot, reason, prepared } => {
                return Some(Event::Declined { attempt, checkpoint, slot, reason, prepared });
            }
            _ => {}
        }
        let mut shared = lock(&self.shared);
        if shared.crew.members().all(|m| m.peer.ordinal != ordinal || m.peer.process != process) {
            return None;
        }
        match shared.crew.hear(ordinal, word) {
            Heard::Nothing => None,
            Heard::Deployed(attempt) => {
                shared.status.running = true;
                // It was read. From now on later checkpoints may delete its files.
                self.base = None;
                let head = self.coordinator.head();
                shared.status.generation = head.map(|head| head.config.generation);
                Some(Event::TasksDeployed { attempt })
            }
            Heard::InputEnded(attempt) => Some(Event::InputEnded { attempt }),
            Heard::Joined(attempt) => Some(Event::SlotsJoined { attempt }),
            Heard::CheckpointWanted => Some(Event::RequestCheckpoint),
            Heard::Failed(attempt, failure) => Some(Event::TaskFailed { attempt, failure }),
            Heard::Refused(attempt, why) => {
                drop(shared);
                let event = self.refused(attempt, why);
                if let Event::TaskRefused { failure, .. } = &event {
                    self.note_failure(Some(attempt), Some(ordinal), failure);
                }
                Some(event)
            }
        }
    }

    /// The attempt cannot run for what only the user can mend.
    fn refused(&mut self, attempt: Attempt, why: String) -> Event {
        let failure = Failure { operator: None, subtask: None, cause: why.clone() };
        self.refused.get_or_insert(why);
        Event::TaskRefused { attempt, failure }
    }

    /// What is wrong with the files that the attempt could not be started from.
    fn damage(&self) -> Option<String> {
        let (manifest, store, root) = self.base.as_ref()?;
        check::damage(manifest, store, root)
    }

    fn note_failure(&self, attempt: Option<Attempt>, worker: Option<u16>, failure: &Failure) {
        let mut shared = lock(&self.shared);
        let failures = &mut shared.status.failures;
        failures.push(FailureNote {
            at_ms: wall_clock(),
            attempt,
            worker,
            operator: failure.operator.clone(),
            message: failure.to_string(),
        });
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
                    send(Event::RestoreRead { path, result });
                });
            }
            Effect::Commit(batch, items) => {
                let (send, committers, job) = (self.send(), self.committers.clone(), self.job());
                self.pool.spawn("commit", move || {
                    send(Event::CommitEnded { batch, outcomes: committers.commit(&job, &items) });
                });
            }
            Effect::AbortOthers { attempt, sinks } => {
                let (send, committers, job) = (self.send(), self.committers.clone(), self.job());
                self.pool.spawn("commit", move || {
                    let result = committers.abort_others(&job, attempt, &sinks);
                    let result = result.map_err(|e| e.to_string());
                    send(Event::OthersAborted { attempt, result });
                });
            }
            Effect::ProposalAnswered { generation, verdict } => {
                if let Some(at) = self.answers.iter().position(|(of, _)| *of == generation) {
                    (self.answers.remove(at).1)(verdict);
                }
            }
            Effect::ReadConfig { config, body } => {
                let max = self.options.max_parallelism;
                let result = match &self.proposed {
                    Some(proposed) => proposed.read(&config, &body, &self.graph, max),
                    None => Err("this process was started with a command line".to_owned()),
                };
                self.send()(Event::ConfigRead { config, result: result.map(Box::new) });
            }
            Effect::Deploy { attempt, base, program, placement } => {
                if let Err(cause) = self.deploy(attempt, base, &program, &placement) {
                    let failure = Failure { operator: None, subtask: None, cause };
                    self.send()(Event::TaskFailed { attempt, failure });
                }
            }
            Effect::CancelTasks { attempt } => {
                let mut shared = lock(&self.shared);
                shared.status.running = false;
                if shared.crew.cancel(attempt) {
                    self.send()(Event::SlotsJoined { attempt });
                }
            }
            Effect::TriggerBarrier { attempt, checkpoint, base, kind, unaligned_after } => {
                let after = |d: Duration| Ts::try_from(d.as_millis()).unwrap_or(Ts::MAX);
                let unaligned_at = unaligned_after.map(|d| wall_clock().saturating_add(after(d)));
                let barrier = Barrier { attempt, checkpoint, base, kind, unaligned_at };
                self.tell_workers(attempt, &Order::Trigger(barrier));
            }
            Effect::NotifyComplete { attempt, checkpoint } => {
                self.tell_workers(attempt, &Order::Complete { attempt, checkpoint });
            }
            Effect::NotifyAborted { attempt, checkpoint } => {
                self.tell_workers(attempt, &Order::Aborted { attempt, checkpoint });
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

    fn job(&self) -> JobUid {
        self.coordinator.job().clone()
    }

    fn deploy(
        &mut self,
        attempt: Attempt,
        base: Option<Base>,
        program: &ProgramSpec,
        placement: &[WorkerId],
    ) -> Result<(), String> {
        (self.base, self.refused) = (None, None);
        let base = match base {
            None => None,
            Some(Base { manifest, files }) => {
                let (store, root) = match &files {
                    coordinator::FilesIn::Home => {
                        (Arc::clone(&self.store), self.options.storage.clone())
                    }
                    coordinator::FilesIn::Savepoint(path) => {
                        savepoint_store(self.options.opener.as_ref(), path)
                            .map_err(|e| e.to_string())?
                    }
                };
                self.base = Some((Arc::clone(&manifest), store, root));
                Some(BaseOrder { manifest, files })
            }
        };
        let job = self.job();
        let order = DeployOrder {
            job: job.clone(),
            attempt,
            parallelism: default_parallelism(&self.graph, program),
            max_parallelism: self.options.max_parallelism,
            base,
            placement: placement.iter().map(|worker| worker.ordinal).collect(),
            peers: Vec::new(),
            token: (0..32).map(|_| self.rng.u8(..)).collect(),
        };
        let restarts = self.coordinator.head().map_or(0, |head| head.restart.total);
        let mut shared = lock(&self.shared);
        shared.status.restarts = restarts;
        shared.status.job = Some(job);
        shared.status.attempt = Some(attempt);
        shared.crew.deploy(order).map_err(|missing| format!("workers {missing:?} are gone"))
    }

    fn tell_workers(&self, attempt: Attempt, order: &Order) {
        lock(&self.shared).crew.tell(attempt, order);
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
