//! The rows of the table: which halves are measured, and what must be reached.

use crate::engine::{self, CheckpointCost, Stall};
use crate::flink::Flink;
use crate::measure::{Rate, Runs, resident_bytes};
use crate::plain;
use crate::report::{Beside, Bound, Measured, Target};
use anyhow::{Context, Result, ensure};
use std::fs::File;

/// A row's name on the command line, and how it is measured.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Measures it; some give several lines.
    pub measure: fn(Runs, &Flink) -> Result<Vec<Measured>>,
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    Row { name: "window-count-1k", measure: window_count_1k },
    Row { name: "window-count-1m", measure: window_count_1m },
    Row { name: "running-reduce-1m", measure: running_reduce_1m },
    Row { name: "checkpoint", measure: checkpoint },
    Row { name: "chain", measure: chain },
    Row { name: "csv", measure: csv },
    Row { name: "exchange", measure: exchange },
    Row { name: "workers", measure: workers },
    Row { name: "latency", measure: latency },
    Row { name: "idle", measure: idle },
    Row { name: "memory", measure: memory },
    Row { name: "manifest", measure: manifest },
    #[cfg(feature = "rocksdb")]
    Row { name: "spilled", measure: spilled },
];

const MROWS: &str = "M rows/s";

fn at_least(ours: f64, ratio: Option<f64>) -> Target {
    Target { ours: Some(Bound::AtLeast(ours)), ratio: ratio.map(Bound::AtLeast) }
}

/// A row of ours beside the plain loop, and one beside each of Flink's figures.
fn against_plain(
    name: &str,
    ours: Rate,
    plain: Rate,
    target: Target,
    flink: &[(&str, Option<f64>)],
) -> Result<Vec<Measured>> {
    ensure!(
        (ours.rows, ours.checksum) == (plain.rows, plain.checksum),
        "{name}: the engine's checksum over {} rows is {:016x}, the plain loop's over {} {:016x}",
        ours.rows,
        ours.checksum,
        plain.rows,
        plain.checksum
    );
    let row = |what: &str, value, target| Measured {
        name: name.to_owned(),
        unit: MROWS,
        ours: ours.mrows_per_s,
        beside: Some(Beside { what: what.to_owned(), value }),
        target,
    };
    let mut rows = vec![row("plain loop", plain.mrows_per_s, target)];
    // What the engine is for: an order of magnitude over the peer.
    let peer_target = Target { ours: None, ratio: Some(Bound::AtLeast(10.0)) };
    for (what, value) in flink {
        rows.extend(value.map(|value| row(what, value, peer_target)));
    }
    Ok(rows)
}

fn window_count_1k(runs: Runs, flink: &Flink) -> Result<Vec<Measured>> {
    let (rows, keys) = (100_000_000, 1_000);
    let plain = runs.rate(rows, |n| plain::window_count(n, keys));
    let peer = flink.rate("window-count-1k", |n| plain::window_count(n, keys))?;
    against_plain(
        "1 s tumbling count, 1 K keys",
        engine::window_count(runs, rows, keys)?,
        plain,
        at_least(80.0, Some(0.6)),
        &[("Flink, heap", peer)],
    )
}

fn window_count_1m(runs: Runs, flink: &Flink) -> Result<Vec<Measured>> {
    let (rows, keys) = (50_000_000, 1_000_000);
    let plain = runs.rate(rows, |n| plain::window_count(n, keys));
    let peer = flink.rate("window-count-1m", |n| plain::window_count(n, keys))?;
    against_plain(
        "1 s tumbling count, 1 M keys",
        engine::window_count(runs, rows, keys)?,
        plain,
        at_least(24.0, Some(1.8)),
        &[("Flink, heap", peer)],
    )
}

fn workers(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let mut lines = Vec::new();
    for (name, rows, keys) in [
        ("1 s tumbling count on 2 workers of 1 slot, 1 K keys", 100_000_000, 1_000),
        ("1 s tumbling count on 2 workers of 1 slot, 1 M keys", 50_000_000, 1_000_000),
    ] {
        let spread = engine::window_count_on(runs, rows, keys, Some(2))?;
        let one = engine::window_count(runs, rows, keys)?;
        ensure!(spread.checksum == one.checksum, "{name}: the checksums differ");
        lines.push(Measured {
            name: name.to_owned(),
            unit: MROWS,
            ours: spread.mrows_per_s,
            beside: Some(Beside {
                what: "one worker of 2 slots".to_owned(),
                value: one.mrows_per_s,
            }),
            target: Target { ours: None, ratio: Some(Bound::AtLeast(0.7)) },
        });
    }
    Ok(lines)
}

fn running_reduce_1m(runs: Runs, flink: &Flink) -> Result<Vec<Measured>> {
    let (rows, keys) = (50_000_000, 1_000_000);
    let plain = runs.rate(rows, |n| plain::running_reduce(n, keys));
    let check = |n| plain::running_reduce(n, keys);
    let heap = flink.rate("running-reduce-1m", check)?;
    let rocksdb = flink.rate("running-reduce-1m-rocksdb", check)?;
    against_plain(
        "running reduce, every update, 1 M keys",
        engine::running_reduce(runs, rows, keys)?,
        plain,
        at_least(20.0, None),
        &[("Flink, heap", heap), ("Flink, RocksDB", rocksdb)],
    )
}

fn chain(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let (rows, keys) = (200_000_000, 1_000);
    let name = "map -> filter -> map, no shuffle";
    let ours = engine::chain(runs, rows, keys)?;
    let target = Target { ours: None, ratio: Some(Bound::AtLeast(0.9)) };
    let plain = runs.rate(rows, |n| plain::chain(n, keys));
    let batched = runs.rate(rows, |n| plain::chain_batched(n, keys));
    let mut measured = against_plain(name, ours, plain, target, &[])?;
    let mut in_batches = against_plain(name, ours, batched, target, &[])?;
    for beside in in_batches.iter_mut().flat_map(|row| &mut row.beside) {
        beside.what = "loops over batches".to_owned();
    }
    measured.append(&mut in_batches);
    Ok(measured)
}

fn csv(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    // So many that a job's start and end are small beside it.
    let rows = runs.rows(10_000_000);
    let file = tempfile::NamedTempFile::new()?;
    plain::write_departures(rows, file.as_file())?;
    let (time, checksum) = runs.median(|| plain::parse_departures(File::open(file.path())?));
    let parse = Rate {
        rows,
        mrows_per_s: rows as f64 / 1e6 / time.as_secs_f64(),
        checksum: checksum.context("parsing the CSV file")?,
    };
    let mut measured = against_plain(
        "CSV file -> parse -> window -> file",
        engine::csv(runs, rows, file.path())?,
        parse,
        Target { ours: None, ratio: Some(Bound::AtLeast(0.8)) },
        &[],
    )?;
    for row in measured.iter_mut().flat_map(|row| &mut row.beside) {
        row.what = "parsing alone".to_owned();
    }
    Ok(measured)
}

/// A row with no plain half.
fn alone(name: &str, unit: &'static str, ours: f64, target: Bound) -> Measured {
    let target = Target { ours: Some(target), ratio: None };
    Measured { name: name.to_owned(), unit, ours, beside: None, target }
}

fn beside(what: &str, value: f64) -> Option<Beside> {
    Some(Beside { what: what.to_owned(), value })
}

fn checkpoint(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let often = engine::checkpoint_cost(runs, 20.0)?;
    let seldom = engine::checkpoint_cost(runs, 1.6)?;
    let throughput = |cost: CheckpointCost, share| Measured {
        name: format!(
            "checkpoint each second, 10 M keys, {:.1} updates an entry",
            cost.updates_per_entry
        ),
        unit: MROWS,
        ours: cost.with,
        beside: beside("without", cost.without),
        target: Target { ours: None, ratio: Some(Bound::AtLeast(share)) },
    };
    // Only the latter can have a target on a machine that does other work too.
    let pause = |what: &str, cost: CheckpointCost, of: fn(Stall) -> f64, target| Measured {
        name: format!(
            "longest pause in a second, p99, {:.1} updates{what}",
            cost.updates_per_entry
        ),
        unit: "ms",
        ours: of(cost.stall),
        beside: beside("without", of(cost.stall_without)),
        target: Target { ours: target, ratio: None },
    };
    let waits = |cost| pause("", cost, |stall| stall.all_ms, None);
    let stall =
        |cost| pause(", core waits apart", cost, |stall| stall.own_ms, Some(Bound::AtMost(10.0)));
    Ok(vec![
        throughput(often, 0.97),
        throughput(seldom, 0.75),
        stall(often),
        waits(often),
        stall(seldom),
        waits(seldom),
        alone("delta bytes by changed bytes", "x", seldom.delta_ratio, Bound::AtMost(1.2)),
        alone("folded entries by changed ones", "x", seldom.folded_ratio, Bound::AtMost(1.0)),
    ])
}

fn exchange(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let throughput = crate::exchange::throughput(runs)?;
    let row = |what, rate, target| Measured {
        name: "exchange over loopback, batches of 4096 x 64 B".to_owned(),
        unit: "GB/s",
        ours: throughput.exchange,
        beside: beside(what, rate),
        target: Target { ours: None, ratio: target },
    };
    Ok(vec![
        row("memcpy and TCP", throughput.copied, Some(Bound::AtLeast(0.8))),
        row("and rows made, CRC-32", throughput.made_and_summed, None),
    ])
}

fn latency(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let ours = engine::latency_p99_ms(runs)?;
    let name = "latency through a shuffle, 100 K events/s, p99";
    Ok(vec![alone(name, "ms", ours, Bound::AtMost(10.0))])
}

fn idle(_: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let idle = engine::idle()?;
    Ok(vec![
        alone("idle job, resident", "MiB", idle.resident_mib, Bound::AtMost(30.0)),
        alone("idle job, of a core", "%", idle.core_percent, Bound::AtMost(0.5)),
    ])
}

fn memory(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let keys = runs.rows(10_000_000);
    let before = resident_bytes("self")?;
    let table = plain::table_of(keys);
    let bytes = resident_bytes("self")?.saturating_sub(before);
    drop(std::hint::black_box(table));
    Ok(vec![Measured {
        beside: beside("plain table", bytes as f64 / keys as f64),
        ..alone(
            "10 M keys of (u64 -> u64)",
            "B/key",
            engine::bytes_per_key(keys)?,
            Bound::AtMost(64.0),
        )
    }])
}

fn manifest(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    let ours = engine::manifest(runs.count)?;
    let of = "checkpoint of 1,000 slots, 10,000 files in its manifest";
    let coordinator = format!("{of}: coordinator, resident");
    Ok(vec![
        alone(of, "s", ours.seconds, Bound::AtMost(1.0)),
        alone(&coordinator, "MiB", ours.resident_mib, Bound::AtMost(200.0)),
    ])
}

#[cfg(feature = "rocksdb")]
fn spilled(runs: Runs, _: &Flink) -> Result<Vec<Measured>> {
    use engine::Skew;
    let keys = runs.rows(50_000_000);
    let mut measured = Vec::new();
    for (skew, what, ratio) in [(Skew::Zipf, "zipf 0.99", 3.0), (Skew::Uniform, "uniform", 1.3)] {
        let [files, rocksdb, bare] = engine::spilled(keys, skew)?;
        for (ours, to) in [(files, "files"), (rocksdb, "RocksDB")] {
            let keys = keys as f64 / 1e6;
            let of = format!("running reduce, {keys} M keys, spilled to {to}, {what}");
            measured.push(Measured {
                name: of.clone(),
                unit: MROWS,
                ours: ours.mrows_per_s,
                beside: beside("bare RocksDB", bare.mrows_per_s),
                target: Target { ours: None, ratio: Some(Bound::AtLeast(ratio)) },
            });
            let resident = format!("{of}: most resident by memory given");
            measured.push(Measured {
                beside: beside("bare RocksDB", bare.resident),
                ..alone(&resident, "x", ours.resident, Bound::AtMost(1.0))
            });
        }
    }
    Ok(measured)
}
