//! Coordinator and workers watch each other: what each does when it hears nothing of the
//! other, and that processes which are not to blame stay as they are.
//!
//! `relay`: two processes of a job in this one, and a connection between them that is deaf in
//! one direction. `processes`: processes of their own, stopped and killed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

mod processes;
mod relay;

use millrace_cluster::Heartbeat;
use millrace_cluster::process::{Leader, ProcessSpec};
use millrace_cluster::token::Token;
use millrace_connectors::{Blackhole, Generator};
use millrace_engine::api::env::Env;
use millrace_engine::coordinator::RestartPolicy;
use millrace_engine::exchange::Security;
use millrace_engine::job::{JobOptions, Lead};
use millrace_engine::store::DirectoryStore;
use millrace_engine::time::Watermarks;
use millrace_protocol::control as api;
use millrace_protocol::control::control_client::ControlClient;
use millrace_protocol::head::Owner;
use millrace_protocol::pinned::Pinned;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const SECRET: &str = "the-secret-of-a-job";

/// Longer than anything may take, on a slow machine too.
const LONG: Duration = Duration::from_secs(120);

/// Silence after which a side is given up, and how often it says something.
const SILENCE: Duration = Duration::from_secs(2);

fn heartbeat() -> Heartbeat {
    Heartbeat::within(SILENCE)
}

/// A process of a job of `workers` workers, one slot each, that runs for ever.
fn spec(storage: &Path, (ordinal, workers): (u16, u16), leader: Leader) -> ProcessSpec {
    let env = Env::new();
    env.source("rows", Generator::new(|i| i).rate(1000), Watermarks::none())
        .map(|i| (i % 100, 1u64))
        .key_by(|row| row.0)
        .reduce("counts", |sum, row| sum.1 += row.1)
        .sink("out", Blackhole);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut options = JobOptions::new("job", storage);
    options.parallelism = workers;
    options.checkpoints.interval = Some(Duration::from_millis(100));
    options.restart =
        RestartPolicy::FixedDelay { attempts: 1000, delay: Duration::from_millis(10) };
    ProcessSpec {
        ordinal,
        graph: Arc::new(env.into_graph()),
        options,
        store: Arc::new(DirectoryStore::open(storage).unwrap()),
        slots: 1,
        listen: any,
        metrics: Some(any),
        exchange: any,
        security: Security::Plain,
        host: None,
        leader,
        token: Token::new(SECRET).unwrap(),
        heartbeat: heartbeat(),
        revision: None,
    }
}

fn lead(workers: u16, address: &str) -> Lead {
    let owner = Owner { pod: "pod".to_owned(), process: 1, address: address.to_owned() };
    Lead { stays: true, workers, ..Lead::local(owner) }
}

/// Whether tasks run in the process that answers there.
fn runs(metrics: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect(metrics)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Waits until tasks run there, or do not. How long that took.
async fn until_runs(metrics: SocketAddr, wanted: bool) -> Duration {
    let begun = Instant::now();
    while tokio::task::spawn_blocking(move || runs(metrics)).await.unwrap() != wanted {
        assert!(begun.elapsed() < LONG, "tasks run: not {wanted}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

#[derive(Clone)]
struct Shown;

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token: MetadataValue<_> = format!("Bearer {SECRET}").parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        Ok(request)
    }
}

/// Looks at a job.
struct Control(ControlClient<InterceptedService<Channel, Shown>>);

impl Control {
    fn of(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .unwrap()
            .connect_timeout(LONG)
            .timeout(LONG)
            .tls_config(Pinned::of(SECRET).unwrap().client())
            .unwrap();
        Self(ControlClient::with_interceptor(endpoint.connect_lazy(), Shown))
    }

    /// Looks until it is so.
    async fn until(&mut self, what: &str, so: impl Fn(&api::Status) -> bool) -> api::Status {
        let begun = Instant::now();
        loop {
            let status = self.0.get_status(api::StatusRequest {}).await;
            match status.map(tonic::Response::into_inner) {
                Ok(status) if so(&status) => return status,
                other => assert!(begun.elapsed() < LONG, "{what}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until an attempt after `attempt` runs.
    async fn runs_after(&mut self, attempt: u64) -> api::Status {
        let later = |s: &api::Status| s.state() == api::State::Running && s.attempt > attempt;
        self.until("a later attempt runs", later).await
    }

    /// Waits until the status says that the worker was lost, and for this reason.
    async fn lost(&mut self, worker: u16, why: &str) -> api::Status {
        let told = format!("worker {worker} is lost: ");
        let says = |failure: &api::Failure| {
            failure.message.contains(&told) && failure.message.contains(why)
        };
        let status = self.until(&format!("{told}{why}"), |s| s.failures.iter().any(says)).await;
        let failure = status.failures.iter().find(|failure| says(failure)).unwrap();
        assert_eq!(failure.worker, worker.to_string());
        status
    }
}

/// The nonce of a worker's process.
fn nonce(status: &api::Status, ordinal: u32) -> String {
    let worker = status.workers.iter().find(|worker| worker.ordinal == ordinal);
    worker.unwrap_or_else(|| panic!("no worker {ordinal}: {status:?}")).process.clone()
}
