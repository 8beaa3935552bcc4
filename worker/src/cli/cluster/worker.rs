//! `worker`: one process of a job. The one with ordinal 0 also leads the job.

use crate::cli::cluster::files::replace;
use crate::cli::cluster::{last_words, pod};
use crate::cli::options::{RunOptions, parse_duration};
use crate::cli::place::Place;
use crate::cli::run;
use crate::cli::screen::Screen;
use crate::cli::server::{Running, serve};
use crate::cli::state::{missing_for, spill_of_worker};
use crate::cli::trouble::Trouble;
use clap::Args;
use millrace_cluster::Heartbeat;
use millrace_cluster::process::{Leader, Process, ProcessSpec};
use millrace_cluster::token::Token;
use millrace_connectors::DeadLetterFile;
use millrace_engine::api::env::Env;
use millrace_engine::coordinator::{ClaimRule, Existing, Unclaimed};
use millrace_engine::data::Res;
use millrace_engine::exchange::Security;
use millrace_engine::exchange::tls::Certificates;
use millrace_engine::job::{Handle, JobOptions, Lead, Proposed};
use millrace_engine::store::lock::host;
use millrace_engine::store::opener::is_url;
use millrace_engine::store::{Access, DirectoryStore, OwnerLock, StoreError};
use millrace_protocol::config::{ExchangeSecurity, Live, OnExistingState, Revision};
use millrace_protocol::head::Owner;
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::MaxParallelism;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7072);

/// Local state of a pod.
const STATE_DIR: &str = "/var/lib/millrace";

/// How often a file that others write is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// An owner that has shown nothing for so long may be replaced.
const SILENCE: Duration = Duration::from_secs(10);

/// How long a storage may be held by a process that is ending.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process of a job is told.
#[derive(Args, Clone)]
#[command(next_help_heading = "Options of worker")]
pub struct WorkerOptions {
    /// Which of the job's processes this is; 0 leads the job [default: the number at the end
    /// of MILLRACE_POD_NAME]
    #[arg(long, value_name = "N")]
    pub index: Option<u16>,
    /// The job's configuration: a revision, JSON
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What of it may change while the job runs: JSON, looked at again and again
    #[arg(long, value_name = "FILE")]
    pub live: PathBuf,
    /// Where control services listen
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7070")]
    pub listen: SocketAddr,
    /// Where the exchange with other workers listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7071")]
    pub exchange: SocketAddr,
    /// Where /ready and /metrics are answered [default in a pod: 0.0.0.0:7072]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// The host by which other processes reach this one [default: MILLRACE_POD_IP, or that of
    /// --listen]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// HOST:PORT of the process that leads the job [default: pod 0 of MILLRACE_SERVICE]
    #[arg(long, value_name = "ADDRESS")]
    pub leader: Option<String>,
    /// A file that says so, written by the process that leads the job
    #[arg(long, value_name = "FILE", conflicts_with = "leader")]
    pub leader_file: Option<PathBuf>,
    /// The secret that the job's processes share [default: MILLRACE_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Silence of another process for so long means that it is lost
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub heartbeat_timeout: Duration,
    /// No other process leads the job: known to who starts this one
    #[arg(long, hide = true)]
    pub confirmed: bool,
    /// The storage, as the user of `run` wrote it
    #[arg(long, hide = true)]
    pub storage_location: Option<String>,
    /// End with the process that started this one
    #[arg(long, hide = true)]
    pub supervised: bool,
    /// The command line of `run`, as a JSON list
    #[arg(long, hide = true)]
    pub run_arguments: Option<String>,
}

/// Runs one process of the job that `build` builds. `own` and `run`: what the job's own
/// arguments say.
pub fn worker(
    options: &WorkerOptions,
    run_options: Option<&RunOptions>,
    revision: &Revision,
    build: impl FnOnce(&Env) -> Res,
) -> Result<(), Trouble> {
    let in_pod = last_words::in_pod();
    let told = in_pod.then(pod::Told::listen).transpose().map_err(Trouble::failed)?;
    if options.supervised {
        end_with_parent()?;
    }
    let index = options.index.map_or_else(index_of_pod, Ok)?;
    // Before the dataflow is built: files of the program are on the server of the storage.
    let place = match (run_options, &options.storage_location) {
        (Some(run), Some(location)) => Place::new(location, &run.server),
        _ => Place::of_storage(&revision.storage),
    };
    refuse_unsupported(revision)?;
    let env = Env::new();
    build(&env).map_err(Trouble::user)?;
    let graph = Arc::new(env.into_graph());
    let live = read_live(&options.live)?;
    let hash = revision.hash().map_err(Trouble::failed)?;
    let storage = if in_pod { PathBuf::from(STATE_DIR) } else { place.here() };
    let mut job = JobOptions::new(&revision.name, &place.location);
    job.opener = Arc::clone(&place.opener);
    job.copies = is_url(&place.location).then(|| storage.join("copies"));
    job.parallelism = live.parallelism;
    job.max_parallelism = MaxParallelism::new(revision.max_parallelism).map_err(Trouble::user)?;
    graph.check(job.parallelism, job.max_parallelism).map_err(Trouble::User)?;
    if let Some(run) = run_options {
        job.checkpoints = run.checkpoints();
        job.restart = run.restart.clone();
        job.unclaimed = run.unclaimed();
    } else {
        job.unclaimed = unclaimed(revision);
    }
    let letters = run_options.and_then(|run| run.dead_letters.clone());
    let letters = letters.unwrap_or_else(|| storage.join("dead-letters"));
    // In a cluster the name is `namespace/name`.
    let name = revision.name.replace('/', ".");
    let name = if index == 0 { name } else { format!("{name}-{index}") };
    let letters = Arc::new(DeadLetterFile::open(&letters, &name).map_err(Trouble::user)?);
    job.dead_letters = Arc::clone(&letters) as _;
    let owned = if index == 0 { Some(own(&storage)?) } else { None };
    if let Some(lock) = owned.as_ref().filter(|_| !in_pod && !is_url(&place.location)) {
        let directory = DirectoryStore::open(lock.directory()).map_err(Trouble::user)?;
        directory.remove_leftovers(lock).map_err(Trouble::user)?;
    }
    // Each pod has its own memory; processes of one machine share it.
    let neighbours = if in_pod { 1 } else { live.workers };
    let state = run_options.map(|run| &run.state);
    job.spill = spill_of_worker(revision, state, (index, neighbours), &storage)?;
    let bad_storage = |error: StoreError| Trouble::Storage(error.to_string());
    let store = place.open(Access::Write).map_err(bad_storage)?;
    let spec = ProcessSpec {
        ordinal: index,
        graph,
        options: job.clone(),
        store,
        slots: revision.slots_per_worker,
        listen: options.listen,
        exchange: options.exchange,
        metrics: options.metrics.or_else(|| last_words::in_pod().then_some(METRICS)),
        security: security(revision)?,
        host: options.host.clone().or_else(|| std::env::var("MILLRACE_POD_IP").ok()),
        leader: leader(options)?,
        token: token(options)?,
        heartbeat: Heartbeat::within(options.heartbeat_timeout),
        revision: Some(hash.clone()),
    };
    let process = Process::start(spec).map_err(Trouble::failed)?;
    let Some(lock) = owned else {
        let told = match told {
            Some(told) => told,
            None => pod::Told::listen().map_err(Trouble::failed)?,
        };
        pod::serve_until_told(process, told);
        return Ok(());
    };
    if let Some(file) = &options.leader_file {
        replace(file, process.address().as_bytes())
            .map_err(|e| Trouble::user(format!("cannot write {}: {e}", file.display())))?;
    }
    let handle = process.handle().clone();
    let shown = Some(place.location.clone());
    let running =
        Running::new(handle.clone(), &revision.name, shown, Arc::clone(&place.opener), letters);
    let running = Arc::new(running);
    let socket = match serve(&running, &storage) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "no control socket: savepoint, status and stop cannot reach this job");
            None
        }
    };
    let leftovers = Arc::new(Mutex::new(socket));
    match told {
        Some(told) => pod::leave_with_checkpoint(handle.clone(), told),
        None => run::stop_on_signals(&running, &leftovers, &Screen::default()),
    }
    .map_err(|e| Trouble::failed(format!("cannot listen for signals: {e}")))?;
    pod::watch_over(handle.clone()).map_err(Trouble::failed)?;
    watch(&options.live, live.clone(), hash, handle);
    let owner = Owner {
        pod: std::env::var("MILLRACE_POD_UID").unwrap_or_else(|_| host()),
        process: std::process::id(),
        address: process.address().to_owned(),
    };
    let policies = run_options.map(|run| (run.checkpoints(), run.restart.clone()));
    let existing = match run_options {
        Some(_) => Existing::Same,
        None => existing(revision),
    };
    // Of storage elsewhere a lock of this machine says nothing.
    // In a pod Kubernetes has just made this one the job's.
    let (claim, keepalive) = if options.confirmed || in_pod || !is_url(&place.location) {
        (ClaimRule::Confirmed, Some(SILENCE / 3))
    } else {
        (ClaimRule::AfterSilence(SILENCE), Some(SILENCE / 3))
    };
    let lead = Lead {
        claim,
        keepalive: keepalive.filter(|_| in_pod || is_url(&place.location)),
        stays: in_pod,
        proposed: Some(Proposed {
            revision: revision.clone(),
            live,
            policies,
            same_job: run_options.is_some(),
        }),
        existing,
        ..Lead::local(owner)
    };
    let told = run::tell(process.lead(lead));
    running.set_over();
    running.ended(told.as_ref().map(|how| (*how).to_owned()).map_err(ToString::to_string));
    drop(leftovers);
    drop(lock);
    told.map(drop)
}

/// How rows go from worker to worker. In a cluster all workers of a job share a certificate,
/// so that it names the job's service and not each of them.
pub fn security(revision: &Revision) -> Result<Security, Trouble> {
    let ExchangeSecurity::Mutual { directory } = &revision.exchange else {
        return Ok(Security::Plain);
    };
    let env = |name| std::env::var(name).ok();
    let name = match (env("MILLRACE_SERVICE"), env("MILLRACE_NAMESPACE")) {
        (Some(service), Some(namespace)) => Some(format!("{service}.{namespace}.svc")),
        _ => None,
    };
    let certificates = Certificates::read(Path::new(directory), name).map_err(Trouble::user)?;
    Ok(Security::Tls(certificates))
}

/// State of these operators may be dropped, and no other.
pub fn unclaimed(revision: &Revision) -> Unclaimed {
    Unclaimed::DroppedOf(revision.drop_state.iter().map(|uid| Uid(uid.clone())).collect())
}

/// What a configuration may ask for and this program cannot do: never something else instead.
pub fn refuse_unsupported(revision: &Revision) -> Result<(), Trouble> {
    match missing_for(revision.backend) {
        None => Ok(()),
        Some(feature) => Err(Trouble::user(format!(
            "state.backend {:?}: this program was built without it. Build it with the feature \
             {feature:?} of the crate millrace, or give it another backend",
            revision.backend
        ))),
    }
}

fn existing(revision: &Revision) -> Existing {
    match revision.on_existing_state {
        OnExistingState::Refuse => Existing::Refuse,
        OnExistingState::Resume => Existing::Resume,
        OnExistingState::Ignore => Existing::Ignore,
    }
}

/// The storage is this process's. One that led the job before may be ending.
fn own(storage: &Path) -> Result<OwnerLock, Trouble> {
    let begun = Instant::now();
    loop {
        match OwnerLock::acquire(storage) {
            Ok(lock) => return Ok(lock),
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(LOOK),
            Err(error) => return Err(Trouble::user(error)),
        }
    }
}

/// Ends this process when its parent ends, however that ends.
fn end_with_parent() -> Result<(), Trouble> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Trouble::failed)?;
    if getppid() != parent {
        return Err(Trouble::failed("the process that started this one has ended"));
    }
    Ok(())
}

fn index_of_pod() -> Result<u16, Trouble> {
    let pod = std::env::var("MILLRACE_POD_NAME").unwrap_or_default();
    let index = pod.rsplit('-').next().and_then(|number| number.parse().ok());
    index.ok_or_else(|| Trouble::user("give --index, or a pod's name in MILLRACE_POD_NAME"))
}

fn leader(options: &WorkerOptions) -> Result<Leader, Trouble> {
    if let Some(file) = &options.leader_file {
        return Ok(Leader::In(file.clone()));
    }
    if let Some(address) = &options.leader {
        return Ok(Leader::At(address.clone()));
    }
    let env = |name| std::env::var(name).ok();
    match (env("MILLRACE_POD_NAME"), env("MILLRACE_SERVICE"), env("MILLRACE_NAMESPACE")) {
        (Some(pod), Some(service), Some(namespace)) => {
            let set = pod.rsplit_once('-').map_or(pod.as_str(), |(set, _)| set);
            let port = options.listen.port();
            Ok(Leader::At(format!("{set}-0.{service}.{namespace}.svc:{port}")))
        }
        _ => Err(Trouble::user("give --leader, or MILLRACE_POD_NAME, _SERVICE and _NAMESPACE")),
    }
}

fn token(options: &WorkerOptions) -> Result<Token, Trouble> {
    let file = options.token_file.clone();
    let file = file.or_else(|| std::env::var_os("MILLRACE_TOKEN_FILE").map(PathBuf::from));
    let file = file.ok_or_else(|| Trouble::user("give --token-file or MILLRACE_TOKEN_FILE"))?;
    let name = file.display();
    let text = std::fs::read_to_string(&file)
        .map_err(|e| Trouble::user(format!("cannot read the token in {name}: {e}")))?;
    Token::new(&text).map_err(|e| Trouble::user(format!("{name}: {e}")))
}

/// The revision in a file.
pub fn read_revision(path: &Path) -> Result<Revision, Trouble> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|e| Trouble::user(format!("cannot read the configuration {name}: {e}")))?;
    Revision::decode(&name, &bytes).map_err(Trouble::user)
}

/// The live part in a file.
pub fn read_live(path: &Path) -> Result<Live, Trouble> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|e| Trouble::user(format!("cannot read the configuration {name}: {e}")))?;
    Live::decode(&name, &bytes).map_err(Trouble::user)
}

/// Proposes what the file says, whenever that has changed.
fn watch(path: &Path, mut seen: Live, revision: String, handle: Handle) {
    let path = path.to_owned();
    let thread = std::thread::Builder::new().name("millrace-live".to_owned());
    let watching = thread.spawn(move || {
        let mut complaint = String::new();
        loop {
            std::thread::sleep(LOOK);
            match read_live(&path) {
                Ok(live) if live != seen => {
                    seen = live.clone();
                    if live.revision != revision {
                        tracing::info!(
                            live.revision,
                            "the configuration is now for other processes"
                        );
                        continue;
                    }
                    handle.propose(live, false, |verdict| {
                        tracing::info!(?verdict, "the changed configuration was proposed");
                    });
                }
                Ok(_) => complaint.clear(),
                Err(error) if error.to_string() != complaint => {
                    complaint = error.to_string();
                    tracing::warn!(%error, "the configuration stays as it was");
                }
                Err(_) => {}
            }
        }
    });
    if let Err(error) = watching {
        tracing::warn!(%error, "changes of the configuration are not seen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(more: &str) -> Revision {
        let text = format!(
            r#"{{"format":1,"name":"shop/orders","job":"u","max_parallelism":8,
                "slots_per_worker":1,"storage":{{"directory":{{"path":"/s"}}}}{more}}}"#
        );
        Revision::decode("revision", text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        assert!(refuse_unsupported(&revision("")).is_ok());
        let rocksdb = revision(r#","backend":"RocksDB""#);
        let why = refuse_unsupported(&rocksdb).err().map(|trouble| trouble.to_string());
        assert_eq!(why.is_none(), cfg!(feature = "rocksdb"), "{why:?}");
        assert!(why.is_none_or(|why| why.contains("state.backend") && why.contains("feature")));
    }

    #[test]
    fn certificates_that_cannot_be_used_are_named() {
        assert!(matches!(security(&revision("")), Ok(Security::Plain)));
        let mutual = revision(r#","exchange":{"mutual":{"directory":"/no/such"}}"#);
        let why = security(&mutual).err().map(|trouble| trouble.to_string()).unwrap_or_default();
        assert!(why.contains("/no/such/"), "{why}");
    }

    #[test]
    fn only_state_that_the_user_named_may_be_dropped() {
        let unclaimed = unclaimed(&revision(r#","drop_state":["old"]"#));
        assert!(unclaimed.may_drop(&Uid("old".to_owned())));
        assert!(!unclaimed.may_drop(&Uid("window".to_owned())));
    }
}
