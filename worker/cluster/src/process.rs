//! A process of a job: a worker, which in the first process also holds the coordinator.

use crate::control::Control;
use crate::dial::{reach, why_not};
use crate::hold::{Hold, Me, Mouth};
use crate::http::{self, Seen};
use crate::links::Links;
use crate::token::Token;
use crate::wire::coordinator_client::CoordinatorClient;
use crate::wire::coordinator_server::CoordinatorServer;
use crate::wire::worker_server::WorkerServer;
use crate::wire::{self, Registration};
use crate::{Heartbeat, MAX_MESSAGE};
use millrace_engine::coordinator::Outcome;
use millrace_engine::data::{Fail, Res};
use millrace_engine::exchange::{Listener, Security};
use millrace_engine::graph::Graph;
use millrace_engine::job::agent::{Agent, AgentSpec, Watch};
use millrace_engine::job::crew::Member;
use millrace_engine::job::order::Peer;
use millrace_engine::job::{Handle, JobError, JobOptions, Lead, lead};
use millrace_engine::store::ObjectStore;
use millrace_protocol::control::control_server::ControlServer;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::sleep;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// Between two registrations, while the coordinator has the worker.
const REGISTER: Duration = Duration::from_millis(500);

/// Between two tries to be had.
const KNOCK: Duration = Duration::from_millis(50);

/// A slot that does not stop in this time takes its process with it.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Where the coordinator's process is found.
#[derive(Debug, Clone)]
pub enum Leader {
    /// At `host:port`.
    At(String),
    /// Where this file says, which the coordinator's process writes.
    In(PathBuf),
}

impl Leader {
    fn address(&self) -> Result<String, String> {
        match self {
            Self::At(address) => Ok(address.clone()),
            Self::In(file) => std::fs::read_to_string(file)
                .map(|text| text.trim().to_owned())
                .map_err(|error| format!("cannot read {}: {error}", file.display())),
        }
    }
}

/// What a process is.
pub struct ProcessSpec {
    /// Its ordinal; 0 holds the coordinator.
    pub ordinal: u16,
    /// The program.
    pub graph: Arc<Graph>,
    /// How the job is run.
    pub options: JobOptions,
    /// The job's store.
    pub store: Arc<dyn ObjectStore>,
    /// Slots that it offers.
    pub slots: u16,
    /// Where its services listen; port 0: any.
    pub listen: SocketAddr,
    /// Where `/ready` and `/metrics` are answered; none: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where its exchange with other workers listens; port 0: any.
    pub exchange: SocketAddr,
    /// How connections of the exchange are protected.
    pub security: Security,
    /// The host by which others reach it; none: that of `listen`.
    pub host: Option<String>,
    /// Where the coordinator is.
    pub leader: Leader,
    /// What all processes of the job share.
    pub token: Token,
    /// How links are watched.
    pub heartbeat: Heartbeat,
    /// Hash of the revision that it was started with.
    pub revision: Option<String>,
}

/// A process whose services are up.
pub struct Process {
    runtime: Runtime,
    handle: Handle,
    agent: Arc<Agent>,
    links: Links,
    mouth: Mouth,
    address: String,
    metrics: Option<SocketAddr>,
    me: Me,
    spec: ProcessSpec,
}

/// A worker that is told to go, and would like to leave a checkpoint behind.
pub struct Leaving {
    mouth: Mouth,
    watch: Watch,
    before: u64,
}

impl Leaving {
    /// Asks the coordinator for a checkpoint.
    pub fn ask(&mut self) {
        self.before = self.watch.completed();
        self.mouth.say_leaving();
    }

    /// Whether nothing runs here, or a checkpoint is complete since it was asked for.
    pub fn may_go(&self) -> bool {
        !self.watch.runs() || self.watch.completed() > self.before
    }
}

impl Process {
    /// Starts services and agent; from here on the worker registers.
    pub fn start(spec: ProcessSpec) -> Res<Self> {
        let process = format!("{:016x}", fastrand::u64(..));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("millrace-net")
            .enable_all()
            .build()?;
        let exchange = Listener::bind(spec.exchange, spec.security.clone())?;
        let host = spec.host.clone();
        let reached = |bound: SocketAddr| match &host {
            Some(host) => format!("{host}:{}", bound.port()),
            None => bound.to_string(),
        };
        let me = Me {
            ordinal: spec.ordinal,
            process: process.clone(),
            slots: spec.slots,
            exchange: reached(exchange.address()),
            fingerprint: spec.graph.fingerprint(),
        };
        let handle = Handle::of(Arc::clone(&spec.graph));
        let mouth = Mouth::default();
        let agent = Arc::new(start_agent(&spec, &handle, &me, &mouth, exchange)?);
        let listener = runtime
            .block_on(TcpListener::bind(spec.listen))
            .map_err(|error| Fail::from(format!("cannot listen on {}: {error}", spec.listen)))?;
        let address = reached(listener.local_addr()?);
        let token = spec.token.clone();
        let links = Links::new(handle.clone(), process, address.clone(), token, spec.heartbeat);
        let hold = Hold::new(me.clone(), Arc::clone(&agent), mouth.clone(), spec.heartbeat);
        let (token, leads) = (spec.token.clone(), spec.ordinal == 0);
        let control = Control::new(handle.clone(), links.clone(), spec.revision.clone());
        let serving = links.clone();
        runtime.spawn(async move {
            if let Err(error) = serve(listener, hold, serving, control, &token, leads).await {
                tracing::error!(%error, "the process no longer serves its coordinator");
            }
        });
        let mut metrics = None;
        if let Some(at) = spec.metrics {
            let listener = runtime.block_on(TcpListener::bind(at));
            let listener =
                listener.map_err(|e| Fail::from(format!("cannot listen on {at}: {e}")))?;
            metrics = Some(listener.local_addr()?);
            let seen = Seen { watch: agent.watch(), graph: Arc::clone(&spec.graph) };
            runtime.spawn(http::serve(listener, seen));
        }
        if spec.ordinal != 0 {
            let registration = Registration {
                ordinal: u32::from(spec.ordinal),
                process: me.process.clone(),
                address: address.clone(),
            };
            runtime.spawn(register(spec.leader.clone(), spec.token.clone(), registration));
        }
        tracing::info!(worker = spec.ordinal, address, slots = spec.slots, "worker is up");
        Ok(Self { runtime, handle, agent, links, mouth, address, metrics, me, spec })
    }

    /// Where its services listen, as others reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where `/ready` and `/metrics` are answered, with the port that was found if none was
    /// asked for.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// For a worker that is told to go.
    pub fn leaving(&self) -> Leaving {
        Leaving { mouth: self.mouth.clone(), watch: self.agent.watch(), before: 0 }
    }

    /// Steers the job, in the process that leads it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Leads the job until it ends; blocks.
    pub fn lead(self, lead_spec: Lead) -> Result<Outcome, JobError> {
        self.handle.joined(Member {
            peer: Peer {
                ordinal: self.me.ordinal,
                process: self.me.process.clone(),
                exchange: self.me.exchange.clone(),
            },
            slots: self.me.slots,
            link: Box::new(self.agent.link()),
            watch: Some(self.agent.watch()),
        });
        let store = Arc::clone(&self.spec.store);
        let outcome = lead(&self.handle, self.spec.options.clone(), store, lead_spec);
        self.links.close();
        self.agent.halt();
        self.runtime.shutdown_timeout(Duration::from_millis(200));
        outcome
    }

    /// Serves whoever leads the job, until `leave` returns; blocks.
    pub fn serve(self, leave: impl FnOnce()) {
        leave();
        self.runtime.shutdown_timeout(Duration::from_millis(200));
        // The agent is dropped last: it waits for its slots.
    }
}

fn start_agent(
    spec: &ProcessSpec,
    handle: &Handle,
    me: &Me,
    mouth: &Mouth,
    exchange: Arc<Listener>,
) -> Res<Agent> {
    let agent = AgentSpec {
        ordinal: spec.ordinal,
        graph: Arc::clone(&spec.graph),
        options: spec.options.clone(),
        store: Arc::clone(&spec.store),
        process: me.process.clone(),
        listener: Some(exchange),
        stop_within: Some(STOP_WITHIN),
    };
    if spec.ordinal == 0 {
        // Its coordinator is here.
        let (handle, process) = (handle.clone(), me.process.clone());
        return Agent::start(agent, Arc::new(move |word| handle.word(0, &process, word)));
    }
    let mouth = mouth.clone();
    Agent::start(agent, Arc::new(move |word| mouth.say(&word)))
}

async fn serve(
    listener: TcpListener,
    hold: Hold,
    links: Links,
    control: Control,
    token: &Token,
    leads: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(millrace_protocol::control::DESCRIPTORS)
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .build_v1()?;
    let hold = WorkerServer::new(hold)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let mut routes = tonic::service::Routes::builder();
    routes.add_service(health).add_service(reflection);
    use tonic::service::interceptor::InterceptedService;
    if leads {
        reporter.set_serving::<ControlServer<Control>>().await;
        routes
            .add_service(InterceptedService::new(CoordinatorServer::new(links), token.guard()))
            .add_service(InterceptedService::new(ControlServer::new(control), token.guard()));
    } else {
        routes.add_service(InterceptedService::new(hold, token.guard()));
    }
    Server::builder()
        .tls_config(token.pinned()?.server())?
        .tcp_nodelay(true)
        .add_routes(routes.routes())
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

/// Says again and again that the worker is there.
async fn register(leader: Leader, token: Token, registration: Registration) {
    let mut last = String::new();
    loop {
        let mut pause = KNOCK;
        match try_register(&leader, &token, &registration).await {
            Ok(attached) => {
                last.clear();
                if attached {
                    pause = REGISTER;
                }
            }
            Err(why) if why != last => {
                tracing::info!(why, "no coordinator to register with yet");
                last = why;
            }
            Err(_) => {}
        }
        sleep(pause).await;
    }
}

async fn try_register(
    leader: &Leader,
    token: &Token,
    registration: &Registration,
) -> Result<bool, String> {
    let address = leader.address()?;
    let endpoint =
        reach(&address, token)?.connect_timeout(REGISTER).timeout(Duration::from_secs(2));
    let channel = endpoint.connect().await.map_err(|error| why_not(&address, &error))?;
    let mut client = CoordinatorClient::with_interceptor(channel, token.shown());
    let answer = client.register(registration.clone()).await;
    answer.map(|answer| answer.into_inner().attached).map_err(|s| s.message().to_owned())
}
