//! The coordinators: one server that is as many as there are jobs.

use crate::{Job, Shared};
use anyhow::Context;
use millrace_crds::names::PORT_CONTROL;
use millrace_protocol::config::Live;
use millrace_protocol::control::control_server::{Control, ControlServer};
use millrace_protocol::control::proposal_answer::Verdict;
use millrace_protocol::control::{
    CancelAnswer, CancelRequest, CheckpointAnswer, CheckpointRequest, CheckpointStatus,
    HoldStopAnswer, HoldStopRequest, Proposal, ProposalAnswer, ReleaseStopAnswer,
    ReleaseStopRequest, Savepoints, State, Status, StatusRequest, StopAnswer, StopRequest,
    WantedSavepoints, Worker,
};
use millrace_protocol::pinned::Pinned;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Sender;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response};

type Tls = tokio_rustls::server::TlsStream<TcpStream>;
type Answer<T> = Result<Response<T>, tonic::Status>;

/// Answers at every address that a coordinator has.
pub async fn serve(shared: Shared) -> anyhow::Result<()> {
    let address = SocketAddr::from(([0, 0, 0, 0], PORT_CONTROL));
    let listener = TcpListener::bind(address).await.context("the control API cannot be served")?;
    let (shaken, connections) = tokio::sync::mpsc::channel(64);
    tokio::spawn(shake(listener, shared.clone(), shaken));
    let server = tonic::transport::Server::builder().add_service(ControlServer::new(shared));
    let ended = server.serve_with_incoming(ReceiverStream::new(connections)).await;
    ended.context("the control API is no longer served")
}

/// What the coordinator of the job with this token proves itself with.
pub fn tls(token: &str) -> anyhow::Result<Arc<ServerConfig>> {
    let pinned = Pinned::of(token)?;
    let certificate = CertificateDer::from_pem_slice(pinned.certificate().as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(pinned.key().as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Shakes hands as the coordinator that was dialled.
async fn shake(listener: TcpListener, shared: Shared, shaken: Sender<io::Result<Tls>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(SocketAddr::V4(at)) = stream.local_addr() else { continue };
        let stage = shared.lock();
        let job = stage.coordinators.get(at.ip()).and_then(|uid| stage.jobs.get(uid));
        let Some(config) = job.map(|job| Arc::clone(&job.tls)) else { continue };
        drop(stage);
        let shaken = shaken.clone();
        tokio::spawn(async move {
            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                let _ = shaken.send(Ok(stream)).await;
            }
        });
    }
}

fn not_here<T>() -> Answer<T> {
    Err(tonic::Status::new(Code::Unimplemented, "nobody does this in a crowd"))
}

impl Shared {
    /// The job whose coordinator was asked, and its workers that are there.
    fn asked<T>(&self, request: &Request<T>) -> Result<(String, Job, Vec<Worker>), tonic::Status> {
        let IpAddr::V4(ip) = request.local_addr().map_or([0, 0, 0, 0].into(), |at| at.ip()) else {
            return Err(tonic::Status::new(Code::Unavailable, "not by this way"));
        };
        if !request.metadata().contains_key("authorization") {
            return Err(tonic::Status::new(Code::Unauthenticated, "no token"));
        }
        let stage = self.lock();
        let nobody = || tonic::Status::new(Code::Unavailable, "no coordinator lives here");
        let uid = stage.coordinators.get(&ip).ok_or_else(nobody)?;
        let job = stage.jobs.get(uid).ok_or_else(nobody)?;
        let pods = stage.pods.values().filter(|pod| pod.job == *uid);
        let workers = pods.map(|pod| Worker {
            ordinal: pod.ordinal,
            process: pod.ip.to_string(),
            address: pod.ip.to_string(),
            connected: true,
            slots: 1,
            slots_in_use: vec![0],
        });
        Ok((uid.clone(), job.clone(), workers.collect()))
    }
}

#[tonic::async_trait]
impl Control for Shared {
    async fn get_status(&self, request: Request<StatusRequest>) -> Answer<Status> {
        let (job, Job { live, began_ms, .. }, workers) = self.asked(&request)?;
        let wanted = u32::from(live.workers);
        let all =
            workers.iter().filter(|worker| worker.ordinal < wanted).count() >= wanted as usize;
        let state = if all { State::Running } else { State::WaitingForWorkers };
        Ok(Response::new(Status {
            job,
            head_version: 1,
            attempt: 1,
            state: state.into(),
            accepted_generation: live.generation,
            accepted_revision: live.revision,
            running_generation: if all { live.generation } else { 0 },
            parallelism: u32::from(live.parallelism),
            workers_wanted: wanted,
            workers,
            // The only one: what refreshes a status is not what a crowd is about.
            last_checkpoint: Some(CheckpointStatus {
                id: 1,
                completed_at_ms: began_ms,
                duration_ms: 10,
                bytes: 1_000,
                state_bytes: 1_000,
            }),
            incarnation: 1,
            ..Status::default()
        }))
    }

    async fn propose(&self, request: Request<Proposal>) -> Answer<ProposalAnswer> {
        let (uid, mut job, _) = self.asked(&request)?;
        let live = Live::decode("proposal", &request.into_inner().live)
            .map_err(|error| tonic::Status::new(Code::InvalidArgument, error.to_string()))?;
        job.live = live;
        let accepted_generation = job.live.generation;
        self.lock().jobs.insert(uid, job);
        Ok(Response::new(ProposalAnswer {
            verdict: Verdict::Accepted.into(),
            accepted_generation,
            message: String::new(),
        }))
    }

    async fn want_savepoints(&self, _: Request<WantedSavepoints>) -> Answer<Savepoints> {
        not_here()
    }

    async fn hold_stop(&self, _: Request<HoldStopRequest>) -> Answer<HoldStopAnswer> {
        not_here()
    }

    async fn release_stop(&self, _: Request<ReleaseStopRequest>) -> Answer<ReleaseStopAnswer> {
        not_here()
    }

    async fn stop(&self, _: Request<StopRequest>) -> Answer<StopAnswer> {
        not_here()
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Answer<CancelAnswer> {
        not_here()
    }

    async fn checkpoint(&self, _: Request<CheckpointRequest>) -> Answer<CheckpointAnswer> {
        not_here()
    }
}
