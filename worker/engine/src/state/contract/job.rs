//! A job of tables above a tier, beside a model of what they hold: its checkpoints, which
//! complete or are given up, and its restores.

use crate::state::budget::Budget;
use crate::state::delta::DeltaWriter;
use crate::state::kept::{Kept, take, without};
use crate::state::restore::{Restore, RestoreFile};
use crate::state::tier::TierFactory;
use crate::state::{SnapshotSpec, StateTable};
use fastrand::Rng;
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

/// What a job is made of.
pub(super) trait Subject: StateTable + Sized {
    type Key: Ord + Clone + Debug;

    fn open(
        max: MaxParallelism,
        range: KeyGroupRange,
        tiers: &dyn TierFactory,
        budget: &Arc<Budget>,
    ) -> Self;

    /// All entries, each once.
    fn contents(&mut self, add: &mut dyn FnMut(Self::Key, u64));
}

pub(super) type Model<K> = BTreeMap<K, u64>;

#[derive(Clone)]
struct File {
    bytes: Vec<u8>,
    groups: KeyGroupRange,
}

/// A file being written to memory.
struct Output {
    writer: DeltaWriter,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    fn new(max: MaxParallelism, table: &dyn StateTable) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let put = move |block: Vec<u8>| {
            sink.lock().unwrap().extend_from_slice(&block);
            Ok(())
        };
        let mut output = Self { writer: DeltaWriter::new(max, Box::new(put)), bytes };
        output.section(table);
        output
    }

    fn section(&mut self, table: &dyn StateTable) {
        self.writer.section(&Uid::from("op"), "s", &table.schema().unwrap()).unwrap();
    }

    fn finish(self) -> Vec<u8> {
        self.writer.finish().unwrap();
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

struct Pending<K> {
    spec: SnapshotSpec,
    model: Model<K>,
    outputs: Vec<Output>,
}

pub(super) struct Job<T: Subject> {
    pub max: MaxParallelism,
    pub tables: Vec<T>,
    pub model: Model<T::Key>,
    manifest: Vec<File>,
    complete: Option<(CheckpointId, Model<T::Key>)>,
    /// Whether the tables know the complete checkpoint as a base.
    knows: bool,
    next: u64,
    pending: Option<Pending<T::Key>>,
    tiers: Arc<dyn TierFactory>,
    pub roomy: bool,
    /// Checkpoints that completed.
    pub completed: u64,
    /// Rows that rescales left in memory.
    pub kept: u64,
}

impl<T: Subject> Job<T> {
    /// `roomy`: nothing need leave for the tier.
    pub fn new(
        max: MaxParallelism,
        parallelism: u16,
        tiers: Arc<dyn TierFactory>,
        roomy: bool,
    ) -> Self {
        let each = if roomy { 10_000_000 } else { 6_000 };
        let budget = Budget::new(u64::from(parallelism) * each);
        let open = |i| T::open(max, max.range(i, parallelism), tiers.as_ref(), &budget);
        Self {
            max,
            tables: (0..parallelism).map(open).collect(),
            model: Model::new(),
            manifest: Vec::new(),
            complete: None,
            knows: false,
            next: 1,
            pending: None,
            tiers,
            roomy,
            completed: 0,
            kept: 0,
        }
    }

    /// The table that a key of that hash belongs to.
    pub fn owner(&mut self, hash: u64) -> &mut T {
        let owner = self.max.owner(self.max.group(hash), self.tables.len() as u16);
        &mut self.tables[usize::from(owner)]
    }

    /// Begins a checkpoint, if none is under way.
    pub fn begin(&mut self, rng: &mut Rng) {
        if self.pending.is_some() {
            return;
        }
        let checkpoint = CheckpointId(self.next);
        self.next += 1;
        let base = self.complete.as_ref().map(|(id, _)| *id).filter(|_| self.knows);
        let start = rng.u16(..self.max.get());
        let width = rng.u16(..self.max.get() / 2 + 2);
        let fold = KeyGroupRange { start, end: start.saturating_add(width).min(self.max.get()) };
        let spec = SnapshotSpec { checkpoint, base: base.filter(|_| rng.u8(..12) > 0), fold };
        let outputs = self.tables.iter_mut().map(|table| {
            table.begin(&spec).unwrap();
            Output::new(self.max, table)
        });
        self.pending =
            Some(Pending { outputs: outputs.collect(), spec, model: self.model.clone() });
    }

    /// Drains a little; the checkpoint completes, or is given up, now and then.
    pub fn turn(&mut self, rng: &mut Rng) {
        let Some(mut pending) = self.pending.take() else { return };
        let mut done = true;
        for (table, output) in self.tables.iter_mut().zip(&mut pending.outputs) {
            output.section(table);
            let budget = [20, 300, 20_000][rng.usize(..3)];
            done &= table.drain(&mut output.writer, rng.usize(1..budget)).unwrap();
        }
        if rng.u8(..if done { 4 } else { 60 }) == 0 {
            let checkpoint = pending.spec.checkpoint;
            self.tables.iter_mut().for_each(|t| t.aborted(checkpoint));
        } else if done {
            self.complete(pending);
        } else {
            self.pending = Some(pending);
        }
    }

    /// A checkpoint is complete: its files are the newest of the manifest.
    fn complete(&mut self, Pending { spec, model, outputs }: Pending<T::Key>) {
        let whole = if spec.base.is_none() { self.max.all() } else { spec.fold };
        let clipped = self.manifest.drain(..).flat_map(|file| {
            let KeyGroupRange { start, end } = file.groups;
            let (low, high) = if whole.is_empty() { (end, end) } else { (whole.start, whole.end) };
            let below = KeyGroupRange { start, end: end.min(low) };
            let above = KeyGroupRange { start: start.max(high), end };
            [below, above].map(|groups| File { groups, ..file.clone() })
        });
        self.manifest = clipped.filter(|f| !f.groups.is_empty()).collect();
        let parallelism = outputs.len() as u16;
        for (i, output) in outputs.into_iter().enumerate() {
            let groups = self.max.range(i as u16, parallelism);
            self.manifest.push(File { bytes: output.finish(), groups });
        }
        self.tables.iter_mut().for_each(|t| t.completed(spec.checkpoint));
        self.complete = Some((spec.checkpoint, model));
        self.knows = true;
        self.completed += 1;
    }

    /// What the tables and the tier hold together is what the model holds.
    pub fn compare(&mut self, when: &str) {
        let mut found = Model::new();
        for table in &mut self.tables {
            table.contents(&mut |key, value| {
                assert_eq!(found.insert(key.clone(), value), None, "{key:?} twice");
            });
        }
        same(&found, &self.model, when);
    }

    /// A rescale: a checkpoint behind which nothing is written, from which what the tables
    /// have in memory is taken over, unless a part of them is in the tier.
    pub fn rescaled(mut self, rng: &mut Rng, parallelism: u16) -> Self {
        if let Some(pending) = self.pending.take() {
            self.tables.iter_mut().for_each(|t| t.aborted(pending.spec.checkpoint));
        }
        self.begin(rng);
        let mut pending = self.pending.take().unwrap();
        for (table, output) in self.tables.iter_mut().zip(&mut pending.outputs) {
            output.section(table);
            while !table.drain(&mut output.writer, rng.usize(1..20_000)).unwrap() {}
        }
        let checkpoint = pending.spec.checkpoint;
        self.complete(pending);
        let mut kept: Vec<_> =
            self.tables.iter_mut().filter_map(|table| table.keep(checkpoint)).collect();
        self.kept += kept.iter().map(|rows| rows.rows()).sum::<u64>();
        self.restored_with(rng, parallelism, &mut kept).unwrap()
    }

    /// A job from the complete checkpoint of this one.
    pub fn restored(&self, rng: &mut Rng, parallelism: u16) -> Option<Self> {
        self.restored_with(rng, parallelism, &mut Vec::new())
    }

    fn restored_with(
        &self,
        rng: &mut Rng,
        parallelism: u16,
        kept: &mut Vec<Box<dyn Kept>>,
    ) -> Option<Self> {
        let (checkpoint, model) = self.complete.as_ref()?;
        let mut job = Self::new(self.max, parallelism, Arc::clone(&self.tiers), self.roomy);
        let open = |(i, f): (usize, &File)| RestoreFile {
            name: format!("file {i}"),
            groups: f.groups,
            footer_crc32: None,
            data: Box::new(f.bytes.clone()),
        };
        let files = self.manifest.iter().enumerate().map(open).collect();
        let restore = Restore::open(files, self.max).unwrap();
        // As from a savepoint: nothing may build on it.
        job.knows = !kept.is_empty() || rng.u8(..3) > 0;
        for (i, table) in job.tables.iter_mut().enumerate() {
            let range = self.max.range(i as u16, parallelism);
            let mut adopted = Vec::new();
            for rows in take(kept, range) {
                adopted.push(rows.groups());
                table.adopt(rows).unwrap();
            }
            for range in without(range, &adopted) {
                restore.load(&Uid::from("op"), "s", range, table).unwrap();
            }
            table.restored(job.knows.then_some(*checkpoint));
        }
        job.model = model.clone();
        job.compare("restored");
        job.manifest = self.manifest.clone();
        job.complete = self.complete.clone();
        job.next = self.next;
        job.completed = self.completed;
        job.kept = self.kept;
        Some(job)
    }

    /// Bytes that only the tier holds.
    pub fn spilled(&self) -> u64 {
        self.tables.iter().map(|t| t.sizes().spilled).sum()
    }
}

/// The same entries; if not, some that differ are named.
pub(super) fn same<K: Ord + Debug>(found: &Model<K>, expected: &Model<K>, what: &str) {
    let differ = |a: &Model<K>, b: &Model<K>| {
        let differ = a.iter().filter(|(key, value)| b.get(key) != Some(value));
        format!("{:?}", differ.take(4).collect::<Vec<_>>())
    };
    if found != expected {
        let (more, less) = (differ(found, expected), differ(expected, found));
        panic!("{what}: found {more}, expected {less}");
    }
}
