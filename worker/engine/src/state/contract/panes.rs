//! Panes above one tier against a naive map: as tables are, and besides they fire, stay,
//! are dropped, and come again below what is dead, while a snapshot drains.

use super::{File, Output};
use crate::state::budget::Budget;
use crate::state::ordered::rotation;
use crate::state::restore::{Restore, RestoreFile};
use crate::state::tier::TierFactory;
use crate::state::{Change, PaneTables, Plain, SnapshotSpec, StateTable};
use fastrand::Rng;
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

type Panes = PaneTables<String, Plain<u64>>;
type Model = BTreeMap<(i64, String), u64>;

struct Pending {
    spec: SnapshotSpec,
    model: Model,
    outputs: Vec<Option<Output>>,
}

struct Job {
    max: MaxParallelism,
    tables: Vec<Panes>,
    model: Model,
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
            let mut panes = PaneTables::new(max, max.range(i, parallelism));
            panes.spill_to(tiers.open("panes").unwrap(), &budget);
            panes
        });
        Self {
            max,
            tables: tables.collect(),
            model: Model::new(),
            manifest: Vec::new(),
            complete: None,
            knows: false,
            next: 1,
            pending: None,
            tiers,
        }
    }

    fn owner(&mut self, hash: u64) -> &mut Panes {
        let owner = self.max.owner(self.max.group(hash), self.tables.len() as u16);
        &mut self.tables[usize::from(owner)]
    }

    fn batch(&mut self, rng: &mut Rng, ids: &[(i64, String)]) {
        for (namespace, key) in ids {
            if let Some(table) = self.owner(key.hash64()).get_mut(*namespace) {
                table.want(key.hash64(), key);
            }
        }
        self.tables.iter_mut().for_each(|t| t.fetch().unwrap());
        for id in ids {
            self.write(rng, id);
        }
        if rng.u8(..4) > 0 {
            self.tables.iter_mut().for_each(PaneTables::tend);
        }
    }

    fn write(&mut self, rng: &mut Rng, id: &(i64, String)) {
        let ((namespace, key), hash, value) = (id, id.1.hash64(), rng.u64(..1000));
        let old = self.model.get(id).copied();
        let table = self.owner(hash).pane(*namespace);
        match rng.u8(..8) {
            0..4 => {
                let row = table.get_or_insert_with(hash, key, Plain::default);
                assert_eq!(row.0, old.unwrap_or(0), "{id:?}");
                row.0 += value;
                *self.model.entry(id.clone()).or_default() += value;
            }
            4 => {
                assert_eq!(table.get(hash, key).map(|r| r.0), old, "{id:?}");
                if let Some(row) = table.get_mut(hash, key) {
                    row.0 = value;
                    self.model.insert(id.clone(), value);
                }
            }
            5 => {
                assert_eq!(table.remove(hash, key).map(|r| r.0), old, "{id:?}");
                self.model.remove(id);
            }
            _ => {
                let change = [Change::Kept, Change::Changed, Change::Removed][rng.usize(..3)];
                let found = table.update(hash, key, Plain::default, |row| {
                    let found = row.0;
                    if change == Change::Changed {
                        row.0 = value;
                    }
                    (found, change)
                });
                assert_eq!(found, old.unwrap_or(0), "{id:?}");
                match change {
                    Change::Kept => {}
                    Change::Changed => drop(self.model.insert(id.clone(), value)),
                    Change::Removed => drop(self.model.remove(id)),
                }
            }
        }
    }

    /// Entries leave, wherever the snapshot stands.
    fn evict(&mut self, rng: &mut Rng) {
        for (_, table) in self.tables.iter_mut().flat_map(|t| &mut t.panes) {
            let at = rng.usize(..table.segments());
            table.shed_some(at, rng.usize(..200));
        }
    }

    fn rows_of(&self, namespace: i64, range: KeyGroupRange) -> BTreeMap<String, u64> {
        let rows = self.model.iter().filter(|((ns, _), _)| *ns == namespace);
        let rows = rows.filter(|((_, key), _)| range.contains(self.max.group(key.hash64())));
        rows.map(|((_, key), value)| (key.clone(), *value)).collect()
    }

    /// Takes rows that come in order, and compares them with those of the model.
    fn compare(&self, namespace: i64, range: KeyGroupRange, rows: &[(u64, String, u64)]) {
        let rotation = rotation(self.max);
        let place = |row: &(u64, String, u64)| {
            let mut bytes = Vec::new();
            row.1.write(&mut bytes);
            (self.max.group(row.0), row.0.rotate_right(rotation), bytes)
        };
        assert!(rows.is_sorted_by(|a, b| place(a) < place(b)), "pane {namespace} in order");
        let found = rows.iter().map(|(hash, key, value)| {
            assert_eq!(key.hash64(), *hash);
            (key.clone(), *value)
        });
        let found: BTreeMap<_, _> = found.collect();
        same(&found, &self.rows_of(namespace, range), &format!("pane {namespace}"));
    }

    /// Fires all below a namespace. Snapshots go on meanwhile.
    fn fire(&mut self, rng: &mut Rng, before: i64, dead: bool) {
        for at in 0..self.tables.len() {
            if dead {
                self.tables[at].set_dead_before(before);
            }
            while let Some(namespace) = self.tables[at].first().filter(|ns| *ns < before) {
                if rng.u8(..4) == 0 {
                    self.tables[at].drop_pane(namespace).unwrap();
                    continue;
                }
                let (mut rows, limit) = (Vec::new(), rng.usize(1..200));
                let take = |key, row: Plain<u64>, hash| rows.push((hash, key, row.0));
                let mut take = take;
                while !self.tables[at].fire(namespace, limit, &mut take).unwrap() {
                    if rng.bool() {
                        self.turn(rng);
                    }
                }
                self.compare(namespace, self.tables[at].range, &rows);
            }
        }
        self.model.retain(|(namespace, _), _| *namespace >= before);
    }

    /// Goes through panes that stay.
    fn emit(&mut self, rng: &mut Rng) {
        for at in 0..self.tables.len() {
            for namespace in self.tables[at].namespaces().collect::<Vec<_>>() {
                let (mut rows, mut segment) = (Vec::new(), 0);
                let Some(table) = self.tables[at].get_mut(namespace) else { continue };
                while let Some(mut kept) = table.ordered(segment, |_, row| row.0) {
                    while table.ready(&mut kept, |_, row| row.0).unwrap() {
                        rows.extend(kept.ready().take(rng.usize(1..300)));
                        table.shed_some(segment, rng.usize(..20));
                    }
                    segment += 1;
                }
                self.compare(namespace, self.tables[at].range, &rows);
            }
        }
    }

    fn begin(&mut self, rng: &mut Rng) {
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

    fn turn(&mut self, rng: &mut Rng) {
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
            let Pending { spec, model, outputs } = pending;
            super::written(&mut self.manifest, self.max, &spec, outputs);
            self.tables.iter_mut().for_each(|t| t.completed(spec.checkpoint));
            self.complete = Some((spec.checkpoint, model));
            self.knows = true;
        } else {
            self.pending = Some(pending);
        }
    }

    fn contents(&mut self) -> Model {
        let mut found = Model::new();
        for panes in &mut self.tables {
            let (max, range) = (panes.max, panes.range);
            for (namespace, table) in &mut panes.panes {
                let mut add = |key: &String, row: &Plain<u64>, hash: u64| {
                    assert_eq!(key.hash64(), hash);
                    assert!(range.contains(max.group(hash)));
                    assert_eq!(found.insert((*namespace, key.clone()), row.0), None, "{key} twice");
                };
                table.for_each(&mut add);
                table.for_each_spilled(&mut add).unwrap();
            }
        }
        found
    }

    fn restored(&self, rng: &mut Rng, parallelism: u16) -> Option<Self> {
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
        job.knows = rng.u8(..3) > 0;
        for (i, table) in job.tables.iter_mut().enumerate() {
            let range = self.max.range(i as u16, parallelism);
            restore.load(&Uid::from("op"), "s", range, table).unwrap();
            table.restored(job.knows.then_some(*checkpoint));
        }
        same(&job.contents(), model, "restored");
        job.model = model.clone();
        job.manifest = self.manifest.clone();
        job.complete = self.complete.clone();
        job.next = self.next;
        Some(job)
    }
}

fn same<K: Ord + Debug>(found: &BTreeMap<K, u64>, expected: &BTreeMap<K, u64>, what: &str) {
    let differ = |a: &BTreeMap<K, u64>, b: &BTreeMap<K, u64>| {
        let differ = a.iter().filter(|(key, value)| b.get(key) != Some(value));
        format!("{:?}", differ.take(4).collect::<Vec<_>>())
    };
    if found != expected {
        let (more, less) = (differ(found, expected), differ(expected, found));
        panic!("{what}: found {more}, expected {less}");
    }
}

/// Runs a random history over tiers of some kind; answers (checkpoints, bytes spilled).
pub(super) fn history(
    rng: &mut Rng,
    max: u32,
    steps: usize,
    tiers: Arc<dyn TierFactory>,
) -> (u64, u64) {
    let max = MaxParallelism::new(max).unwrap();
    let parallelism = |rng: &mut Rng| rng.u16(1..4).min(max.get());
    let mut job = Job::new(max, parallelism(rng), tiers);
    let (mut completed, mut last, mut spilled, mut now) = (0, None, 0, 0);
    for _ in 0..steps {
        match rng.u8(..100) {
            0..45 => {
                let keys = [30, 3_000][rng.usize(..2)];
                let id = |rng: &mut Rng| {
                    (now + [0, 0, 0, 1, 2, -1][rng.usize(..6)], format!("k{}", rng.u64(..keys)))
                };
                let batch: Vec<_> = (0..rng.usize(..120)).map(|_| id(rng)).collect();
                job.batch(rng, &batch);
            }
            45..53 => job.evict(rng),
            53..63 => job.begin(rng),
            63..88 => {
                job.turn(rng);
                let complete = job.complete.as_ref().map(|(id, _)| *id);
                completed += u64::from(complete > last);
                last = last.max(complete);
            }
            88..91 => {
                now += 1;
                let dead = rng.u8(..4) > 0;
                job.fire(rng, now, dead);
            }
            91..94 => job.emit(rng),
            94..96 => {
                let found = job.contents();
                same(&found, &job.model, "the panes and the tier together");
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
    same(&job.contents(), &job.model, "at the end");
    (completed, spilled)
}
