//! The coordinator's side: it dials the workers that register, and holds them.

use crate::dial::{reach, why_not};
use crate::token::Token;
use crate::wire::coordinator_server::Coordinator;
use crate::wire::worker_client::WorkerClient;
use crate::wire::{
    Attach, Beat, FromCoordinator, FromWorker, Registration, RegistrationAnswer, from_coordinator,
    from_worker,
};
use crate::{Heartbeat, MAX_MESSAGE};
use millrace_engine::coordinator::Event;
use millrace_engine::job::Handle;
use millrace_engine::job::crew::{Link, Member};
use millrace_engine::job::order::{Order, Peer, Word};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a worker may take to answer a dial.
const DIAL: Duration = Duration::from_secs(5);

/// How often it is asked whether the job is owned yet.
const OWNED: Duration = Duration::from_millis(10);

/// A process of a worker: its ordinal and nonce.
type Key = (u16, String);

#[derive(Default)]
struct State {
    /// Processes that are dialled or held.
    tasks: BTreeMap<Key, AbortHandle>,
    /// Why workers could not be held, the last reason of each.
    troubles: BTreeMap<u16, String>,
    /// Processes that are held.
    held: BTreeSet<Key>,
    /// Where processes listen that are dialled, held, or this one.
    addresses: BTreeMap<Key, String>,
    closed: bool,
}

/// All links of a coordinator.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
    /// The nonce of this process.
    process: String,
    fingerprint: String,
    token: Token,
    heartbeat: Heartbeat,
    state: Arc<Mutex<State>>,
}

/// The way to a worker in another process.
struct Remote(UnboundedSender<FromCoordinator>);

impl Link for Remote {
    fn send(&self, order: Order) {
        match postcard::to_stdvec(&order) {
            Ok(bytes) => drop(self.0.send(message(from_coordinator::What::Order(bytes)))),
            Err(error) => tracing::error!(%error, "an order cannot be encoded"),
        }
    }
}

fn message(what: from_coordinator::What) -> FromCoordinator {
    FromCoordinator { what: Some(what) }
}

impl Links {
    /// Of the coordinator that `handle` steers, in process `process`, which listens at
    /// `address`.
    pub fn new(
        handle: Handle,
        process: String,
        address: String,
        token: Token,
        heartbeat: Heartbeat,
    ) -> Self {
        let fingerprint = handle.graph().fingerprint();
        let addresses = BTreeMap::from([((0, process.clone()), address)]);
        let state = Arc::new(Mutex::new(State { addresses, ..State::default() }));
        Self { handle, process, fingerprint, token, heartbeat, state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why workers could not be held, of ordinals below `expected`: ordinal and reason. What
    /// the others ran into is of no interest any more.
    pub fn troubles(&self, expected: u16) -> Vec<(u16, String)> {
        let mut state = self.lock();
        state.troubles.retain(|ordinal, _| *ordinal < expected);
        state.troubles.iter().map(|(ordinal, why)| (*ordinal, why.clone())).collect()
    }

    /// Where processes listen: ordinal, nonce and address.
    pub fn addresses(&self) -> BTreeMap<(u16, String), String> {
        self.lock().addresses.clone()
    }

    /// Lets go of all workers, which stop what they run, and dials no more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for (_, task) in std::mem::take(&mut state.tasks) {
            task.abort();
        }
    }

    /// Sees to it that a worker is dialled. Whether it is held already.
    fn know(&self, key: Key, address: String) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        if !state.tasks.contains_key(&key) {
            let (links, of) = (self.clone(), key.clone());
            state.addresses.insert(key.clone(), address.clone());
            let task = tokio::spawn(async move { links.keep(of, address).await });
            state.tasks.insert(key.clone(), task.abort_handle());
        }
        state.held.contains(&key)
    }

    /// Dials a worker and holds it until it is lost.
    async fn keep(self, key: Key, address: String) {
        let outcome = self.hold(&key, &address).await;
        let (ordinal, process) = &key;
        let held = {
            let mut state = self.lock();
            state.tasks.remove(&key);
            state.addresses.remove(&key);
            let held = state.held.remove(&key);
            if !held {
                state.troubles.insert(*ordinal, outcome.clone());
            }
            held
        };
        if held {
            self.handle.lost(*ordinal, process, &outcome);
        } else {
            tracing::warn!(worker = *ordinal, address, why = outcome, "a worker cannot be held");
        }
    }

    /// Answers why it is over.
    async fn hold(&self, key: &Key, address: &str) -> String {
        // Who does not own the job yet has nothing to say to its workers.
        while self.handle.head_version() == 0 {
            sleep(OWNED).await;
        }
        let (orders, words) = match timeout(DIAL, self.dial(key, address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return why,
            Err(_) => return format!("no answer from {address} within {DIAL:?}"),
        };
        self.attend(key, orders, words).await
    }

    async fn dial(
        &self,
        key: &Key,
        address: &str,
    ) -> Result<(UnboundedSender<FromCoordinator>, Streaming<FromWorker>), String> {
        let told = |status: Status| format!("{address}: {}", status.message());
        let endpoint = reach(address, &self.token)?.connect_timeout(DIAL).tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|error| why_not(address, &error))?;
        let client = WorkerClient::with_interceptor(channel, self.token.shown());
        let mut client =
            client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let (orders, outgoing) = unbounded_channel();
        let attach = Attach {
            coordinator: self.process.clone(),
            head_version: self.handle.head_version(),
            fingerprint: self.fingerprint.clone(),
            process: key.1.clone(),
        };
        let _ = orders.send(message(from_coordinator::What::Attach(attach)));
        let outgoing = Request::new(UnboundedReceiverStream::new(outgoing));
        let words = client.attach(outgoing).await.map_err(told)?;
        Ok((orders, words.into_inner()))
    }

    /// Passes words on, until the worker is gone or silent.
    async fn attend(
        &self,
        key: &Key,
        orders: UnboundedSender<FromCoordinator>,
        mut words: Streaming<FromWorker>,
    ) -> String {
        let (ordinal, process) = key;
        let mut ticks = interval(self.heartbeat.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let silence = sleep(self.heartbeat.timeout);
        tokio::pin!(silence);
        loop {
            let next = tokio::select! {
                next = words.next() => next,
                _ = ticks.tick() => {
                    let head_version = self.handle.head_version();
                    let beat = from_coordinator::What::Beat(Beat { head_version });
                    let _ = orders.send(message(beat));
                    continue;
                }
                () = &mut silence => return format!("silent for {:?}", self.heartbeat.timeout),
            };
            silence.as_mut().reset(tokio::time::Instant::now() + self.heartbeat.timeout);
            let what = match next {
                Some(Ok(message)) => message.what,
                Some(Err(status)) => return status.message().to_owned(),
                None => return "it closed its stream".to_owned(),
            };
            match what {
                Some(from_worker::What::Welcome(welcome)) => {
                    let member = Member {
                        peer: Peer {
                            ordinal: *ordinal,
                            process: process.clone(),
                            exchange: welcome.exchange,
                        },
                        slots: u16::try_from(welcome.slots).unwrap_or(u16::MAX),
                        link: Box::new(Remote(orders.clone())),
                        watch: None,
                    };
                    let mut state = self.lock();
                    state.held.insert(key.clone());
                    state.troubles.remove(ordinal);
                    drop(state);
                    self.handle.joined(member);
                }
                Some(from_worker::What::Word(bytes)) => {
                    match postcard::from_bytes::<Word>(&bytes) {
                        Ok(word) => self.handle.word(*ordinal, process, word),
                        Err(error) => return format!("it said something unreadable: {error}"),
                    }
                }
                Some(from_worker::What::Leaving(_)) => {
                    tracing::info!(worker = *ordinal, "a worker is told to go: a checkpoint first");
                    self.handle.event(Event::RequestCheckpoint);
                }
                Some(from_worker::What::Alive(_)) | None => {}
            }
        }
    }
}

#[tonic::async_trait]
impl Coordinator for Links {
    async fn register(
        &self,
        request: Request<Registration>,
    ) -> Result<Response<RegistrationAnswer>, Status> {
        let Registration { ordinal, process, address } = request.into_inner();
        let ordinal = u16::try_from(ordinal)
            .map_err(|_| Status::invalid_argument(format!("no worker has ordinal {ordinal}")))?;
        if process.is_empty() || process.len() > 64 || address.len() > 512 {
            return Err(Status::invalid_argument("a registration without process or address"));
        }
        let attached = self.know((ordinal, process), address);
        Ok(Response::new(RegistrationAnswer { attached }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // helpers of tests panic as tests do
mod tests {
    use super::*;
    use millrace_engine::api::env::Env;

    #[test]
    fn troubles_of_workers_that_are_not_expected_any_more_are_forgotten() {
        let handle = Handle::of(Arc::new(Env::new().into_graph()));
        let token = Token::new("the-secret-of-a-job").unwrap();
        let (process, address) = ("p".to_owned(), "localhost:1".to_owned());
        let links = Links::new(handle, process, address, token, Heartbeat::default());
        for ordinal in [1, 3] {
            links.lock().troubles.insert(ordinal, "no answer".to_owned());
        }
        let said = |of: Vec<(u16, String)>| of.into_iter().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(said(links.troubles(4)), [1, 3]);
        assert_eq!(said(links.troubles(3)), [1]);
        // Not even if there are more again.
        assert_eq!(said(links.troubles(4)), [1]);
    }
}
