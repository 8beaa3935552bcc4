//! Checkpoints while what stands at the end of a job is slow: barriers overtake rows, and
//! the rows that they overtook are neither lost nor doubled, and keep their order.

use crate::common::{assert_same, multiset, options, run_watched, seed};
use crate::refusals::tree;
use millrace::connectors::collection::{CollectCommit, CollectSink};
use millrace::connectors::{Collected, Generator};
use millrace::engine::api::connect::KeyedCoProcess;
use millrace::engine::api::plain::{Process, ProcessCx};
use millrace::engine::api::process::{Cx, KeyedProcess};
use millrace::engine::api::tags::AnyTag;
use millrace::engine::api::window::{Count, SlidingWindows, TumblingWindows, WindowAssigner};
use millrace::engine::connector::{Pending, Sink, SinkCx, Writer};
use millrace::engine::coordinator::{Outcome, RestartPolicy, StopMode};
use millrace::engine::data::Rows;
use millrace::engine::job::{Handle, JobError, JobOptions};
use millrace::engine::runtime::flight::IN_FLIGHT;
use millrace::engine::state::Value;
use millrace::prelude::*;
use millrace::protocol::ids::{JobUid, Uid};
use millrace::protocol::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROWS: u64 = 150_000;
const KEYS: u64 = 97;

/// What takes a second or two may take as long on a loaded machine.
const LONG: Duration = Duration::from_secs(50);

/// Enough for several checkpoints, if they do not have to wait.
const SHORT: Duration = Duration::from_secs(5);

/// Key, and a number.
type Row = (u64, u64);

/// A sink that takes a batch a second, or in another time, as long as it is told to be slow.
#[derive(Clone)]
struct Slow(CollectSink<Row>, Arc<AtomicBool>, Duration);

impl Slow {
    fn new(out: &Collected<Row>, slow: &Arc<AtomicBool>) -> Self {
        Self(out.sink(), Arc::clone(slow), Duration::from_secs(1))
    }
}

struct SlowWriter {
    inner: <CollectSink<Row> as Sink<Row>>::Writer,
    slow: Arc<AtomicBool>,
    time: Duration,
    next: Instant,
}

impl Sink<Row> for Slow {
    type Commit = CollectCommit<Row>;
    type Writer = SlowWriter;
    type Committer = <CollectSink<Row> as Sink<Row>>::Committer;

    fn writer(&self, cx: SinkCx) -> Res<SlowWriter> {
        let (slow, next) = (Arc::clone(&self.1), Instant::now());
        Ok(SlowWriter { inner: self.0.writer(cx)?, slow, time: self.2, next })
    }

    fn committer(&self, job: &JobUid, uid: &Uid) -> Res<Self::Committer> {
        self.0.committer(job, uid)
    }
}

impl Writer<Row, CollectCommit<Row>> for SlowWriter {
    fn has_room(&mut self) -> bool {
        !self.slow.load(Ordering::SeqCst) || Instant::now() >= self.next
    }

    fn write(&mut self, rows: &mut Rows<Row>) -> Res {
        self.next = Instant::now() + self.time;
        self.inner.write(rows)
    }

    fn prepare(&mut self, last: bool) -> Res<Pending<CollectCommit<Row>>> {
        self.inner.prepare(last)
    }
}

/// Demands that the numbers of a key come one after the other.
#[derive(Clone)]
struct InOrder;

#[derive(Default, millrace::State)]
struct Last {
    count: Value<u64>,
}

impl Last {
    /// How many there were before.
    fn next(&mut self) -> u64 {
        let count = self.count.or_insert(0);
        *count += 1;
        *count - 1
    }
}

impl KeyedProcess<u64, Row> for InOrder {
    type Out = Row;
    type State = Last;

    fn process(&mut self, row: Row, last: &mut Last, cx: &mut Cx<'_, u64, Row>) -> Res {
        let before = last.next();
        if row.1 != before {
            return Err(format!("key {} has {} after {before} rows", row.0, row.1).into());
        }
        cx.emit(row);
        Ok(())
    }
}

/// Numbers the rows of each key, twice, with an exchange before the slow sink. One split
/// and one key per upstream subtask and target, so rows of a key have an order.
fn job(out: &Collected<Row>, slow: &Arc<AtomicBool>) -> Handle {
    job_into(Slow::new(out, slow))
}

fn job_into(sink: Slow) -> Handle {
    let env = Env::new();
    let source = Generator::new(|i| i).count(ROWS).splits(1);
    env.source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
        .map(|i| (i % KEYS, i / KEYS))
        .key_by(|r: &Row| r.0)
        .process("first", InOrder)
        .key_by(|r: &Row| r.0)
        .process("counts", InOrder)
        .rebalance()
        .sink("out", sink);
    Handle::new(env.into_graph())
}

fn assert_all(out: &Collected<Row>, what: &str) {
    let expected = (0..ROWS).map(|i| (i % KEYS, i / KEYS));
    assert_same(&multiset(out.rows()), &multiset(expected), what);
}

const SIDE: OutputTag<Row> = OutputTag::new("odd");

/// Odd numbers go aside.
#[derive(Clone)]
struct Split;

impl Process<Row> for Split {
    type Out = Row;

    fn side_outputs(&self) -> Vec<AnyTag> {
        vec![SIDE.any()]
    }

    fn process(&mut self, row: Row, cx: &mut ProcessCx<'_, Row>) -> Res {
        match row.1 % 2 {
            0 => cx.emit(row),
            _ => cx.side(&SIDE, row),
        }
        Ok(())
    }
}

/// Counts the rows of both inputs by key.
#[derive(Clone)]
struct Both;

impl KeyedCoProcess<u64, Row, Row> for Both {
    type Out = Row;
    type State = Last;

    fn first(&mut self, row: Row, last: &mut Last, cx: &mut Cx<'_, u64, Row>) -> Res {
        cx.emit((row.0, last.next()));
        Ok(())
    }

    fn second(&mut self, row: Row, last: &mut Last, cx: &mut Cx<'_, u64, Row>) -> Res {
        self.first(row, last, cx)
    }
}

/// All kinds of edges: a side output beside the main one, a union of streams, two keyed
/// inputs, a broadcast, rows dealt out and shuffled.
fn tangle(out: &Collected<Row>, slow: &Arc<AtomicBool>) -> Handle {
    let env = Env::new();
    let source = Generator::new(|i| i).count(ROWS / 3).splits(3);
    let rows = env
        .source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
        .map(|i| (i % KEYS, i / KEYS))
        .rebalance();
    let even = rows.process("split", Split);
    let odd = even.side_output(&SIDE);
    let all = even.clone().union(vec![odd.shuffle()]);
    let twice = even.broadcast_all().parallelism(2);
    all.key_by(|r: &Row| r.0)
        .connect(twice.key_by(|r: &Row| r.0))
        .process("both", Both)
        .rebalance()
        .sink("out", Slow::new(out, slow));
    Handle::new(env.into_graph())
}

fn assert_tangle(out: &Collected<Row>, what: &str) {
    let mut counts = vec![0u64; KEYS as usize];
    let mut expected = Vec::new();
    for i in 0..ROWS / 3 {
        let (key, number) = (i % KEYS, i / KEYS);
        // The union has each row, the broadcast the even ones twice.
        for _ in 0..if number % 2 == 0 { 3 } else { 1 } {
            expected.push((key, counts[key as usize]));
            counts[key as usize] += 1;
        }
    }
    assert_same(&multiset(out.rows()), &multiset(expected), what);
}

/// Runs the job slowly until checkpoints have completed that began when all was full, or
/// for so long; then cancels it, as a crash would. Whether there were any.
fn completes(handle: &Handle, options: JobOptions, full_at: u64, within: Duration) -> bool {
    let (job, begun) = (handle.clone(), Instant::now());
    let thread = std::thread::spawn(move || {
        // The first may be of a time when nothing was in the way.
        let latest = |job: &Handle| job.status().checkpoint.map_or(0, |c| c.0.checkpoint.0);
        let full = |job: &Handle| {
            let nodes = job.status().nodes;
            nodes.iter().map(|n| n.rows_in).sum::<u64>() > full_at
        };
        while !full(&job) && begun.elapsed() < within {
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = latest(&job);
        while latest(&job) < before + 2 && begun.elapsed() < within {
            std::thread::sleep(Duration::from_millis(5));
        }
        let complete = latest(&job) >= before + 2;
        if !complete {
            println!("{:#?}", job.status());
        }
        job.cancel();
        complete
    });
    assert_eq!(run_watched(handle, options).unwrap(), Outcome::Suspended);
    thread.join().unwrap()
}

fn slow_options(dir: &Path, parallelism: u16, loopback: Option<u16>) -> JobOptions {
    let mut options = options(dir, parallelism);
    options.loopback = loopback;
    options.checkpoints.interval = Some(Duration::from_millis(300));
    options.checkpoints.tolerated_failures = u32::MAX;
    options.restart = RestartPolicy::None;
    options
}

/// The newest manifest below a directory.
fn manifest(dir: &Path) -> Option<Manifest> {
    let found = tree(dir).into_iter().filter_map(|(path, bytes)| {
        let name = path.file_name()?.to_str()?;
        let is_one = name.starts_with("m-") || name == "_manifest";
        is_one.then(|| Manifest::decode(name, &bytes).unwrap())
    });
    found.max_by_key(|m| (m.attempt, m.checkpoint))
}

/// How many batches a checkpoint holds, and the files that they are in.
fn in_flight(manifest: &Manifest, dir: &Path) -> (usize, Vec<PathBuf>) {
    let lists = manifest.operators.iter().flat_map(|o| &o.lists);
    let rows = lists.filter(|l| l.name.starts_with(IN_FLIGHT)).flat_map(|l| &l.parts);
    let files = manifest.files.iter().filter(|f| f.sections.is_empty());
    (rows.map(|p| p.items.len()).sum(), files.map(|f| dir.join(f.key.as_str())).collect())
}

#[test]
fn barriers_overtake_what_waits_for_a_slow_sink() {
    let goes_on = [(3, None), (1, None), (3, Some(2)), (2, None)];
    let begins = [(None, 0), (Some(2), 0), (None, 50), (Some(2), 50)];
    for ((loopback, after), (parallelism, then)) in begins.into_iter().zip(goes_on) {
        let dir = tempfile::tempdir().unwrap();
        let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
        let mut options = slow_options(dir.path(), 2, loopback);
        options.checkpoints.unaligned_after = Some(Duration::from_millis(after));
        let what = format!("loopback {loopback:?}, after {after} ms, then {parallelism} subtasks");
        let complete = completes(&job(&out, &slow), options.clone(), 20_000, LONG);
        assert!(complete, "no checkpoint: {what}");
        let (batches, files) = in_flight(&manifest(dir.path()).unwrap(), dir.path());
        assert!(batches > 4 && !files.is_empty(), "only {batches} batches in flight: {what}");
        if after == 0 {
            // Once more, slowly: what comes from the checkpoint is overtaken too.
            let complete = completes(&job(&out, &slow), options, 0, LONG);
            assert!(complete, "no checkpoint after a restart: {what}");
        }
        slow.store(false, Ordering::SeqCst);
        let mut options = slow_options(dir.path(), parallelism, then);
        options.checkpoints.unaligned_after = Some(Duration::ZERO);
        assert_eq!(run_watched(&job(&out, &slow), options).unwrap(), Outcome::Finished);
        assert_all(&out, &what);
    }
}

/// More is in flight than a checkpoint has room for, all the time.
#[test]
fn what_there_is_no_room_for_is_worked_on_before_the_barrier() {
    const ROOM: u64 = 128 << 10;
    for loopback in [None, Some(2)] {
        let dir = tempfile::tempdir().unwrap();
        let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
        let mut options = slow_options(dir.path(), 2, loopback);
        options.checkpoints.unaligned_after = Some(Duration::ZERO);
        options.checkpoints.tolerated_failures = 0;
        options.most_in_flight = ROOM as usize;
        let sink = Slow(out.sink(), Arc::clone(&slow), Duration::from_millis(100));
        let what = format!("loopback {loopback:?}");
        assert!(completes(&job_into(sink), options, 20_000, LONG), "no checkpoint: {what}");
        let manifest = manifest(dir.path()).unwrap();
        assert!(in_flight(&manifest, dir.path()).0 > 0, "nothing was in flight: {what}");
        for file in manifest.files.iter().filter(|f| f.sections.is_empty()) {
            assert!(file.len < ROOM + 100, "{} bytes of a slot: {what}", file.len);
        }
        slow.store(false, Ordering::SeqCst);
        let options = slow_options(dir.path(), 3, None);
        assert_eq!(run_watched(&job(&out, &slow), options).unwrap(), Outcome::Finished);
        assert_all(&out, &what);
    }
}

#[test]
fn aligned_barriers_wait_for_a_slow_sink() {
    for after in [None, Some(Duration::from_secs(3600))] {
        let dir = tempfile::tempdir().unwrap();
        let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
        let mut options = slow_options(dir.path(), 2, None);
        options.checkpoints.unaligned_after = after;
        // Thousands of rows stand before the barrier.
        assert!(!completes(&job(&out, &slow), options, 20_000, SHORT), "after {after:?}");
    }
}

/// A type that contains itself has no shape.
#[derive(Clone, Serialize, Deserialize)]
struct Nested {
    row: Row,
    below: Vec<Nested>,
}

#[derive(Clone)]
struct Unnest;

impl KeyedProcess<u64, Nested> for Unnest {
    type Out = Row;
    type State = Last;

    fn process(&mut self, n: Nested, last: &mut Last, cx: &mut Cx<'_, u64, Row>) -> Res {
        InOrder.process(n.row, last, cx)
    }
}

#[test]
fn barriers_wait_for_rows_that_another_program_could_not_tell_from_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
    let job = || {
        let env = Env::new();
        let source = Generator::new(|i| i).count(ROWS).splits(1);
        env.source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
            .map(|i| Nested { row: (i % KEYS, i / KEYS), below: Vec::new() })
            .key_by(|n: &Nested| n.row.0)
            .process("counts", Unnest)
            .sink("out", Slow::new(&out, &slow));
        Handle::new(env.into_graph())
    };
    let mut options = slow_options(dir.path(), 2, None);
    options.checkpoints.unaligned_after = Some(Duration::ZERO);
    assert!(!completes(&job(), options.clone(), 2_000, SHORT), "rows of no shape were overtaken");
    slow.store(false, Ordering::SeqCst);
    assert_eq!(run_watched(&job(), options).unwrap(), Outcome::Finished);
    assert_all(&out, "rows of no shape");
}

#[test]
fn rows_of_all_edges_survive_crashes() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let mut held = 0;
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
        for _ in 0..4 {
            let loopback = [None, Some(2), Some(3)][rng.usize(..3)];
            let mut options = slow_options(dir.path(), rng.u16(1..=4), loopback);
            options.checkpoints.interval = Some(Duration::from_millis(rng.u64(5..50)));
            options.checkpoints.unaligned_after = Some(Duration::from_millis(rng.u64(0..10)));
            completes(&tangle(&out, &slow), options, rng.u64(0..40_000), SHORT);
            held = held.max(manifest(dir.path()).map_or(0, |m| in_flight(&m, dir.path()).0));
        }
        slow.store(false, Ordering::SeqCst);
        let options = slow_options(dir.path(), rng.u16(1..=4), None);
        assert_eq!(run_watched(&tangle(&out, &slow), options).unwrap(), Outcome::Finished);
        assert_tangle(&out, "after crashes");
    }
    assert!(held > 0, "nothing was in flight");
}

const LATE: OutputTag<Row> = OutputTag::new("late");

/// Event times go up with the numbers, but for some rows, which are late.
fn time_of(number: u64) -> i64 {
    let behind = if number % 50 == 49 { 3_000 } else { 0 };
    number.saturating_sub(behind) as i64
}

/// Counts rows by key and window, and those that are late aside.
fn windows(
    windows: impl WindowAssigner<Row>,
    out: &Collected<Row>,
    late: &Collected<Row>,
    slow: &Arc<AtomicBool>,
) -> Handle {
    let env = Env::new();
    let source = Generator::new(|i| i).count(3 * ROWS).splits(1);
    let counts = env
        .source("rows", source, Watermarks::monotonous(|i: &u64| time_of(*i)))
        .map(|i| (i % KEYS, i))
        .rebalance()
        .process("through", Through)
        .key_by(|r: &Row| r.0)
        .window(windows)
        .late_to(&LATE)
        .aggregate("counts", Count, |key, window, n| (key * 1_000_000 + window.end as u64, n));
    counts.side_output(&LATE).sink("late", late.sink());
    let time = Duration::from_millis(100);
    counts.rebalance().sink("out", Slow(out.sink(), Arc::clone(slow), time));
    Handle::new(env.into_graph())
}

#[derive(Clone)]
struct Through;

impl Process<Row> for Through {
    type Out = Row;

    fn process(&mut self, row: Row, cx: &mut ProcessCx<'_, Row>) -> Res {
        cx.emit(row);
        Ok(())
    }
}

/// Event time in a checkpoint is that of the rows that a window has taken, not of those that
/// the barrier overtook: else these would be late, or windows would come twice. Subtasks have
/// come to different ones at such a barrier, and the next to own their key groups are others.
/// Answers how many rows windows have counted, and how many were late.
fn windows_come_once(assigner: impl WindowAssigner<Row>, rng: &mut fastrand::Rng) -> [u64; 2] {
    let dir = tempfile::tempdir().unwrap();
    let (out, late) = (Collected::new(), Collected::new());
    let slow = Arc::new(AtomicBool::new(true));
    let job = || windows(assigner.clone(), &out, &late, &slow);
    let (mut held, mut apart) = (0, 0);
    for round in 0..4 {
        // The first takes two slots and what time it needs: then there is a checkpoint.
        let (least, within) = if round == 0 { (2, LONG) } else { (1, SHORT) };
        let loopback = [None, Some(2)][rng.usize(..2)];
        let mut options = slow_options(dir.path(), rng.u16(least..=3), loopback);
        options.checkpoints.interval = Some(Duration::from_millis(rng.u64(5..50)));
        options.checkpoints.unaligned_after = Some(Duration::ZERO);
        completes(&job(), options, rng.u64(0..60_000), within);
        let Some(manifest) = manifest(dir.path()) else { continue };
        held = held.max(in_flight(&manifest, dir.path()).0);
        apart = apart.max(event_times(&manifest, "counts"));
    }
    assert!(held > 0, "nothing was in flight");
    println!("{held} batches were in flight, windows at {apart} event times");
    slow.store(false, Ordering::SeqCst);
    let options = slow_options(dir.path(), rng.u16(1..=3), None);
    assert_eq!(run_watched(&job(), options).unwrap(), Outcome::Finished);
    let twice: Vec<_> =
        multiset(out.rows().iter().map(|r| r.0)).into_iter().filter(|w| w.1 > 1).collect();
    let first = &twice[..twice.len().min(5)];
    assert!(twice.is_empty(), "{} windows came twice: {first:?}", twice.len());
    let in_order: Vec<Row> = late.rows().into_iter().filter(|r| r.1 % 50 != 49).collect();
    assert!(in_order.is_empty(), "{} are late: {:?}", in_order.len(), in_order.first());
    [out.rows().iter().map(|r| r.1).sum(), late.rows().len() as u64]
}

/// How many event times a checkpoint holds of an operator.
fn event_times(manifest: &Manifest, uid: &str) -> usize {
    let operator = manifest.operator(&Uid::from(uid)).unwrap();
    operator.watermarks.iter().map(|w| w.watermark).collect::<BTreeSet<_>>().len()
}

#[test]
fn rows_in_flight_are_in_time_and_windows_come_once() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..3 {
        let assigner = TumblingWindows::of(Duration::from_millis(200));
        let [counted, late] = windows_come_once(assigner, &mut rng);
        assert_eq!(counted + late, 3 * ROWS);
    }
}

#[test]
fn windows_that_overlap_come_once() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..2 {
        let ms = Duration::from_millis;
        windows_come_once(SlidingWindows::of(ms(800), ms(200)), &mut rng);
    }
}

/// A window's firing is not interrupted by a barrier, but need not find room for all it emits.
#[test]
fn barriers_do_not_wait_until_a_slow_sink_has_taken_a_firing() {
    const KEYS: u64 = 200_000;
    const WINDOWS: u64 = 2;
    for loopback in [None, Some(2)] {
        let dir = tempfile::tempdir().unwrap();
        let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
        let job = || {
            let env = Env::new();
            let source = Generator::new(|i| i).count(WINDOWS * KEYS).splits(1);
            env.source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
                .key_by(|i: &u64| i % KEYS)
                .window(TumblingWindows::of(Duration::from_millis(KEYS)))
                .aggregate("counts", Count, |key, window, n| (*key, window.end as u64 + n))
                .rebalance()
                .sink("out", Slow::new(&out, &slow));
            Handle::new(env.into_graph())
        };
        let mut options = slow_options(dir.path(), 2, loopback);
        options.checkpoints.unaligned_after = Some(Duration::ZERO);
        // A firing is 200 batches; the sinks take two a second.
        let what = format!("loopback {loopback:?}");
        assert!(completes(&job(), options, KEYS + 10_000, LONG), "no checkpoint: {what}");
        let batches = in_flight(&manifest(dir.path()).unwrap(), dir.path()).0;
        assert!(batches > 50, "only {batches} batches in flight: {what}");
        slow.store(false, Ordering::SeqCst);
        let options = slow_options(dir.path(), 3, None);
        assert_eq!(run_watched(&job(), options).unwrap(), Outcome::Finished);
        let expected = (0..WINDOWS * KEYS).map(|i| (i % KEYS, (i / KEYS + 1) * KEYS + 1));
        assert_same(&multiset(out.rows()), &multiset(expected), &what);
    }
}

#[test]
fn savepoints_and_stops_hold_no_rows_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("savepoints");
    let storage = dir.path().join("storage");
    let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
    let handle = job(&out, &slow);
    let mut options = slow_options(&storage, 2, None);
    options.checkpoints.unaligned_after = Some(Duration::ZERO);
    let (job_, slow_, wanted) = (handle.clone(), Arc::clone(&slow), target.clone());
    let thread = std::thread::spawn(move || {
        let begun = Instant::now();
        let taken = |job: &Handle| job.status().nodes.iter().map(|n| n.rows_in).sum::<u64>();
        while taken(&job_) < 20_000 && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Asked for while all is full.
        job_.savepoint("one", &wanted);
        std::thread::sleep(Duration::from_millis(700));
        slow_.store(false, Ordering::SeqCst);
        while !wanted.join("one/_manifest").exists() && begun.elapsed() < Duration::from_secs(50) {
            std::thread::sleep(Duration::from_millis(5));
        }
        slow_.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        slow_.store(false, Ordering::SeqCst);
        job_.stop(StopMode::Suspend);
    });
    let outcome = run_watched(&handle, options).unwrap();
    thread.join().unwrap();
    assert_eq!(in_flight(&manifest(&target).unwrap(), &target).0, 0, "rows in a savepoint");
    if outcome == Outcome::Suspended {
        assert_eq!(
            in_flight(&manifest(&storage).unwrap(), &storage).0,
            0,
            "rows in a stop checkpoint"
        );
        let options = slow_options(&storage, 3, None);
        assert_eq!(run_watched(&job(&out, &slow), options).unwrap(), Outcome::Finished);
    }
    assert_all(&out, "after a savepoint and a stop");
}

/// The job must be refused in these words.
fn refused(dir: &Path, slow: &Arc<AtomicBool>, says: &[&str]) {
    let mut options = slow_options(dir, 2, None);
    options.restart = RestartPolicy::FixedDelay { attempts: 2, delay: Duration::from_millis(1) };
    let error = run_watched(&job(&Collected::new(), slow), options).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, JobError::User(_)), "not the user's: {text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn damaged_rows_in_flight_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (out, slow) = (Collected::new(), Arc::new(AtomicBool::new(true)));
    let mut options = slow_options(dir.path(), 2, None);
    options.checkpoints.unaligned_after = Some(Duration::ZERO);
    assert!(completes(&job(&out, &slow), options, 20_000, LONG));
    slow.store(false, Ordering::SeqCst);
    let (_, files) = in_flight(&manifest(dir.path()).unwrap(), dir.path());
    let (file, cure) = (&files[0], "start from another checkpoint or savepoint");
    let name = file.display().to_string();
    let sound = fs::read(file).unwrap();
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 0x40;
    fs::write(file, &damaged).unwrap();
    refused(dir.path(), &slow, &[&name, "damaged", "checksum", cure]);
    fs::write(file, &sound[..sound.len() / 2]).unwrap();
    refused(dir.path(), &slow, &[&name, "damaged", cure]);
    fs::remove_file(file).unwrap();
    refused(dir.path(), &slow, &[&name, "missing", cure]);
    fs::write(file, &sound).unwrap();
    // A program whose rows are of another type.
    let env = Env::new();
    let source = Generator::new(|i| i).count(ROWS).splits(1);
    let edge = env
        .source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
        .map(|i| (i % KEYS, i / KEYS))
        .key_by(|r: &Row| r.0)
        .process("first", InOrder)
        .map(|r: Row| (r.0, r.1, "more".to_owned()))
        .key_by(|r: &(u64, u64, String)| r.0)
        .process("counts", Wider);
    edge.rebalance().sink("out", Slow::new(&out, &slow));
    let options = slow_options(dir.path(), 2, None);
    let error = run_watched(&Handle::new(env.into_graph()), options).unwrap_err();
    let text = error.to_string();
    let says = text.contains("rows on their way to operator \"counts\"");
    assert!(matches!(error, JobError::User(_)) && says, "{text}");
    let options = slow_options(dir.path(), 3, None);
    assert_eq!(run_watched(&job(&out, &slow), options).unwrap(), Outcome::Finished);
    assert_all(&out, "after refusals");
}

#[derive(Clone)]
struct Wider;

impl KeyedProcess<u64, (u64, u64, String)> for Wider {
    type Out = Row;
    type State = Last;

    fn process(
        &mut self,
        row: (u64, u64, String),
        last: &mut Last,
        cx: &mut Cx<'_, u64, Row>,
    ) -> Res {
        InOrder.process((row.0, row.1), last, cx)
    }
}
