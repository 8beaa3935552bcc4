//! An attempt's slots: wiring, threads, and their end.

use crate::coordinator::{Event, Failure};
use crate::data::{Fail, Res};
use crate::exchange::{Exchange, ExchangeSpec};
use crate::graph::{AttemptCx, EdgeId, Fresh, Graph, NodeId, Restore, SpillTo};
use crate::job::JobOptions;
use crate::job::kept::InMemory;
use crate::job::order::{BaseOrder, DeployOrder};
use crate::job::placement::{End, Placement, is_local, wire};
use crate::job::restore::FromManifest;
use crate::runtime::channel::{Channel, TaskWaker};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::pool::Pool;
use crate::runtime::signal::Signal;
use crate::runtime::slot::{self, Control, KeptSlot, Report, SlotSpec, Tell};
use crate::runtime::slot_snapshot::SnapshotHome;
use crate::runtime::{flight, memory};
use crate::state::budget::Shares;
use crate::store::ObjectStore;
use millrace_protocol::ids::{Attempt, Slot, Uid};
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::objects::Home;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Bytes of snapshots that may wait for the store, where memory has no budget.
const UPLOADS: u64 = 256 << 20;

/// Bytes of rows from other workers that may wait for tasks, where nothing says how much
/// memory there is.
const NETWORK: u64 = 64 << 20;

/// The same where something does: the share of a budget, or what that would be.
fn room(spill: Option<&SpillTo>) -> u64 {
    match (spill, memory::limit()) {
        (Some(spill), _) => spill.budget.network(),
        (None, Some(limit)) => Shares::of(limit.bytes).network,
        (None, None) => NETWORK,
    }
}

/// Counters by node and subtask.
pub type Registry = HashMap<(NodeId, u16), Arc<NodeMetrics>>;

struct RunningSlot {
    control: Sender<Control>,
    signal: Arc<Signal>,
    thread: JoinHandle<Option<KeptSlot>>,
}

/// The slots of an attempt.
pub struct Deployment {
    /// Which attempt.
    pub attempt: Attempt,
    /// Counters.
    pub metrics: Registry,
    slots: Vec<RunningSlot>,
    cancel: Arc<AtomicBool>,
    pool: Arc<Pool>,
    exchange: Option<Exchange>,
}

/// What a deployment is made of.
pub struct DeploySpec<'a> {
    /// The graph.
    pub graph: &'a Arc<Graph>,
    /// How the job is run.
    pub options: &'a JobOptions,
    /// What is to run where.
    pub order: &'a DeployOrder,
    /// Where the slots are; `None`: all of them here.
    pub placement: Option<Placement>,
    /// What it starts from, and the store that holds its files.
    pub base: Option<(BaseOrder, Arc<dyn ObjectStore>)>,
    /// What an attempt before left in memory, of that very base.
    pub kept: InMemory,
    /// The job's store.
    pub store: &'a Arc<dyn ObjectStore>,
    /// For work that does not belong to an attempt.
    pub pool: &'a Arc<Pool>,
}

/// Number of slots of a job: the highest parallelism of its nodes.
pub fn slots(graph: &Graph, default: u16) -> u16 {
    graph.parallelisms(default).into_iter().max().unwrap_or(1)
}

impl Deployment {
    /// Starts the slots of this worker. `reports` gets what they say, and what goes wrong
    /// between workers.
    pub fn start(spec: DeploySpec<'_>, reports: &Tell) -> Res<Self> {
        let graph = spec.graph;
        let parallelisms = graph.parallelisms(spec.order.parallelism);
        let count = slots(graph, spec.order.parallelism);
        let tasks_of = |slot: u16| -> Vec<NodeId> {
            let nodes = graph.nodes().iter().map(|n| n.id);
            nodes.filter(|n| graph.is_task(*n) && slot < parallelisms[n.0 as usize]).collect()
        };
        let layouts: Vec<Vec<NodeId>> = (0..count).map(tasks_of).collect();
        let signals: Vec<Arc<Signal>> =
            layouts.iter().map(|l| Arc::new(Signal::new(l.len()))).collect();
        let waker = |node: NodeId, subtask: u16| TaskWaker {
            signal: Arc::clone(&signals[usize::from(subtask)]),
            task: layouts[usize::from(subtask)].iter().position(|n| *n == node).unwrap_or(0),
        };
        let placement = spec.placement;
        if let Some(placement) = placement.as_ref().filter(|p| p.workers.len() < count.into()) {
            let placed = placement.workers.len();
            return Err(Fail::from(format!("{placed} of {count} slots have a worker")));
        }
        let local: Vec<u16> = (0..count).filter(|s| is_local(placement.as_ref(), *s)).collect();
        let max = spec.order.max_parallelism;
        let (channels, lines) =
            wire(graph, &parallelisms, max, placement.as_ref(), |edge, end, subtask| match end {
                End::Sender => waker(edge.from, subtask),
                End::Receiver => waker(edge.to, subtask),
            });
        let outgoing = |slot: u16| -> Vec<Arc<Channel>> {
            let leaves = |((_, up, down), channel): (&(EdgeId, u16, u16), &Arc<Channel>)| {
                let there = *up == slot && !is_local(placement.as_ref(), *down);
                (there && channel.flight().is_some()).then(|| Arc::clone(channel))
            };
            channels.iter().filter_map(leaves).collect()
        };
        let mut outgoing: VecDeque<_> = local.iter().map(|slot| outgoing(*slot)).collect();
        let mut metrics = Registry::new();
        for node in graph.nodes() {
            let subtasks = 0..parallelisms[node.id.0 as usize];
            for subtask in subtasks.filter(|s| is_local(placement.as_ref(), *s)) {
                metrics.insert((node.id, subtask), Arc::default());
            }
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let owned = |slot: u16| {
            let nodes = layouts[usize::from(slot)].iter();
            nodes.map(move |n| {
                (*n, max.range(slot, graph.parallelisms(spec.order.parallelism)[n.0 as usize]))
            })
        };
        let by_uid = |slot: u16| -> Vec<(Uid, KeyGroupRange)> {
            owned(slot).map(|(n, range)| (graph.node(n).uid.clone(), range)).collect()
        };
        let mut kept = spec.kept;
        let rest =
            kept.split_off_rest(&local.iter().flat_map(|slot| by_uid(*slot)).collect::<Vec<_>>());
        // Others own it now. To give much memory back takes a while.
        spec.pool.spawn("rows of other workers", move || drop(rest));
        let restored = spec
            .base
            .map(|(base, store)| FromManifest::new(&base, store, Arc::clone(&cancel), kept));
        let bases = local.iter().map(|slot| restored.as_ref()?.files_of(&by_uid(*slot)));
        let bases: Vec<_> = bases.collect();
        let restore: Box<dyn Restore> = match restored {
            Some(restored) => Box::new(restored),
            None => Box::new(Fresh),
        };
        let home = Home::new(&spec.order.job)?;
        let exchange = match placement {
            None => None,
            Some(placement) => {
                let (reports, attempt) = (Arc::clone(reports), spec.order.attempt);
                let failed = Arc::new(move |cause: String| {
                    let failure = Failure { operator: None, subtask: None, cause };
                    reports(Report::Event(Event::TaskFailed { attempt, failure }));
                });
                let exchange = ExchangeSpec {
                    job: spec.order.job.clone(),
                    attempt,
                    token: placement.token,
                    me: placement.me,
                    peers: placement.peers,
                    lines,
                    room: room(spec.options.spill.as_ref()),
                    failed,
                };
                Some(Exchange::start(&placement.listener, exchange)?)
            }
        };
        let attempt = Arc::new(AttemptCx {
            job: spec.order.job.clone(),
            attempt: spec.order.attempt,
            max_parallelism: max,
            parallelisms: parallelisms.clone(),
            pool: Arc::clone(spec.pool),
            dead_letters: Arc::clone(&spec.options.dead_letters),
            channels,
            metrics: metrics.clone(),
            restore,
            spill: spec.options.spill.clone(),
        });
        let uploads = spec.options.spill.as_ref().map_or(UPLOADS, |s| s.budget.uploads());
        let under_way = uploads / local.len().max(1) as u64;
        let memory = memory::limit().map(|limit| limit.bytes);
        let most_in_flight = flight::room(spec.options.most_in_flight, memory, local.len());
        let pool = Arc::new(Pool::new(64));
        let mut running = Vec::new();
        for (slot, base) in local.into_iter().zip(bases) {
            let (control, controls) = channel();
            let to = SnapshotHome {
                slot: Slot(slot),
                attempt: spec.order.attempt,
                max,
                home: home.clone(),
                store: Arc::clone(spec.store),
                pool: Arc::clone(&pool),
                reports: Arc::clone(reports),
                most_under_way: under_way,
                most_in_flight,
                signal: Arc::clone(&signals[usize::from(slot)]),
            };
            let groups = owned(slot).map(|(_, range)| range).collect();
            let slot_spec = SlotSpec {
                slot: Slot(slot),
                graph: Arc::clone(graph),
                attempt: Arc::clone(&attempt),
                nodes: layouts[usize::from(slot)].clone(),
                signal: Arc::clone(&signals[usize::from(slot)]),
                control: controls,
                reports: Arc::clone(reports),
                cancel: Arc::clone(&cancel),
                snapshots: to,
                groups,
                base,
                outgoing: outgoing.pop_front().unwrap_or_default(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("millrace-slot-{slot}"))
                .spawn(move || slot::run(slot_spec))
                .map_err(slot::start_failure)?;
            let signal = Arc::clone(&signals[usize::from(slot)]);
            running.push(RunningSlot { control, signal, thread });
        }
        Ok(Self { attempt: spec.order.attempt, metrics, slots: running, cancel, pool, exchange })
    }

    /// Tells all slots.
    pub fn tell(&self, control: &Control) {
        for slot in &self.slots {
            // A slot that has failed no longer listens; its failure is on its way.
            let _ = slot.control.send(control.clone());
            slot.signal.wake(0);
        }
    }

    /// Stops all slots and waits for them and for their side jobs. Answers what they leave
    /// in memory.
    pub fn stop(mut self) -> InMemory {
        self.cancel.store(true, Ordering::SeqCst);
        self.slots.iter().for_each(|s| s.signal.wake(0));
        // A panic in one was caught and reported.
        let slots = self.slots.drain(..).filter_map(|slot| slot.thread.join().ok().flatten());
        let kept = InMemory::of(slots);
        // Behind the slots: nothing is sent any more.
        if let Some(exchange) = self.exchange.take() {
            exchange.stop();
        }
        self.pool.wait_quiet();
        kept
    }
}
