//! Everything at once: random graphs over random inputs, at random parallelism, stopped,
//! cancelled and rescaled at random, beside a naive interpreter of the same graph.

use crate::common::{How, assert_same, multiset, options, run_and_stop, run_watched, seed};
use millrace::connectors::collection::{CollectCommit, CollectSink};
use millrace::connectors::{Collected, Generator};
use millrace::engine::api::process::{Cx, KeyedProcess, Timer};
use millrace::engine::api::tags::AnyTag;
use millrace::engine::api::window::{SessionWindows, SlidingWindows, TumblingWindows};
use millrace::engine::connector::{Pending, Sink, SinkCx, Writer};
use millrace::engine::coordinator::Outcome;
use millrace::engine::data::Rows;
use millrace::engine::job::Handle;
use millrace::engine::state::MapState;
use millrace::engine::store::faulty::{Faults, FaultyStore};
use millrace::prelude::*;
use millrace::protocol::ids::{JobUid, Uid};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Key, event time, value.
type Row = (u64, i64, u64);

/// A graph in the order of its streams: step `i` makes stream `i` of earlier ones.
#[derive(Debug, Clone)]
enum Step {
    Source {
        rows: u64,
        keys: u64,
        disorder: u64,
        splits: u32,
    },
    Chain {
        of: usize,
        functions: Vec<Function>,
    },
    Exchange {
        of: usize,
        how: Exchange,
    },
    /// Multiplies rows by its parallelism, which is therefore fixed.
    Broadcast {
        of: usize,
        parallelism: u16,
    },
    Union {
        of: Vec<usize>,
    },
    Reduce {
        of: usize,
        keys: u64,
    },
    Window {
        of: usize,
        keys: u64,
        windows: Windows,
    },
    Process {
        of: usize,
        keys: u64,
    },
    /// The side output of a process.
    Side {
        of: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum Function {
    Map(u64),
    Filter(u64),
    FlatMap(u64),
}

#[derive(Debug, Clone, Copy)]
enum Exchange {
    Rebalance,
    Rescale,
    Shuffle,
    Custom,
}

#[derive(Debug, Clone, Copy)]
enum Windows {
    Tumbling(u64),
    Sliding(u64, u64),
    Session(u64),
}

fn mix(n: u64) -> u64 {
    (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7
}

fn source_row(i: u64, keys: u64, disorder: u64) -> Row {
    (mix(i) % keys, (i + mix(i + 7) % disorder.max(1)) as i64, mix(i + 13) % 1000)
}

impl Function {
    fn apply(self, rows: Vec<Row>) -> Vec<Row> {
        match self {
            Self::Map(n) => rows.into_iter().map(|r| map(r, n)).collect(),
            Self::Filter(n) => rows.into_iter().filter(|r| keep(r, n)).collect(),
            Self::FlatMap(n) => rows.into_iter().flat_map(|r| expand(r, n)).collect(),
        }
    }
}

fn map(row: Row, n: u64) -> Row {
    (row.0, row.1, mix(row.2 + n) % 1000)
}

fn keep(row: &Row, n: u64) -> bool {
    !mix(row.2 + n).is_multiple_of(4)
}

fn expand(row: Row, n: u64) -> Vec<Row> {
    (0..mix(row.2 + n) % 3).map(|k| (row.0, row.1, row.2 + k)).collect()
}

fn add(acc: &mut (u64, u64), row: &Row) {
    acc.0 = acc.0.wrapping_add(row.2);
    acc.1 += 1;
}

fn folded(acc: (u64, u64)) -> u64 {
    acc.0 * 1000 + acc.1 % 1000
}

#[derive(Clone)]
struct Fold;

impl Aggregate<Row> for Fold {
    type Acc = (u64, u64);
    type Out = u64;

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, acc: &mut (u64, u64), row: &Row) {
        add(acc, row);
    }

    fn merge(&self, acc: &mut (u64, u64), other: &(u64, u64)) {
        *acc = (acc.0.wrapping_add(other.0), acc.1 + other.1);
    }

    fn result(&self, acc: &(u64, u64)) -> u64 {
        folded(*acc)
    }
}

const SIDE: OutputTag<Row> = OutputTag::new("side");
const BUCKET: i64 = 50;

fn goes_aside(row: &Row) -> bool {
    row.2.is_multiple_of(3)
}

#[derive(Default, millrace::State)]
struct Buckets {
    values: MapState<i64, u64>,
}

/// Adds up per bucket of event time, and emits at a timer; some rows go aside.
#[derive(Clone)]
struct ByTimer;

impl KeyedProcess<u64, Row> for ByTimer {
    type Out = Row;
    type State = Buckets;

    fn side_outputs(&self) -> Vec<AnyTag> {
        vec![SIDE.any()]
    }

    fn process(&mut self, row: Row, st: &mut Buckets, cx: &mut Cx<'_, u64, Row>) -> Res {
        assert_eq!(cx.timestamp(), row.1, "event time of a row");
        if goes_aside(&row) {
            cx.side(&SIDE, row);
            return Ok(());
        }
        let at = (row.1.div_euclid(BUCKET) + 1) * BUCKET;
        let sum = st.values.get(&at)?.copied().unwrap_or(0);
        st.values.put(at, sum + row.2 + 1)?;
        cx.register(Timer::Event(at));
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer, st: &mut Buckets, cx: &mut Cx<'_, u64, Row>) -> Res {
        let Timer::Event(at) = timer else { return Err("a timer that was never set".into()) };
        let sum = st.values.remove(&at)?.ok_or("a timer without its state")?;
        let key = *cx.key();
        cx.emit((key, at, sum));
        Ok(())
    }
}

/// The naive interpreter: what stream `step` holds, given those before.
fn interpret(step: &Step, before: &[Vec<Row>]) -> Vec<Row> {
    match step {
        Step::Source { rows, keys, disorder, .. } => {
            (0..*rows).map(|i| source_row(i, *keys, *disorder)).collect()
        }
        Step::Chain { of, functions } => {
            functions.iter().fold(before[*of].clone(), |rows, f| f.apply(rows))
        }
        Step::Exchange { of, .. } => before[*of].clone(),
        Step::Broadcast { of, parallelism } => {
            (0..*parallelism).flat_map(|_| before[*of].clone()).collect()
        }
        Step::Union { of } => of.iter().flat_map(|i| before[*i].clone()).collect(),
        Step::Reduce { of, keys } => {
            let mut counts = BTreeMap::new();
            let count = |row: &Row| {
                let n = counts.entry(row.0 % keys).or_insert(0u64);
                *n += 1;
                (row.0 % keys, 0, *n)
            };
            before[*of].iter().map(count).collect()
        }
        Step::Window { of, keys, windows } => {
            let mut by_key: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
            before[*of].iter().for_each(|r| by_key.entry(r.0 % keys).or_default().push(r));
            let windowed = |(key, rows)| windows.interpret(key, rows);
            by_key.into_iter().flat_map(windowed).collect()
        }
        Step::Process { of, keys } => {
            let mut sums: BTreeMap<(u64, i64), u64> = BTreeMap::new();
            for row in before[*of].iter().filter(|r| !goes_aside(r)) {
                let at = (row.1.div_euclid(BUCKET) + 1) * BUCKET;
                *sums.entry((row.0 % keys, at)).or_insert(0) += row.2 + 1;
            }
            sums.into_iter().map(|((key, at), sum)| (key, at, sum)).collect()
        }
        Step::Side { .. } => Vec::new(), // made where the process's input is known
    }
}

impl Windows {
    fn interpret(self, key: u64, mut rows: Vec<&Row>) -> Vec<Row> {
        let mut found: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
        let (size, slide) = match self {
            Self::Tumbling(size) => (size as i64, size as i64),
            Self::Sliding(size, slide) => (size as i64, slide as i64),
            Self::Session(gap) => {
                rows.sort();
                rows.sort_by_key(|r| r.1);
                let mut open: Option<(i64, (u64, u64))> = None;
                let mut out = Vec::new();
                for row in rows {
                    match &mut open {
                        Some((end, acc)) if row.1 <= *end => {
                            *end = row.1 + gap as i64;
                            add(acc, row);
                        }
                        _ => {
                            out.extend(open.take());
                            let mut acc = (0, 0);
                            add(&mut acc, row);
                            open = Some((row.1 + gap as i64, acc));
                        }
                    }
                }
                out.extend(open);
                return out.into_iter().map(|(end, acc)| (key, end - 1, folded(acc))).collect();
            }
        };
        for row in rows {
            let mut start = row.1.div_euclid(slide) * slide;
            while start + size > row.1 {
                add(found.entry(start).or_default(), row);
                start -= slide;
            }
        }
        found.into_iter().map(|(start, acc)| (key, start + size - 1, folded(acc))).collect()
    }
}

/// A sink in memory that often has no room.
#[derive(Clone)]
struct Moody(CollectSink<Row>);

struct MoodyWriter {
    inner: <CollectSink<Row> as Sink<Row>>::Writer,
    asked: u64,
}

impl Sink<Row> for Moody {
    type Commit = CollectCommit<Row>;
    type Writer = MoodyWriter;
    type Committer = <CollectSink<Row> as Sink<Row>>::Committer;

    fn writer(&self, cx: SinkCx) -> Res<MoodyWriter> {
        Ok(MoodyWriter { inner: self.0.writer(cx)?, asked: 0 })
    }

    fn committer(&self, job: &JobUid, uid: &Uid) -> Res<Self::Committer> {
        self.0.committer(job, uid)
    }
}

impl Writer<Row, CollectCommit<Row>> for MoodyWriter {
    fn has_room(&mut self) -> bool {
        self.asked += 1;
        !mix(self.asked).is_multiple_of(3)
    }

    fn write(&mut self, rows: &mut Rows<Row>) -> Res {
        self.inner.write(rows)
    }

    fn prepare(&mut self, last: bool) -> Res<Pending<CollectCommit<Row>>> {
        self.inner.prepare(last)
    }
}

/// A graph with what each of its streams holds.
struct Plan {
    steps: Vec<Step>,
    rows: Vec<Vec<Row>>,
    /// Whether a stream's rows still carry their event time.
    timed: Vec<bool>,
    /// Most rows of a stream.
    most: usize,
}

impl Plan {
    /// `scale`: how many times more rows than a handful.
    fn random(rng: &mut fastrand::Rng, scale: u64) -> Self {
        let mut plan = Self {
            steps: Vec::new(),
            rows: Vec::new(),
            timed: Vec::new(),
            most: 6000 * scale as usize,
        };
        for _ in 0..rng.usize(1..=2) {
            let disorder = if rng.bool() { 0 } else { rng.u64(1..40) };
            let (rows, keys) = (rng.u64(0..1500) * scale, rng.u64(1..60));
            plan.add(Step::Source { rows, keys, disorder, splits: rng.u32(1..6) }, true);
        }
        for _ in 0..rng.usize(3..10) {
            let of = rng.usize(..plan.steps.len());
            let (timed, keys) = (plan.timed[of], rng.u64(1..30));
            match rng.u8(..10) {
                0 | 1 => {
                    let function = |rng: &mut fastrand::Rng| match rng.u8(..3) {
                        0 => Function::Map(rng.u64(..99)),
                        1 => Function::Filter(rng.u64(..99)),
                        _ => Function::FlatMap(rng.u64(..99)),
                    };
                    let functions = (0..rng.usize(1..4)).map(|_| function(rng)).collect();
                    plan.add(Step::Chain { of, functions }, timed);
                }
                2 | 3 => {
                    let how = match rng.u8(..4) {
                        0 => Exchange::Rebalance,
                        1 => Exchange::Rescale,
                        2 => Exchange::Shuffle,
                        _ => Exchange::Custom,
                    };
                    plan.add(Step::Exchange { of, how }, timed);
                }
                4 => plan.add(Step::Broadcast { of, parallelism: rng.u16(1..=3) }, timed),
                5 => {
                    let more = (0..rng.usize(1..3)).map(|_| rng.usize(..plan.steps.len()));
                    let of: Vec<usize> = std::iter::once(of).chain(more).collect();
                    let timed = of.iter().all(|i| plan.timed[*i]);
                    plan.add(Step::Union { of }, timed);
                }
                6 => plan.add(Step::Reduce { of, keys }, false),
                7 | 8 if timed => {
                    let windows = match rng.u8(..3) {
                        0 => Windows::Tumbling(rng.u64(1..200)),
                        1 => {
                            let slide = rng.u64(10..100);
                            Windows::Sliding(slide * rng.u64(1..4) + rng.u64(0..10), slide)
                        }
                        _ => Windows::Session(rng.u64(1..60)),
                    };
                    plan.add(Step::Window { of, keys, windows }, true);
                }
                9 if timed => {
                    let process = plan.steps.len();
                    plan.add(Step::Process { of, keys }, true);
                    if plan.steps.len() > process && rng.bool() {
                        plan.steps.push(Step::Side { of: process });
                        let aside = plan.rows[of].iter().filter(|r| goes_aside(r));
                        plan.rows.push(aside.copied().collect());
                        plan.timed.push(true);
                    }
                }
                _ => {}
            }
        }
        plan
    }

    /// Adds a step, unless it would make too many rows.
    fn add(&mut self, step: Step, timed: bool) {
        let rows = interpret(&step, &self.rows);
        if rows.len() <= self.most {
            self.steps.push(step);
            self.rows.push(rows);
            self.timed.push(timed);
        }
    }

    /// Streams that no step reads: these go to sinks.
    fn leaves(&self) -> Vec<usize> {
        let mut read = vec![false; self.steps.len()];
        for step in &self.steps {
            match step {
                Step::Source { .. } => {}
                Step::Union { of } => of.iter().for_each(|i| read[*i] = true),
                Step::Chain { of, .. }
                | Step::Exchange { of, .. }
                | Step::Broadcast { of, .. }
                | Step::Reduce { of, .. }
                | Step::Window { of, .. }
                | Step::Process { of, .. } => read[*of] = true,
                Step::Side { .. } => {}
            }
        }
        (0..read.len()).filter(|i| !read[*i]).collect()
    }

    /// The job, with parallelism of its own for some operators.
    fn build(
        &self,
        rng: &mut fastrand::Rng,
        rate: u64,
        sinks: &BTreeMap<usize, Collected<Row>>,
        poison: &Arc<AtomicU32>,
    ) -> Handle {
        let env = Env::new();
        let mut streams: Vec<DataStream<Row>> = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            let at = |of: &usize| streams[*of].clone();
            let uid = format!("step {i}");
            let own = rng.u8(..3) == 0;
            let stream = match step.clone() {
                Step::Source { rows, keys, disorder, splits } => {
                    let make = move |i| source_row(i, keys, disorder);
                    let source = Generator::new(make).count(rows).splits(splits).rate(rate);
                    let delay = Duration::from_millis(disorder);
                    env.source(&uid, source, Watermarks::bounded(delay, |r: &Row| r.1))
                }
                Step::Chain { of, functions } => {
                    let (left, bad) = (Arc::clone(poison), rng.u64(..200));
                    let slow = rng.u8(..4) == 0;
                    let poisoned = at(&of).try_map(move |row| {
                        let take = |n: u32| n.checked_sub(1);
                        if slow && row.2 % 256 == bad {
                            // What stands before it fills up.
                            std::thread::sleep(Duration::from_micros(100));
                        }
                        let armed = row.2 % 200 == bad
                            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
                        if armed { Err("poison".into()) } else { Ok(row) }
                    });
                    functions.iter().fold(poisoned.erase(), |stream, function| match *function {
                        Function::Map(n) => stream.map(move |r| map(r, n)).erase(),
                        Function::Filter(n) => stream.filter(move |r| keep(r, n)).erase(),
                        Function::FlatMap(n) => stream
                            .filter(|_| true)
                            .flat_map(move |r| expand(r, n))
                            .map(|r| r)
                            .erase(),
                    })
                }
                Step::Exchange { of, how } => match how {
                    Exchange::Rebalance => at(&of).rebalance(),
                    Exchange::Rescale => at(&of).rescale(),
                    Exchange::Shuffle => at(&of).shuffle(),
                    Exchange::Custom => at(&of).partition_custom(|r, n| r.2 as usize % (n + 1)),
                },
                Step::Broadcast { of, parallelism } => {
                    streams.push(at(&of).broadcast_all().parallelism(parallelism));
                    continue;
                }
                Step::Union { of } => at(&of[0]).union(of[1..].iter().map(at).collect()),
                Step::Reduce { of, keys } => at(&of)
                    .map(move |r| (r.0 % keys, 0, 1))
                    .key_by(|r| r.0)
                    .reduce(&uid, |acc: &mut Row, row| acc.2 += row.2),
                Step::Window { of, keys, windows } => {
                    let keyed = at(&of).key_by(move |r| r.0 % keys);
                    let emit = |key: &u64, w: Window, value| (*key, w.last(), value);
                    let ms = Duration::from_millis;
                    match windows {
                        Windows::Tumbling(size) => {
                            keyed.window(TumblingWindows::of(ms(size))).aggregate(&uid, Fold, emit)
                        }
                        Windows::Sliding(size, slide) => keyed
                            .window(SlidingWindows::of(ms(size), ms(slide)))
                            .aggregate(&uid, Fold, emit),
                        Windows::Session(gap) => keyed
                            .window(SessionWindows::with_gap(ms(gap)))
                            .aggregate(&uid, Fold, emit),
                    }
                }
                Step::Process { of, keys } => {
                    at(&of).key_by(move |r| r.0 % keys).process(&uid, ByTimer)
                }
                Step::Side { of } => {
                    let side = streams[of].side_output(&SIDE);
                    streams.push(side);
                    continue;
                }
            };
            let chained = matches!(step, Step::Chain { .. });
            let parallelism = rng.u16(1..=4);
            streams.push(if own && !chained { stream.parallelism(parallelism) } else { stream });
        }
        for (leaf, out) in sinks {
            streams[*leaf].clone().sink(&format!("out {leaf}"), Moody(out.sink()));
        }
        Handle::new(env.into_graph())
    }
}

/// One graph, to its end; what is wrong with it, if anything.
fn run_one(seed: u64, scale: u64) {
    println!("graph of seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::random(&mut rng, scale);
    println!("{:#?}", plan.steps);
    let sinks: BTreeMap<usize, Collected<Row>> =
        plan.leaves().into_iter().map(|leaf| (leaf, Collected::new())).collect();
    let dir = tempfile::tempdir().unwrap();
    let stops = rng.usize(0..4);
    let poison = Arc::new(AtomicU32::new(rng.u32(0..4)));
    // The longest input takes about so long.
    let rate = scale * [6_000, 20_000, 1_000_000][rng.usize(..3)];
    for round in 0.. {
        let handle = plan.build(&mut rng, rate, &sinks, &poison);
        let mut options = options(dir.path(), rng.u16(1..=4));
        // Some in one worker, some over several that send each other rows.
        options.loopback = options.loopback.or([None, Some(2), Some(3)][rng.usize(..3)]);
        options.checkpoints.interval = rng.bool().then(|| Duration::from_millis(rng.u64(1..60)));
        options.checkpoints.retained = rng.u32(1..4);
        let after = [None, Some(0), Some(0), Some(rng.u64(1..20))][rng.usize(..4)];
        options.checkpoints.unaligned_after = after.map(Duration::from_millis);
        if rng.u8(..4) == 0 {
            options.checkpoints.tolerated_failures = u32::MAX;
            options.checkpoints.timeout = Duration::from_millis(rng.u64(20..60) * scale.min(4));
        }
        if rng.u8(..4) == 0 {
            let seed = rng.u64(..);
            options.checkpoints.tolerated_failures = u32::MAX;
            options.wrap_store = Some(Arc::new(move |store| {
                Arc::new(FaultyStore::new(store, seed, Faults::survivable(0.02)))
            }));
        }
        println!("round {round}: parallelism {}", options.parallelism);
        let outcome = if round < stops {
            let how = if rng.u8(..3) == 0 { How::Cancel } else { How::Suspend };
            run_and_stop(&handle, options, Duration::from_millis(rng.u64(0..90)), how)
        } else {
            run_watched(&handle, options)
        };
        if let Err(error) = &outcome
            && error.to_string().contains("probe/")
        {
            // A store that fails at the start is told to the user, who tries again.
            continue;
        }
        let failures = handle.status().failures;
        match outcome.unwrap_or_else(|e| panic!("seed {seed}: {e}; {failures:?}")) {
            Outcome::Finished | Outcome::FinishedBefore => break,
            Outcome::Suspended => {}
            other => panic!("seed {seed}: round {round} ended with {other:?}"),
        }
    }
    for (leaf, out) in &sinks {
        let expected = multiset(plan.rows[*leaf].iter().copied());
        assert_same(&multiset(out.rows()), &expected, &format!("seed {seed}, stream {leaf}"));
    }
}

#[test]
fn random_graphs_give_what_a_naive_interpreter_gives() {
    if let Some(seed) = std::env::var("MILLRACE_GRAPH").ok().and_then(|s| s.parse().ok()) {
        return run_one(seed, 1);
    }
    let count = std::env::var("MILLRACE_GRAPHS").ok().and_then(|s| s.parse().ok()).unwrap_or(24);
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..count {
        run_one(rng.u64(..), 1);
    }
}

/// The same with so many rows that channels are full.
#[test]
fn random_graphs_under_load() {
    if let Some(seed) = std::env::var("MILLRACE_LOAD").ok().and_then(|s| s.parse().ok()) {
        return run_one(seed, 50);
    }
    let count = std::env::var("MILLRACE_GRAPHS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..count {
        run_one(rng.u64(..), 50);
    }
}
