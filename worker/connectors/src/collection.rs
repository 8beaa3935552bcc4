//! Rows from memory, and to memory: for tests.

use millrace_engine::connector::{
    Committed, Committer, Lane, Next, Pending, Prepared, Reader, Sink, SinkCx, Source, SourceCx,
    SourceOut, Split, Writer,
};
use millrace_engine::data::{Data, Res, Rows, Ts};
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A source of rows that are in memory, in their order.
#[derive(Debug)]
pub struct Collection<T> {
    rows: Arc<Vec<T>>,
    ts: Option<Arc<Vec<Ts>>>,
    splits: u32,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), ts: self.ts.clone(), splits: self.splits }
    }
}

impl<T> Collection<T> {
    /// These rows.
    pub fn new(rows: impl IntoIterator<Item = T>) -> Self {
        Self { rows: Arc::new(rows.into_iter().collect()), ts: None, splits: 1 }
    }

    /// These rows with their event times, in milliseconds since the epoch.
    pub fn with_timestamps(rows: impl IntoIterator<Item = (Ts, T)>) -> Self {
        let (ts, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        Self { rows: Arc::new(rows), ts: Some(Arc::new(ts)), splits: 1 }
    }

    /// Cuts the rows into this many splits, in their order.
    pub fn splits(mut self, splits: u32) -> Self {
        self.splits = splits.max(1);
        self
    }
}

/// A stretch of the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionSplit {
    /// Which one.
    pub index: u32,
    /// Index of the next row.
    pub next: u64,
    /// One past its last row.
    pub end: u64,
}

impl Split for CollectionSplit {
    fn id(&self) -> String {
        self.index.to_string()
    }
}

impl<T: Clone + Send + Sync + 'static> Source for Collection<T> {
    type Out = T;
    type Split = CollectionSplit;
    type Reader = CollectionReader<T>;

    fn discover(&mut self, known: &[CollectionSplit]) -> Res<Vec<CollectionSplit>> {
        if !known.is_empty() {
            return Ok(Vec::new());
        }
        let (rows, splits) = (self.rows.len() as u64, u64::from(self.splits));
        let bound = |index: u32| rows * u64::from(index) / splits;
        let split = |index| CollectionSplit { index, next: bound(index), end: bound(index + 1) };
        Ok((0..self.splits).map(split).collect())
    }

    fn reader(&self, _: SourceCx) -> Res<Self::Reader> {
        Ok(CollectionReader { collection: self.clone(), splits: VecDeque::new() })
    }
}

/// Emits the splits assigned to one subtask, one after the other.
pub struct CollectionReader<T> {
    collection: Collection<T>,
    splits: VecDeque<(Lane, CollectionSplit)>,
}

impl<T: Clone> Reader<T, CollectionSplit> for CollectionReader<T> {
    fn assign(&mut self, lane: Lane, split: CollectionSplit) -> Res {
        if split.end > self.collection.rows.len() as u64 {
            return Err("the collection is shorter than the one that the checkpoint is of".into());
        }
        self.splits.push_back((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, T>) -> Res<Next> {
        while let Some((lane, split)) = self.splits.front_mut() {
            let n = (split.end - split.next).min(out.room() as u64);
            let range = split.next as usize..(split.next + n) as usize;
            match &self.collection.ts {
                None if n > 0 => out.extend(*lane, self.collection.rows[range].iter().cloned()),
                None => {}
                Some(ts) => {
                    for i in range {
                        out.emit_at(*lane, ts[i], self.collection.rows[i].clone());
                    }
                }
            }
            split.next += n;
            if split.next < split.end {
                return Ok(Next::More);
            }
            out.finish(*lane);
            self.splits.pop_front();
        }
        Ok(Next::Wait)
    }

    fn positions(&mut self) -> Res<Vec<(Lane, CollectionSplit)>> {
        Ok(self.splits.iter().cloned().collect())
    }
}

/// What a [`CollectSink`] has committed; clones share it.
///
/// Exactly once, for as long as this value lives: rows are seen when the
/// checkpoint that covers them is complete. Until then they are in the
/// checkpoint itself, so this is for little data.
///
/// ```
/// let results = millrace_connectors::Collected::<(String, u64)>::new();
/// let sink = results.sink();
/// // ... run a job that ends ...
/// assert_eq!(results.rows(), []);
/// ```
#[derive(Debug)]
pub struct Collected<T>(Arc<Mutex<BTreeMap<BatchId, Vec<T>>>>);

/// Job, sink, attempt, subtask, number of the barrier: in the order of writing, per subtask.
type BatchId = (String, String, u64, u16, u64);

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Collected<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Collected<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sink that adds to this.
    pub fn sink(&self) -> CollectSink<T> {
        CollectSink(self.clone())
    }

    /// All rows committed so far; those of a subtask in the order of writing.
    pub fn rows(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.lock().values().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BatchId, Vec<T>>> {
        // Every change is a single insertion: a panic elsewhere leaves it sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sink whose rows are read from a [`Collected`]. Exactly once.
#[derive(Debug)]
pub struct CollectSink<T>(Collected<T>);

impl<T> Clone for CollectSink<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The rows between two barriers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CollectCommit<T> {
    id: BatchId,
    rows: Vec<T>,
}

impl<T: Data + Clone> Sink<T> for CollectSink<T> {
    type Commit = CollectCommit<T>;
    type Writer = CollectWriter<T>;
    type Committer = CollectCommitter<T>;

    fn writer(&self, cx: SinkCx) -> Res<Self::Writer> {
        Ok(CollectWriter { cx, barrier: 0, rows: Vec::new() })
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Self::Committer> {
        Ok(CollectCommitter(self.0.clone()))
    }
}

/// Keeps the rows of one subtask until the barrier.
pub struct CollectWriter<T> {
    cx: SinkCx,
    barrier: u64,
    rows: Vec<T>,
}

impl<T: Data> Writer<T, CollectCommit<T>> for CollectWriter<T> {
    fn write(&mut self, rows: &mut Rows<T>) -> Res {
        self.rows.append(&mut rows.values);
        rows.clear();
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<CollectCommit<T>>> {
        let SinkCx { job, uid, attempt, subtask } = &self.cx;
        let id = (job.0.clone(), uid.0.clone(), attempt.0, subtask.0, self.barrier);
        let commit = CollectCommit { id, rows: std::mem::take(&mut self.rows) };
        self.barrier += 1;
        let commit = if commit.rows.is_empty() { vec![] } else { vec![commit] };
        Ok(Box::new(move || Ok(Prepared { commit, open: Vec::new() })))
    }
}

/// Makes rows seen.
pub struct CollectCommitter<T>(Collected<T>);

impl<T: Data + Clone> Committer<CollectCommit<T>> for CollectCommitter<T> {
    fn commit(&mut self, commit: &CollectCommit<T>) -> Res<Committed> {
        Ok(match self.0.lock().insert(commit.id.clone(), commit.rows.clone()) {
            None => Committed::Done,
            Some(_) => Committed::Before,
        })
    }

    fn abort_others(&mut self, _: Attempt, _: &[CollectCommit<T>]) -> Res {
        Ok(())
    }
}
