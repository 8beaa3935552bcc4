//! The contract of a source.

use super::{through_bytes, with_seeds};
use millrace_engine::connector::{
    DeadLetters, Lane, Next, Reader, Source, SourceBuffer, SourceCx, Split,
};
use millrace_protocol::ids::{Subtask, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows by the id of their split, in order.
pub(super) type BySplit<T> = BTreeMap<String, Vec<T>>;

/// A source that gives nothing for so long will never end.
const STALLED: Duration = Duration::from_secs(30);

struct Ignored;

impl DeadLetters for Ignored {
    fn put(&self, _: &Uid, _: &str, _: u64, _: &str, _: &[u8]) {}
}

/// The contract of a source that ends. `make` gives the source as a restarted program
/// would: its input is bounded, at rest, and the same each time.
///
/// - Splits have distinct ids, and those known are not found again.
/// - The rows of a split, and their order, do not depend on who reads it, in
///   what portions, beside which other splits.
/// - A poll emits no more than there is room for, and nothing of a split after
///   its end, which is reported once.
/// - From positions taken at any moment and read back from bytes, readers of
///   any number go on with exactly the rows that follow.
///
/// # Panics
/// Where the contract is broken.
pub fn source<S: Source>(make: impl Fn() -> S)
where
    S::Out: PartialEq + Debug,
{
    let mut first = make();
    let splits = discover(&mut first);
    let all = Run::start(&first, splits.clone(), 1, &mut fastrand::Rng::with_seed(0))
        .finish(&mut fastrand::Rng::with_seed(0));
    with_seeds("source", |rng| {
        let mut source = make();
        let mut splits = discover(&mut source);
        let mut seen: BySplit<S::Out> = BTreeMap::new();
        for _ in 0..rng.usize(0..4) {
            let mut run = Run::start(&source, splits, rng.u16(1..5), rng);
            for _ in 0..rng.usize(0..20) {
                run.poll_one(rng);
            }
            let (rows, rest) = run.crash();
            append(&mut seen, rows);
            splits = rest.iter().map(through_bytes).collect();
            if rng.bool() {
                source = make();
                let found = source.discover(&splits).expect("discover");
                // Ended splits may be found again: the runtime remembers them.
                let open: BTreeSet<_> = splits.iter().map(Split::id).collect();
                assert!(found.iter().all(|split| !open.contains(&split.id())));
            }
        }
        append(&mut seen, Run::start(&source, splits, rng.u16(1..5), rng).finish(rng));
        for (id, rows) in &all {
            let seen = seen.get(id).map_or(&[][..], Vec::as_slice);
            let differ = rows.iter().zip(seen).position(|(a, b)| a != b);
            if let Some(at) = differ {
                panic!("split {id}, row {at}: {:?} instead of {:?}", seen[at], rows[at]);
            }
            assert_eq!(seen.len(), rows.len(), "number of rows of split {id}");
        }
        let count = |rows: &BySplit<S::Out>| rows.values().map(Vec::len).sum::<usize>();
        assert_eq!(count(&seen), count(&all), "number of rows");
    });
}

fn discover<S: Source>(source: &mut S) -> Vec<S::Split> {
    let splits = source.discover(&[]).expect("discover");
    let ids: BTreeSet<String> = splits.iter().map(Split::id).collect();
    assert_eq!(ids.len(), splits.len(), "ids of splits are distinct");
    let again = source.discover(&splits).expect("discover");
    assert!(again.is_empty(), "splits that are known are found again");
    splits
}

pub(super) fn append<T>(seen: &mut BySplit<T>, rows: BySplit<T>) {
    for (id, rows) in rows {
        seen.entry(id).or_default().extend(rows);
    }
}

/// Some readers and what they have emitted.
pub(super) struct Run<S: Source> {
    readers: Vec<S::Reader>,
    /// Splits not assigned yet.
    pub(super) waiting: Vec<S::Split>,
    /// Reader and id of each lane; `None` when it has ended.
    lanes: Vec<Option<(usize, String)>>,
    rows: BySplit<S::Out>,
}

impl<S: Source> Run<S> {
    pub(super) fn start(
        source: &S,
        splits: Vec<S::Split>,
        readers: u16,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let cx = |subtask| SourceCx {
            uid: Uid::from("under-test"),
            subtask: Subtask(subtask),
            parallelism: readers,
            waker: Arc::new(|| ()),
            dead_letters: Arc::new(Ignored),
        };
        let mut waiting = splits;
        rng.shuffle(&mut waiting);
        let readers =
            (0..readers).map(|subtask| source.reader(cx(subtask)).expect("reader")).collect();
        Self { readers, waiting, lanes: Vec::new(), rows: BTreeMap::new() }
    }

    /// Assigns a split or polls a reader.
    pub(super) fn poll_one(&mut self, rng: &mut fastrand::Rng) {
        let reader = rng.usize(..self.readers.len());
        if rng.u8(..3) == 0
            && let Some(split) = self.waiting.pop()
        {
            let lane = Lane(self.lanes.len() as u32);
            self.lanes.push(Some((reader, split.id())));
            self.readers[reader].assign(lane, split).expect("assign");
        }
        let mut buffer = SourceBuffer::default();
        let capacity = rng.usize(1..200);
        let next = self.readers[reader].poll(&mut buffer.out(capacity)).expect("poll");
        assert!(buffer.values.len() <= capacity, "a poll emits no more than there is room for");
        assert!(
            buffer.ts.is_empty() || buffer.ts.len() == buffer.values.len(),
            "all rows have a timestamp or none"
        );
        if let Next::Until(when) = next {
            std::thread::sleep(
                when.saturating_duration_since(Instant::now()).min(Duration::from_millis(5)),
            );
        }
        let mut rows = buffer.values.into_iter();
        let mut from = 0;
        for (lane, end) in buffer.runs {
            let owner = self.lanes.get(lane.0 as usize).cloned().flatten();
            let (owner, id) = owner.expect("rows come of an assigned split that has not ended");
            assert_eq!(owner, reader, "rows come of the reader that the split was assigned to");
            let run = rows.by_ref().take((end - from) as usize);
            self.rows.entry(id).or_default().extend(run);
            from = end;
        }
        for lane in buffer.finished {
            let ended = self.lanes[lane.0 as usize].take();
            assert_eq!(ended.map(|(owner, _)| owner), Some(reader), "a split ends once");
        }
    }

    /// What was emitted, and where to go on.
    pub(super) fn crash(mut self) -> (BySplit<S::Out>, Vec<S::Split>) {
        let mut open: BTreeMap<u32, (usize, String)> =
            (0..).zip(self.lanes).filter_map(|(lane, owner)| Some((lane, owner?))).collect();
        let mut splits = self.waiting;
        for (n, reader) in self.readers.iter_mut().enumerate() {
            for (lane, split) in reader.positions().expect("positions") {
                let owner = open.remove(&lane.0);
                assert_eq!(
                    owner,
                    Some((n, split.id())),
                    "positions are of splits that have not ended"
                );
                splits.push(split);
            }
        }
        assert!(open.is_empty(), "every split that has not ended has a position");
        (self.rows, splits)
    }

    pub(super) fn finish(mut self, rng: &mut fastrand::Rng) -> BySplit<S::Out> {
        let mut progress = Instant::now();
        let mut emitted = 0;
        while !self.waiting.is_empty() || self.lanes.iter().any(Option::is_some) {
            self.poll_one(rng);
            let now = self.rows.values().map(Vec::len).sum::<usize>();
            if now > emitted {
                (emitted, progress) = (now, Instant::now());
            } else {
                // Lets threads of the readers' own get on.
                std::thread::sleep(Duration::from_micros(20));
            }
            assert!(progress.elapsed() < STALLED, "a bounded source ends");
        }
        self.rows
    }
}
