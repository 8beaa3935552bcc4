//! Random histories.

use super::{Output, rng};
use crate::state::kept::{Kept, take, without};
use crate::state::restore::{Restore, RestoreFile};
use crate::state::{Change, PaneTables, Plain, SnapshotSpec, StateTable};
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::collections::BTreeMap;

type Row = Plain<u64>;
type Model<K> = BTreeMap<(i64, K), u64>;

const EMPTY: KeyGroupRange = KeyGroupRange { start: 0, end: 0 };

#[derive(Clone)]
struct File {
    name: String,
    bytes: Vec<u8>,
    groups: KeyGroupRange,
}

/// A job of several subtasks and its checkpoints.
struct Job<K> {
    max: MaxParallelism,
    tables: Vec<PaneTables<K, Row>>,
    model: Model<K>,
    manifest: Vec<File>,
    /// The last complete checkpoint, and what the model was then.
    complete: Option<(CheckpointId, Model<K>)>,
    next: u64,
    pending: Option<Pending<K>>,
}

struct Pending<K> {
    spec: SnapshotSpec,
    model: Model<K>,
    outputs: Vec<Option<Output>>,
}

impl<K: Key + Ord + std::fmt::Debug> Job<K> {
    fn new(max: MaxParallelism, parallelism: u16) -> Self {
        let table = |i| PaneTables::new(max, max.range(i, parallelism));
        Self {
            max,
            tables: (0..parallelism).map(table).collect(),
            model: Model::new(),
            manifest: Vec::new(),
            complete: None,
            next: 1,
            pending: None,
        }
    }

    fn write(&mut self, rng: &mut fastrand::Rng, namespace: i64, key: &K) {
        let hash = key.hash64();
        let owner = self.max.owner(self.max.group(hash), self.tables.len() as u16);
        let panes = &mut self.tables[usize::from(owner)];
        let id = (namespace, key.clone());
        let value = rng.u64(..1000);
        match rng.u8(..10) {
            3 => {
                let rows = [(hash, key), (hash, key)];
                let mut seen = 0;
                panes.pane(namespace).change_each(rows, Row::default, |i, row| {
                    seen += i + 1;
                    row.0 += value;
                });
                assert_eq!(seen, 3);
                *self.model.entry(id).or_default() += 2 * value;
            }
            0..3 => {
                panes.pane(namespace).get_or_insert_with(hash, key, Row::default).0 += value;
                *self.model.entry(id).or_default() += value;
            }
            4 => {
                let found = panes.pane(namespace).get_mut(hash, key);
                assert_eq!(found.is_some(), self.model.contains_key(&id));
                if let Some(row) = found {
                    row.0 = value;
                    self.model.insert(id, value);
                }
            }
            5 => {
                let gone = panes.pane(namespace).remove(hash, key).map(|r| r.0);
                assert_eq!(gone, self.model.remove(&id));
            }
            6 => {
                let found = panes.get(namespace).and_then(|t| t.get(hash, key)).map(|r| r.0);
                assert_eq!(found, self.model.get(&id).copied());
            }
            _ => {
                let change = [Change::Kept, Change::Changed, Change::Removed][rng.usize(..3)];
                let old = panes.pane(namespace).update(hash, key, Row::default, |row| {
                    let old = row.0;
                    if change == Change::Changed {
                        row.0 = value;
                    }
                    (old, change)
                });
                assert_eq!(old, self.model.get(&id).copied().unwrap_or(0));
                match change {
                    Change::Kept => {}
                    Change::Changed => drop(self.model.insert(id, value)),
                    Change::Removed => drop(self.model.remove(&id)),
                }
            }
        }
        if rng.u8(..8) == 0 {
            panes.tend();
        }
    }

    /// Fires everything below a namespace in every subtask, in bounded calls.
    fn fire(&mut self, rng: &mut fastrand::Rng, before: i64, dead: bool) {
        for panes in &mut self.tables {
            if dead {
                panes.set_dead_before(before);
            }
            while let Some(namespace) = panes.first().filter(|ns| *ns < before) {
                if rng.u8(..4) == 0 {
                    panes.drop_pane(namespace).unwrap();
                    continue;
                }
                let mut last = None;
                let limit = rng.usize(1..200);
                let max = self.max;
                while !panes
                    .fire(namespace, limit, |key, row, hash| {
                        assert_eq!(self.model.get(&(namespace, key.clone())), Some(&row.0));
                        let rotation = match max.get() {
                            n if n.is_power_of_two() => 32 + n.trailing_zeros(),
                            _ => 56,
                        };
                        let place = (max.group(hash), hash.rotate_right(rotation));
                        assert!(last < Some(place), "in order");
                        last = Some(place);
                    })
                    .unwrap()
                {}
            }
        }
        self.model.retain(|(namespace, _), _| *namespace >= before);
    }

    fn begin(&mut self, rng: &mut fastrand::Rng) {
        if self.pending.is_some() {
            return;
        }
        let checkpoint = CheckpointId(self.next);
        self.next += 1;
        let base = self.complete.as_ref().map(|(id, _)| *id);
        let start = rng.u16(..self.max.get());
        let width = rng.u16(..self.max.get() / 4 + 2);
        let fold = KeyGroupRange { start, end: start.saturating_add(width).min(self.max.get()) };
        let fold = if rng.bool() { fold } else { EMPTY };
        let spec = SnapshotSpec { checkpoint, base: base.filter(|_| rng.u8(..12) > 0), fold };
        for table in &mut self.tables {
            table.begin(&spec).unwrap();
            assert!(table.begin(&spec).is_err(), "one at a time");
        }
        let outputs = self.tables.iter().map(|table| {
            let mut output = Output::new(self.max);
            output.section("panes", table);
            Some(output)
        });
        let outputs = outputs.collect();
        self.pending = Some(Pending { spec, model: self.model.clone(), outputs });
    }

    /// A turn of the snapshot; when it is through, its checkpoint completes or not.
    fn turn(&mut self, rng: &mut fastrand::Rng) {
        let Some(mut pending) = self.pending.take() else { return };
        if rng.u8(..40) == 0 {
            return self.abort(pending.spec.checkpoint);
        }
        let mut done = true;
        for (table, output) in self.tables.iter_mut().zip(&mut pending.outputs) {
            let Some(output) = output else { continue };
            if rng.u8(..5) > 0 {
                output.section("panes", table);
                let budget = [120, 5_000, 200_000][rng.usize(..3)];
                done &= table.drain(&mut output.writer, rng.usize(1..budget)).unwrap();
            } else {
                done = false;
            }
        }
        if !done {
            self.pending = Some(pending);
            return;
        }
        if rng.u8(..4) == 0 {
            return self.abort(pending.spec.checkpoint);
        }
        self.complete(pending);
    }

    fn abort(&mut self, checkpoint: CheckpointId) {
        self.tables.iter_mut().for_each(|t| t.aborted(checkpoint));
        self.pending = None;
    }

    fn complete(&mut self, pending: Pending<K>) {
        let Pending { spec, model, outputs } = pending;
        let whole = if spec.base.is_none() { self.max.all() } else { spec.fold };
        let clip = |file: File| {
            let cut = |range: KeyGroupRange| {
                (!range.is_empty()).then_some(File { groups: range, ..file.clone() })
            };
            if whole.is_empty() {
                return [cut(file.groups), None];
            }
            let KeyGroupRange { start, end } = file.groups;
            [
                cut(KeyGroupRange { start, end: end.min(whole.start) }),
                cut(KeyGroupRange { start: start.max(whole.end), end }),
            ]
        };
        self.manifest = self.manifest.drain(..).flat_map(clip).flatten().collect();
        let parallelism = self.tables.len() as u16;
        for (i, output) in outputs.into_iter().enumerate() {
            let (bytes, _) = output.unwrap().finish();
            let groups = self.max.range(i as u16, parallelism);
            let name = format!("c{}-{i}", spec.checkpoint);
            self.manifest.push(File { name, bytes, groups });
        }
        self.tables.iter_mut().for_each(|t| t.completed(spec.checkpoint));
        self.complete = Some((spec.checkpoint, model));
    }

    /// A rescale: a checkpoint behind which nothing is written, from which what the tables
    /// have in memory is taken over, some of it or all.
    fn rescaled(mut self, rng: &mut fastrand::Rng, parallelism: u16) -> Self {
        if let Some(pending) = self.pending.take() {
            self.abort(pending.spec.checkpoint);
        }
        self.begin(rng);
        let mut pending = self.pending.take().unwrap();
        for (table, output) in self.tables.iter_mut().zip(&mut pending.outputs) {
            let output = output.as_mut().unwrap();
            output.section("panes", table);
            while !table.drain(&mut output.writer, rng.usize(1..200_000)).unwrap() {}
        }
        let checkpoint = pending.spec.checkpoint;
        self.complete(pending);
        let kept = self.tables.iter_mut().map(|table| table.keep(checkpoint).unwrap());
        let mut kept: Vec<_> = kept.filter(|_| rng.u8(..4) > 0).collect();
        self.restored_with(parallelism, &mut kept).unwrap()
    }

    /// Restores the last complete checkpoint at another parallelism, and compares.
    fn restored(&self, parallelism: u16) -> Option<Self> {
        self.restored_with(parallelism, &mut Vec::new())
    }

    fn restored_with(&self, parallelism: u16, kept: &mut Vec<Box<dyn Kept>>) -> Option<Self> {
        let (checkpoint, model) = self.complete.as_ref()?;
        let mut job = Self::new(self.max, parallelism);
        let open = |f: &File| RestoreFile {
            name: f.name.clone(),
            groups: f.groups,
            footer_crc32: None,
            data: Box::new(f.bytes.clone()),
        };
        let restore = Restore::open(self.manifest.iter().map(open).collect(), self.max).unwrap();
        let mut found = Model::new();
        for (i, table) in job.tables.iter_mut().enumerate() {
            let range = self.max.range(i as u16, parallelism);
            let (kept, adopted) = take_part(kept, range);
            kept.into_iter().for_each(|kept| table.adopt(kept).unwrap());
            for range in without(range, &adopted) {
                restore.load(&Uid::from("op"), "panes", range, table).unwrap();
            }
            table.restored(Some(*checkpoint));
            for namespace in table.namespaces().collect::<Vec<_>>() {
                table.get(namespace).unwrap().for_each(|k, r, hash| {
                    assert_eq!(k.hash64(), hash);
                    assert!(range.contains(self.max.group(hash)));
                    assert_eq!(found.insert((namespace, k.clone()), r.0), None);
                });
            }
        }
        let differ: Vec<_> = model
            .iter()
            .filter(|(k, v)| found.get(k) != Some(v))
            .map(|(k, v)| (k, Some(v), found.get(k)))
            .chain(
                found
                    .iter()
                    .filter(|(k, _)| !model.contains_key(k))
                    .map(|(k, v)| (k, None, Some(v))),
            )
            .take(5)
            .collect();
        assert!(differ.is_empty(), "(key, at the barrier, restored): {differ:?}");
        job.model = model.clone();
        job.manifest = self.manifest.clone();
        job.complete = self.complete.clone();
        job.next = self.next;
        Some(job)
    }
}

/// What of `range` was kept, and which groups these are.
fn take_part(
    kept: &mut Vec<Box<dyn Kept>>,
    range: KeyGroupRange,
) -> (Vec<Box<dyn Kept>>, Vec<KeyGroupRange>) {
    let taken = take(kept, range);
    let groups = taken.iter().map(|piece| piece.groups()).collect();
    (taken, groups)
}

/// Runs a random history; answers how many checkpoints completed.
fn history<K: Key + Ord + std::fmt::Debug>(
    rng: &mut fastrand::Rng,
    max: u32,
    panes: bool,
    steps: usize,
    key: impl Fn(u64) -> K,
) -> usize {
    let max = MaxParallelism::new(max).unwrap();
    let parallelism = |rng: &mut fastrand::Rng| rng.u16(1..5).min(max.get());
    let mut job = Job::new(max, parallelism(rng));
    let (mut now, mut completed, mut last) = (0, 0, None);
    for _ in 0..steps {
        match rng.u8(..100) {
            0..50 => {
                let keys = [30, 3_000][rng.usize(..2)];
                for _ in 0..rng.usize(..300) {
                    let ahead = if panes { [0, 0, 0, 1, 2, -1][rng.usize(..6)] } else { 0 };
                    let key = key(rng.u64(..keys));
                    job.write(rng, now + ahead, &key);
                }
            }
            50..65 => job.begin(rng),
            65..95 => {
                job.turn(rng);
                let complete = job.complete.as_ref().map(|(id, _)| *id);
                completed += usize::from(complete > last);
                last = last.max(complete);
            }
            95..98 if panes && job.tables.iter().all(|t| t.first().is_some()) => {
                now += 1;
                let dead = rng.u8(..4) > 0;
                job.fire(rng, now, dead);
            }
            _ => {
                let p = parallelism(rng);
                if rng.u8(..3) == 0 {
                    job = job.rescaled(rng, p);
                } else if let Some(restored) = job.restored(p)
                    && rng.bool()
                {
                    job = restored;
                }
            }
        }
    }
    job.restored(parallelism(rng));
    completed
}

#[test]
fn a_snapshot_is_the_state_at_the_barrier() {
    let rng = &mut rng();
    let completed: usize = (0..20).map(|_| history(rng, 128, false, 800, |i| i)).sum();
    assert!(completed > 300, "{completed}");
}

#[test]
fn panes_come_back_and_fired_ones_do_not() {
    let rng = &mut rng();
    let completed: usize = (0..20).map(|_| history(rng, 16, true, 800, |i| i)).sum();
    assert!(completed > 300, "{completed}");
    history(rng, 1000, true, 300, |i| format!("key {i}\0"));
    history(rng, 7, true, 300, |i| (i as u8, Some(i)));
}
