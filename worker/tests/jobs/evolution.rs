//! A program whose types have changed takes up what the one before has left.
//!
//! A type of before and one of now stand side by side, generic code makes the job of both.

use crate::common::{assert_same, multiset, options, run_watched};
use millrace::connectors::Collected;
use millrace::engine::api::process::{Cx, KeyedProcess};
use millrace::engine::connector::{
    Committed, Committer, Lane, Next, Pending, Prepared, Reader, Sink, SinkCx, Source, SourceCx,
    SourceOut, Split, Writer,
};
use millrace::engine::coordinator::{Outcome, RestartPolicy, StopMode};
use millrace::engine::data::{Data, Rows};
use millrace::engine::job::{Handle, JobError};
use millrace::engine::state::{State, Value};
use millrace::prelude::*;
use millrace::protocol::ids::{Attempt, JobUid, Uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

// ---- keyed state ----

/// What a version of the program makes of its sums.
trait Sum: Data + Clone {
    fn add(&mut self, n: u64);
    fn start() -> Self;
    fn total(&self) -> u64;
}

macro_rules! sums {
    ($($name:ident { $($(#[$of:meta])* $field:ident: $ty:ty = $start:expr),* $(,)? })*) => { $(
        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct $name { $($(#[$of])* $field: $ty),* }
        impl Sum for $name {
            fn start() -> Self { Self { $($field: $start),* } }
            fn add(&mut self, n: u64) { self.total += n as u32 as Total<Self>; self.rows += 1; }
            fn total(&self) -> u64 { u64::from(self.total) + u64::from(self.rows) * 1_000_000 }
        }
    )* };
}

type Total<T> = <T as Wide>::Of;

/// The integer type of a version's total.
trait Wide {
    type Of;
}

macro_rules! wide {
    ($($name:ident: $of:ty),*) => { $(impl Wide for $name { type Of = $of; })* };
}

wide!(Before: u32, Added: u32, Removed: u32, Reordered: u32, Widened: u64, Wrong: u32);

sums! {
    Before { total: u32 = 0, gone: String = "x".to_owned(), rows: u32 = 0 }
    Added { total: u32 = 0, gone: String = String::new(), rows: u32 = 0, #[serde(default)] new: Option<i8> = None }
    Removed { total: u32 = 0, rows: u32 = 0 }
    Reordered { rows: u32 = 0, gone: String = String::new(), total: u32 = 0 }
    Widened { total: u64 = 0, gone: String = String::new(), rows: u64 = 0 }
    Wrong { total: u32 = 0, gone: Vec<u64> = Vec::new(), rows: u32 = 0 }
}

#[derive(millrace::State)]
struct Kept<V: Data> {
    sum: Value<V>,
}

impl<V: Data> Default for Kept<V> {
    fn default() -> Self {
        Self { sum: Value::default() }
    }
}

struct Adding<V>(std::marker::PhantomData<fn() -> V>);

impl<V> Clone for Adding<V> {
    fn clone(&self) -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<V: Sum + 'static> KeyedProcess<u64, u64> for Adding<V>
where
    Kept<V>: State,
{
    type Out = (u64, u64);
    type State = Kept<V>;

    fn process(&mut self, n: u64, st: &mut Kept<V>, cx: &mut Cx<'_, u64, (u64, u64)>) -> Res {
        let sum = st.sum.or_insert_with(V::start);
        sum.add(n);
        let total = sum.total();
        let key = *cx.key();
        cx.emit((key, total));
        Ok(())
    }
}

// ---- a source and a sink with types of their own ----

/// A version's position.
trait Position: Split {
    fn new(split: u32) -> Self;
    fn at(&self) -> u64;
    fn step(&mut self);
    fn split(&self) -> u32;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct At {
    split: u32,
    next: u32,
    note: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct AtNow {
    #[serde(default)]
    attempts: u8,
    next: u64,
    split: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct AtWrong {
    split: u32,
    next: u32,
    note: u64,
}

macro_rules! positions {
    ($($name:ident: $next:ty { $($field:ident: $start:expr),* })*) => { $(
        impl Split for $name { fn id(&self) -> String { self.split.to_string() } }
        impl Position for $name {
            fn new(split: u32) -> Self { Self { split, next: 0, $($field: $start),* } }
            fn at(&self) -> u64 { <$next>::into(self.next) }
            fn step(&mut self) { self.next += 1; }
            fn split(&self) -> u32 { self.split }
        }
    )* };
}

positions! {
    At: u32 { note: "position".to_owned() }
    AtNow: u64 { attempts: 0 }
    AtWrong: u32 { note: 0 }
}

const SPLITS: u32 = 3;
const KEYS: u64 = 5;

/// Each split gives `0..end` of its own numbers; the end may lie further in a later run.
struct Numbers<P> {
    end: u64,
    /// Behind its last row the source waits instead of ending.
    waits: bool,
    /// Set to make it fail.
    fails: Arc<AtomicBool>,
    _position: std::marker::PhantomData<fn() -> P>,
}

impl<P> Clone for Numbers<P> {
    fn clone(&self) -> Self {
        let fails = Arc::clone(&self.fails);
        Self { fails, _position: std::marker::PhantomData, ..*self }
    }
}

impl<P: Position + 'static> Source for Numbers<P> {
    type Out = u64;
    type Split = P;
    type Reader = NumbersReader<P>;

    fn discover(&mut self, known: &[P]) -> Res<Vec<P>> {
        Ok(if known.is_empty() { (0..SPLITS).map(P::new).collect() } else { Vec::new() })
    }

    fn reader(&self, _: SourceCx) -> Res<NumbersReader<P>> {
        Ok(NumbersReader { source: self.clone(), splits: Vec::new() })
    }
}

struct NumbersReader<P> {
    source: Numbers<P>,
    splits: Vec<(Lane, P)>,
}

impl<P: Position> Reader<u64, P> for NumbersReader<P> {
    fn assign(&mut self, lane: Lane, split: P) -> Res {
        self.splits.push((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, u64>) -> Res<Next> {
        if self.source.fails.load(Ordering::SeqCst) {
            return Err("told to fail".into());
        }
        let end = self.source.end;
        for (lane, split) in &mut self.splits {
            while split.at() < end && !out.is_full() {
                out.emit(*lane, split.at() * u64::from(SPLITS) + u64::from(split.split()));
                split.step();
            }
        }
        if self.source.waits {
            return Ok(Next::Until(Instant::now() + Duration::from_millis(5)));
        }
        self.splits.retain_mut(|(lane, split)| {
            let goes_on = split.at() < end;
            if !goes_on {
                out.finish(*lane);
            }
            goes_on
        });
        Ok(if self.splits.is_empty() { Next::Wait } else { Next::More })
    }

    fn positions(&mut self) -> Res<Vec<(Lane, P)>> {
        Ok(self.splits.clone())
    }
}

/// A version's committable.
trait Batch: Data + Clone {
    fn new(rows: Vec<u64>) -> Self;
    fn rows(&self) -> Vec<u64>;
}

#[derive(Clone, Serialize, Deserialize)]
struct Commit {
    rows: Vec<u64>,
    note: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct CommitNow {
    #[serde(default)]
    place: Option<String>,
    rows: Vec<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct CommitWrong {
    rows: String,
}

impl Batch for Commit {
    fn new(rows: Vec<u64>) -> Self {
        Self { rows, note: "written".to_owned() }
    }

    fn rows(&self) -> Vec<u64> {
        self.rows.clone()
    }
}

impl Batch for CommitNow {
    fn new(rows: Vec<u64>) -> Self {
        Self { place: None, rows }
    }

    fn rows(&self) -> Vec<u64> {
        self.rows.clone()
    }
}

impl Batch for CommitWrong {
    fn new(_: Vec<u64>) -> Self {
        Self { rows: String::new() }
    }

    fn rows(&self) -> Vec<u64> {
        Vec::new()
    }
}

/// Rows that are seen once committed; while it is closed nothing can be.
#[derive(Clone, Default)]
struct Door {
    seen: Arc<Mutex<Vec<u64>>>,
    closed: bool,
}

struct ToDoor<C> {
    door: Door,
    _commit: std::marker::PhantomData<fn() -> C>,
}

impl<C> Clone for ToDoor<C> {
    fn clone(&self) -> Self {
        Self { door: self.door.clone(), _commit: std::marker::PhantomData }
    }
}

struct DoorWriter(Vec<u64>);

impl<C: Batch> Sink<u64> for ToDoor<C> {
    type Commit = C;
    type Writer = DoorWriter;
    type Committer = ToDoor<C>;

    fn writer(&self, _: SinkCx) -> Res<DoorWriter> {
        Ok(DoorWriter(Vec::new()))
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<ToDoor<C>> {
        Ok(self.clone())
    }
}

impl<C: Batch> Writer<u64, C> for DoorWriter {
    fn write(&mut self, rows: &mut Rows<u64>) -> Res {
        self.0.append(&mut rows.values);
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<C>> {
        let rows = std::mem::take(&mut self.0);
        let commit = if rows.is_empty() { Vec::new() } else { vec![C::new(rows)] };
        Ok(Box::new(move || Ok(Prepared { commit, open: Vec::new() })))
    }
}

impl<C: Batch> Committer<C> for ToDoor<C> {
    fn commit(&mut self, commit: &C) -> Res<Committed> {
        if self.door.closed {
            return Err("the door is closed".into());
        }
        let (rows, mut seen) = (commit.rows(), self.door.seen.lock().unwrap());
        if rows.first().is_some_and(|row| seen.contains(row)) {
            return Ok(Committed::Before);
        }
        seen.extend(rows);
        Ok(Committed::Done)
    }

    fn abort_others(&mut self, _: Attempt, keep: &[C]) -> Res {
        keep.iter().for_each(|commit| drop(commit.rows()));
        Ok(())
    }
}

// ---- the job ----

struct Outputs {
    sums: Collected<(u64, u64)>,
    door: Door,
}

fn job<V, P, C>(end: u64, waits: bool, out: &Outputs, fails: &Arc<AtomicBool>) -> Handle
where
    V: Sum + 'static,
    Kept<V>: State,
    P: Position + 'static,
    C: Batch,
{
    let env = Env::new();
    let fails = Arc::clone(fails);
    let numbers = Numbers::<P> { end, waits, fails, _position: std::marker::PhantomData };
    let rows = env.source("numbers", numbers, Watermarks::none()).erase();
    rows.clone()
        .key_by(|n| n % KEYS)
        .process("sums", Adding::<V>(std::marker::PhantomData))
        .sink("sums out", out.sums.sink());
    rows.sink("door", ToDoor::<C> { door: out.door.clone(), _commit: std::marker::PhantomData });
    Handle::new(env.into_graph())
}

/// Runs the program of before until its rows are in a checkpoint, and stops it.
fn before(storage: &Path, closed: bool) -> Outputs {
    let out = Outputs { sums: Collected::new(), door: Door { closed, ..Door::default() } };
    let fails = Arc::new(AtomicBool::new(false));
    let handle = job::<Before, At, Commit>(HALF, true, &out, &fails);
    let stopper = handle.clone();
    let rows = HALF * u64::from(SPLITS);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let status = stopper.status();
            let taken: u64 =
                status.nodes.iter().filter(|n| n.name == "sums").map(|n| n.rows_in).sum();
            if taken == rows {
                break;
            }
        }
        if closed {
            // Two checkpoints later what was prepared is in a complete one.
            let complete =
                || stopper.status().checkpoint.map_or(0, |(report, _)| report.checkpoint.0);
            let begun = complete();
            while complete() < begun + 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            fails.store(true, Ordering::SeqCst);
        } else {
            stopper.stop(StopMode::Suspend);
        }
    });
    let mut options = options(storage, 2);
    options.restart = RestartPolicy::None;
    match run_watched(&handle, options) {
        Ok(outcome) => assert_eq!(outcome, Outcome::Suspended),
        Err(error) => assert!(closed && error.to_string().contains("told to fail"), "{error}"),
    }
    out
}

const HALF: u64 = 100;
const END: u64 = 250;

fn expected_sums() -> BTreeMap<u64, u64> {
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for n in 0..END * u64::from(SPLITS) {
        *sums.entry(n % KEYS).or_insert(0) += n + 1_000_000;
    }
    sums
}

/// The last sum of each key is the highest; every sum came once.
fn check(out: &Outputs, what: &str) {
    let rows = out.sums.rows();
    assert_eq!(rows.len() as u64, END * u64::from(SPLITS), "{what}");
    let mut highest: BTreeMap<u64, u64> = BTreeMap::new();
    for (key, sum) in rows {
        let at = highest.entry(key).or_insert(0);
        *at = (*at).max(sum);
    }
    assert_eq!(highest, expected_sums(), "{what}");
    let seen = out.door.seen.lock().unwrap();
    assert_same(&multiset(seen.iter().copied()), &multiset(0..END * u64::from(SPLITS)), what);
}

/// A job stopped by one program goes on in another, with the right values.
fn goes_on<V, P, C>(what: &str)
where
    V: Sum + 'static,
    Kept<V>: State,
    P: Position + 'static,
    C: Batch,
{
    let dir = tempfile::tempdir().unwrap();
    let out = before(dir.path(), false);
    let outcome =
        run_watched(&job::<V, P, C>(END, false, &out, &Arc::default()), options(dir.path(), 3));
    assert_eq!(outcome.unwrap(), Outcome::Finished, "{what}");
    check(&out, what);
}

#[test]
fn a_job_goes_on_with_types_that_have_changed() {
    goes_on::<Before, At, Commit>("nothing changed");
    goes_on::<Added, At, Commit>("a field added with a default");
    goes_on::<Removed, At, Commit>("a field removed");
    goes_on::<Reordered, At, Commit>("fields reordered");
    goes_on::<Widened, At, Commit>("integers widened");
    goes_on::<Widened, AtNow, CommitNow>("positions and committables changed too");
}

/// Starts the changed program; it must be refused before any task runs, and leave all as it is.
fn refused<V, P, C>(out: &Outputs, storage: &Path, says: &[&str])
where
    V: Sum + 'static,
    Kept<V>: State,
    P: Position + 'static,
    C: Batch,
{
    let handle = job::<V, P, C>(END, false, out, &Arc::default());
    let error = run_watched(&handle, options(storage, 3)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, JobError::User(_)), "{text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert_eq!(handle.status().attempt, None, "no task must start");
}

#[test]
fn types_that_cannot_be_read_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let out = before(dir.path(), false);
    let files = crate::refusals::tree(dir.path());
    refused::<Wrong, At, Commit>(
        &out,
        dir.path(),
        &["\"sums\"", "\"state\"", "gone", "was String", "is Vec<u64>"],
    );
    refused::<Before, AtWrong, Commit>(
        &out,
        dir.path(),
        &["\"numbers\"", "\"known\"", "note", "was String", "is u64"],
    );
    assert_eq!(crate::refusals::tree(dir.path()), files, "nothing is overwritten");
    let outcome = run_watched(
        &job::<Before, At, Commit>(END, false, &out, &Arc::default()),
        options(dir.path(), 1),
    );
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    check(&out, "after refusals");
}

/// A job that fell while its output was prepared and not committed: the next program
/// commits it, or is refused.
#[test]
fn output_prepared_by_the_program_before_is_committed_by_the_one_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut out = before(dir.path(), true);
    out.door.closed = false;
    assert!(out.door.seen.lock().unwrap().is_empty());
    refused::<Before, At, CommitWrong>(
        &out,
        dir.path(),
        &["\"door\"", "committables", "rows", "was Vec<u64>", "is String"],
    );
    let next = job::<Widened, AtNow, CommitNow>(END, false, &out, &Arc::default());
    assert_eq!(run_watched(&next, options(dir.path(), 3)).unwrap(), Outcome::Finished);
    check(&out, "pending committables");
}
