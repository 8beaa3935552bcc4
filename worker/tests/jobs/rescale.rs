//! What a rescale reads from the storage: the key groups that moved to another worker, and
//! next to nothing else; and that what it leaves in memory is what the storage holds.

use crate::common::{Counts, assert_same, multiset, options, run_until, seed, until};
use millrace::connectors::{Blackhole, Collected, Generator};
use millrace::engine::coordinator::{CheckpointPolicy, Outcome, RestartPolicy, StopMode};
use millrace::engine::exchange::{Listener, Security};
use millrace::engine::job::agent::{Agent, AgentSpec};
use millrace::engine::job::crew::Member;
use millrace::engine::job::order::Peer;
use millrace::engine::job::{Handle, JobError, JobOptions, Lead, Proposed, WrapStore, lead};
use millrace::engine::store::Access;
use millrace::engine::store::{ObjectStore, ObjectWriter, Put, StoreResult};
use millrace::prelude::*;
use millrace::protocol::config::{
    Backend, CONFIG_FORMAT, CheckpointSettings, DesiredState, ExchangeSecurity, Live,
    OnExistingState, RestartSettings, Revision, Storage,
};
use millrace::protocol::head::Owner;
use millrace::protocol::ids::{JobUid, Uid};
use millrace::protocol::keygroup::MaxParallelism;
use millrace::protocol::manifest::Manifest;
use millrace::protocol::objects::{ObjectKey, Prefix};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const KEYS: u64 = 1_000_000;

/// What is read of a file beside blocks of key groups that moved: its end, which holds its
/// index, and what a block of about a megabyte holds of others.
const BESIDE: u64 = (64 << 10) + (1 << 20);

/// Bytes and calls of ranged reads.
#[derive(Default)]
struct Read {
    bytes: AtomicU64,
    calls: AtomicU64,
}

/// A store that counts what is read of its files.
struct Counting(Arc<dyn ObjectStore>, Arc<Read>);

impl ObjectStore for Counting {
    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put> {
        self.0.put_if_absent(key, bytes)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()> {
        self.0.put(key, bytes)
    }

    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>> {
        self.0.create(key)
    }

    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>> {
        assert!(!is_state(key), "all of {key} is read");
        self.0.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
        self.1.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.1.calls.fetch_add(1, Ordering::Relaxed);
        self.0.get_range(key, offset, len)
    }

    fn size(&self, key: &ObjectKey) -> StoreResult<Option<u64>> {
        self.0.size(key)
    }

    fn list(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        self.0.list(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> StoreResult<()> {
        self.0.delete(key)
    }
}

fn is_state(key: &ObjectKey) -> bool {
    let name = key.as_str().rsplit('/').next().unwrap();
    name.starts_with('s') && name.contains("-c")
}

/// A running sum of many keys.
fn job() -> Handle {
    let env = Env::new();
    env.source("rows", Generator::new(|i| (i % KEYS, i)).splits(4), Watermarks::none())
        .uid("rows")
        .key_by(|row| row.0)
        .reduce("sums", |sum, row| sum.1 += row.1)
        .uid("sums")
        .sink("none", Blackhole);
    Handle::new(env.into_graph())
}

/// On so many workers, one subtask each. Only the stop takes a checkpoint, as a rescale does.
fn on_workers(dir: &Path, workers: u16, read: &Arc<Read>) -> JobOptions {
    let mut options = options(&dir.join("storage"), workers);
    options.loopback = Some(workers);
    options.copies = Some(dir.join("copies"));
    options.checkpoints.interval = None;
    let read = Arc::clone(read);
    let wrap: WrapStore = Arc::new(move |store| Arc::new(Counting(store, Arc::clone(&read))));
    options.wrap_store = Some(wrap);
    options
}

/// The newest manifest.
fn manifest(storage: &Path) -> Manifest {
    let mut newest = None;
    let mut look = vec![storage.to_owned()];
    while let Some(directory) = look.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                look.push(path);
            } else if name.starts_with("m-") {
                let manifest = Manifest::decode(&name, &fs::read(&path).unwrap()).unwrap();
                newest = newest.max(Some((manifest.checkpoint, path)));
            }
        }
    }
    let (_, path) = newest.unwrap();
    Manifest::decode("manifest", &fs::read(path).unwrap()).unwrap()
}

/// Which subtask a worker has: of four, 1 and 2 have changed places.
fn subtask_on(worker: u16, workers: u16) -> u16 {
    match (workers, worker) {
        (4, 1) => 2,
        (4, 2) => 1,
        _ => worker,
    }
}

/// What of the newest checkpoint's state lies elsewhere than on the worker that is to have
/// it: bytes, by the key groups of each file, and files.
fn to_move(dir: &Path, parallelism: u16) -> (f64, u64) {
    let manifest = manifest(&dir.join("storage"));
    let (mut bytes, mut files) = (0.0, 0);
    for worker in 0..parallelism {
        let owned = MaxParallelism::DEFAULT.range(subtask_on(worker, parallelism), parallelism);
        let near = dir.join("copies").join(worker.to_string());
        for file in &manifest.files {
            let sums = file.sections.iter().find(|section| section.operator == Uid::from("sums"));
            let Some(section) = sums else { continue };
            let moved = section.groups.intersect(owned);
            if moved.is_empty() || near.join(file.key.as_str().replace('/', ",")).exists() {
                continue;
            }
            bytes += file.len as f64 * f64::from(moved.len()) / f64::from(section.groups.len());
            files += 1;
        }
    }
    (bytes, files)
}

#[test]
fn only_key_groups_that_moved_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let first = Arc::default();
    // Every key a few times, in each phase.
    run_until(&job(), on_workers(dir.path(), 2, &first), "sums", 2 * KEYS);
    assert_eq!(first.bytes.load(Ordering::Relaxed), 0, "there was nothing to read");
    for (from, to) in [(2, 4), (4, 2)] {
        let (moved, files) = to_move(dir.path(), to);
        let state = manifest(&dir.path().join("storage")).state_bytes();
        let read = Arc::new(Read::default());
        run_until(&job(), on_workers(dir.path(), to, &read), "sums", 2 * KEYS);
        let bytes = read.bytes.load(Ordering::Relaxed);
        let calls = read.calls.load(Ordering::Relaxed);
        println!("{from} -> {to}: {bytes} bytes read in {calls} of {state}; {moved:.0} moved");
        assert!(moved > 1e6 && moved < 0.9 * state as f64, "too little for this test");
        let most = moved * 1.02 + (files * BESIDE) as f64;
        assert!(calls <= 6 * files, "{from} -> {to}: {calls} reads of {files} files");
        assert!(bytes as f64 <= most, "{from} -> {to}: {bytes} bytes were read, not {moved:.0}");
        assert!(bytes as f64 >= moved * 0.95, "{from} -> {to}: {bytes} of {moved:.0} were read");
    }
}

/// A job in four workers of one slot each, of which it uses as many as it is told to.
struct Live4 {
    handle: Handle,
    live: Live,
    /// What each of the workers reads.
    read: Vec<Arc<Read>>,
    agents: Vec<Agent>,
    leads: JoinHandle<Result<Outcome, JobError>>,
}

impl Live4 {
    fn start(handle: Handle, dir: &Path, workers: u16, interval: Option<Duration>) -> Self {
        let storage = dir.join("storage");
        let options = options(&storage, workers);
        let revision = Revision {
            format: CONFIG_FORMAT,
            name: "test".to_owned(),
            job: JobUid::from("test"),
            cluster: String::new(),
            args: Vec::new(),
            max_parallelism: MaxParallelism::DEFAULT.get().into(),
            slots_per_worker: 1,
            storage: Storage::Directory { path: storage.display().to_string() },
            backend: Backend::default(),
            exchange: ExchangeSecurity::default(),
            drop_state: Vec::new(),
            on_existing_state: OnExistingState::default(),
        };
        let live = Live {
            format: CONFIG_FORMAT,
            generation: 1,
            revision: revision.hash().unwrap(),
            workers,
            parallelism: workers,
            desired: DesiredState::Running,
            checkpoint: CheckpointSettings::default(),
            restart: RestartSettings::default(),
            restore: None,
            begun: false,
        };
        let checkpoints = CheckpointPolicy { interval, ..CheckpointPolicy::default() };
        let policies = Some((checkpoints, RestartPolicy::default()));
        let proposed = Proposed { revision, live: live.clone(), policies, same_job: false };
        let store = options.opener.open(&options.storage, Access::Write).unwrap();
        let mut read = Vec::new();
        let mut agents = Vec::new();
        for ordinal in 0..4 {
            read.push(Arc::new(Read::default()));
            let store = Arc::new(Counting(Arc::clone(&store), Arc::clone(&read[ordinal])));
            agents.push(agent(&handle, &options, store, ordinal as u16));
        }
        let owner = Owner { pod: "test".to_owned(), process: 1, address: String::new() };
        let (job, led) = (handle.clone(), Lead { proposed: Some(proposed), ..Lead::local(owner) });
        let leads = std::thread::spawn(move || lead(&job, options, store, led));
        Self { handle, live, read, agents, leads }
    }

    /// Waits until the job runs with another number of workers, or has ended. What each has
    /// read for that.
    fn rescale(&mut self, workers: u16) -> Vec<u64> {
        self.read.iter().for_each(|read| read.bytes.store(0, Ordering::Relaxed));
        self.live.generation += 1;
        (self.live.workers, self.live.parallelism) = (workers, workers);
        self.handle.propose(self.live.clone(), false, |_| ());
        let begun = Instant::now();
        loop {
            let status = self.handle.status();
            if status.running && status.generation == Some(self.live.generation) {
                break;
            }
            if self.leads.is_finished() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{status:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.read.iter().map(|read| read.bytes.load(Ordering::Relaxed)).collect()
    }

    /// Waits until the job has ended.
    fn join(self) -> Outcome {
        let begun = Instant::now();
        while !self.leads.is_finished() {
            let status = self.handle.status();
            assert!(begun.elapsed() < Duration::from_secs(60), "the job hangs: {status:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(self.agents);
        self.leads.join().unwrap().unwrap()
    }
}

/// A worker of one slot.
fn agent(
    handle: &Handle,
    options: &JobOptions,
    store: Arc<dyn ObjectStore>,
    ordinal: u16,
) -> Agent {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::bind(any, Security::Plain).unwrap();
    let (to, process) = (handle.clone(), "p".to_owned());
    let peer = Peer { ordinal, process: process.clone(), exchange: listener.address().to_string() };
    let spec = AgentSpec {
        ordinal,
        graph: Arc::clone(handle.graph()),
        options: options.clone(),
        store,
        process: process.clone(),
        listener: Some(listener),
        stop_within: None,
    };
    let agent = Agent::start(spec, Arc::new(move |word| to.word(ordinal, &process, word))).unwrap();
    let (link, watch) = (Box::new(agent.link()), Some(agent.watch()));
    handle.joined(Member { peer, slots: 1, link, watch });
    agent
}

#[test]
fn what_a_worker_keeps_it_does_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = Live4::start(job(), dir.path(), 2, None);
    until(&job.handle, "sums", 2 * KEYS);
    let read = job.rescale(4);
    let state = manifest(&dir.path().join("storage")).state_bytes();
    println!("2 -> 4: {read:?} bytes read of {state}");
    // Half of what each of the two had has moved to another.
    assert_eq!(read[..2], [0, 0], "these have what they need");
    let quarter = state as f64 / 4.0;
    for read in &read[2..] {
        let most = quarter * 1.05 + 2.0 * BESIDE as f64;
        assert!((quarter * 0.9..most).contains(&(*read as f64)), "{read} of {state}");
    }
    // Every key once more, in each of the files.
    until(&job.handle, "sums", 4 * KEYS);
    let read = job.rescale(2);
    let manifest = manifest(&dir.path().join("storage"));
    let state: u64 = manifest.state_bytes();
    println!("4 -> 2: {read:?} bytes read of {state} in {} files", manifest.files.len());
    assert_eq!(read[2..], [0, 0], "these are not used");
    for read in &read[..2] {
        let most = state as f64 / 4.0 * 1.05 + (manifest.files.len() as u64 * BESIDE) as f64;
        assert!((1.0..most).contains(&(*read as f64)), "{read} of {state}");
    }
    job.handle.stop(StopMode::Suspend);
    assert_eq!(job.join(), Outcome::Suspended);
}

#[test]
fn state_that_rescales_left_in_memory_is_the_state() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let (out, counts) = (Collected::new(), Counts { rows: 160_000, keys: 2_000, rate: 40_000 });
    let interval = Some(Duration::from_millis(10)).filter(|_| rng.bool());
    let mut job = Live4::start(counts.job(&out), dir.path(), rng.u16(1..5), interval);
    let mut rescales = 0;
    while rescales < 8 && !job.leads.is_finished() {
        std::thread::sleep(Duration::from_millis(rng.u64(..200)));
        // To another number each time.
        job.rescale((job.live.workers + rng.u16(..3)) % 4 + 1);
        rescales += 1;
    }
    assert_eq!(job.join(), Outcome::Finished);
    assert_same(&multiset(out.rows()), &counts.expected(), &format!("{rescales} rescales"));
    assert!(rescales > 1, "too few for this test");
}
