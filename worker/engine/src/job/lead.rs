//! From options to a job that is led: the lock and the store, the agents of a job in one
//! process, and the first configuration.

use crate::coordinator::{
    ClaimRule, Config, Coordinator, Desired, Existing, Outcome, RestoreChoice,
};
use crate::exchange::{Listener, Security};
use crate::job::agent::{Agent, AgentSpec};
use crate::job::committing::Committers;
use crate::job::crew::Member;
use crate::job::handle::{Handle, lock};
use crate::job::order::Peer;
use crate::job::program::{check_shapes, describe};
use crate::job::proposed::Proposed;
use crate::job::shell::Shell;
use crate::job::{JobOptions, WrapStore};
use crate::runtime::pool::Pool;
use crate::runtime::source::wall_clock;
use crate::store::directory::DirectoryStore;
use crate::store::lock::{OwnerLock, host};
use crate::store::opener::is_url;
use crate::store::{Access, ObjectStore, StoreError, probe_patiently};
use millrace_protocol::head::{ConfigRef, Owner};
use millrace_protocol::ids::JobUid;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
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
    let owner = Owner { pod: host(), process: std::process::id(), address: String::new() };
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
