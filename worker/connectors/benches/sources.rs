//! How fast rows are made and read: `cargo bench -p millrace-connectors --bench sources -- FILE`
//! with a plain `flights.csv` (see examples/flight-delays/fetch.sh; unzip it).
//! Beside it the `csv` crate, on nearly the same row type.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench")]

use millrace_connectors::Generator;
use millrace_connectors::file::{FileSink, FileSource};
use millrace_connectors::format::Csv;
use millrace_connectors::rfc3339;
use millrace_engine::connector::{
    DeadLetters, Lane, Next, Reader, Sink, SinkCx, Source, SourceBuffer, SourceCx, Writer,
};
use millrace_engine::data::{Rows, Ts};
use millrace_protocol::ids::{Attempt, Subtask, Uid};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

#[derive(Clone, Deserialize, Serialize)]
struct Flight {
    dep_time: Option<u16>,
    dep_delay: Option<i32>,
    carrier: String,
    tailnum: Option<String>,
    origin: String,
    minute: u8,
    #[serde(with = "rfc3339")]
    time_hour: Ts,
}

/// The same for the csv crate, which knows no other null than the empty field.
#[derive(Deserialize)]
#[allow(dead_code, reason = "only parsed")]
struct Borrowed<'a> {
    dep_time: &'a str,
    dep_delay: &'a str,
    carrier: String,
    tailnum: Option<String>,
    origin: String,
    minute: u8,
    #[serde(with = "rfc3339")]
    time_hour: Ts,
}

struct Fails;

impl DeadLetters for Fails {
    fn put(&self, _: &Uid, origin: &str, offset: u64, reason: &str, _: &[u8]) {
        panic!("{origin} {offset}: {reason}");
    }
}

/// Gives the number of rows.
type Work = Box<dyn FnMut() -> usize>;

/// Runs everything in turns, so that other work on the machine slows all alike.
fn compare(mut works: Vec<(&str, Work)>) {
    let mut taken = vec![Vec::new(); works.len()];
    for _ in 0..15 {
        for ((_, work), taken) in works.iter_mut().zip(&mut taken) {
            let start = Instant::now();
            let rows = work();
            taken.push(start.elapsed().as_secs_f64() * 1e9 / rows as f64);
        }
    }
    for ((what, _), mut taken) in works.into_iter().zip(taken) {
        taken.sort_by(f64::total_cmp);
        println!("{what:25} median {:6.1} ns/row, least {:6.1}", taken[taken.len() / 2], taken[0]);
    }
}

fn drive<S: Source>(mut source: S, mut each: impl FnMut(&mut Vec<S::Out>)) -> usize {
    let cx = SourceCx {
        uid: "flights".into(),
        subtask: Subtask(0),
        parallelism: 1,
        waker: Arc::new(|| ()),
        dead_letters: Arc::new(Fails),
    };
    let mut reader = source.reader(cx).unwrap();
    for split in source.discover(&[]).unwrap() {
        reader.assign(Lane(0), split).unwrap();
    }
    let mut buffer = SourceBuffer::default();
    let mut rows = 0;
    loop {
        let next = reader.poll(&mut buffer.out(1024)).unwrap();
        rows += buffer.values.len();
        each(&mut buffer.values);
        buffer.clear();
        if next == Next::Wait {
            return rows;
        }
    }
}

fn flights(path: &str) -> FileSource<Flight, Csv> {
    FileSource::new(path, Csv::new().null("NA"))
}

fn main() {
    let Some(path) = std::env::args().skip(1).find(|arg| !arg.starts_with('-')) else {
        println!("no file given");
        return;
    };
    let (theirs, ours, both) = (path.clone(), path.clone(), path);
    let theirs = move || {
        let mut reader = csv::Reader::from_path(&theirs).unwrap();
        let headers = reader.byte_headers().unwrap().clone();
        let mut record = csv::ByteRecord::new();
        let mut rows = 0;
        while reader.read_byte_record(&mut record).unwrap() {
            black_box(record.deserialize::<Borrowed<'_>>(Some(&headers)).unwrap());
            rows += 1;
        }
        rows
    };
    let generated = || {
        let source = Generator::new(|i| (i % 1000, i as i64 / 1000, i)).count(20_000_000);
        drive(source, |rows| _ = black_box(&*rows))
    };
    let ours = move || drive(flights(&ours), |rows| _ = black_box(&*rows));
    let both = move || {
        let dir = tempfile::tempdir().unwrap();
        let cx =
            SinkCx { job: "j".into(), uid: "u".into(), attempt: Attempt(1), subtask: Subtask(0) };
        let mut writer = FileSink::<Flight, _>::csv(dir.path()).writer(cx).unwrap();
        let mut batch = Rows::default();
        drive(flights(&both), |rows| {
            batch.ts.resize(rows.len(), 0);
            batch.values.append(rows);
            writer.write(&mut batch).unwrap();
        })
    };
    compare(vec![
        ("Generator, 24 bytes", Box::new(generated)),
        ("csv crate, ByteRecord", Box::new(theirs)),
        ("FileSource", Box::new(ours)),
        ("FileSource, FileSink", Box::new(both)),
    ]);
}
