//! The verbs of the control API, asked over the network of a job that runs; and with whom and
//! what it does not run.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

mod common;

use common::{LONG, SECRET, bearer, endpoint};
use millrace_cluster::process::{Leader, Process, ProcessSpec};
use millrace_connectors::{Blackhole, Generator};
use millrace_engine::api::env::Env;
use millrace_engine::job::{JobError, Lead};
use millrace_engine::store::{DirectoryStore, ObjectStore, ObjectWriter, Put, StoreResult};
use millrace_engine::time::Watermarks;
use millrace_protocol::control as api;
use millrace_protocol::control::control_client::ControlClient;
use millrace_protocol::head::Owner;
use millrace_protocol::objects::{ObjectKey, Prefix};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

fn graph(state: &'static str) -> millrace_engine::graph::Graph {
    let env = Env::new();
    env.source("rows", Generator::new(|i| i).splits(1).rate(500), Watermarks::none())
        .map(|i| (i % 100, 1u64))
        .key_by(|row| row.0)
        .reduce(state, |sum, row| sum.1 += row.1)
        .sink("out", Blackhole);
    env.into_graph()
}

fn spec(storage: &Path, ordinal: u16, state: &'static str, leader: &str) -> ProcessSpec {
    let leader = Leader::At(leader.to_owned());
    ProcessSpec { ordinal, leader, ..common::spec(storage, graph(state)) }
}

#[derive(Clone)]
struct Shown;

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", bearer(SECRET));
        Ok(request)
    }
}

/// A job that its process leads, and stays with at its end.
struct Job {
    control: ControlClient<InterceptedService<Channel, Shown>>,
    channel: Channel,
    address: String,
}

async fn job(storage: &Path) -> Job {
    job_in(storage, Arc::new(DirectoryStore::open(storage).unwrap())).await
}

async fn job_in(storage: &Path, store: Arc<dyn ObjectStore>) -> Job {
    let start = ProcessSpec { store, ..spec(storage, 0, "counts", "nowhere:1") };
    let process = tokio::task::spawn_blocking(|| Process::start(start)).await.unwrap().unwrap();
    let address = process.address().to_owned();
    let owner = Owner { pod: "pod".to_owned(), process: 1, address: address.clone() };
    // It stays until the test's process ends.
    std::thread::spawn(move || {
        process.lead(Lead { stays: true, workers: 2, ..Lead::local(owner) })
    });
    let channel = endpoint(&address, Some(SECRET)).connect().await.unwrap();
    Job { control: ControlClient::with_interceptor(channel.clone(), Shown), channel, address }
}

impl Job {
    async fn status(&mut self) -> api::Status {
        self.control.get_status(api::StatusRequest {}).await.unwrap().into_inner()
    }

    /// Looks until it is so.
    async fn until(&mut self, what: impl Fn(&api::Status) -> bool) -> api::Status {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if what(&status) {
                return status;
            }
            assert!(begun.elapsed() < LONG, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn running(&mut self) -> api::Status {
        self.until(|status| status.state() == api::State::Running).await
    }

    async fn checkpoint(&mut self) -> Result<u64, Status> {
        let answer = self.control.checkpoint(api::CheckpointRequest {}).await;
        answer.map(|answer| answer.into_inner().checkpoint)
    }

    async fn want(&mut self, wanted: &[(&str, &str)]) -> Result<Vec<api::Savepoint>, Status> {
        let wanted = wanted.iter().map(|(id, target)| api::WantedSavepoint {
            id: (*id).to_owned(),
            target: (*target).to_owned(),
        });
        let wanted = api::WantedSavepoints { wanted: wanted.collect() };
        self.control.want_savepoints(wanted).await.map(|answer| answer.into_inner().savepoints)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn checkpoints_and_savepoints_are_taken_when_they_are_asked_for() {
    let storage = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    let target = backup.path().to_str().unwrap();
    let mut job = job(storage.path()).await;
    let status = job.running().await;
    assert_eq!(status.workers[0].address, job.address);
    assert!(status.last_checkpoint.is_none());

    let first = job.checkpoint().await.unwrap();
    let second = job.checkpoint().await.unwrap();
    assert!(second > first, "{first} and {second}");
    let last = job.status().await.last_checkpoint.unwrap();
    assert_eq!(last.id, second);
    assert!(last.state_bytes > 0 && last.completed_at_ms > 1_600_000_000_000, "{last:?}");

    let refused = job.want(&[("s1", target), ("", target)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(job.status().await.savepoints.is_empty());
    let asked = job.want(&[("s1", target)]).await.unwrap();
    assert_eq!(asked[0].id, "s1");
    let complete = |status: &api::Status| {
        status.savepoints.iter().any(|s| s.state() == api::SavepointState::Complete)
    };
    let savepoint = job.until(complete).await.savepoints.remove(0);
    assert_eq!(savepoint.path, format!("{target}/s1"));
    let on_disk = |path: &Path| -> u64 {
        let files =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        files.filter(std::fs::Metadata::is_file).map(|data| data.len()).sum()
    };
    let directory = backup.path().join("s1");
    assert_eq!(savepoint.bytes, on_disk(&directory) + on_disk(&directory.join("data")));
    assert!(savepoint.checkpoint > second && savepoint.attempt == 1, "{savepoint:?}");
    // Asked again, it is the same.
    assert_eq!(job.want(&[("s1", target)]).await.unwrap(), [savepoint]);

    // Of a job that has come to its end there is no other checkpoint.
    let answer = job.control.cancel(api::CancelRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.state(), api::State::Suspended);
    assert_eq!(job.checkpoint().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_checkpoint_under_way_is_not_the_one_that_is_asked_for() {
    let storage = tempfile::tempdir().unwrap();
    let directory = DirectoryStore::open(storage.path()).unwrap();
    // Checkpoints up to this one may be complete.
    let (may, reached) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (gate, seen) = (Arc::clone(&may), Arc::clone(&reached));
    let slow: Box<PutIfAbsent> = Box::new(move |store, key, bytes| {
        let manifest = key.as_str().split_once("/m-").and_then(|(_, n)| n.parse::<u64>().ok());
        while manifest.is_some_and(|n| n > gate.load(Ordering::Acquire)) {
            seen.store(true, Ordering::Release);
            std::thread::sleep(Duration::from_millis(5));
        }
        store.put_if_absent(key, bytes)
    });
    let mut job = job_in(storage.path(), Arc::new(Odd(directory, slow))).await;
    job.running().await;
    let ask = |job: &Job| {
        let mut control = job.control.clone();
        tokio::spawn(async move { control.checkpoint(api::CheckpointRequest {}).await })
    };
    let first = ask(&job);
    while !reached.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The barrier of the first has passed everywhere; what the second wants is after it.
    let second = ask(&job);
    tokio::time::sleep(Duration::from_millis(500)).await;
    may.store(1, Ordering::Release);
    assert_eq!(first.await.unwrap().unwrap().into_inner().checkpoint, 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!second.is_finished());
    may.store(2, Ordering::Release);
    assert_eq!(second.await.unwrap().unwrap().into_inner().checkpoint, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_is_held_while_it_is_repeated_and_stop_is_for_good() {
    let storage = tempfile::tempdir().unwrap();
    let mut job = job(storage.path()).await;
    job.running().await;
    let begun = Instant::now();
    let held = loop {
        let hold = api::HoldStopRequest { hold_ms: 60_000 };
        let answer = job.control.hold_stop(hold).await.unwrap().into_inner();
        if answer.held {
            break answer;
        }
        assert!(!answer.message.is_empty() && begun.elapsed() < LONG, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let status = job.status().await;
    assert_eq!(status.state(), api::State::Held);
    assert_eq!((held.checkpoint, status.last_checkpoint.unwrap().id), (1, 1));
    job.control.release_stop(api::ReleaseStopRequest {}).await.unwrap();
    let again = job.running().await;
    assert_eq!((again.attempt, again.restarts), (status.attempt + 1, 0));

    let stop = api::StopRequest { drain: false };
    let answer = job.control.stop(stop).await.unwrap().into_inner();
    assert_eq!(answer.state(), api::State::Suspended);
    let status = job.status().await;
    assert_eq!((status.state(), status.last_checkpoint.unwrap().id), (api::State::Suspended, 2));
    // Repeated, it is the same.
    let answer = job.control.stop(stop).await.unwrap().into_inner();
    assert_eq!(answer.state(), api::State::Suspended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_with_another_program_is_named_in_the_status() {
    let storage = tempfile::tempdir().unwrap();
    let mut job = job(storage.path()).await;
    job.running().await;
    let other = spec(storage.path(), 1, "sums", &job.address);
    let process = tokio::task::spawn_blocking(|| Process::start(other)).await.unwrap().unwrap();
    let status = job.until(|status| status.message.contains("worker 1")).await;
    assert!(status.message.contains("runs another program than the coordinator"), "{status:?}");
    assert!(status.message.contains("the same image and arguments"), "{status:?}");
    assert_eq!(status.workers.len(), 1);
    // It does not disturb the others.
    assert_eq!(status.state(), api::State::Running);
    tokio::task::spawn_blocking(move || process.serve(|| ())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_and_reflection_answer_without_a_token() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

    let storage = tempfile::tempdir().unwrap();
    let job = job(storage.path()).await;
    let service = "millrace.control.v1.Control".to_owned();
    let asked = HealthCheckRequest { service: service.clone() };
    let answer = HealthClient::new(job.channel.clone()).check(asked).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);

    let list = MessageRequest::ListServices(String::new());
    let asked = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = ServerReflectionClient::new(job.channel);
    let answers = client.server_reflection_info(tokio_stream::once(asked)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    assert!(list.service.contains(&ServiceResponse { name: service }), "{list:?}");
}

type PutIfAbsent = dyn Fn(&DirectoryStore, &ObjectKey, &[u8]) -> StoreResult<Put> + Send + Sync;

/// A directory, of which one call is another.
struct Odd(DirectoryStore, Box<PutIfAbsent>);

impl ObjectStore for Odd {
    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put> {
        (self.1)(&self.0, key, bytes)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()> {
        self.0.put(key, bytes)
    }

    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>> {
        self.0.create(key)
    }

    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>> {
        self.0.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
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

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let storage = tempfile::tempdir().unwrap();
    let directory = DirectoryStore::open(storage.path()).unwrap();
    let mut start = spec(storage.path(), 0, "counts", "nowhere:1");
    let unconditional: Box<PutIfAbsent> =
        Box::new(|store, key, bytes| store.put(key, bytes).map(|()| Put::Created));
    start.store = Arc::new(Odd(directory, unconditional));
    let process = Process::start(start).unwrap();
    let refused = process.lead(Lead::local(Owner::default())).unwrap_err();
    let JobError::Storage(why) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("does not honour conditional writes"), "{why}");
    assert!(why.contains("use another storage"), "{why}");
    // Nothing was begun there.
    let left = DirectoryStore::open_to_read(storage.path()).list(&Prefix::all()).unwrap();
    assert_eq!(left, []);
}
