//! Files in S3 against the contract suite, on a real server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use millrace_connectors::contract::{self, Guarantee, SinkUnderTest};
use millrace_connectors::file::sink::{Compression, FileCommit, Rolling};
use millrace_connectors::file::{FileSink, FileSource};
use millrace_connectors::format::JsonLines;
use millrace_engine::connector::{Committed, Committer, Sink, SinkCx, Source, Writer};
use millrace_engine::data::{Rows, UserError};
use millrace_protocol::config::S3Storage;
use millrace_protocol::ids::{Attempt, Subtask};
use millrace_s3::testing::{Faults, Proxy, Server, seed};
use millrace_s3::{Bucket, Location};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::time::Duration;

fn lines(rows: std::ops::Range<u64>) -> Vec<u8> {
    rows.flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect()
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Row {
    n: u64,
}

fn source(url: &str) -> FileSource<Row, JsonLines> {
    FileSource::json_lines(url).split_bytes(4000)
}

#[test]
fn objects_are_read_by_ranges_and_packed_ones_as_streams() {
    let storage = Server::shared().bucket();
    let bucket = Bucket::open(&storage).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&lines(1000..1500)).unwrap();
    bucket.put("in/a b.jsonl", &lines(0..1000)).unwrap();
    bucket.put("in/day=1/b.jsonl.gz", &packed.finish().unwrap()).unwrap();
    bucket.put("in/_hidden", b"no row").unwrap();
    bucket.put("in/.x/y", b"no row").unwrap();
    bucket.put("inner", b"not below the prefix").unwrap();
    let at = |prefix: &str| {
        Location(S3Storage { prefix: prefix.to_owned(), ..storage.clone() }).to_string()
    };
    contract::source(|| source(&at("in")));
    let splits = source(&at("in")).discover(&[]).unwrap();
    assert!(splits.len() > 2 && splits.last().unwrap().path.ends_with("/b.jsonl.gz"));
    contract::source(|| source(&at("in/a b.jsonl")));
    let error = source(&at("none")).discover(&[]).unwrap_err();
    assert!(error.is::<UserError>() && error.to_string().contains("does not exist"), "{error}");
}

/// What readers of a prefix see. Objects never change, so each is read once.
struct Seen {
    bucket: Bucket,
    prefix: String,
    read: Mutex<HashMap<String, (u64, Vec<u64>)>>,
}

impl Seen {
    fn rows(&self) -> Vec<u64> {
        let mut read = self.read.lock().unwrap();
        let mut rows = Vec::new();
        for object in self.bucket.list(&self.prefix).unwrap() {
            let (len, found) = read.entry(object.key.clone()).or_insert_with(|| {
                let bytes = self.bucket.get(&object.key).unwrap().unwrap();
                let mut text = String::new();
                match object.key.ends_with(".gz") {
                    true => {
                        _ = flate2::read::MultiGzDecoder::new(&bytes[..])
                            .read_to_string(&mut text)
                            .unwrap()
                    }
                    false => text = String::from_utf8(bytes).unwrap(),
                }
                (object.len, text.lines().map(|line| line.parse().unwrap()).collect())
            });
            assert_eq!(*len, object.len, "{} changed", object.key);
            rows.extend_from_slice(found);
        }
        rows
    }
}

fn file_sink(
    storage: &S3Storage,
    change: impl Fn(FileSink<u64, JsonLines>) -> FileSink<u64, JsonLines>,
) {
    let runs = std::cell::Cell::new(0);
    contract::sink(|| {
        runs.set(runs.get() + 1);
        let prefix = format!("out {}", runs.get());
        let url = Location(S3Storage { prefix: prefix.clone(), ..storage.clone() }).to_string();
        let bucket = Bucket::open(storage).unwrap();
        let seen =
            Seen { bucket: bucket.clone(), prefix: format!("{prefix}/"), read: Mutex::default() };
        SinkUnderTest {
            sink: change(FileSink::json_lines(&url)),
            committed: Box::new(move || seen.rows()),
            staged: Box::new(move || bucket.unfinished(&format!("{prefix}/")).unwrap().len()),
            guarantee: Guarantee::ExactlyOnce,
        }
    });
}

#[test]
fn a_sink_with_objects_open_over_checkpoints() {
    file_sink(&Server::shared().bucket(), |sink| sink);
}

#[test]
fn a_sink_that_rolls_at_every_checkpoint_and_by_size() {
    file_sink(&Server::shared().bucket(), |sink| {
        sink.rolling(Rolling { max_bytes: 50, max_age: Duration::ZERO })
    });
}

#[test]
fn a_sink_with_partitions_few_open_objects_and_compression() {
    use std::fmt::Write;
    file_sink(&Server::shared().bucket(), |sink| {
        let sink = sink.compression(Compression::Gzip).max_open(3);
        sink.partition_by(|row, path| _ = write!(path, "mod={}/tens={}", row / 5 % 2, row / 10 % 2))
    });
}

fn cx(attempt: u64) -> SinkCx {
    let (job, uid) = ("job/1.2".into(), "out".into());
    SinkCx { job, uid, attempt: Attempt(attempt), subtask: Subtask(3) }
}

fn commit(sink: &FileSink<String, JsonLines>, commit: &FileCommit) -> Committed {
    let mut committer = Sink::committer(sink, &cx(0).job, &cx(0).uid).unwrap();
    committer.commit(commit).unwrap()
}

/// Objects of several parts, ended in the middle of their lives, through a server that fails.
#[test]
fn a_large_object_is_what_it_was_at_the_checkpoint() {
    let storage = S3Storage { prefix: "out".to_owned(), ..Server::shared().bucket() };
    let proxy = Proxy::start(Server::shared().port(), seed(), Faults::each(0.02));
    let through = S3Storage { endpoint: Some(proxy.endpoint()), ..storage.clone() };
    let sink = FileSink::<String, _>::json_lines(Location(through).to_string());
    let mut writer = sink.writer(cx(1)).unwrap();
    let mut expected = String::new();
    let mut at = Vec::new();
    for n in 0..60 {
        let mut rows = Rows::default();
        for row in 0..100 {
            let row = format!("{n}-{row}-{}", "x".repeat(5000));
            expected.push_str(&format!("\"{row}\"\n"));
            rows.push(0, row);
        }
        while !writer.has_room() {
            std::thread::sleep(Duration::from_millis(1));
        }
        writer.write(&mut rows).unwrap();
        if n % 6 == 2 {
            let mut prepared = writer.prepare(false).unwrap()().unwrap();
            assert!(prepared.commit.is_empty() && prepared.open.len() == 1);
            at.push((prepared.open.remove(0), expected.len()));
        }
    }
    let bucket = Bucket::open(&storage).unwrap();
    assert!(bucket.list("out/").unwrap().is_empty(), "nothing is seen before a commit");
    let (open, len) = &at[6];
    assert!(open.upload.as_ref().unwrap().parts.len() > 2);
    assert_eq!(commit(&sink, open), Committed::Done);
    assert_eq!(commit(&sink, open), Committed::Before);
    let key = format!("out/{}", open.target);
    assert!(bucket.get(&key).unwrap().unwrap() == expected.as_bytes()[..*len]);
    // The writer cannot know, and its later checkpoints would say something else.
    let later = writer.prepare(true).map(|prepare| prepare());
    assert!(
        !matches!(later, Ok(Ok(prepared)) if commit(&sink, &prepared.commit[0]) == Committed::Done)
    );
    let lost = commit(&sink, &at[9].0);
    assert!(matches!(lost, Committed::Lost(why) if why.contains("exists with")));
    assert!(bucket.get(&key).unwrap().unwrap() == expected.as_bytes()[..*len]);
}

#[test]
fn an_upload_that_is_gone_is_a_loss() {
    let storage = S3Storage { prefix: "out".to_owned(), ..Server::shared().bucket() };
    let sink = FileSink::<String, _>::json_lines(Location(storage.clone()).to_string());
    let mut writer = sink.writer(cx(1)).unwrap();
    let mut rows = Rows::default();
    rows.push(0, "a".to_owned());
    writer.write(&mut rows).unwrap();
    let prepared = writer.prepare(true).unwrap()().unwrap();
    let mut committer = Sink::<String>::committer(&sink, &cx(0).job, &cx(0).uid).unwrap();
    committer.abort_others(Attempt(2), &prepared.commit).unwrap();
    committer.abort_others(Attempt(1), &[]).unwrap();
    assert_eq!(Bucket::open(&storage).unwrap().unfinished("out/").unwrap().len(), 1);
    committer.abort_others(Attempt(2), &[]).unwrap();
    let lost = committer.commit(&prepared.commit[0]).unwrap();
    assert!(matches!(&lost, Committed::Lost(why) if why.contains("is gone")), "{lost:?}");
}

#[test]
fn a_bucket_that_cannot_be_written_is_the_users_error() {
    let storage = S3Storage { bucket: "nobodys".to_owned(), ..Server::shared().bucket() };
    let sink = FileSink::<String, _>::json_lines(Location(storage).to_string());
    let mut committer = Sink::<String>::committer(&sink, &cx(0).job, &cx(0).uid).unwrap();
    let error = committer.abort_others(Attempt(2), &[]).unwrap_err();
    assert!(error.is::<UserError>() && error.to_string().contains("no such bucket"), "{error}");
}
