//! A connection that is deaf in one direction: bytes that go there are lost, and neither end
//! is told.

use super::*;
use millrace_cluster::process::Process;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The address by which the coordinator finds the worker; the worker itself listens at the
/// same port of 127.0.0.1.
const HOST: &str = "127.0.0.2";

/// What of the connections through it is lost.
#[derive(Default)]
struct Relay {
    /// What the coordinator says to the worker.
    to_worker: AtomicBool,
    /// What the worker says to the coordinator.
    to_coordinator: AtomicBool,
}

impl Relay {
    /// Until this process ends.
    fn start(port: u16) -> Arc<Self> {
        let relay = Arc::new(Self::default());
        let listener = TcpListener::bind((HOST, port)).unwrap();
        let own = Arc::clone(&relay);
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let Ok(called) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let back = (called.try_clone().unwrap(), caller.try_clone().unwrap());
                let (one, other) = (Arc::clone(&own), Arc::clone(&own));
                thread::spawn(move || {
                    pass(caller, called, || one.to_worker.load(Ordering::SeqCst))
                });
                thread::spawn(move || {
                    pass(back.0, back.1, || other.to_coordinator.load(Ordering::SeqCst));
                });
            }
        });
        relay
    }

    fn heal(&self) {
        self.to_worker.store(false, Ordering::SeqCst);
        self.to_coordinator.store(false, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_deaf: impl Fn() -> bool) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        match from.read(&mut bytes) {
            Ok(count) if count > 0 => {
                if !is_deaf() && to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            // That an end is gone cannot be told either.
            _ if is_deaf() => return,
            _ => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A job on two workers in this process, and what the connection to the second goes through.
struct Pair {
    control: Control,
    relay: Arc<Relay>,
    /// Where each says whether its tasks run.
    metrics: [SocketAddr; 2],
    begun: api::Status,
    _storage: tempfile::TempDir,
}

async fn pair() -> Pair {
    let storage = tempfile::tempdir().unwrap();
    let nowhere = Leader::At("nowhere:1".to_owned());
    let first = spec(storage.path(), (0, 2), nowhere);
    let first = tokio::task::spawn_blocking(|| Process::start(first)).await.unwrap().unwrap();
    let address = first.address().to_owned();
    let (leads, metrics) = (lead(2, &address), first.metrics().unwrap());
    // Both stay until the test's process ends.
    thread::spawn(move || first.lead(leads));
    let mut second = spec(storage.path(), (1, 2), Leader::At(address.clone()));
    second.host = Some(HOST.to_owned());
    second.exchange = format!("{HOST}:0").parse().unwrap();
    let second = tokio::task::spawn_blocking(|| Process::start(second)).await.unwrap().unwrap();
    let metrics = [metrics, second.metrics().unwrap()];
    let port = second.address().rsplit(':').next().unwrap().parse().unwrap();
    let relay = Relay::start(port);
    thread::spawn(move || second.serve(|| thread::sleep(Duration::MAX)));
    let mut control = Control::of(&address);
    let begun = control.runs_after(0).await;
    until_runs(metrics[1], true).await;
    Pair { control, relay, metrics, begun, _storage: storage }
}

impl Pair {
    /// The worker has stopped what it ran; the job waits for it, and goes on in the same
    /// processes as soon as it is heard again.
    async fn goes_on(mut self) {
        let waits = |s: &api::Status| s.state() == api::State::WaitingForWorkers;
        self.control.until("it waits", waits).await;
        for metrics in self.metrics {
            assert!(!runs(metrics), "an attempt's tasks stop everywhere");
        }
        self.relay.heal();
        let again = self.control.runs_after(self.begun.attempt).await;
        assert_eq!(again.restarts, 1);
        for ordinal in [0, 1] {
            assert_eq!(nonce(&again, ordinal), nonce(&self.begun, ordinal), "another process");
        }
        until_runs(self.metrics[1], true).await;
    }
}

/// By then it has been silent for the time that is borne, counted from the last that was heard.
fn was_patient(took: Duration) {
    let least = SILENCE - heartbeat().every - Duration::from_millis(100);
    assert!(took >= least, "given up after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_hears_nothing_of_its_coordinator_stops_its_tasks() {
    let mut pair = pair().await;
    pair.relay.to_worker.store(true, Ordering::SeqCst);
    // The coordinator hears it still: it is the worker that gives up.
    let took = until_runs(pair.metrics[1], false).await;
    was_patient(took);
    pair.control.lost(1, "it closed its stream").await;
    pair.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_which_nothing_is_heard_is_lost_and_the_job_restarts() {
    let mut pair = pair().await;
    pair.relay.to_coordinator.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    pair.control.lost(1, &format!("silent for {SILENCE:?}")).await;
    was_patient(begun.elapsed());
    // The worker hears that it was let go.
    until_runs(pair.metrics[1], false).await;
    pair.goes_on().await;
}

/// Neither can tell the other that it has given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_neither_hears_the_other_both_give_up() {
    let mut pair = pair().await;
    pair.relay.to_coordinator.store(true, Ordering::SeqCst);
    pair.relay.to_worker.store(true, Ordering::SeqCst);
    was_patient(until_runs(pair.metrics[1], false).await);
    pair.control.lost(1, &format!("silent for {SILENCE:?}")).await;
    pair.goes_on().await;
}
