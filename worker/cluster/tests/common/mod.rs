//! A process of a job, and a client of its port.

use millrace_cluster::Heartbeat;
use millrace_cluster::process::{Leader, ProcessSpec};
use millrace_cluster::token::Token;
use millrace_engine::exchange::Security;
use millrace_engine::graph::Graph;
use millrace_engine::job::JobOptions;
use millrace_engine::store::DirectoryStore;
use millrace_protocol::pinned::Pinned;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

pub const SECRET: &str = "the-secret-of-a-job";

/// Longer than any call may take, on a slow machine too.
pub const LONG: Duration = Duration::from_secs(120);

/// The first process, of one slot.
pub fn spec(storage: &Path, graph: Graph) -> ProcessSpec {
    let any = "127.0.0.1:0".parse().unwrap();
    let mut options = JobOptions::new("job", storage);
    options.parallelism = 1;
    // Checkpoints are those that somebody asks for.
    options.checkpoints.interval = None;
    ProcessSpec {
        ordinal: 0,
        graph: Arc::new(graph),
        options,
        store: Arc::new(DirectoryStore::open(storage).unwrap()),
        slots: 1,
        listen: any,
        metrics: None,
        exchange: any,
        security: Security::Plain,
        host: None,
        leader: Leader::At("nowhere:1".to_owned()),
        token: Token::new(SECRET).unwrap(),
        heartbeat: Heartbeat::default(),
        revision: None,
    }
}

/// A port that is asked, by who knows the secret `pinned`; without one in the clear.
pub fn endpoint(address: &str, pinned: Option<&str>) -> Endpoint {
    let scheme = if pinned.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).unwrap();
    let endpoint = endpoint.connect_timeout(LONG).timeout(LONG);
    match pinned {
        Some(pinned) => endpoint.tls_config(Pinned::of(pinned).unwrap().client()).unwrap(),
        None => endpoint,
    }
}

/// What a request shows.
pub fn bearer(token: &str) -> MetadataValue<Ascii> {
    format!("Bearer {token}").parse().unwrap()
}
