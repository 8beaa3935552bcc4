//! An attempt's slots: wiring, threads, and their end.

use crate::coordinator::Base;
use crate::data::Res;
use crate::graph::{AttemptCx, Fresh, Graph, NodeId, Restore, joined};
use crate::job::JobOptions;
use crate::job::restore::FromManifest;
use crate::runtime::channel::{Channel, TaskWaker};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::pool::Pool;
use crate::runtime::signal::Signal;
use crate::runtime::slot::{self, Control, SlotSpec, Tell};
use crate::runtime::slot_snapshot::SnapshotHome;
use crate::store::ObjectStore;
use millrace_protocol::ids::{Attempt, JobUid, Slot};
use millrace_protocol::objects::Home;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Counters by node and subtask.
pub type Registry = HashMap<(NodeId, u16), Arc<NodeMetrics>>;

struct RunningSlot {
    control: Sender<Control>,
    signal: Arc<Signal>,
    thread: JoinHandle<()>,
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
}

/// What a deployment is made of.
pub struct DeploySpec<'a> {
    /// The graph.
    pub graph: &'a Arc<Graph>,
    /// How the job is run.
    pub options: &'a JobOptions,
    /// The job.
    pub job: JobUid,
    /// The attempt.
    pub attempt: Attempt,
    /// What it starts from, and the store that holds its files.
    pub base: Option<(Base, Arc<dyn ObjectStore>)>,
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
    /// Starts all slots. `reports` gets what they say.
    pub fn start(spec: DeploySpec<'_>, reports: &Tell) -> Res<Self> {
        let graph = spec.graph;
        let parallelisms = graph.parallelisms(spec.options.parallelism);
        let count = slots(graph, spec.options.parallelism);
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
        let mut channels = HashMap::new();
        for edge in graph.edges() {
            let (ups, downs) =
                (parallelisms[edge.from.0 as usize], parallelisms[edge.to.0 as usize]);
            for up in 0..ups {
                for down in 0..downs {
                    if joined(edge.partitioning, up, ups, down, downs) {
                        let channel = Channel::new(waker(edge.from, up), waker(edge.to, down));
                        channels.insert((edge.id, up, down), Arc::new(channel));
                    }
                }
            }
        }
        let mut metrics = Registry::new();
        for node in graph.nodes() {
            for subtask in 0..parallelisms[node.id.0 as usize] {
                metrics.insert((node.id, subtask), Arc::default());
            }
        }
        let restored = spec.base.map(|(base, store)| FromManifest::new(&base, store));
        let max = spec.options.max_parallelism;
        let owned = |slot: u16| {
            let nodes = layouts[usize::from(slot)].iter();
            nodes.map(move |n| {
                (*n, max.range(slot, graph.parallelisms(spec.options.parallelism)[n.0 as usize]))
            })
        };
        let mut bases = Vec::new();
        for slot in 0..count {
            let by_uid: Vec<_> =
                owned(slot).map(|(n, range)| (graph.node(n).uid.clone(), range)).collect();
            bases.push(restored.as_ref().and_then(|r| r.files_of(&by_uid)));
        }
        let restore: Box<dyn Restore> = match restored {
            Some(restored) => Box::new(restored),
            None => Box::new(Fresh),
        };
        let home = Home::new(&spec.job)?;
        let attempt = Arc::new(AttemptCx {
            job: spec.job,
            attempt: spec.attempt,
            max_parallelism: max,
            parallelisms: parallelisms.clone(),
            pool: Arc::clone(spec.pool),
            dead_letters: Arc::clone(&spec.options.dead_letters),
            channels,
            metrics: metrics.clone(),
            restore,
        });
        let pool = Arc::new(Pool::new(64));
        let cancel = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for (slot, base) in (0..count).zip(bases) {
            let (control, controls) = channel();
            let to = SnapshotHome {
                slot: Slot(slot),
                attempt: spec.attempt,
                max,
                home: home.clone(),
                store: Arc::clone(spec.store),
                pool: Arc::clone(&pool),
                reports: Arc::clone(reports),
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
            };
            let thread = std::thread::Builder::new()
                .name(format!("millrace-slot-{slot}"))
                .spawn(move || slot::run(slot_spec))
                .map_err(slot::start_failure)?;
            let signal = Arc::clone(&signals[usize::from(slot)]);
            running.push(RunningSlot { control, signal, thread });
        }
        Ok(Self { attempt: spec.attempt, metrics, slots: running, cancel, pool })
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Tells all slots.
    pub fn tell(&self, control: &Control) {
        for slot in &self.slots {
            // A slot that has failed no longer listens; its failure is on its way.
            let _ = slot.control.send(control.clone());
            slot.signal.wake(0);
        }
    }

    /// Stops all slots and waits for them and for their side jobs.
    pub fn stop(self) {
        self.cancel.store(true, Ordering::SeqCst);
        self.slots.iter().for_each(|s| s.signal.wake(0));
        for slot in self.slots {
            // A panic in it was caught and reported.
            let _ = slot.thread.join();
        }
        self.pool.wait_quiet();
    }
}

#[cfg(test)]
mod hot {
    use super::*;
    use crate::api::env::Env;
    use crate::api::window::{Count, TumblingWindows};
    use crate::connector::*;
    use crate::coordinator::Event;
    use crate::data::Rows;
    use crate::runtime::slot::Report;
    use crate::store::directory::DirectoryStore;
    use crate::time::Watermarks;
    use millrace_protocol::ids::Uid;
    use std::time::{Duration, Instant};

    #[derive(Clone)]
    struct Gen {
        n: u64,
        keys: u64,
        splits: u64,
    }
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    struct Sp(u64, u64, u64, u64);
    impl Split for Sp {
        fn id(&self) -> String {
            self.0.to_string()
        }
    }
    impl Source for Gen {
        type Out = (u64, i64, u64);
        type Split = Sp;
        type Reader = R;
        fn discover(&mut self, _: &[Sp]) -> Res<Vec<Sp>> {
            Ok((0..self.splits).map(|i| Sp(i, i, self.n, self.splits)).collect())
        }
        fn reader(&self, _: SourceCx) -> Res<R> {
            Ok(R { s: None, keys: self.keys })
        }
    }
    struct R {
        s: Option<(Lane, Sp)>,
        keys: u64,
    }
    impl Reader<(u64, i64, u64), Sp> for R {
        fn assign(&mut self, l: Lane, s: Sp) -> Res {
            self.s = Some((l, s));
            Ok(())
        }
        fn poll(&mut self, out: &mut SourceOut<'_, (u64, i64, u64)>) -> Res<Next> {
            let Some((l, s)) = &mut self.s else { return Ok(Next::Wait) };
            let n = (out.room() as u64).min((s.2 - s.1).div_ceil(s.3));
            let (from, step, keys) = (s.1, s.3, self.keys);
            out.extend(
                *l,
                (0..n).map(|i| {
                    let i = from + i * step;
                    let mut z = i.wrapping_mul(0x9e3779b97f4a7c15);
                    z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
                    z ^= z >> 27;
                    ((z as u128 * keys as u128 >> 64) as u64, (i / 10_000) as i64, i)
                }),
            );
            s.1 += n * step;
            if s.1 >= s.2 {
                out.finish(*l);
                self.s = None;
            }
            Ok(Next::More)
        }
        fn positions(&mut self) -> Res<Vec<(Lane, Sp)>> {
            Ok(vec![])
        }
    }
    #[derive(Clone)]
    struct Bh;
    struct W(u64);
    impl<T: 'static> Sink<T> for Bh {
        type Commit = ();
        type Writer = W;
        type Committer = Bh;
        fn writer(&self, _: SinkCx) -> Res<W> {
            Ok(W(0))
        }
        fn committer(&self, _: &JobUid, _: &Uid) -> Res<Bh> {
            Ok(Bh)
        }
    }
    impl<T> Writer<T, ()> for W {
        fn write(&mut self, r: &mut Rows<T>) -> Res {
            self.0 += r.len() as u64;
            r.clear();
            Ok(())
        }
        fn prepare(&mut self, _: bool) -> Res<Pending<()>> {
            Ok(Box::new(|| Ok(Prepared { commit: vec![], open: vec![] })))
        }
    }
    impl Drop for W {
        fn drop(&mut self) {
            println!("sink rows {}", self.0);
        }
    }
    impl Committer<()> for Bh {
        fn commit(&mut self, _: &()) -> Res<Committed> {
            Ok(Committed::Done)
        }
        fn abort_others(&mut self, _: &[()]) -> Res {
            Ok(())
        }
    }

    #[test]
    #[ignore]
    fn hot() {
        for (keys, n) in [(1_000u64, 400_000_000u64), (1_000_000, 200_000_000)] {
            let env = Env::new();
            env.source(
                "gen",
                Gen { n, keys, splits: 2 },
                Watermarks::monotonous(|r: &(u64, i64, u64)| r.1),
            )
            .key_by(|r| r.0)
            .window(TumblingWindows::of(Duration::from_secs(1)))
            .aggregate("count", Count, |k, w, n| (*k, w.start, n))
            .sink("bh", Bh);
            let graph = Arc::new(env.into_graph());
            let dir = tempfile::tempdir().unwrap();
            let store: Arc<dyn ObjectStore> = Arc::new(DirectoryStore::open(dir.path()).unwrap());
            let mut options = JobOptions::new("x", dir.path().to_owned());
            options.parallelism = 2;
            let (tx, rx) = channel();
            let tell: Tell = Arc::new(move |r| {
                let _ = tx.send(r);
            });
            let begun = Instant::now();
            let d = Deployment::start(
                DeploySpec {
                    graph: &graph,
                    options: &options,
                    job: JobUid("j".into()),
                    attempt: Attempt(1),
                    base: None,
                    store: &store,
                    pool: &Arc::new(Pool::new(4)),
                },
                &tell,
            )
            .unwrap();
            let mut ended = 0;
            while ended < 2 {
                match rx.recv().unwrap() {
                    Report::Ended(_) => ended += 1,
                    Report::Event(Event::TaskFailed { failure, .. }) => panic!("{failure}"),
                    _ => {}
                }
            }
            let t = begun.elapsed();
            for ((n, s), m) in &d.metrics {
                println!(
                    "{n:?} {s} busy {} ms rows in {} out {}",
                    m.busy_ns.get() / 1_000_000,
                    m.rows_in.get(),
                    m.rows_out.get()
                );
            }
            d.stop();
            println!(
                "{keys} keys: {:.1} M/s, {:.1} core-ns per event",
                n as f64 / t.as_secs_f64() / 1e6,
                t.as_secs_f64() * 2e9 / n as f64
            );
        }
    }
}
