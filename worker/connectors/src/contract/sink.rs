//! The contract of a sink.

use super::{through_bytes, with_seeds};
use millrace_engine::connector::{Committed, Committer, Pending, Prepared, Sink, SinkCx, Writer};
use millrace_engine::data::{Data, Rows};
use millrace_protocol::ids::{Attempt, JobUid, Subtask, Uid};
use std::ops::Range;

/// What a sink promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// A row is seen once, when a checkpoint that covers it is complete, and
    /// never taken back.
    ExactlyOnce,
    /// A row is seen at least once, at the latest when a checkpoint that covers
    /// it is complete and committed; it may be seen before, and again after each
    /// restart. What old writers write is seen too, so none are kept alive.
    AtLeastOnce,
}

/// A sink of `u64`, and a look at what its readers see.
pub struct SinkUnderTest<S> {
    /// The sink.
    pub sink: S,
    /// All rows that a reader of the output sees now, of all jobs.
    pub committed: Box<dyn Fn() -> Vec<u64>>,
    /// How much is staged outside and not committed (files, transactions), of all jobs.
    pub staged: Box<dyn Fn() -> usize>,
    /// What is promised.
    pub guarantee: Guarantee,
}

/// The contract of a sink.
///
/// - What was written before a barrier is seen once its checkpoint is complete
///   and committed; nothing else is seen before.
/// - A commit may be repeated, also by another process; only the first is
///   [`Committed::Done`].
/// - After a crash at any moment, the pending and open committables of the last
///   complete checkpoint are committed, others aborted, and writing goes on at
///   another parallelism: nothing is lost, nothing doubled. Old writers that
///   still live do no harm.
/// - After [`Committer::abort_others`] nothing of earlier attempts stays staged that was
///   not to be kept; the call of an earlier attempt, however late, takes nothing of a
///   later one.
/// - A job with another uid, beside it in the same place, is not disturbed.
///
/// `make` gives a sink and an empty place.
///
/// # Panics
/// Where the contract is broken.
pub fn sink<S: Sink<u64>>(make: impl Fn() -> SinkUnderTest<S>) {
    with_seeds("sink", |rng| {
        let test = make();
        let (middle, end) = (rng.u64(0..300), rng.u64(300..600));
        let mut jobs = [("job-a", 0..middle), ("job-b", middle..end)]
            .map(|(job, rows)| Run::start(&test, JobUid::from(job), rows, rng));
        while let Some(job) =
            rng.choice(jobs.iter_mut().filter(|job| !job.is_done()).collect::<Vec<_>>())
        {
            job.step(rng);
        }
        for job in &mut jobs {
            job.zombies.clear();
            job.writers.clear();
            job.committer.abort_others(Attempt(job.attempt + 1), &[]).expect("abort_others");
        }
        jobs.iter().for_each(Run::check);
        assert_eq!((test.staged)(), 0, "leftovers of jobs that have ended");
    });
}

/// What writers of old attempts write: never to be seen.
const ZOMBIE: u64 = u64::MAX;

/// What a checkpoint holds.
struct Checkpoint<C> {
    /// Not confirmed as committed.
    pending: Vec<C>,
    open: Vec<C>,
    /// Rows written before the barrier.
    written: u64,
    /// The last one: nothing comes after it.
    last: bool,
}

struct Run<'t, S: Sink<u64>> {
    test: &'t SinkUnderTest<S>,
    job: JobUid,
    rows: Range<u64>,
    attempt: u64,
    writers: Vec<S::Writer>,
    /// Of attempts that crashed, and do not know.
    zombies: Vec<S::Writer>,
    committer: S::Committer,
    written: u64,
    /// The last complete checkpoint.
    base: Checkpoint<S::Commit>,
    /// Committables of the base that are committed. They leave the next checkpoint.
    confirmed: usize,
    /// Prepared for checkpoints that were not completed.
    carried: Vec<S::Commit>,
    /// What committers removed, to be repeated when it is late.
    late: Vec<(Attempt, Vec<S::Commit>)>,
}

impl<'t, S: Sink<u64>> Run<'t, S> {
    fn start(
        test: &'t SinkUnderTest<S>,
        job: JobUid,
        rows: Range<u64>,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let committer = test.sink.committer(&job, &uid()).expect("committer");
        let base = Checkpoint { pending: vec![], open: vec![], written: 0, last: false };
        let mut run = Self {
            test,
            job,
            rows,
            attempt: 0,
            writers: vec![],
            zombies: vec![],
            committer,
            written: 0,
            base,
            confirmed: 0,
            carried: vec![],
            late: vec![],
        };
        run.restore(rng);
        run
    }

    fn is_done(&self) -> bool {
        self.base.last && self.confirmed == self.base.pending.len()
    }

    fn step(&mut self, rng: &mut fastrand::Rng) {
        match rng.u8(..20) {
            0 => self.restore(rng),
            1..=3 => self.haunt(rng),
            4..=8 => self.commit_one(rng),
            9..=11 if !self.base.last => self.checkpoint(rng),
            _ if !self.base.last => self.write(rng),
            _ => {}
        }
        if rng.u8(..4) == 0 {
            self.check();
        }
    }

    fn write(&mut self, rng: &mut fastrand::Rng) {
        let left = self.rows.end - self.rows.start - self.written;
        let n = rng.u64(0..=left.min(30));
        let from = self.rows.start + self.written;
        let writer = rng.usize(..self.writers.len());
        let mut batch = Rows::default();
        (from..from + n).for_each(|row| batch.push(row as i64, row));
        if self.writers[writer].has_room() {
            self.writers[writer].write(&mut batch).expect("write");
            assert!(batch.is_empty(), "a writer takes all rows of a batch");
            self.written += n;
        }
    }

    fn checkpoint(&mut self, rng: &mut fastrand::Rng) {
        let last = self.written == self.rows.end - self.rows.start && rng.bool();
        let mut pending: Vec<Pending<S::Commit>> = Vec::new();
        for writer in &mut self.writers {
            pending.push(writer.prepare(last).expect("prepare"));
        }
        let written = self.written;
        // Writers go on before the slow half is done.
        if !last && rng.bool() {
            self.write(rng);
        }
        let mut prepared = Prepared { commit: std::mem::take(&mut self.carried), open: vec![] };
        for pending in pending {
            let one = std::thread::spawn(pending).join().expect("join").expect("prepare");
            prepared.commit.extend(one.commit);
            prepared.open.extend(one.open);
        }
        assert!(!last || prepared.open.is_empty(), "nothing is open after the last prepare");
        if rng.u8(..4) == 0 && !last {
            // Aborted: what was closed is pending in the next one.
            self.carried = prepared.commit;
            return;
        }
        let mut pending: Vec<S::Commit> =
            self.base.pending[self.confirmed..].iter().map(through_bytes).collect();
        pending.extend(prepared.commit.iter().map(through_bytes));
        let open = prepared.open.iter().map(through_bytes).collect();
        self.base = Checkpoint { pending, open, written, last };
        self.confirmed = 0;
    }

    /// Commits one of the pending committables, now and then without noticing.
    fn commit_one(&mut self, rng: &mut fastrand::Rng) {
        if let Some(commit) = self.base.pending.get(self.confirmed) {
            self.commit(through_bytes(commit), rng);
            if rng.u8(..4) > 0 {
                self.confirmed += 1;
            }
        }
    }

    /// Commits, now and then twice.
    fn commit(&mut self, commit: S::Commit, rng: &mut fastrand::Rng) {
        if let Committed::Lost(why) = self.committer.commit(&commit).expect("commit") {
            panic!("output is lost: {why}");
        }
        if rng.bool() {
            let again = self.committer.commit(&commit).expect("commit twice");
            assert_eq!(again, Committed::Before, "a commit is repeated");
        }
    }

    /// A crash, and a new attempt from the last complete checkpoint.
    fn restore(&mut self, rng: &mut fastrand::Rng) {
        self.zombies.append(&mut self.writers);
        if rng.bool() {
            self.zombies.clear();
        }
        self.attempt += 1;
        let committer = self.test.sink.committer(&self.job, &uid()).expect("committer");
        self.committer = committer;
        let base = self.base.clone_through_bytes();
        let keep: Vec<S::Commit> =
            base.pending.iter().chain(&base.open).map(through_bytes).collect();
        if rng.u8(..4) == 0 {
            // What is kept is kept, whether it has been committed or not.
            self.committer.abort_others(Attempt(self.attempt), &keep).expect("abort_others");
        }
        let to_commit = base.pending.len() + base.open.len();
        let crash_after = if rng.bool() { rng.usize(..=to_commit) } else { to_commit };
        for commit in base.pending.iter().chain(&base.open).take(crash_after) {
            self.commit(through_bytes(commit), rng);
        }
        if crash_after < to_commit {
            return self.restore(rng);
        }
        self.committer.abort_others(Attempt(self.attempt), &keep).expect("abort_others");
        self.late.push((Attempt(self.attempt), keep));
        self.carried.clear();
        self.confirmed = self.base.pending.len();
        self.written = base.written;
        let cx = |subtask| SinkCx {
            job: self.job.clone(),
            uid: uid(),
            attempt: Attempt(self.attempt),
            subtask: Subtask(subtask),
        };
        self.writers = (0..rng.u16(1..5))
            .map(|subtask| self.test.sink.writer(cx(subtask)).expect("writer"))
            .collect();
    }

    /// A writer of an old attempt goes on for a while. What it answers is nobody's.
    fn haunt(&mut self, rng: &mut fastrand::Rng) {
        if rng.u8(..4) == 0
            && let Some((attempt, keep)) = rng.choice(&self.late)
        {
            self.committer.abort_others(*attempt, keep).expect("abort_others, late");
        }
        if self.test.guarantee == Guarantee::AtLeastOnce || self.zombies.is_empty() {
            return;
        }
        let zombie = rng.usize(..self.zombies.len());
        let zombie = &mut self.zombies[zombie];
        let mut batch = Rows::default();
        batch.push(0, ZOMBIE);
        let _ = zombie.write(&mut batch);
        if let Ok(pending) = zombie.prepare(rng.bool()) {
            let _ = pending();
        }
    }

    /// What is seen is what is committed.
    fn check(&self) {
        let mut seen = (self.test.committed)();
        seen.retain(|row| self.rows.contains(row) || *row == ZOMBIE);
        seen.sort_unstable();
        let covered = self.rows.start..self.rows.start + self.base.written;
        match self.test.guarantee {
            Guarantee::ExactlyOnce => {
                assert!(seen.is_sorted_by(|a, b| a < b), "rows are seen twice: {seen:?}");
                let dirty = seen.iter().find(|row| !covered.contains(row));
                assert_eq!(dirty, None, "a row is seen that no complete checkpoint covers");
                if self.is_done() {
                    assert!(seen.iter().copied().eq(self.rows.clone()), "rows are lost: {seen:?}");
                }
            }
            Guarantee::AtLeastOnce if self.confirmed == self.base.pending.len() => {
                seen.dedup();
                let lost = { covered }.find(|row| seen.binary_search(row).is_err());
                assert_eq!(lost, None, "a row is lost that a complete checkpoint covers");
            }
            Guarantee::AtLeastOnce => {}
        }
    }
}

impl<C: Data> Checkpoint<C> {
    fn clone_through_bytes(&self) -> Self {
        Self {
            pending: self.pending.iter().map(through_bytes).collect(),
            open: self.open.iter().map(through_bytes).collect(),
            written: self.written,
            last: self.last,
        }
    }
}

fn uid() -> Uid {
    Uid::from("under-test")
}
