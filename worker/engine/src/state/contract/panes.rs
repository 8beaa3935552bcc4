//! Panes above one tier against a naive map: as tables are, and besides they fire, stay,
//! are dropped, and come again below what is dead, while a snapshot drains.

use super::job::{Job, Subject, same};
use crate::state::budget::Budget;
use crate::state::ordered::rotation;
use crate::state::tier::TierFactory;
use crate::state::{Change, PaneTables, Plain};
use fastrand::Rng;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::collections::BTreeMap;
use std::sync::Arc;

type Panes = PaneTables<String, Plain<u64>>;

impl Subject for Panes {
    type Key = (i64, String);

    fn open(
        max: MaxParallelism,
        range: KeyGroupRange,
        tiers: &dyn TierFactory,
        budget: &Arc<Budget>,
    ) -> Self {
        let mut panes = Self::new(max, range);
        panes.spill_to(tiers.open("panes").unwrap(), budget);
        panes
    }

    fn contents(&mut self, add: &mut dyn FnMut((i64, String), u64)) {
        let (max, range) = (self.max, self.range);
        for (namespace, table) in &mut self.panes {
            let mut add = |key: &String, row: &Plain<u64>, hash: u64| {
                assert_eq!(key.hash64(), hash);
                assert!(range.contains(max.group(hash)));
                add((*namespace, key.clone()), row.0);
            };
            table.for_each(&mut add);
            table.for_each_spilled(&mut add).unwrap();
        }
    }
}

impl Job<Panes> {
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
    fn compare_pane(&self, namespace: i64, range: KeyGroupRange, rows: &[(u64, String, u64)]) {
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
                self.compare_pane(namespace, self.tables[at].range, &rows);
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
                self.compare_pane(namespace, self.tables[at].range, &rows);
            }
        }
    }
}

/// Runs a random history over tiers of some kind; answers checkpoints, bytes spilled, and
/// rows that rescales left in memory.
pub(super) fn history(
    rng: &mut Rng,
    max: u32,
    steps: usize,
    (tiers, roomy): (Arc<dyn TierFactory>, bool),
) -> [u64; 3] {
    let max = MaxParallelism::new(max).unwrap();
    let parallelism = |rng: &mut Rng| rng.u16(1..4).min(max.get());
    let mut job = Job::<Panes>::new(max, parallelism(rng), tiers, roomy);
    let (mut spilled, mut now) = (0, 0);
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
            45..53 if !job.roomy => job.evict(rng),
            45..63 => job.begin(rng),
            63..88 => job.turn(rng),
            88..91 => {
                now += 1;
                let dead = rng.u8(..4) > 0;
                job.fire(rng, now, dead);
            }
            91..94 => job.emit(rng),
            94..96 => job.compare("the panes and the tier together"),
            _ => {
                let p = parallelism(rng);
                if rng.u8(..3) == 0 {
                    job = job.rescaled(rng, p);
                } else if let Some(restored) = job.restored(rng, p)
                    && rng.bool()
                {
                    job = restored;
                }
            }
        }
        spilled = spilled.max(job.spilled());
    }
    job.compare("at the end");
    [job.completed, spilled, job.kept]
}
