//! The port of control streams and control API: who is let in.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

use millrace_cluster::Heartbeat;
use millrace_cluster::process::{Leader, Process, ProcessSpec};
use millrace_cluster::token::Token;
use millrace_engine::api::env::Env;
use millrace_engine::exchange::Security;
use millrace_engine::job::JobOptions;
use millrace_engine::store::DirectoryStore;
use millrace_protocol::control::Proposal;
use millrace_protocol::control::control_client::ControlClient;
use millrace_protocol::pinned::{Pinned, is_stranger};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

const SECRET: &str = "the-secret-of-a-job";

fn spec(storage: &Path) -> ProcessSpec {
    let any = "127.0.0.1:0".parse().unwrap();
    ProcessSpec {
        ordinal: 0,
        graph: Arc::new(Env::new().into_graph()),
        options: JobOptions::new("job", storage),
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

/// What is answered to a proposal that cannot be read; the connection alone may fail.
async fn ask(
    scheme: &str,
    address: &str,
    pinned: Option<&str>,
    token: Option<&str>,
) -> Result<Result<(), Status>, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .unwrap()
        .connect_timeout(Duration::from_secs(60))
        .timeout(Duration::from_secs(60));
    if let Some(pinned) = pinned {
        endpoint = endpoint.tls_config(Pinned::of(pinned).unwrap().client()).unwrap();
    }
    let channel = endpoint.connect().await?;
    let mut request = Request::new(Proposal::default());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    Ok(ControlClient::new(channel).propose(request).await.map(drop))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_who_knows_the_secret_is_let_in_and_sees_the_token() {
    let storage = tempfile::tempdir().unwrap();
    let start = spec(storage.path());
    let process = tokio::task::spawn_blocking(|| Process::start(start)).await.unwrap().unwrap();
    let at = process.address().to_owned();

    let answer = ask("https", &at, Some(SECRET), Some(SECRET)).await;
    assert!(matches!(answer, Ok(Ok(()))), "{answer:?}");
    let refused = ask("https", &at, Some(SECRET), None).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = ask("https", &at, Some(SECRET), Some("the-secret-of-another")).await;
    assert_eq!(refused.unwrap().unwrap_err().code(), Code::Unauthenticated);

    // Another's key: the client turns away before it shows its token.
    let why = ask("https", &at, Some("the-secret-of-another"), Some(SECRET)).await.unwrap_err();
    assert!(is_stranger(&why), "{why:?}");
    // Without TLS nothing is answered.
    let plain = ask("http", &at, None, Some(SECRET)).await;
    assert!(!matches!(plain, Ok(Ok(()))), "{plain:?}");
    tokio::task::spawn_blocking(move || process.serve(|| ())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn garbage_on_the_port_does_no_harm() {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let storage = tempfile::tempdir().unwrap();
    let start = spec(storage.path());
    let process = tokio::task::spawn_blocking(|| Process::start(start)).await.unwrap().unwrap();
    let at = process.address().to_owned();

    let mut open = Vec::new();
    for n in 0..200 {
        let mut socket = TcpStream::connect(&at).unwrap();
        let length = rng.usize(..3000);
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        if n % 2 == 0 {
            // As a client's first record begins, of some length.
            let length = rng.u16(..).to_be_bytes();
            bytes.splice(..0, [22, 3, 1, length[0], length[1], 1]);
        }
        // It may be closed already.
        let _ = socket.write_all(&bytes);
        if n % 10 == 0 {
            // Stays, and says no more.
            open.push(socket);
        }
    }
    let answer = ask("https", &at, Some(SECRET), Some(SECRET)).await;
    assert!(matches!(answer, Ok(Ok(()))), "{answer:?}");
    // Those who said nothing are closed in the end.
    let closed = tokio::task::spawn_blocking(move || {
        for mut socket in open {
            socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut rest = Vec::new();
            let ended = socket.read_to_end(&mut rest);
            let timed_out = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
            assert!(!ended.as_ref().is_err_and(timed_out), "{ended:?}");
        }
    });
    closed.await.unwrap();
    tokio::task::spawn_blocking(move || process.serve(|| ())).await.unwrap();
}
