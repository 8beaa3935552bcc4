//! What a source and a sink implement.
//!
//! A **source** is an enumerator (one instance a job, which discovers splits)
//! and readers (one a subtask). Readers keep the position of each split they
//! were assigned; positions are part of every checkpoint, and a restored job
//! continues from them at any parallelism.
//!
//! A **sink** is two-phase. At a barrier the writer prepares: what it has
//! written so far is sealed and becomes committables, which are stored in the
//! checkpoint. They are committed once that checkpoint is complete, and again
//! after a restore from it, so a commit must be idempotent.

use crate::data::{Data, Fun, Res, Rows, Ts};
use millrace_protocol::ids::{Attempt, JobUid, Subtask, Uid};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a reader did in a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There may be more at once.
    More,
    /// Nothing now, in any of its splits; [`SourceCx::waker`] will be called when there is.
    Wait,
    /// Nothing before this moment, in any of its splits.
    Until(Instant),
}

/// Handle of an assigned split in the reader: rows are emitted in its name, and
/// it carries the split's watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u32);

/// A part of a source's input, with the position reached in it.
pub trait Split: Data + Clone + Sync {
    /// The split's identity, without its position.
    fn id(&self) -> String;
}

/// What a reader and an enumerator know of their surroundings.
#[derive(Clone)]
pub struct SourceCx {
    /// The source's uid.
    pub uid: Uid,
    /// Index of the subtask (0 for the enumerator).
    pub subtask: Subtask,
    /// Number of subtasks of the reader.
    pub parallelism: u16,
    /// Wakes the slot: for readers that answered [`Next::Wait`].
    pub waker: Arc<dyn Fn() + Send + Sync>,
    /// Where rows go that could not be read; see [`DeadLetters`].
    pub dead_letters: Arc<dyn DeadLetters>,
}

/// Receives input that could not be understood, with its place and reason.
///
/// What is put here is counted and written to the job's dead-letter file. It
/// is at-least-once: a restart may put rows again.
pub trait DeadLetters: Send + Sync {
    /// Notes a bad row. `origin` is the file (or partition), `offset` the place in it.
    fn put(&self, source: &Uid, origin: &str, offset: u64, reason: &str, raw: &[u8]);
}

/// A source of rows.
pub trait Source: Fun {
    /// The rows.
    type Out: Send + 'static;
    /// A part of the input with a position.
    type Split: Split;
    /// Reads splits; made on its slot's thread, so it need not be `Send`.
    type Reader: Reader<Self::Out, Self::Split>;

    /// Finds splits that are not in `known`. Blocking is fine: runs off the slots.
    /// Called once at the start, then every [`Source::discover_every`].
    fn discover(&mut self, known: &[Self::Split]) -> Res<Vec<Self::Split>>;

    /// How often to look for new splits; `None`: the first answer is all there is,
    /// and the source ends when its splits do.
    fn discover_every(&self) -> Option<Duration> {
        None
    }

    /// Makes a reader.
    fn reader(&self, cx: SourceCx) -> Res<Self::Reader>;
}

/// Reads the splits assigned to one subtask. Never blocks for long: at most a
/// read of a local file; anything slower belongs to a thread of the reader's own.
pub trait Reader<T, S> {
    /// Takes over a split, from the position in it.
    fn assign(&mut self, lane: Lane, split: S) -> Res;

    /// Emits rows until `out` is full, then returns. Reports the end of a split
    /// with [`SourceOut::finish`]. A reader of several splits at once says with
    /// [`SourceOut::quiet`] which of them has nothing, while others have.
    fn poll(&mut self, out: &mut SourceOut<'_, T>) -> Res<Next>;

    /// Whether [`Reader::poll`] leaves out splits for which [`SourceOut::is_paused`].
    fn pauses(&self) -> bool {
        false
    }

    /// Position after the last row emitted, of every split that is not finished.
    fn positions(&mut self) -> Res<Vec<(Lane, S)>>;
}

/// Where a reader puts its rows.
pub struct SourceOut<'a, T> {
    pub(crate) values: &'a mut Vec<T>,
    /// Timestamps that the source itself knows; empty unless all rows have one.
    pub(crate) ts: &'a mut Vec<Ts>,
    /// (lane, one past its last row in `values`), in order.
    pub(crate) runs: &'a mut Vec<(Lane, u32)>,
    pub(crate) finished: &'a mut Vec<Lane>,
    /// Lanes that were found to have nothing now.
    pub(crate) quiet: &'a mut Vec<Lane>,
    pub(crate) capacity: usize,
    /// Lanes that wait for others of their alignment group.
    pub(crate) paused: &'a [Lane],
}

impl<T> SourceOut<'_, T> {
    /// How many more rows should be emitted in this poll.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.values.len())
    }

    /// Whether the poll should return.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.values.len() >= self.capacity
    }

    /// Whether a split should not be read now, because it is too far ahead of others:
    /// see [`crate::time::Watermarks::align`]. The reader is polled again when it may be.
    pub fn is_paused(&self, lane: Lane) -> bool {
        self.paused.contains(&lane)
    }

    /// Emits a row of a split.
    #[inline]
    pub fn emit(&mut self, lane: Lane, value: T) {
        self.values.push(value);
        self.close_run(lane);
    }

    /// Emits a row with a timestamp that the source knows (Kafka's, say). A reader
    /// gives either all rows a timestamp or none.
    #[inline]
    pub fn emit_at(&mut self, lane: Lane, ts: Ts, value: T) {
        self.ts.push(ts);
        self.emit(lane, value);
    }

    /// Emits many rows of a split at once.
    pub fn extend(&mut self, lane: Lane, values: impl IntoIterator<Item = T>) {
        self.values.extend(values);
        self.close_run(lane);
    }

    /// The split has been read to its end: its watermark no longer holds others back.
    pub fn finish(&mut self, lane: Lane) {
        self.finished.push(lane);
    }

    /// The split was looked at, and has nothing now: it may become idle (see
    /// [`crate::time::Watermarks::idle_after`]) though others of the reader have rows.
    /// [`Next::Wait`] and [`Next::Until`] say so of all.
    pub fn quiet(&mut self, lane: Lane) {
        self.quiet.push(lane);
    }

    #[inline]
    fn close_run(&mut self, lane: Lane) {
        let end = self.values.len() as u32;
        match self.runs.last_mut() {
            Some(run) if run.0 == lane => run.1 = end,
            _ => self.runs.push((lane, end)),
        }
    }
}

/// What polls have emitted: the vectors behind a [`SourceOut`], for those who
/// drive a reader by hand (tests of custom sources, contract suites).
#[derive(Debug)]
pub struct SourceBuffer<T> {
    /// The rows.
    pub values: Vec<T>,
    /// Timestamps that the source itself knows; empty, or as long as `values`.
    pub ts: Vec<Ts>,
    /// (lane, one past its last row in `values`), in order.
    pub runs: Vec<(Lane, u32)>,
    /// Lanes that reached their end, in order.
    pub finished: Vec<Lane>,
    /// Lanes that had nothing when they were looked at.
    pub quiet: Vec<Lane>,
}

impl<T> Default for SourceBuffer<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            ts: Vec::new(),
            runs: Vec::new(),
            finished: Vec::new(),
            quiet: Vec::new(),
        }
    }
}

impl<T> SourceBuffer<T> {
    /// An output that is full once the buffer holds `capacity` rows.
    pub fn out(&mut self, capacity: usize) -> SourceOut<'_, T> {
        SourceOut {
            values: &mut self.values,
            ts: &mut self.ts,
            runs: &mut self.runs,
            finished: &mut self.finished,
            quiet: &mut self.quiet,
            capacity,
            paused: &[],
        }
    }

    /// Empties it, keeps the allocations.
    pub fn clear(&mut self) {
        self.values.clear();
        self.ts.clear();
        self.runs.clear();
        self.finished.clear();
        self.quiet.clear();
    }
}

/// What a writer knows of its surroundings.
#[derive(Debug, Clone)]
pub struct SinkCx {
    /// The job's identity: part of the names of everything staged outside.
    pub job: JobUid,
    /// The sink's uid.
    pub uid: Uid,
    /// The attempt that this writer belongs to.
    pub attempt: Attempt,
    /// Index of the subtask.
    pub subtask: Subtask,
}

/// What is sealed at a barrier.
#[derive(Debug, Clone)]
pub struct Prepared<C> {
    /// To be committed once the checkpoint is complete.
    pub commit: Vec<C>,
    /// Still being written to: committed only if the job is restored from this
    /// checkpoint, and replaced by those of the next one.
    pub open: Vec<C>,
}

impl<C> Default for Prepared<C> {
    fn default() -> Self {
        Self { commit: Vec::new(), open: Vec::new() }
    }
}

/// The slow half of [`Writer::prepare`]: flush, fsync, upload. Runs in the side
/// pool; the acknowledgement waits for it, the slot does not.
pub type Pending<C> = Box<dyn FnOnce() -> Res<Prepared<C>> + Send>;

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is visible now.
    Done,
    /// It had been committed before.
    Before,
    /// It can no longer be committed: output is lost, for this reason.
    Lost(String),
}

/// A sink.
pub trait Sink<T>: Fun {
    /// What a commit needs, stored in the checkpoint. Its shape may evolve as state may.
    type Commit: Data;
    /// Writes one subtask's rows; made on its slot's thread.
    type Writer: Writer<T, Self::Commit>;
    /// Commits, in the side pool.
    type Committer: Committer<Self::Commit>;

    /// Makes the writer of a subtask.
    fn writer(&self, cx: SinkCx) -> Res<Self::Writer>;

    /// Makes the committer.
    fn committer(&self, job: &JobUid, uid: &Uid) -> Res<Self::Committer>;
}

/// Writes the rows of one subtask.
pub trait Writer<T, C> {
    /// Whether it takes rows now; if not, its input waits.
    fn has_room(&mut self) -> bool {
        true
    }

    /// Takes the rows of a batch (and leaves it empty).
    fn write(&mut self, rows: &mut Rows<T>) -> Res;

    /// A barrier: seals what was written. `last` at the end of input or at a
    /// stop: nothing is left open.
    fn prepare(&mut self, last: bool) -> Res<Pending<C>>;
}

/// Commits what writers prepared. Runs in the side pool, may block.
pub trait Committer<C>: Send + 'static {
    /// Makes a committable visible. Idempotent. An error is retried; what can
    /// never succeed is [`Committed::Lost`].
    fn commit(&mut self, committable: &C) -> Res<Committed>;

    /// Removes what attempts below `attempt` staged and no checkpoint holds: everything
    /// of theirs, of this job and sink, that `keep` does not name. Called for each
    /// attempt before any of its writers is made. What `attempt` or a later one staged
    /// must stay: the call may come late, from a process that is fenced by now.
    fn abort_others(&mut self, attempt: Attempt, keep: &[C]) -> Res;
}
