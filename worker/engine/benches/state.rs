//! What keyed state costs. Plain timing, the best of several rounds, each beside
//! the plain loop it is compared with.
//!
//! `cargo bench -p millrace-engine --bench state [FILTER]`

use hashbrown::HashTable;
use millrace_engine::state::delta::DeltaWriter;
use millrace_engine::state::{Plain, SnapshotSpec, StateTable, Table};
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MAX: MaxParallelism = MaxParallelism::DEFAULT;
const BATCH: usize = 1024;
const EMPTY: KeyGroupRange = KeyGroupRange { start: 0, end: 0 };

type Counts = Table<u64, Plain<u64>>;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let run = |name: &str, f: &dyn Fn()| {
        if name.contains(&filter) {
            f();
        }
    };
    run("count 1K", &|| count("count 1K", 1_000, 20_000_000));
    run("count 1M", &|| count("count 1M", 1_000_000, 20_000_000));
    run("pane 1M", &pane);
    run("memory", &memory);
    run("stall", &stall);
}

/// Keys and their hashes, in batches, as they come from upstream.
fn keys(distinct: u64, n: usize) -> Vec<(u64, u64)> {
    let mut rng = fastrand::Rng::with_seed(7);
    let key = |rng: &mut fastrand::Rng| {
        let key = rng.u64(..distinct);
        (key.hash64(), key)
    };
    (0..n).map(|_| key(&mut rng)).collect()
}

/// This thread's time on a processor: other work on the machine does not count.
fn on_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// A stretch of this thread's time on a processor.
struct Watch(Duration);

impl Watch {
    fn now() -> Self {
        Self(on_cpu())
    }

    fn elapsed(&self) -> Duration {
        on_cpu() - self.0
    }
}

fn per_event(n: usize, mut f: impl FnMut()) -> f64 {
    let rounds = (0..7).map(|_| {
        let start = Watch::now();
        f();
        start.elapsed().as_secs_f64() * 1e9 / n as f64
    });
    // The best: other work on the machine only ever adds.
    rounds.fold(f64::MAX, f64::min)
}

fn count(name: &str, distinct: u64, n: usize) {
    let keys = keys(distinct, n.min(4_000_000));
    let mut plain: HashTable<(u64, u64)> = HashTable::new();
    let bare = per_event(keys.len(), || {
        for (hash, key) in &keys {
            plain
                .entry(*hash, |e| e.0 == *key, |e| e.0.hash64())
                .or_insert((*key, 0))
                .get_mut()
                .1 += 1;
        }
    });
    let mut wide: HashTable<(u64, u64, u32)> = HashTable::new();
    let wide_bare = per_event(keys.len(), || {
        for (hash, key) in &keys {
            let found = wide.entry(*hash, |e| e.0 == *key, |e| e.0.hash64());
            found.or_insert((*key, 0, 0)).get_mut().1 += 1;
        }
    });
    let mut table = Counts::new(MAX, MAX.all());
    let ours = per_event(keys.len(), || {
        for batch in keys.chunks(BATCH) {
            for (hash, key) in batch {
                table.get_or_insert_with(*hash, key, Plain::default).0 += 1;
            }
            table.tend();
        }
    });
    let updated = per_event(keys.len(), || {
        for batch in keys.chunks(BATCH) {
            for (hash, key) in batch {
                table.update(*hash, key, Plain::default, |row| {
                    row.0 += 1;
                    ((), millrace_engine::state::Change::Changed)
                });
            }
            table.tend();
        }
    });
    let each = per_event(keys.len(), || {
        for batch in keys.chunks(BATCH) {
            let rows = batch.iter().map(|(hash, key)| (*hash, key));
            table.change_each(rows, Plain::default, |_, row| row.0 += 1);
            table.tend();
        }
    });
    black_box((&plain, &table));
    println!(
        "{name}: get_or_insert_with {ours:.2} ns, change_each {each:.2}, update {updated:.2}; one bare hash table {bare:.2} ns, of as large entries {wide_bare:.2} ns"
    );
}

/// Panes of 1 M keys, filled twice over, fired, and replaced.
fn pane() {
    let keys = keys(1_000_000, 2_000_000);
    let mut panes = millrace_engine::state::PaneTables::<u64, Plain<u64>>::new(MAX, MAX.all());
    let (mut fill, mut fire) = (Duration::ZERO, Duration::ZERO);
    let (mut rows, mut longest) = (0, Duration::ZERO);
    for ns in 0..6 {
        if ns == 1 {
            (fill, fire, rows) = (Duration::ZERO, Duration::ZERO, 0);
        }
        let start = Watch::now();
        for batch in keys.chunks(BATCH) {
            let table = panes.pane(ns);
            for (hash, key) in batch {
                table.get_or_insert_with(*hash, key, Plain::default).0 += 1;
            }
            panes.tend();
        }
        fill += start.elapsed();
        panes.set_dead_before(ns + 1);
        let start = Watch::now();
        loop {
            let turn = Instant::now();
            let done = panes.fire(ns, BATCH, |key, row, _| {
                black_box((key, row));
                rows += 1;
            });
            let done = done.unwrap_or(true);
            longest = longest.max(turn.elapsed());
            if done {
                break;
            }
        }
        fire += start.elapsed();
    }
    println!(
        "pane 1M: fill {:.1} ns an event, fire {:.1} ns a row, longest turn {longest:?}",
        fill.as_secs_f64() * 1e9 / 5.0 / keys.len() as f64,
        fire.as_secs_f64() * 1e9 / f64::from(rows),
    );
}

fn filled(n: u64) -> (Counts, Duration) {
    let mut table = Counts::new(MAX, MAX.all());
    let mut longest = Duration::ZERO;
    for first in (0..n).step_by(BATCH) {
        let start = Watch::now();
        for key in first..(first + BATCH as u64).min(n) {
            table.get_or_insert_with(key.hash64(), &key, Plain::default).0 = key;
        }
        table.tend();
        longest = longest.max(start.elapsed());
    }
    (table, longest)
}

fn memory() {
    let n = 10_000_000;
    let before = resident();
    let start = Watch::now();
    let (table, longest) = filled(n);
    let took = start.elapsed().as_secs_f64() * 1e9 / n as f64;
    println!(
        "memory: {:.1} B a key resident, {:.1} counted ({} segments); insert {took:.1} ns, \
         longest batch {longest:?}",
        (resident() - before) as f64 / n as f64,
        table.bytes() as f64 / n as f64,
        table.segments(),
    );
    let mut sorted: Vec<usize> = Vec::new();
    for probe in [1_000_000_u64, 2_000_000, 3_000_000, 4_000_000, 6_000_000, 8_000_000] {
        sorted.push(filled(probe).0.bytes() / probe as usize);
    }
    println!("memory at 1, 2, 3, 4, 6, 8 M keys: {sorted:?} B a key");
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// 10 M keys, updates at full speed with a snapshot in between.
fn stall() {
    let n = 10_000_000_u64;
    let (mut table, _) = filled(n);
    let schema = table.schema().ok();
    let Some(schema) = schema else { return };
    let mut rng = fastrand::Rng::with_seed(3);
    let mut base = None;
    for (round, touched) in [(1, n), (2, n), (3, 6_000_000), (4, 500_000), (5, 20_000)] {
        for _ in 0..touched {
            let key = rng.u64(..n);
            table.get_or_insert_with(key.hash64(), &key, Plain::default).0 += 1;
        }
        let checkpoint = CheckpointId(round);
        let bytes = std::rc::Rc::new(std::cell::Cell::new(0));
        let sum = bytes.clone();
        let put = move |block: Vec<u8>| {
            sum.set(sum.get() + block.len());
            Ok(())
        };
        let mut out = DeltaWriter::new(MAX, Box::new(put));
        let _ = out.section(&Uid::from("op"), "counts", &schema);
        let start = Watch::now();
        let _ = table.begin(&SnapshotSpec { checkpoint, base, fold: EMPTY });
        let (mut turns, mut spent, mut between, mut events) =
            (Vec::new(), Duration::ZERO, Duration::ZERO, 0_u64);
        let mut done = false;
        while !done {
            // One turn of the snapshot, up to 0.5 ms, then two batches of work.
            let turn = Instant::now();
            while !done && turn.elapsed() < Duration::from_micros(400) {
                done = table.drain(&mut out, 1024).unwrap_or(true);
            }
            turns.push(turn.elapsed());
            spent += turn.elapsed();
            let work = Instant::now();
            for _ in 0..2 * BATCH {
                let key = rng.u64(..n);
                table.get_or_insert_with(key.hash64(), &key, Plain::default).0 += 1;
            }
            events += 2 * BATCH as u64;
            table.tend();
            between += work.elapsed();
        }
        let written = out.finish().unwrap_or_default();
        table.completed(checkpoint);
        base = Some(checkpoint);
        turns.sort();
        println!(
            "stall: {touched} touched: {} entries, {:.1} B each, {:?} in all, {:.1} ns an entry; \
             turns: longest {:?}, p90 {:?}; work meanwhile {:.1} ns an event",
            written.entries,
            bytes.get() as f64 / written.entries.max(1) as f64,
            start.elapsed(),
            spent.as_secs_f64() * 1e9 / written.entries.max(1) as f64,
            turns.last().copied().unwrap_or_default(),
            turns[turns.len() * 9 / 10],
            between.as_secs_f64() * 1e9 / events as f64,
        );
    }
}
