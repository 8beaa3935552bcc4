//! A worker's half of attempts: starts and stops the slots that are placed on this
//! process, passes on what they are told, and says what they say.
//!
//! Orders are carried out one after the other on the agent's own thread, for stopping
//! slots blocks. Attempts only go up: one that was stopped, or is older than the newest
//! known, is never started.

use crate::coordinator::{Failure, FilesIn};
use crate::data::{Fail, Res};
use crate::exchange::{Listener, Peer, Token};
use crate::graph::Graph;
use crate::job::JobOptions;
use crate::job::crew::Link;
use crate::job::deploy::{DeploySpec, Deployment, Registry};
use crate::job::kept::InMemory;
use crate::job::order::{Counters, DeployOrder, Order, Word};
use crate::job::placement::Placement;
use crate::runtime::pool::Pool;
use crate::runtime::slot::{Control, Tell};
use crate::store::{ObjectStore, WithCopies};
use millrace_protocol::ids::Attempt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Whom an agent speaks to.
pub type Speak = Arc<dyn Fn(Word) + Send + Sync>;

/// What an agent works with.
pub struct AgentSpec {
    /// Its worker's ordinal.
    pub ordinal: u16,
    /// The program.
    pub graph: Arc<Graph>,
    /// How the job is run.
    pub options: JobOptions,
    /// The job's store.
    pub store: Arc<dyn ObjectStore>,
    /// The nonce of its process.
    pub process: String,
    /// Where the exchange of other workers reaches it; `None`: it is the only one.
    pub listener: Option<Arc<Listener>>,
    /// Slots that do not return in this time after they were told to stop are beyond
    /// help: the process is aborted, and whoever watches over it starts it again.
    pub stop_within: Option<Duration>,
}

/// What runs, looked at by others.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// The newest attempt here, with its counters.
    counters: Option<(Attempt, Registry)>,
    /// Whether slots of it run.
    runs: bool,
    /// Complete checkpoints that this worker was told of.
    completed: u64,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of the newest attempt's subtasks here.
    pub fn counters(&self) -> Option<(Attempt, Vec<Counters>)> {
        let seen = self.lock();
        let (attempt, registry) = seen.counters.as_ref()?;
        let of = registry.iter().map(|((node, _), metrics)| Counters::of(*node, metrics));
        Some((*attempt, of.collect()))
    }

    /// Whether slots run here.
    pub fn runs(&self) -> bool {
        self.lock().runs
    }

    /// How many complete checkpoints this worker was told of.
    pub fn completed(&self) -> u64 {
        self.lock().completed
    }
}

enum Msg {
    Order(Order),
    Halt,
    Leave,
}

/// The agent of this process.
pub struct Agent {
    inbox: Sender<Msg>,
    watch: Watch,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts it. What it has to say goes to `speak`, from any thread.
    pub fn start(mut spec: AgentSpec, speak: Speak) -> Res<Self> {
        let (inbox, orders) = channel();
        let watch = Watch::default();
        let seen = watch.clone();
        if let Some(copies) = &spec.options.copies {
            let mine = copies.join(spec.ordinal.to_string());
            spec.store = Arc::new(WithCopies::new(spec.store, &mine));
        }
        let mut worker = Worker {
            spec,
            speak,
            pool: Arc::new(Pool::new(16)),
            deployment: None,
            kept: InMemory::default(),
            newest: Attempt(0),
            watch: seen,
        };
        let thread = std::thread::Builder::new()
            .name("millrace-agent".to_owned())
            .spawn(move || worker.run(&orders))
            .map_err(|error| Fail::from(format!("could not start the agent: {error}")))?;
        Ok(Self { inbox, watch, thread: Some(thread) })
    }

    /// Passes on an order; does not wait.
    pub fn order(&self, order: Order) {
        // An agent that is gone has been dropped.
        let _ = self.inbox.send(Msg::Order(order));
    }

    /// Stops what runs, for nobody leads it any more; does not wait.
    pub fn halt(&self) {
        let _ = self.inbox.send(Msg::Halt);
    }

    /// A way to it for a coordinator in this process.
    pub fn link(&self) -> AgentLink {
        AgentLink(self.inbox.clone())
    }

    /// A look at its counters, valid also when the agent is gone.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

/// The way to an agent in the same process.
pub struct AgentLink(Sender<Msg>);

impl Link for AgentLink {
    fn send(&self, order: Order) {
        let _ = self.0.send(Msg::Order(order));
    }
}

impl Drop for Agent {
    /// Stops what runs, and waits for it.
    fn drop(&mut self) {
        let _ = self.inbox.send(Msg::Leave);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the slots it left.
            let _ = thread.join();
        }
    }
}

struct Worker {
    spec: AgentSpec,
    speak: Speak,
    pool: Arc<Pool>,
    deployment: Option<Deployment>,
    /// What the attempt stopped last left in memory.
    kept: InMemory,
    /// The newest attempt that was started or stopped here.
    newest: Attempt,
    watch: Watch,
}

impl Worker {
    fn run(&mut self, orders: &Receiver<Msg>) {
        loop {
            match orders.recv() {
                Ok(Msg::Order(order)) => self.obey(order),
                Ok(Msg::Halt) => self.stop(),
                Ok(Msg::Leave) | Err(_) => return self.stop(),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Deploy(order) => {
                let attempt = order.attempt;
                if let Err(cause) = self.deploy(*order) {
                    let failure =
                        Failure { operator: None, subtask: None, cause: cause.to_string() };
                    (self.speak)(Word::Failed { attempt, failure });
                }
            }
            Order::Cancel { attempt } => {
                if self.deployment.as_ref().is_some_and(|d| d.attempt <= attempt) {
                    self.stop();
                }
                self.newest = self.newest.max(attempt);
                (self.speak)(Word::Joined { attempt });
            }
            Order::Trigger(barrier) => {
                let attempt = barrier.attempt;
                self.tell(attempt, &Control::Trigger(barrier));
            }
            Order::Complete { attempt, checkpoint } => {
                self.watch.lock().completed += 1;
                self.tell(attempt, &Control::Complete(checkpoint));
            }
            Order::Aborted { attempt, checkpoint } => {
                self.tell(attempt, &Control::Aborted(checkpoint));
            }
        }
    }

    fn tell(&self, attempt: Attempt, control: &Control) {
        if let Some(deployment) = self.deployment.as_ref().filter(|d| d.attempt == attempt) {
            deployment.tell(control);
        }
    }

    fn deploy(&mut self, order: DeployOrder) -> Res {
        let attempt = order.attempt;
        if attempt <= self.newest {
            let newest = self.newest;
            return Err(Fail::from(format!("attempt {attempt} is over: {newest} was here")));
        }
        self.stop();
        self.newest = attempt;
        let mut kept = std::mem::take(&mut self.kept);
        if !order.base.as_ref().is_some_and(|base| kept.is_of(base)) {
            kept = InMemory::default();
        }
        let base = match &order.base {
            None => None,
            Some(base) => {
                let store = match &base.files {
                    FilesIn::Home => Arc::clone(&self.spec.store),
                    FilesIn::Savepoint(path) => {
                        super::savepoint_store(self.spec.options.opener.as_ref(), path)?.0
                    }
                };
                Some((base.clone(), store))
            }
        };
        let base_files = order.base.iter().flat_map(|base| &base.manifest.files);
        self.spec.store.keep_copies(&mut base_files.map(|file| &file.key));
        let speak = Arc::clone(&self.speak);
        let reports: Tell = Arc::new(move |report| {
            if let Some(word) = Word::of(attempt, report) {
                speak(word);
            }
        });
        let spec = DeploySpec {
            graph: &self.spec.graph,
            options: &self.spec.options,
            order: &order,
            placement: self.placement(&order)?,
            base,
            kept,
            store: &self.spec.store,
            pool: &self.pool,
        };
        let deployment = Deployment::start(spec, &reports)?;
        let mut seen = self.watch.lock();
        seen.counters = Some((attempt, deployment.metrics.clone()));
        seen.runs = true;
        drop(seen);
        self.deployment = Some(deployment);
        Ok(())
    }

    /// Where the slots are, unless all of them are here.
    fn placement(&self, order: &DeployOrder) -> Res<Option<Placement>> {
        let mine = self.spec.ordinal;
        if order.placement.iter().all(|worker| *worker == mine) {
            return Ok(None);
        }
        let Some(listener) = &self.spec.listener else {
            return Err(Fail::from("this worker has no exchange, and others run slots"));
        };
        let token = <[u8; 32]>::try_from(order.token.as_slice())
            .map_err(|_| Fail::from("the attempt's token is not of 32 bytes"))?;
        let peer = |peer: &crate::job::order::Peer| Peer {
            ordinal: peer.ordinal,
            process: peer.process.clone(),
            address: peer.exchange.clone(),
        };
        let me = Peer {
            ordinal: mine,
            process: self.spec.process.clone(),
            address: listener.address().to_string(),
        };
        Ok(Some(Placement {
            workers: order.placement.clone(),
            me,
            peers: order.peers.iter().map(peer).collect(),
            listener: Arc::clone(listener),
            token: Token(token),
        }))
    }

    /// Stops what runs, waits for it, and keeps what it leaves in memory.
    fn stop(&mut self) {
        let Some(deployment) = self.deployment.take() else { return };
        let attempt = deployment.attempt;
        self.watch.lock().runs = false;
        let Some(limit) = self.spec.stop_within else {
            self.kept = deployment.stop();
            return;
        };
        let (done, wait) = channel::<()>();
        let watchdog = std::thread::Builder::new().name("millrace-watchdog".to_owned());
        let watchdog = watchdog.spawn(move || {
            if wait.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                tracing::error!(
                    %attempt,
                    "slots did not stop within {limit:?} (a function of the program that does \
                     not return?): the process ends itself"
                );
                std::process::abort();
            }
        });
        if let Err(error) = &watchdog {
            tracing::warn!(%error, "no watchdog over slots that stop");
        }
        self.kept = deployment.stop();
        drop(done);
    }
}
