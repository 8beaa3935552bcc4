//! What every tier must do: the tier by itself, and tables above it against a naive map:
//! writes, evictions at any time, snapshots that complete or are given up, restores at
//! another parallelism; and panes above one tier.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod panes;

use crate::data::{Res, Ts};
use crate::state::budget::Budget;
use crate::state::delta::DeltaWriter;
use crate::state::restore::{Restore, RestoreFile};
use crate::state::row::{RowReader, RowShape};
use crate::state::tier::{Packed, Tier, TierFactory};
use crate::state::{Change, Plain, Row, SnapshotSpec, StateTable, Table};
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::shape::ShapeError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type Model = BTreeMap<String, u64>;

/// A row with something beside it that checkpoints do not hold, and that does not count
/// as a change.
#[derive(Debug, Default)]
struct Counted {
    value: Plain<u64>,
    reads: u64,
}

impl Row for Counted {
    fn write(&self, out: &mut Vec<u8>) -> Res {
        self.value.write(out)
    }

    fn read(bytes: &mut &[u8], reader: &RowReader) -> Res<Self> {
        Ok(Self { value: Row::read(bytes, reader)?, reads: 0 })
    }

    fn shape() -> Result<RowShape, ShapeError> {
        Plain::<u64>::shape()
    }

    const EXPIRES: bool = true;

    fn expired(&self, now: Ts) -> bool {
        (self.value.0 as Ts) < now
    }

    const BESIDE: bool = true;

    fn write_beside(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.reads.to_le_bytes());
    }

    fn read_beside(&mut self, bytes: &[u8]) -> Res {
        self.reads = u64::from_le_bytes(bytes.try_into()?);
        Ok(())
    }
}

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

struct Pending {
    spec: SnapshotSpec,
    model: Model,
    outputs: Vec<Option<Output>>,
}

struct Job {
    max: MaxParallelism,
    tables: Vec<Table<String, Counted>>,
    model: Model,
    reads: BTreeMap<String, u64>,
    manifest: Vec<File>,
    complete: Option<(CheckpointId, Model)>,
    /// Whether the tables know the complete checkpoint as a base.
    knows: bool,
    next: u64,
    pending: Option<Pending>,
    tiers: Arc<dyn TierFactory>,
}

impl Job {
    fn new(max: MaxParallelism, parallelism: u16, tiers: Arc<dyn TierFactory>) -> Self {
        let budget = Budget::new(u64::from(parallelism) * 6_000);
        let tables = (0..parallelism).map(|i| {
            let mut table = Table::new(max, max.range(i, parallelism));
            table.spill_to(tiers.open("table").unwrap(), &budget);
            table
        });
        Self {
            max,
            tables: tables.collect(),
            model: Model::new(),
            reads: BTreeMap::new(),
            manifest: Vec::new(),
            complete: None,
            knows: false,
            next: 1,
            pending: None,
            tiers,
        }
    }

    fn owner(&mut self, hash: u64) -> &mut Table<String, Counted> {
        let owner = self.max.owner(self.max.group(hash), self.tables.len() as u16);
        &mut self.tables[usize::from(owner)]
    }

    fn batch(&mut self, rng: &mut fastrand::Rng, keys: &[String]) {
        for key in keys {
            self.owner(key.hash64()).want(key.hash64(), key);
        }
        self.tables.iter_mut().for_each(|t| t.fetch().unwrap());
        for key in keys {
            self.write(rng, key);
        }
        if rng.u8(..4) > 0 {
            self.tables.iter_mut().for_each(Table::tend);
        }
    }

    fn write(&mut self, rng: &mut fastrand::Rng, key: &String) {
        let (hash, value) = (key.hash64(), rng.u64(100..1000));
        let old = self.model.get(key).copied();
        let reads = self.reads.get(key).copied();
        let table = self.owner(hash);
        match rng.u8(..10) {
            0..3 => {
                table.get_or_insert_with(hash, key, Counted::default).value.0 += value;
                *self.model.entry(key.clone()).or_default() += value;
            }
            3..5 => {
                assert_eq!(table.get(hash, key).map(|r| r.value.0), old);
                if let Some(row) = table.get_mut(hash, key) {
                    assert_eq!(row.reads, reads.unwrap_or(0));
                    row.value.0 = value;
                    self.model.insert(key.clone(), value);
                }
            }
            5 => {
                assert_eq!(table.remove(hash, key).map(|r| r.value.0), old);
                self.model.remove(key);
                self.reads.remove(key);
            }
            _ => {
                let change = [Change::Kept, Change::Changed, Change::Removed][rng.usize(..3)];
                let found = table.update(hash, key, Counted::default, |row| {
                    let found = (row.value.0, row.reads);
                    if change == Change::Changed {
                        row.value.0 = value;
                    }
                    row.reads += 1;
                    (found, change)
                });
                assert_eq!(found, (old.unwrap_or(0), reads.unwrap_or(0)));
                match change {
                    Change::Kept if old.is_none() => {}
                    Change::Removed => {
                        self.model.remove(key);
                        self.reads.remove(key);
                    }
                    change => {
                        *self.reads.entry(key.clone()).or_default() += 1;
                        if change == Change::Changed {
                            self.model.insert(key.clone(), value);
                        }
                    }
                }
            }
        }
    }

    /// Entries leave, wherever the snapshot stands.
    fn evict(&mut self, rng: &mut fastrand::Rng) {
        for table in &mut self.tables {
            let at = rng.usize(..table.segments());
            table.shed_some(at, rng.usize(..200));
        }
    }

    fn begin(&mut self, rng: &mut fastrand::Rng) {
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
            Some(Output::new(self.max, table))
        });
        self.pending =
            Some(Pending { outputs: outputs.collect(), spec, model: self.model.clone() });
    }

    fn turn(&mut self, rng: &mut fastrand::Rng) {
        let Some(mut pending) = self.pending.take() else { return };
        let mut done = true;
        for (table, output) in self.tables.iter_mut().zip(&mut pending.outputs) {
            let Some(output) = output else { continue };
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

    fn complete(&mut self, Pending { spec, model, outputs }: Pending) {
        written(&mut self.manifest, self.max, &spec, outputs);
        self.tables.iter_mut().for_each(|t| t.completed(spec.checkpoint));
        self.complete = Some((spec.checkpoint, model));
        self.knows = true;
    }

    fn contents(&mut self) -> Model {
        let mut found = Model::new();
        for table in &mut self.tables {
            let (max, range) = (table.max, table.range);
            let mut add = |key: &String, row: &Counted, hash: u64| {
                assert_eq!(key.hash64(), hash);
                assert!(range.contains(max.group(hash)));
                assert_eq!(found.insert(key.clone(), row.value.0), None, "{key} twice");
            };
            table.for_each(&mut add);
            table.for_each_spilled(&mut add).unwrap();
        }
        found
    }

    fn restored(&self, rng: &mut fastrand::Rng, parallelism: u16) -> Option<Self> {
        let (checkpoint, model) = self.complete.as_ref()?;
        let mut job = Self::new(self.max, parallelism, Arc::clone(&self.tiers));
        let open = |(i, f): (usize, &File)| RestoreFile {
            name: format!("file {i}"),
            groups: f.groups,
            footer_crc32: None,
            data: Box::new(f.bytes.clone()),
        };
        let files = self.manifest.iter().enumerate().map(open).collect();
        let restore = Restore::open(files, self.max).unwrap();
        // As from a savepoint: nothing may build on it.
        job.knows = rng.u8(..3) > 0;
        for (i, table) in job.tables.iter_mut().enumerate() {
            let range = self.max.range(i as u16, parallelism);
            restore.load(&Uid::from("op"), "s", range, table).unwrap();
            table.restored(job.knows.then_some(*checkpoint));
        }
        assert_eq!(job.contents(), *model, "restored");
        job.model = model.clone();
        job.manifest = self.manifest.clone();
        job.complete = self.complete.clone();
        job.next = self.next;
        Some(job)
    }
}

/// Checks tiers of this kind; panics where something is broken. `histories` are run, from
/// `rng`.
pub fn check(rng: &mut fastrand::Rng, histories: u32, tiers: &Arc<dyn TierFactory>) {
    a_tier_is_a_sorted_map(rng, tiers.as_ref());
    let (mut completed, mut spilled) = (0, 0);
    for i in 0..histories {
        let max = [128, 7, 1, 1000][i as usize % 4];
        let (c, s) = history(rng, max, 600, Arc::clone(tiers));
        completed += c;
        spilled += s;
    }
    assert!(completed > u64::from(histories) * 10, "{completed} checkpoints");
    assert!(spilled > u64::from(histories) * 1000, "{spilled} bytes spilled");
    let (mut completed, mut spilled) = (0, 0);
    for i in 0..histories {
        let max = [128, 7, 1, 1000][i as usize % 4];
        let (c, s) = panes::history(rng, max, 800, Arc::clone(tiers));
        completed += c;
        spilled += s;
    }
    assert!(completed > u64::from(histories) * 10, "{completed} checkpoints of panes");
    assert!(spilled > u64::from(histories) * 1000, "{spilled} bytes of panes spilled");
}

/// A checkpoint is complete: its files are the newest of the manifest.
fn written(
    manifest: &mut Vec<File>,
    max: MaxParallelism,
    spec: &SnapshotSpec,
    outputs: Vec<Option<Output>>,
) {
    let whole = if spec.base.is_none() { max.all() } else { spec.fold };
    let clipped = manifest.drain(..).flat_map(|file| {
        let KeyGroupRange { start, end } = file.groups;
        let (low, high) = if whole.is_empty() { (end, end) } else { (whole.start, whole.end) };
        [KeyGroupRange { start, end: end.min(low) }, KeyGroupRange { start: start.max(high), end }]
            .map(|groups| File { groups, ..file.clone() })
    });
    *manifest = clipped.filter(|f| !f.groups.is_empty()).collect();
    let parallelism = outputs.len() as u16;
    for (i, output) in outputs.into_iter().enumerate() {
        let bytes = output.unwrap().finish();
        manifest.push(File { bytes, groups: max.range(i as u16, parallelism) });
    }
}

fn a_tier_is_a_sorted_map(rng: &mut fastrand::Rng, tiers: &dyn TierFactory) {
    let (tier, other) = (tiers.open("one").unwrap(), tiers.open("one").unwrap());
    let mut model = BTreeMap::new();
    let packed = |keys: &[Vec<u8>]| {
        let mut packed = Packed::default();
        keys.iter().for_each(|key| packed.push(|out| out.extend_from_slice(key)));
        packed
    };
    let some = |rng: &mut fastrand::Rng| -> Vec<Vec<u8>> {
        (0..rng.usize(..50)).map(|_| vec![rng.u8(..4); rng.usize(1..5)]).collect()
    };
    for _ in 0..300 {
        let (gone, keys) = (some(rng), some(rng));
        let values: Vec<Vec<u8>> = keys.iter().map(|_| vec![rng.u8(..); rng.usize(..9)]).collect();
        gone.iter().for_each(|key| drop(model.remove(key)));
        model.extend(keys.iter().cloned().zip(values.iter().cloned()));
        tier.write(&packed(&gone), &packed(&keys), &packed(&values)).unwrap();
        let asked = some(rng);
        let mut found = vec![None; asked.len()];
        let mut find = |at: usize, value: &[u8]| {
            found[at] = Some(value.to_vec());
            Ok(())
        };
        tier.get(&packed(&asked), &mut find).unwrap();
        let expected: Vec<_> = asked.iter().map(|key| model.get(key).cloned()).collect();
        assert_eq!(found, expected);
        let (from, until) = (vec![rng.u8(..4); rng.usize(1..4)], vec![rng.u8(..5); 2]);
        let limit = rng.usize(1..40);
        let mut seen = Vec::new();
        scan(tier.as_ref(), &from, &until, limit, &mut seen);
        let range = model.iter().filter(|(key, _)| **key >= from && **key < until);
        let expected: Vec<_> = range.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(seen, expected, "from {from:?} until {until:?}");
    }
    let mut seen = Vec::new();
    scan(other.as_ref(), &[0], &[9], 9, &mut seen);
    assert!(seen.is_empty(), "tables do not share");
    for until in [&[1, 1, 1][..], &[2], &[2, 0], &[3, 9]] {
        // What is below may be there or not; what is not, is.
        tier.forget(until).unwrap();
        let mut seen = Vec::new();
        scan(tier.as_ref(), until, &[9], usize::MAX, &mut seen);
        let expected = model.iter().filter(|(key, _)| key.as_slice() >= until);
        let expected: Vec<_> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(seen, expected, "forgotten below {until:?}");
    }
}

fn scan(
    tier: &dyn Tier,
    from: &[u8],
    until: &[u8],
    limit: usize,
    seen: &mut Vec<(Vec<u8>, Vec<u8>)>,
) {
    let mut see = |key: &[u8], value: &[u8]| {
        seen.push((key.to_vec(), value.to_vec()));
        Ok(seen.len() < limit)
    };
    tier.scan(from, until, &mut see).unwrap();
}

/// Runs a random history over tiers of some kind; answers (checkpoints, entries spilled).
fn history(
    rng: &mut fastrand::Rng,
    max: u32,
    steps: usize,
    tiers: Arc<dyn TierFactory>,
) -> (u64, u64) {
    let max = MaxParallelism::new(max).unwrap();
    let parallelism = |rng: &mut fastrand::Rng| rng.u16(1..4).min(max.get());
    let mut job = Job::new(max, parallelism(rng), tiers);
    let (mut completed, mut last, mut spilled) = (0, None, 0);
    for _ in 0..steps {
        match rng.u8(..100) {
            0..45 => {
                let keys = [30, 3_000][rng.usize(..2)];
                let batch: Vec<String> =
                    (0..rng.usize(..120)).map(|_| format!("k{}", rng.u64(..keys))).collect();
                job.batch(rng, &batch);
            }
            45..55 => job.evict(rng),
            55..65 => job.begin(rng),
            65..93 => {
                job.turn(rng);
                let complete = job.complete.as_ref().map(|(id, _)| *id);
                completed += u64::from(complete > last);
                last = last.max(complete);
            }
            93..96 => {
                let found = job.contents();
                assert_eq!(found, job.model, "the tables and the tier together");
            }
            _ => {
                let p = parallelism(rng);
                if let Some(restored) = job.restored(rng, p)
                    && rng.bool()
                {
                    job = restored;
                }
            }
        }
        spilled = spilled.max(job.tables.iter().map(|t| t.sizes().spilled).sum());
    }
    let found = job.contents();
    assert_eq!(found, job.model);
    (completed, spilled)
}
