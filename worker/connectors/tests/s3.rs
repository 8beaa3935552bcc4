//! Files in S3 against the contract suite, on a real server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use millrace_connectors::contract;
use millrace_connectors::file::FileSource;
use millrace_connectors::format::JsonLines;
use millrace_engine::connector::Source;
use millrace_engine::data::UserError;
use millrace_protocol::config::S3Storage;
use millrace_s3::testing::Server;
use millrace_s3::{Bucket, Location};
use std::io::Write;

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
