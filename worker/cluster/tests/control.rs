//! The port of control streams and control API: who is let in.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

mod common;

use common::{SECRET, bearer, endpoint};
use millrace_cluster::process::{Process, ProcessSpec};
use millrace_engine::api::env::Env;
use millrace_protocol::control::Proposal;
use millrace_protocol::control::control_client::ControlClient;
use millrace_protocol::pinned::is_stranger;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use tonic::{Code, Request, Status};

fn spec(storage: &Path) -> ProcessSpec {
    common::spec(storage, Env::new().into_graph())
}

/// What is answered to a proposal that cannot be read; the connection alone may fail.
async fn ask(
    address: &str,
    pinned: Option<&str>,
    token: Option<&str>,
) -> Result<Result<(), Status>, tonic::transport::Error> {
    let channel = endpoint(address, pinned).connect().await?;
    let mut request = Request::new(Proposal::default());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", bearer(token));
    }
    Ok(ControlClient::new(channel).propose(request).await.map(drop))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_who_knows_the_secret_is_let_in_and_sees_the_token() {
    let storage = tempfile::tempdir().unwrap();
    let start = spec(storage.path());
    let process = tokio::task::spawn_blocking(|| Process::start(start)).await.unwrap().unwrap();
    let at = process.address().to_owned();

    let answer = ask(&at, Some(SECRET), Some(SECRET)).await;
    assert!(matches!(answer, Ok(Ok(()))), "{answer:?}");
    let refused = ask(&at, Some(SECRET), None).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = ask(&at, Some(SECRET), Some("the-secret-of-another")).await;
    assert_eq!(refused.unwrap().unwrap_err().code(), Code::Unauthenticated);

    // Another's key: the client turns away before it shows its token.
    let why = ask(&at, Some("the-secret-of-another"), Some(SECRET)).await.unwrap_err();
    assert!(is_stranger(&why), "{why:?}");
    // Without TLS nothing is answered.
    let plain = ask(&at, None, Some(SECRET)).await;
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
    let answer = ask(&at, Some(SECRET), Some(SECRET)).await;
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
