//! Plays nodes, kubelets and coordinators for more jobs than a machine can run.
//!
//! `crowd NODES NETWORK` registers so many nodes and renews their leases. A pod that the
//! scheduler binds to one of them is Running and Ready at once, with an address of its own
//! in NETWORK (`10.88.128.0/17`); one that is deleted is gone at once. All these addresses
//! are local to this process's network, and one server behind all of them speaks the
//! control API: by the address that it was asked at it knows whose coordinator it is to be.
//!
//! Ends with SIGTERM; its nodes stay, and go the way of nodes without power.

mod coordinator;
mod kubelet;

use anyhow::Context;
use kube::Client;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A pod that "runs".
#[derive(Debug, Clone)]
struct Pod {
    /// Uid of its job.
    job: String,
    ordinal: u32,
    ip: Ipv4Addr,
}

/// What is known of a job.
#[derive(Debug, Clone)]
struct Job {
    live: millrace_protocol::config::Live,
    /// When its one checkpoint was complete.
    began_ms: i64,
    /// What its coordinator proves itself with.
    tls: Arc<rustls::ServerConfig>,
}

/// Everything that is played.
#[derive(Debug, Default)]
struct Stage {
    /// By uid.
    pods: BTreeMap<String, Pod>,
    /// By uid.
    jobs: BTreeMap<String, Job>,
    /// Jobs whose coordinator has this address.
    coordinators: BTreeMap<Ipv4Addr, String>,
    given: u32,
}

#[derive(Debug, Clone)]
struct Shared {
    stage: Arc<Mutex<Stage>>,
    network: Ipv4Addr,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, network] = arguments.as_slice() else {
        anyhow::bail!("crowd NODES NETWORK, as in: crowd 10 10.88.128.0/17");
    };
    let nodes: usize = nodes.parse().context("NODES is a number")?;
    let first = network.split('/').next().unwrap_or_default();
    let shared = Shared {
        stage: Arc::default(),
        network: first.parse().context("NETWORK is as 10.88.128.0/17")?,
    };
    let local = ["route", "replace", "local", network, "dev", "lo"];
    let status = Command::new("ip").args(local).status().context("ip cannot be run")?;
    anyhow::ensure!(status.success(), "{network} cannot be made local");
    let client = Client::try_default().await.context("no way to the API server")?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = coordinator::serve(shared.clone()) => ended,
        ended = kubelet::nodes(client.clone(), nodes) => ended,
        ended = kubelet::pods(client, shared) => ended,
        _ = term.recv() => Ok(()),
    }
}
