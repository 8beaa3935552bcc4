//! A worker's side of the stream through which a coordinator holds it.
//!
//! One coordinator at a time: of two, the one that knows the higher version of the job's
//! head record, for it has claimed the job later. When the stream ends, or the coordinator
//! is silent for too long, what runs here is stopped: an attempt without its coordinator
//! completes no checkpoint, and another one may be about to start.

use crate::Heartbeat;
use crate::wire::worker_server::Worker;
use crate::wire::{
    Alive, FromCoordinator, FromWorker, Leaving, Welcome, from_coordinator, from_worker,
};
use millrace_engine::job::agent::Agent;
use millrace_engine::job::order::{Order, Word};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Out = UnboundedSender<Result<FromWorker, Status>>;

/// Who holds this worker.
struct Holder {
    coordinator: String,
    /// Counts holds, to tell two of the same coordinator apart.
    id: u64,
    head_version: u64,
    out: Out,
}

#[derive(Default)]
struct Held {
    holder: Option<Holder>,
    holds: u64,
}

/// Where an agent's words go: to whoever holds the worker.
#[derive(Clone, Default)]
pub struct Mouth(Arc<Mutex<Held>>);

impl Mouth {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something. Without a holder it is lost: whoever comes next starts anew.
    pub fn say(&self, word: &Word) {
        let held = self.lock();
        let Some(holder) = &held.holder else { return };
        let what = match postcard::to_stdvec(word) {
            Ok(bytes) => Ok(message(from_worker::What::Word(bytes))),
            Err(error) => Err(Status::internal(format!("a word cannot be encoded: {error}"))),
        };
        let _ = holder.out.send(what);
    }

    /// Says that the worker is told to go.
    pub fn say_leaving(&self) {
        if let Some(holder) = &self.lock().holder {
            let _ = holder.out.send(Ok(message(from_worker::What::Leaving(Leaving {}))));
        }
    }

    /// Whether a coordinator holds the worker.
    pub fn is_held(&self) -> bool {
        self.lock().holder.is_some()
    }
}

fn message(what: from_worker::What) -> FromWorker {
    FromWorker { what: Some(what) }
}

/// What a worker says of itself.
#[derive(Debug, Clone)]
pub struct Me {
    /// Its ordinal.
    pub ordinal: u16,
    /// The nonce of its process.
    pub process: String,
    /// The slots it offers.
    pub slots: u16,
    /// Where its exchange listens.
    pub exchange: String,
    /// Of its program.
    pub fingerprint: String,
}

/// The service.
pub struct Hold {
    me: Me,
    agent: Arc<Agent>,
    mouth: Mouth,
    heartbeat: Heartbeat,
}

impl Hold {
    /// Of a worker with this agent, whose words go through `mouth`.
    pub fn new(me: Me, agent: Arc<Agent>, mouth: Mouth, heartbeat: Heartbeat) -> Self {
        Self { me, agent, mouth, heartbeat }
    }

    /// Makes the coordinator the holder, or says why not.
    fn take(&self, attach: &crate::wire::Attach, out: &Out) -> Result<u64, Status> {
        let me = &self.me;
        if attach.process != me.process {
            let why = format!("here is process {}, not {}", me.process, attach.process);
            return Err(Status::failed_precondition(why));
        }
        if attach.fingerprint != me.fingerprint {
            return Err(Status::failed_precondition(format!(
                "worker {} runs another program than the coordinator ({} and {}): give all \
                 workers the same image and arguments",
                me.ordinal, me.fingerprint, attach.fingerprint
            )));
        }
        let mut held = self.mouth.lock();
        if let Some(holder) = &held.holder
            && holder.head_version > attach.head_version
        {
            return Err(Status::aborted(format!(
                "coordinator {} holds worker {} and knows version {} of the head record, you {}",
                holder.coordinator, me.ordinal, holder.head_version, attach.head_version
            )));
        }
        held.holds += 1;
        let id = held.holds;
        let welcome = Welcome {
            ordinal: u32::from(me.ordinal),
            process: me.process.clone(),
            slots: u32::from(me.slots),
            exchange: me.exchange.clone(),
        };
        let _ = out.send(Ok(message(from_worker::What::Welcome(welcome))));
        let replaced = held.holder.replace(Holder {
            coordinator: attach.coordinator.clone(),
            id,
            head_version: attach.head_version,
            out: out.clone(),
        });
        drop(held);
        if let Some(replaced) = replaced {
            let why = format!("coordinator {} took over", attach.coordinator);
            let _ = replaced.out.send(Err(Status::aborted(why)));
            self.agent.halt();
        }
        Ok(id)
    }

    /// The hold is over; stops what runs, unless another holds the worker by now.
    fn release(mouth: &Mouth, agent: &Agent, id: u64, why: &str) {
        let mut held = mouth.lock();
        if held.holder.as_ref().is_some_and(|holder| holder.id == id) {
            held.holder = None;
            drop(held);
            tracing::warn!(why, "the coordinator is gone: what runs here is stopped");
            agent.halt();
        }
    }
}

#[tonic::async_trait]
impl Worker for Hold {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FromWorker, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromCoordinator>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut orders = request.into_inner();
        let first = timeout_at(Instant::now() + self.heartbeat.timeout, orders.next()).await;
        let Ok(Some(Ok(FromCoordinator { what: Some(from_coordinator::What::Attach(attach)) }))) =
            first
        else {
            return Err(Status::invalid_argument("a stream begins with Attach"));
        };
        let (out, words) = unbounded_channel();
        let id = self.take(&attach, &out)?;
        tracing::info!(coordinator = attach.coordinator, "a coordinator holds this worker");
        let (agent, mouth, heartbeat) =
            (Arc::clone(&self.agent), self.mouth.clone(), self.heartbeat);
        tokio::spawn(async move {
            let why = listen(&mut orders, &agent, &mouth, id, heartbeat).await;
            Self::release(&mouth, &agent, id, &why);
        });
        tokio::spawn(beat(out, self.mouth.clone(), id, Arc::clone(&self.agent), heartbeat));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(words))))
    }
}

/// Obeys until the stream ends or falls silent; answers why it is over.
async fn listen(
    orders: &mut Streaming<FromCoordinator>,
    agent: &Agent,
    mouth: &Mouth,
    id: u64,
    heartbeat: Heartbeat,
) -> String {
    loop {
        let next = timeout_at(Instant::now() + heartbeat.timeout, orders.next()).await;
        let what = match next {
            Ok(Some(Ok(message))) => message.what,
            Ok(Some(Err(status))) => return format!("its stream broke: {}", status.message()),
            Ok(None) => return "it closed its stream".to_owned(),
            Err(_) => return format!("it was silent for {:?}", heartbeat.timeout),
        };
        let mut held = mouth.lock();
        let Some(holder) = held.holder.as_mut().filter(|holder| holder.id == id) else {
            return "another coordinator took over".to_owned();
        };
        match what {
            Some(from_coordinator::What::Order(bytes)) => {
                match postcard::from_bytes::<Order>(&bytes) {
                    // Under the lock: a holder's orders do not come after its successor's.
                    Ok(order) => agent.order(order),
                    Err(error) => return format!("it sent an order that cannot be read: {error}"),
                }
            }
            Some(from_coordinator::What::Beat(beat)) => {
                holder.head_version = holder.head_version.max(beat.head_version);
            }
            Some(from_coordinator::What::Attach(_)) | None => {}
        }
    }
}

/// Says now and then that the worker is there, and how its subtasks are doing.
async fn beat(out: Out, mouth: Mouth, id: u64, agent: Arc<Agent>, heartbeat: Heartbeat) {
    let mut ticks = interval(heartbeat.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = agent.watch();
    loop {
        ticks.tick().await;
        if mouth.lock().holder.as_ref().is_none_or(|holder| holder.id != id) {
            return;
        }
        let counters =
            watch.counters().map(|(attempt, counters)| Word::Counters { attempt, counters });
        let what = match counters.map(|word| postcard::to_stdvec(&word)) {
            Some(Ok(bytes)) => from_worker::What::Word(bytes),
            _ => from_worker::What::Alive(Alive {}),
        };
        if out.send(Ok(message(what))).is_err() {
            return;
        }
    }
}
