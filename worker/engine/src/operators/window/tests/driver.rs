//! Drives an operator as a task does, at a parallelism, with an output that fills up.

use crate::data::{Res, Rows, TS_MAX, TS_MIN, Ts};
use crate::graph::SpillTo;
use crate::runtime::emit::{Emitter, Fanout, Stage};
use crate::runtime::event_time::EventTime;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::operator::{Flow, Operator};
use crate::runtime::side::Sides;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use crate::state::budget::Budget;
use crate::state::restore::{Restore, RestoreFile};
use crate::state::tier::MemoryTiers;
use crate::state::{DeltaWriter, PaneTables, Row, SnapshotSpec, Table};
use fastrand::Rng;
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub const MAX: MaxParallelism = MaxParallelism::DEFAULT;

/// What came out.
pub struct Seen<T> {
    pub rows: Vec<(Ts, T)>,
    /// Rows that came behind a watermark.
    pub late: usize,
    watermark: Ts,
    room: usize,
    /// Several subtasks write to it: its watermarks mean nothing.
    shared: bool,
}

pub struct Collect<T>(Rc<RefCell<Seen<T>>>);

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Collect<T> {
    pub fn new(shared: bool) -> Self {
        let seen = Seen { rows: Vec::new(), late: 0, watermark: TS_MIN, room: usize::MAX, shared };
        Self(Rc::new(RefCell::new(seen)))
    }

    pub fn emitter(&self) -> Emitter<T>
    where
        T: 'static,
    {
        Emitter::new(Fanout::new(vec![Box::new(self.clone())], None, Arc::default()))
    }

    pub fn take(&self) -> Vec<(Ts, T)> {
        std::mem::take(&mut self.0.borrow_mut().rows)
    }

    pub fn late(&self) -> usize {
        self.0.borrow().late
    }
}

impl<T> Stage<T> for Collect<T> {
    fn push(&mut self, rows: &mut Rows<T>) -> Res {
        let mut seen = self.0.borrow_mut();
        let n = seen.room.min(rows.len());
        seen.room -= n;
        let mut marks = 0;
        for at in 0..=n {
            while let Some((_, w)) = rows.marks.get(marks).filter(|m| m.0 as usize <= at) {
                assert!(seen.shared || *w >= seen.watermark, "the watermark went back");
                seen.watermark = *w;
                marks += 1;
            }
            if at < n {
                seen.late += usize::from(rows.ts[at] < seen.watermark);
            }
        }
        let values = rows.values.drain(..n);
        seen.rows.extend(rows.ts.iter().copied().zip(values));
        rows.forget_front(n, marks);
        Ok(())
    }

    fn watermark(&mut self, watermark: Ts) -> Res {
        let mut seen = self.0.borrow_mut();
        assert!(seen.shared || watermark >= seen.watermark, "the watermark went back");
        seen.watermark = watermark;
        Ok(())
    }

    fn idle(&mut self, _: bool) -> Res {
        Ok(())
    }

    fn barrier(&mut self, _: &Barrier, _: &mut SnapshotParts) -> Res {
        Ok(())
    }

    fn end(&mut self) -> Res {
        Ok(())
    }

    fn flush(&mut self, _: bool) -> Res {
        Ok(())
    }

    fn force(&mut self) -> Res {
        self.0.borrow_mut().room = usize::MAX;
        Ok(())
    }

    fn blocked(&self) -> bool {
        self.0.borrow().room == 0
    }
}

/// What an operator is made with.
pub struct Place {
    pub range: KeyGroupRange,
    pub sides: Sides,
    pub metrics: Arc<NodeMetrics>,
    spill: Option<SpillTo>,
}

impl Place {
    /// An empty table, above a tier or not.
    pub fn table<K: Key, R: Row>(&self) -> Table<K, R> {
        let mut table = Table::new(MAX, self.range);
        if let Some(SpillTo { tiers, budget }) = &self.spill {
            table.spill_to(tiers.open("windows").unwrap(), budget);
        }
        table
    }

    /// What tables may hold.
    pub fn budget(&self) -> Option<Arc<Budget>> {
        self.spill.as_ref().map(|spill| Arc::clone(&spill.budget))
    }

    /// Empty pane tables.
    pub fn panes<K: Key, R: Row>(&self) -> PaneTables<K, R> {
        PaneTables::new(MAX, self.range)
    }

    /// As [`Place::panes`], above a tier or not.
    pub fn spilling_panes<K: Key, R: Row>(&self) -> PaneTables<K, R> {
        let mut panes = self.panes();
        if let Some(SpillTo { tiers, budget }) = &self.spill {
            panes.spill_to(tiers.open("panes").unwrap(), budget);
        }
        panes
    }
}

/// The name of the side output for late rows.
pub const LATE: &str = "late";

struct Subtask<O: Operator> {
    range: KeyGroupRange,
    time: EventTime,
    operator: O,
    out: Emitter<O::Out>,
    sink: Collect<O::Out>,
}

/// An operator at some parallelism; rows of type `T` go to both inputs.
pub struct Driver<O: Operator, L> {
    make: Box<dyn Fn(Place) -> O>,
    subtasks: Vec<Subtask<O>>,
    late: Collect<L>,
    pub rng: Rng,
    pub fired: Vec<(Ts, O::Out)>,
    /// Results that came behind the watermark that had been passed on.
    pub behind: usize,
    /// Whether the output is full now and then.
    pub full: bool,
    next: u64,
    /// The most that a tier ever held.
    pub spilled: u64,
}

impl<O: Operator, L: 'static> Driver<O, L> {
    pub fn new(rng: Rng, parallelism: u16, make: impl Fn(Place) -> O + 'static) -> Self {
        let mut driver = Self {
            make: Box::new(make),
            subtasks: Vec::new(),
            late: Collect::new(true),
            rng,
            fired: Vec::new(),
            behind: 0,
            full: true,
            next: 2,
            spilled: 0,
        };
        driver.open(parallelism);
        driver
    }

    fn open(&mut self, parallelism: u16) {
        // With a tier every other time, and hardly any memory above it.
        let spill = self.rng.bool().then(|| SpillTo {
            tiers: Arc::new(match self.rng.bool() {
                true => MemoryTiers::that_keep(),
                false => MemoryTiers::default(),
            }),
            budget: Budget::new(if self.rng.bool() { 0 } else { self.rng.u64(..20_000) }),
        });
        for i in 0..parallelism {
            let (range, sink) = (MAX.range(i, parallelism), Collect::new(false));
            let sides = Sides::new(vec![(LATE, Some(Box::new(self.late.emitter())))]);
            let operator =
                (self.make)(Place { range, sides, metrics: Arc::default(), spill: spill.clone() });
            let out = sink.emitter();
            let time = EventTime::START;
            self.subtasks.push(Subtask { range, time, operator, out, sink });
        }
    }

    /// Sends rows and marks to all subtasks, in random batches.
    pub fn feed<T: Clone + Send + 'static>(
        &mut self,
        input: usize,
        rows: &Rows<T>,
        key: impl Fn(&T) -> u64,
    ) {
        for at in 0..self.subtasks.len() {
            self.feed_one(at, input, rows, &key);
        }
    }

    /// As [`Driver::feed`], to one subtask: the others know nothing of it.
    pub fn feed_one<T: Clone + Send + 'static>(
        &mut self,
        at: usize,
        input: usize,
        rows: &Rows<T>,
        key: impl Fn(&T) -> u64,
    ) {
        let (mut from, mut mark) = (0, 0);
        while from < rows.len() || mark < rows.marks.len() {
            let size = if self.rng.bool() { 3 } else { 1000 };
            let to = (from + self.rng.usize(1..=size)).min(rows.len());
            let mut batch = Rows::default();
            for i in from..=to {
                while let Some(m) = rows.marks.get(mark).filter(|m| m.0 as usize == i) {
                    // One at the end stays for the next batch, now and then.
                    if i == to && to < rows.len() && self.rng.bool() {
                        break;
                    }
                    batch.mark(m.1);
                    mark += 1;
                }
                if i < to {
                    let hash = key(&rows.values[i]).hash64();
                    if self.owns(at, hash) {
                        batch.push_keyed(rows.ts[i], hash, rows.values[i].clone());
                    }
                }
            }
            from = to;
            self.call(at, |op, out| op.batch(input, &mut batch, out));
        }
        if let Some((_, watermark)) = rows.marks.last() {
            self.subtasks[at].time.advance(*watermark);
        }
    }

    /// How far event time has come in each subtask.
    pub fn times(&self) -> impl Iterator<Item = &EventTime> {
        self.subtasks.iter().map(|subtask| &subtask.time)
    }

    /// A watermark outside of a batch.
    pub fn watermark(&mut self, watermark: Ts) {
        for at in 0..self.subtasks.len() {
            self.call(at, |op, out| op.watermark(watermark, out));
            self.subtasks[at].time.advance(watermark);
        }
    }

    /// Moves the clock.
    pub fn clock(&mut self, now: Ts) {
        for at in 0..self.subtasks.len() {
            self.subtasks[at].operator.set_now(now);
            while self.subtasks[at].operator.next_processing_time().is_some_and(|t| t <= now) {
                self.call(at, |op, out| op.processing_time(now, out));
            }
        }
    }

    /// The input ends.
    pub fn end(&mut self) {
        self.watermark(TS_MAX);
        for at in 0..self.subtasks.len() {
            self.call(at, |op, out| op.end(out));
        }
        self.settle();
    }

    /// Whether a subtask owns the keys of a hash.
    pub fn owns(&self, at: usize, hash: u64) -> bool {
        self.subtasks[at].range.contains(MAX.group(hash))
    }

    /// A call into a subtask's operator, again until it is done.
    pub fn call(
        &mut self,
        at: usize,
        mut f: impl FnMut(&mut O, &mut Emitter<O::Out>) -> Res<Flow>,
    ) {
        let Subtask { operator, out, sink, .. } = &mut self.subtasks[at];
        loop {
            if self.full {
                sink.0.borrow_mut().room = self.rng.usize(0..1500);
                // Gathered rows go now and then, so that the output is seen to be full.
                out.flush(self.rng.u8(..4) == 0).unwrap();
            }
            if f(operator, out).unwrap() == Flow::Done {
                return;
            }
            if let Some(sides) = operator.sides() {
                sides.flush(true).unwrap();
            }
            sink.0.borrow_mut().room = self.rng.usize(1..1500);
            out.flush(false).unwrap();
        }
    }

    /// Takes what is still on its way.
    pub fn settle(&mut self) {
        for subtask in &mut self.subtasks {
            subtask.sink.0.borrow_mut().room = usize::MAX;
            subtask.out.flush(false).unwrap();
            subtask.out.flush(true).unwrap();
            if let Some(sides) = subtask.operator.sides() {
                sides.flush(true).unwrap();
            }
            self.fired.append(&mut subtask.sink.take());
            self.behind += subtask.sink.late();
        }
    }

    /// Late rows so far.
    pub fn late(&mut self) -> Vec<(Ts, L)> {
        self.settle();
        self.late.take()
    }

    /// A checkpoint, which may be given up.
    pub fn checkpoint(&mut self) {
        let checkpoint = CheckpointId(self.next);
        self.next += 1;
        let abort = self.rng.u8(..4) == 0;
        for subtask in &mut self.subtasks {
            let fold = KeyGroupRange { start: 0, end: 0 };
            let spec = SnapshotSpec { checkpoint, base: None, fold };
            let uid = Uid("windows".to_owned());
            let mut writer = DeltaWriter::new(MAX, Box::new(|_| Ok(())));
            for (state, table) in subtask.operator.tables() {
                table.begin(&spec).unwrap();
                writer.section(&uid, state, &table.schema().unwrap()).unwrap();
                while !table.drain(&mut writer, 100).unwrap() {}
                match abort {
                    true => table.aborted(checkpoint),
                    false => table.completed(checkpoint),
                }
                self.spilled = self.spilled.max(table.sizes().spilled);
            }
        }
    }

    /// A barrier; all is lost, and fresh operators go on from the snapshot.
    pub fn restore(&mut self, parallelism: u16) {
        self.settle();
        let uid = Uid("windows".to_owned());
        let (mut files, mut watermarks) = (Vec::new(), Vec::new());
        for (i, subtask) in self.subtasks.iter_mut().enumerate() {
            let bytes = Rc::new(RefCell::new(Vec::new()));
            let put = Rc::clone(&bytes);
            let mut writer = DeltaWriter::new(
                MAX,
                Box::new(move |block| {
                    put.borrow_mut().extend(block);
                    Ok(())
                }),
            );
            let spec = SnapshotSpec {
                checkpoint: CheckpointId(1),
                base: None,
                fold: KeyGroupRange { start: 0, end: 0 },
            };
            for (state, table) in subtask.operator.tables() {
                table.begin(&spec).unwrap();
                writer.section(&uid, state, &table.schema().unwrap()).unwrap();
                while !table.drain(&mut writer, 100).unwrap() {}
            }
            writer.finish().unwrap();
            let data = Box::new(bytes.borrow().clone());
            let (name, groups) = (i.to_string(), subtask.range);
            files.push(RestoreFile { name, groups, footer_crc32: None, data });
            watermarks.extend(subtask.time.by_range(groups));
        }
        let restore = Restore::open(files, MAX).unwrap();
        self.subtasks.clear();
        self.open(parallelism);
        for subtask in &mut self.subtasks {
            for (state, table) in subtask.operator.tables() {
                restore.load(&uid, state, subtask.range, table).unwrap();
                table.restored(Some(CheckpointId(1)));
            }
            subtask.time = EventTime::restored(MAX, subtask.range, &watermarks);
            subtask.operator.restored(subtask.time.clone()).unwrap();
        }
    }
}
