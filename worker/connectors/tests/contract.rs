//! Every source and sink of this crate against the contract suites.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use millrace_connectors::contract::{self, GrowingSource, Guarantee, SinkUnderTest};
use millrace_connectors::file::sink::{Compression, Rolling};
use millrace_connectors::file::source::Arrival;
use millrace_connectors::file::{FileSink, FileSource};
use millrace_connectors::format::{Csv, Decode, Encode, JsonLines};
use millrace_connectors::{Blackhole, Collected, Collection, Generator, Print};
use millrace_engine::connector::{Next, Reader, Source, SourceBuffer, SourceCx};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    n: u64,
    text: String,
}

/// Rows of various lengths; with line breaks in quotes unless `plain`.
fn rows(plain: bool) -> Vec<Row> {
    let text = |n: u64| match n % 7 {
        3 if !plain => "two\nlines, \"quoted\"".to_owned(),
        k => "x".repeat((k * n % 40) as usize),
    };
    (0..1500).map(|n| Row { n, text: text(n) }).collect()
}

fn csv_bytes(rows: &[Row]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().for_each(|row| writer.serialize(row).unwrap());
    writer.into_inner().unwrap()
}

fn json_bytes(rows: &[Row]) -> Vec<u8> {
    rows.iter()
        .flat_map(|row| [serde_json::to_vec(row).unwrap(), b"\n".to_vec()].concat())
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// Puts files into a directory, and lets the suite read it.
fn files<F: Decode<Row>>(files: &[(&str, Vec<u8>)], format: F) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    contract::source(|| FileSource::<Row, F>::new(dir.path(), format.clone()).split_bytes(5000));
}

#[test]
fn csv_files() {
    files(
        &[("a/b.csv", csv_bytes(&rows(false)[..900])), ("c", csv_bytes(&rows(false)[900..]))],
        Csv::new(),
    );
}

#[test]
fn csv_files_by_byte_range() {
    files(&[("a.csv", csv_bytes(&rows(true)))], Csv::new().splittable(true));
}

#[test]
fn json_lines_files_by_byte_range_with_bad_rows_and_packed_ones() {
    let bad = [json_bytes(&rows(false)[..400]), b"{\n\n".to_vec(), json_bytes(&rows(false)[400..])];
    files(
        &[("a.jsonl", bad.concat()), ("b.gz", gzip(&json_bytes(&rows(false))))],
        JsonLines::new(),
    );
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_files() {
    let packed = zstd::encode_all(&csv_bytes(&rows(false))[..], 1).unwrap();
    files(&[("a.csv.zst", packed)], Csv::new());
}

/// An archive of one file, as few bytes around it as there may be.
fn zip(bytes: &[u8], deflated: bool) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    deflate.write_all(bytes).unwrap();
    let packed = if deflated { deflate.finish().unwrap() } else { bytes.to_vec() };
    // What both of its headers say: version, flags, method, time, sum, lengths; the name's.
    let le = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let about = [
        [20, 0, 0, 0, if deflated { 8 } else { 0 }, 0, 0, 0, 0, 0].to_vec(),
        le(&[crc.sum(), packed.len() as u32, bytes.len() as u32, 5]),
    ];
    let about = about.concat();
    let file = [&b"PK\x03\x04"[..], &about, b"a.csv", &packed].concat();
    let directory = [&b"PK\x01\x02\x14\0"[..], &about, &[0; 14], b"a.csv"].concat();
    let end = [le(&[0, 0x0001_0001, directory.len() as u32, file.len() as u32]), vec![0, 0]];
    [file, directory, b"PK\x05\x06".to_vec(), end.concat()].concat()
}

#[test]
fn zip_files() {
    let (first, rest) = (csv_bytes(&rows(false)[..700]), csv_bytes(&rows(false)[700..]));
    files(&[("a.zip", zip(&first, true)), ("b.csv.zip", zip(&rest, false))], Csv::new());
}

/// A directory that files come to while it is read, and are written there as `arrival` has it.
fn watched(arrival: Arrival) -> GrowingSource<FileSource<Row, JsonLines>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let all = rows(false);
    let mut files: Vec<_> = all.chunks(200).map(json_bytes).collect();
    files[3] = gzip(&files[3]);
    let mut files = files.into_iter().enumerate();
    let grow = move || {
        let Some((n, bytes)) = files.next() else { return false };
        // Not in the order of names, and some in directories.
        let name = format!("{}/{}.jsonl", ["a", "c/d", "b"][n % 3], 9 - n);
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if arrival == Arrival::Renamed {
            let hidden = path.with_file_name(".part");
            fs::write(&hidden, bytes).unwrap();
            fs::rename(hidden, path).unwrap();
        } else {
            fs::write(path, bytes).unwrap();
        }
        true
    };
    let every = Duration::from_millis(1);
    let make = move || {
        let source = FileSource::json_lines(&path).split_bytes(5000);
        source.watch(every).arrival(arrival)
    };
    GrowingSource { make: Box::new(make), grow: Box::new(grow) }
}

#[test]
fn watched_directories() {
    contract::growing_source(|| watched(Arrival::Renamed));
    contract::growing_source(|| watched(Arrival::Settled));
}

#[test]
fn generator() {
    contract::source(|| Generator::new(|i| i * 3).count(1234).splits(5));
    contract::source(|| Generator::new(|i| i).count(300).splits(2).rate(200_000));
    contract::source(|| Generator::new(|i| i).count(2).splits(3));
}

#[test]
fn collection() {
    contract::source(|| Collection::new(0..777).splits(4));
    contract::source(|| Collection::with_timestamps((0..99).map(|i| (i, i))));
    contract::source(|| Collection::<u8>::new([]));
}

#[test]
fn collect_sink() {
    contract::sink(|| {
        let results = Collected::new();
        SinkUnderTest {
            sink: results.sink(),
            committed: Box::new(move || results.rows()),
            staged: Box::new(|| 0),
            guarantee: Guarantee::ExactlyOnce,
        }
    });
}

/// At least once, and no more than that: each row is printed as it comes, whole, and those
/// since the last checkpoint are printed again after a restart.
#[test]
fn print() {
    #[derive(Clone, Default)]
    struct Printed(Arc<Mutex<Vec<u8>>>);
    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl Printed {
        fn rows(&self) -> Vec<u64> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let rows = text.lines().map(|line| {
                let (subtask, row) = line.strip_prefix("out:").unwrap().split_once("> ").unwrap();
                assert!(subtask.parse::<u16>().unwrap() < 5, "{line}");
                row.parse().unwrap()
            });
            rows.collect()
        }
    }
    contract::sink(|| {
        let printed = Printed::default();
        SinkUnderTest {
            sink: Print::new().prefix("out").to(printed.clone()),
            committed: Box::new(move || printed.rows()),
            staged: Box::new(|| 0),
            guarantee: Guarantee::AtLeastOnce,
        }
    });
}

#[test]
fn blackhole() {
    // Nothing is seen, so nothing can be seen wrongly; the calls must be in order.
    use millrace_engine::connector::{Sink, SinkCx, Writer};
    use millrace_protocol::ids::{Attempt, Subtask};
    let cx = SinkCx { job: "j".into(), uid: "u".into(), attempt: Attempt(1), subtask: Subtask(0) };
    let mut writer = Sink::<u64>::writer(&Blackhole, cx).unwrap();
    let mut batch = millrace_engine::data::Rows::default();
    batch.push(0, 1u64);
    writer.write(&mut batch).unwrap();
    assert!(batch.is_empty());
    let pending = Writer::<u64, ()>::prepare(&mut writer, true).unwrap();
    assert!(pending().unwrap().commit.is_empty());
}

/// Reads what a sink wrote, with the source.
fn read_back<F: Decode<u64>>(dir: &Path, format: F) -> Vec<u64> {
    struct Fails;
    impl millrace_engine::connector::DeadLetters for Fails {
        fn put(
            &self,
            _: &millrace_protocol::ids::Uid,
            origin: &str,
            at: u64,
            why: &str,
            raw: &[u8],
        ) {
            panic!("{origin} {at}: {why}: {raw:?}");
        }
    }
    if !dir.exists() {
        return vec![];
    }
    let mut source = FileSource::new(dir, format);
    let cx = SourceCx {
        uid: "back".into(),
        subtask: millrace_protocol::ids::Subtask(0),
        parallelism: 1,
        waker: Arc::new(|| ()),
        dead_letters: Arc::new(Fails),
    };
    let mut reader = source.reader(cx).unwrap();
    for (lane, split) in source.discover(&[]).unwrap().into_iter().enumerate() {
        reader.assign(millrace_engine::connector::Lane(lane as u32), split).unwrap();
    }
    let mut buffer = SourceBuffer::default();
    while reader.poll(&mut buffer.out(usize::MAX)).unwrap() == Next::More {}
    buffer.values
}

fn count_files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}

fn file_sink<F>(format: F, change: impl Fn(FileSink<u64, F>) -> FileSink<u64, F>)
where
    F: Encode<u64> + Decode<u64>,
{
    contract::sink(|| {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let stage = dir.clone();
        let sink = change(FileSink::new(dir.path().join("out"), format.clone()));
        let format = format.clone();
        SinkUnderTest {
            sink,
            committed: Box::new(move || read_back(&dir.path().join("out"), format.clone())),
            staged: Box::new(move || count_files(&stage.path().join("out/.millrace"))),
            guarantee: Guarantee::ExactlyOnce,
        }
    });
}

#[test]
fn file_sink_with_parts_open_over_checkpoints() {
    file_sink(Csv::new().no_header(), |sink| sink);
}

#[test]
fn file_sink_rolling_at_every_checkpoint_and_by_size() {
    file_sink(JsonLines::new(), |sink| {
        sink.rolling(Rolling { max_bytes: 50, max_age: Duration::ZERO })
    });
    file_sink(Csv::new().no_header(), |sink| {
        sink.rolling(Rolling { max_bytes: 1, max_age: Duration::MAX })
    });
}

#[test]
fn file_sink_with_partitions_and_few_open_parts() {
    use std::fmt::Write;
    file_sink(Csv::new().no_header(), |sink| {
        sink.partition_by(|row, path| _ = write!(path, "mod={}/tens={}", row / 5 % 2, row / 10 % 2))
            .max_open(3)
    });
}

#[test]
fn file_sink_packed() {
    file_sink(JsonLines::new(), |sink| sink.compression(Compression::Gzip));
    #[cfg(feature = "zstd")]
    file_sink(JsonLines::new(), |sink| sink.compression(Compression::Zstd));
}
