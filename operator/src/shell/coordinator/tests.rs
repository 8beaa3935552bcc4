use super::{Pinned, connect};
use millrace_crds::names::PORT_CONTROL;
use millrace_protocol::control::control_server::{Control as Served, ControlServer};
use millrace_protocol::control::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status as Refusal};

#[test]
fn a_token_hangs_on_key_and_job() {
    let token = |key: &[u8], uid: &str| super::token(key, uid).unwrap();
    assert_eq!(token(b"k", "a"), token(b"k", "a"));
    assert_eq!(token(b"k", "a").len(), 64);
    assert_ne!(token(b"k", "a"), token(b"k", "b"));
    assert_ne!(token(b"k", "a"), token(b"l", "a"));
}

/// Whom the port of the control API is ours at, on this machine.
const ADDRESS: &str = "127.77.0.1";
const TOKEN: &str = "0123456789";

type Answer<T> = Result<Response<T>, Refusal>;

struct Server;

#[tonic::async_trait]
impl Served for Server {
    async fn get_status(&self, request: Request<StatusRequest>) -> Answer<Status> {
        let bearer = request.metadata().get("authorization").unwrap();
        assert_eq!(bearer, &format!("Bearer {TOKEN}"));
        Ok(Response::new(Status { attempt: 7, ..Status::default() }))
    }
    async fn propose(&self, _: Request<Proposal>) -> Answer<ProposalAnswer> {
        Err(Refusal::unimplemented(""))
    }
    async fn want_savepoints(&self, _: Request<WantedSavepoints>) -> Answer<Savepoints> {
        Err(Refusal::unimplemented(""))
    }
    async fn hold_stop(&self, _: Request<HoldStopRequest>) -> Answer<HoldStopAnswer> {
        Err(Refusal::unimplemented(""))
    }
    async fn release_stop(&self, _: Request<ReleaseStopRequest>) -> Answer<ReleaseStopAnswer> {
        Err(Refusal::unimplemented(""))
    }
    async fn stop(&self, _: Request<StopRequest>) -> Answer<StopAnswer> {
        Err(Refusal::unimplemented(""))
    }
    async fn cancel(&self, _: Request<CancelRequest>) -> Answer<CancelAnswer> {
        Err(Refusal::unimplemented(""))
    }
    async fn checkpoint(&self, _: Request<CheckpointRequest>) -> Answer<CheckpointAnswer> {
        Err(Refusal::unimplemented(""))
    }
}

/// A coordinator, and how many connections to it were made and how many are open.
async fn serve() -> Arc<[AtomicUsize; 2]> {
    let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = behind.local_addr().unwrap();
    let tls = Pinned::of(TOKEN).unwrap().server();
    let mut server = tonic::transport::Server::builder().tls_config(tls).unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(behind);
    tokio::spawn(server.add_service(ControlServer::new(Server)).serve_with_incoming(incoming));
    let door = TcpListener::bind((ADDRESS, PORT_CONTROL)).await.unwrap();
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counted = counts.clone();
    tokio::spawn(async move {
        while let Ok((mut outer, _)) = door.accept().await {
            let counted = counted.clone();
            for count in counted.iter() {
                count.fetch_add(1, Ordering::SeqCst);
            }
            tokio::spawn(async move {
                let mut inner = TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                counted[1].fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_rests_has_no_connection_and_asks_by_a_new_one() {
    let counts = serve().await;
    let count = |at: usize| counts[at].load(Ordering::SeqCst);
    let mut coordinator = connect(ADDRESS, TOKEN).unwrap();
    assert_eq!(count(0), 0, "nothing was asked");
    for round in 1..=3 {
        // As many questions as there are in a busy time are one connection.
        for _ in 0..3 {
            assert_eq!(coordinator.status().await.unwrap().attempt, 7);
        }
        assert_eq!((count(0), count(1)), (round, 1));
        coordinator.rest();
        for _ in 0..600 {
            if count(1) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(count(1), 0, "it is kept");
    }
}
