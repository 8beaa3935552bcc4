//! What every tier must do: the tier by itself, and tables above it against a naive map:
//! writes, evictions at any time, snapshots that complete or are given up, restores at
//! another parallelism; and panes above one tier.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod job;
mod panes;

use crate::data::{Res, Ts};
use crate::state::budget::Budget;
use crate::state::row::{RowReader, RowShape};
use crate::state::tier::{Packed, Tier, TierFactory, timed};
use crate::state::{Change, Plain, Row, Table};
use job::{Job, Subject};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::shape::ShapeError;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

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

    fn expires_at(&self) -> Ts {
        self.value.0 as Ts + 1
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

impl Subject for Table<String, Counted> {
    type Key = String;

    fn open(
        max: MaxParallelism,
        range: KeyGroupRange,
        tiers: &dyn TierFactory,
        budget: &Arc<Budget>,
    ) -> Self {
        let mut table = Self::new(max, range);
        table.spill_to(tiers.open("table").unwrap(), budget);
        table
    }

    fn contents(&mut self, add: &mut dyn FnMut(String, u64)) {
        let (max, range) = (self.max, self.range);
        let mut add = |key: &String, row: &Counted, hash: u64| {
            assert_eq!(key.hash64(), hash);
            assert!(range.contains(max.group(hash)));
            add(key.clone(), row.value.0);
        };
        self.for_each(&mut add);
        self.for_each_spilled(&mut add).unwrap();
    }
}

/// Tables, and what is beside their rows.
struct Tables {
    job: Job<Table<String, Counted>>,
    reads: BTreeMap<String, u64>,
}

impl Tables {
    fn batch(&mut self, rng: &mut fastrand::Rng, keys: &[String]) {
        for key in keys {
            self.job.owner(key.hash64()).want(key.hash64(), key);
        }
        self.job.tables.iter_mut().for_each(|t| t.fetch().unwrap());
        for key in keys {
            self.write(rng, key);
        }
        if rng.u8(..4) > 0 {
            self.job.tables.iter_mut().for_each(Table::tend);
        }
    }

    fn write(&mut self, rng: &mut fastrand::Rng, key: &String) {
        let (hash, value) = (key.hash64(), rng.u64(100..1000));
        let old = self.job.model.get(key).copied();
        let reads = self.reads.get(key).copied();
        let table = self.job.owner(hash);
        match rng.u8(..10) {
            0..3 => {
                table.get_or_insert_with(hash, key, Counted::default).value.0 += value;
                *self.job.model.entry(key.clone()).or_default() += value;
            }
            3..5 => {
                assert_eq!(table.get(hash, key).map(|r| r.value.0), old);
                if let Some(row) = table.get_mut(hash, key) {
                    assert_eq!(row.reads, reads.unwrap_or(0));
                    row.value.0 = value;
                    self.job.model.insert(key.clone(), value);
                }
            }
            5 => {
                assert_eq!(table.remove(hash, key).map(|r| r.value.0), old);
                self.job.model.remove(key);
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
                        self.job.model.remove(key);
                        self.reads.remove(key);
                    }
                    change => {
                        *self.reads.entry(key.clone()).or_default() += 1;
                        if change == Change::Changed {
                            self.job.model.insert(key.clone(), value);
                        }
                    }
                }
            }
        }
    }

    /// What is beside rows that stay in memory stays with them.
    fn rescaled(self, rng: &mut fastrand::Rng, parallelism: u16) -> Self {
        let (mut job, mut reads) = (self.job.rescaled(rng, parallelism), BTreeMap::new());
        let mut read = |key: &String, row: &Counted, _: u64| {
            if row.reads > 0 {
                assert_eq!(self.reads.get(key), Some(&row.reads));
                reads.insert(key.clone(), row.reads);
            }
        };
        for table in &mut job.tables {
            table.for_each(&mut read);
            table.for_each_spilled(&mut read).unwrap();
        }
        Self { job, reads }
    }

    /// Entries leave, wherever the snapshot stands.
    fn evict(&mut self, rng: &mut fastrand::Rng) {
        for table in &mut self.job.tables {
            let at = rng.usize(..table.segments());
            table.shed_some(at, rng.usize(..200));
        }
    }
}

/// Checks tiers of this kind; panics where something is broken. `histories` are run, from
/// `rng`.
pub fn check(rng: &mut fastrand::Rng, histories: u32, tiers: &Arc<dyn TierFactory>) {
    a_tier_is_a_sorted_map(rng, tiers.as_ref());
    what_has_not_expired_stays(rng, tiers.as_ref());
    type History = fn(&mut fastrand::Rng, u32, usize, (Arc<dyn TierFactory>, bool)) -> [u64; 3];
    for (of, steps, history) in
        [("tables", 600, history as History), ("panes", 800, panes::history)]
    {
        let (mut completed, mut spilled, mut kept) = (0, 0, 0);
        for i in 0..histories {
            let max = [128, 7, 1, 1000][i as usize % 4];
            let roomy = i % 3 == 1;
            let [c, s, k] = history(rng, max, steps, (Arc::clone(tiers), roomy));
            completed += c;
            spilled += s;
            kept += k;
        }
        assert!(completed > u64::from(histories) * 10, "{completed} checkpoints of {of}");
        assert!(spilled > u64::from(histories) * 1000, "{spilled} bytes of {of} spilled");
        assert!(kept > 0, "no rows of {of} kept by rescales");
    }
}

/// Of a tier on a disk, with little memory: what is forgotten leaves it, and nothing else.
pub fn what_is_forgotten_leaves_the_disk(rng: &mut fastrand::Rng, tiers: &dyn TierFactory) {
    let key = |first: u8, number: u32| [&[first][..], &number.to_be_bytes()].concat();
    dead_leaves_the_disk(rng, tiers, key, |tier| tier.forget(&[1]).unwrap());
}

/// The same of what expires, which lies among what does not: the one are all numbers, of the
/// other every eighth.
pub fn what_expired_leaves_the_disk(rng: &mut fastrand::Rng, tiers: &dyn TierFactory) {
    let key = |first: u8, number: u32| {
        let number = if first == 0 { number } else { number * 8 };
        [&number.to_be_bytes()[..], &[first]].concat()
    };
    dead_leaves_the_disk(rng, tiers, key, |tier| tier.expire(1));
}

/// Writes 45 MB of which 40 are dead once `die` was called, and waits until these have left
/// the disk. Values of the first begin with the time 1, others with the time 2; `key` makes
/// keys of that and of a number.
fn dead_leaves_the_disk(
    rng: &mut fastrand::Rng,
    tiers: &dyn TierFactory,
    key: fn(u8, u32) -> Vec<u8>,
    die: fn(&dyn Tier),
) {
    let tier = tiers.open("panes").unwrap();
    let mut write = |first: u8, numbers: Range<u32>| {
        for number in numbers.step_by(1000) {
            let (mut keys, mut values) = (Packed::default(), Packed::default());
            for number in number..number + 1000 {
                keys.push(|out| out.extend_from_slice(&key(first, number)));
                let time = i64::from(first) + 1;
                let value = time.to_le_bytes().into_iter().chain((8..1000).map(|_| rng.u8(..)));
                values.push(|out| out.extend(value));
            }
            tier.write(&Packed::default(), &keys, &values).unwrap();
        }
    };
    write(0, 0..40_000);
    write(1, 0..5_000);
    die(tier.as_ref());
    // What is left of it goes as others come.
    for _ in 0..100 {
        if tiers.stats().disk < 20 << 20 {
            break;
        }
        write(1, 0..5_000);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let disk = tiers.stats().disk;
    assert!(disk < 20 << 20, "{disk} bytes of disk for 5 MB that count");
    let mut seen = 0;
    tier.scan(&[], &[u8::MAX], &mut |_, value| {
        seen += u32::from(timed(value).unwrap().0 == 2);
        Ok(true)
    })
    .unwrap();
    assert_eq!(seen, 5000);
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

fn what_has_not_expired_stays(rng: &mut fastrand::Rng, tiers: &dyn TierFactory) {
    let tier = tiers.open("timed").unwrap();
    let mut model = BTreeMap::new();
    for now in 0..100_i64 {
        let (mut keys, mut values) = (Packed::default(), Packed::default());
        for _ in 0..20 {
            let key = rng.u16(..500).to_be_bytes();
            let value = [&(now + rng.i64(-20..20)).to_le_bytes()[..], &key].concat();
            keys.push(|out| out.extend_from_slice(&key));
            values.push(|out| out.extend_from_slice(&value));
            model.insert(key.to_vec(), value);
        }
        tier.write(&Packed::default(), &keys, &values).unwrap();
        tier.expire(now);
        // What has expired may be there or not.
        let stays = |value: &[u8]| timed(value).unwrap().0 > now;
        let mut seen = Vec::new();
        scan(tier.as_ref(), &[], &[9], usize::MAX, &mut seen);
        assert!(seen.iter().all(|(key, value)| model.get(key) == Some(value)), "at {now}");
        seen.retain(|(_, value)| stays(value));
        let expected = model.iter().filter(|(_, value)| stays(value));
        let expected: Vec<_> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(seen, expected, "at {now}");
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

/// Runs a random history over tiers of some kind; answers checkpoints, bytes spilled, and
/// rows that rescales left in memory.
fn history(
    rng: &mut fastrand::Rng,
    max: u32,
    steps: usize,
    (tiers, roomy): (Arc<dyn TierFactory>, bool),
) -> [u64; 3] {
    let max = MaxParallelism::new(max).unwrap();
    let parallelism = |rng: &mut fastrand::Rng| rng.u16(1..4).min(max.get());
    let job = Job::new(max, parallelism(rng), tiers, roomy);
    let mut tables = Tables { job, reads: BTreeMap::new() };
    let mut spilled = 0;
    for _ in 0..steps {
        match rng.u8(..100) {
            0..45 => {
                let keys = [30, 3_000][rng.usize(..2)];
                let batch: Vec<String> =
                    (0..rng.usize(..120)).map(|_| format!("k{}", rng.u64(..keys))).collect();
                tables.batch(rng, &batch);
            }
            45..55 if !tables.job.roomy => tables.evict(rng),
            45..65 => tables.job.begin(rng),
            65..93 => tables.job.turn(rng),
            93..96 => tables.job.compare("the tables and the tier together"),
            _ => {
                let p = parallelism(rng);
                if rng.u8(..3) == 0 {
                    tables = tables.rescaled(rng, p);
                } else if let Some(job) = tables.job.restored(rng, p)
                    && rng.bool()
                {
                    tables = Tables { job, reads: BTreeMap::new() };
                }
            }
        }
        spilled = spilled.max(tables.job.spilled());
    }
    tables.job.compare("at the end");
    [tables.job.completed, spilled, tables.job.kept]
}
