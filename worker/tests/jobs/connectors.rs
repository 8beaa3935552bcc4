//! Every source and every sink through a running job: stopped in the middle, cancelled,
//! failing, and going on at another parallelism.

use crate::common::{How, assert_same, multiset, options, run_and_stop, run_watched, seed};
use millrace::connectors::file::{Compression, FileSink, FileSource, Rolling};
use millrace::connectors::format::{Csv, JsonLines};
use millrace::connectors::{Blackhole, Collected, Collection, Generator, Print};
use millrace::engine::connector::{Sink, Source};
use millrace::engine::coordinator::Outcome;
use millrace::engine::job::Handle;
use millrace::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    n: u64,
    text: String,
}

const ROWS: u64 = 4_000;

fn row(n: u64) -> Row {
    let text = match n % 7 {
        3 => "two\nlines, \"quoted\"".to_owned(),
        k => "x".repeat((k * n % 40) as usize),
    };
    Row { n, text }
}

/// Rows pass no faster than this, so that a job can be met in the middle.
fn slow_down(row: Row) -> Row {
    if row.n.is_multiple_of(64) {
        std::thread::sleep(Duration::from_millis(2));
    }
    row
}

/// Runs a job from `source` to `sink` to its end: it is stopped, cancelled, and fails on
/// the way, at changing parallelism.
fn through<S, K>(rng: &mut fastrand::Rng, source: impl Fn() -> S, sink: impl Fn() -> K)
where
    S: Source<Out = Row>,
    K: Sink<Row> + Sync,
{
    let dir = tempfile::tempdir().unwrap();
    let poison = Arc::new(AtomicU32::new(2));
    let bad = rng.u64(ROWS / 4..ROWS);
    let mut met_in_the_middle = 0;
    for round in 0.. {
        let env = Env::new();
        let left = Arc::clone(&poison);
        env.source("in", source(), Watermarks::none())
            .map(slow_down)
            .try_map(move |row| {
                let take = |n: u32| n.checked_sub(1);
                let armed = row.n == bad
                    && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
                if armed { Err("poison".into()) } else { Ok(row) }
            })
            .sink("out", sink());
        let handle = Handle::new(env.into_graph());
        let options = options(dir.path(), [2, 3, 1, 4][round % 4]);
        let outcome = match round {
            0..=2 => {
                let how = if rng.bool() { How::Suspend } else { How::Cancel };
                run_and_stop(&handle, options, Duration::from_millis(rng.u64(15..50)), how)
            }
            _ => run_watched(&handle, options),
        };
        match outcome.unwrap_or_else(|e| panic!("{e}: {:?}", handle.status().failures)) {
            Outcome::Suspended => met_in_the_middle += 1,
            Outcome::Finished | Outcome::FinishedBefore => break,
            other => panic!("ended with {other:?}"),
        }
    }
    assert!(met_in_the_middle > 0, "the job was too quick to be stopped");
}

/// From a source to a sink in memory.
fn source<S: Source<Out = Row>>(what: &str, rows: u64, source: impl Fn() -> S) {
    println!("{what}");
    let mut rng = fastrand::Rng::with_seed(seed());
    let out = Collected::new();
    through(&mut rng, source, || out.sink());
    assert_same(&multiset(out.rows()), &multiset((0..rows).map(row)), what);
}

fn csv(rows: impl Iterator<Item = Row>) -> Vec<u8> {
    let mut text = String::from("n,text\n");
    for Row { n, text: of } in rows {
        text.push_str(&format!("{n},\"{}\"\n", of.replace('"', "\"\"")));
    }
    text.into_bytes()
}

fn json(rows: impl Iterator<Item = Row>) -> Vec<u8> {
    rows.flat_map(|row| [serde_json::to_vec(&row).unwrap(), b"\n".to_vec()].concat()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

#[test]
fn sources_in_memory() {
    source("collection", ROWS, || Collection::new((0..ROWS).map(row)).splits(5));
    source("generator", ROWS, || Generator::new(row).count(ROWS).splits(3));
    source("slow generator", ROWS, || Generator::new(row).count(ROWS).splits(3).rate(20_000));
}

#[test]
fn file_sources() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("csv")).unwrap();
    fs::write(path("csv/a.csv"), csv((0..1500).map(row))).unwrap();
    fs::write(path("csv/b.csv.gz"), gzip(&csv((1500..3000).map(row)))).unwrap();
    fs::write(path("csv/c.csv"), csv((3000..ROWS).map(row))).unwrap();
    source("csv, plain and packed", ROWS, || FileSource::csv(path("csv")));
    fs::write(path("rows.jsonl"), json((0..ROWS).map(row))).unwrap();
    source("json lines by byte range", ROWS, || {
        FileSource::json_lines(path("rows.jsonl")).split_bytes(10_000)
    });
}

fn lines(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() { found.extend(lines(&path)) } else { found.push(path) }
    }
    found
}

fn text(path: &Path) -> String {
    let mut text = String::new();
    match path.extension() {
        Some(e) if e == "gz" => {
            let file = fs::File::open(path).unwrap();
            flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
        }
        _ => text = fs::read_to_string(path).unwrap(),
    }
    text
}

fn generated() -> impl Source<Out = Row> {
    Generator::new(row).count(ROWS).splits(3)
}

/// From a generator to files.
fn file_sink<K: Sink<Row> + Sync>(
    what: &str,
    sink: impl Fn(&Path) -> K,
    read: impl Fn(&str) -> Vec<Row>,
) {
    println!("{what}");
    let mut rng = fastrand::Rng::with_seed(seed());
    let dir = tempfile::tempdir().unwrap();
    through(&mut rng, generated, || sink(dir.path()));
    let rows = lines(dir.path()).iter().flat_map(|path| read(&text(path))).collect::<Vec<_>>();
    assert_same(&multiset(rows), &multiset((0..ROWS).map(row)), what);
    let staged = crate::refusals::tree(dir.path());
    let left: Vec<_> =
        staged.keys().filter(|p| p.to_string_lossy().contains("/.millrace/")).collect();
    assert!(left.is_empty(), "{what}: left behind: {left:?}");
}

fn from_json(text: &str) -> Vec<Row> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn from_csv(text: &str) -> Vec<Row> {
    // `row` is what a line begins with; the rest is checked by the format's own tests.
    let numbers = text.lines().filter_map(|l| l.split_once(',')?.0.parse().ok());
    numbers.map(row).collect()
}

#[test]
fn file_sinks() {
    let rolling = |max_bytes, ms| Rolling { max_bytes, max_age: Duration::from_millis(ms) };
    file_sink(
        "csv, closed at every checkpoint",
        |d| FileSink::new(d, Csv::new()).rolling(rolling(1 << 20, 0)),
        from_csv,
    );
    file_sink("csv, open for long", |d| FileSink::new(d, Csv::new()), from_csv);
    file_sink(
        "json lines, small parts, packed",
        |d| {
            FileSink::new(d, JsonLines::new())
                .compression(Compression::Gzip)
                .rolling(rolling(5_000, 60_000))
        },
        from_json,
    );
    file_sink(
        "json lines, partitioned",
        |d| {
            FileSink::new(d, JsonLines::new())
                .partition_by(|row: &Row, path| path.push_str(&format!("n={}", row.n / 500)))
                .max_open(3)
        },
        from_json,
    );
}

/// Sinks whose rows nobody can count: that they run, stop and go on.
#[test]
fn print_and_blackhole() {
    let mut rng = fastrand::Rng::with_seed(seed());
    through(&mut rng, generated, || Blackhole);
    let few = || Generator::new(|n| row(n * 64)).count(40).splits(2).rate(400);
    through(&mut rng, few, Print::debug);
}
