//! The January flights, read by our source and written by our sink, give the
//! oracle's figures as text: numbers and times are written the same in both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use millrace_connectors::file::{FileSink, FileSource};
use millrace_connectors::format::Csv;
use millrace_connectors::rfc3339;
use millrace_engine::connector::{
    Committed, Committer, DeadLetters, Lane, Next, Reader, Sink, SinkCx, Source, SourceBuffer,
    SourceCx, Writer,
};
use millrace_engine::data::{Rows, Ts};
use millrace_protocol::ids::{Attempt, Subtask, Uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HOUR_MS: i64 = 3_600_000;

#[derive(Debug, Deserialize)]
struct Flight {
    dep_delay: Option<i64>,
    dep_time: Option<u16>,
    origin: String,
    minute: i64,
    #[serde(with = "rfc3339")]
    time_hour: Ts,
}

#[derive(Debug, Serialize)]
struct Delays {
    origin: String,
    #[serde(with = "rfc3339")]
    window_start: Ts,
    #[serde(with = "rfc3339")]
    window_end: Ts,
    flights: u64,
    cancelled: u64,
    mean_dep_delay: Option<f64>,
    max_dep_delay: Option<i64>,
}

struct Fails;

impl DeadLetters for Fails {
    fn put(&self, _: &Uid, origin: &str, offset: u64, reason: &str, raw: &[u8]) {
        panic!("{origin} {offset}: {reason}: {raw:?}");
    }
}

fn example() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../examples/flight-delays")
}

fn flights(path: &Path) -> Vec<Flight> {
    let mut source = FileSource::new(path, Csv::new().null("NA"));
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
    while reader.poll(&mut buffer.out(usize::MAX)).unwrap() == Next::More {}
    buffer.values
}

#[test]
fn the_january_windows_are_the_oracles_as_text() {
    let flights = flights(&example().join("data/flights-2013-01.csv.gz"));
    assert_eq!(flights.len(), 27_004);
    let mut windows: BTreeMap<(String, Ts), Vec<Flight>> = BTreeMap::new();
    for flight in flights {
        let ts = flight.time_hour + flight.minute * 60_000;
        let window = (flight.origin.clone(), ts - ts.rem_euclid(HOUR_MS));
        windows.entry(window).or_default().push(flight);
    }
    let mut rows = Rows::default();
    for ((origin, window_start), flights) in windows {
        let delays: Vec<i64> =
            flights.iter().filter(|f| f.dep_time.is_some()).filter_map(|f| f.dep_delay).collect();
        let mean = delays.iter().sum::<i64>() as f64 / delays.len() as f64;
        let row = Delays {
            origin,
            window_start,
            window_end: window_start + HOUR_MS,
            flights: flights.len() as u64,
            cancelled: (flights.len() - delays.len()) as u64,
            mean_dep_delay: (!delays.is_empty()).then_some(mean),
            max_dep_delay: delays.iter().max().copied(),
        };
        rows.push(window_start, row);
    }

    let dir = tempfile::tempdir().unwrap();
    let sink = FileSink::csv(dir.path());
    let cx = SinkCx {
        job: "january".into(),
        uid: "delays".into(),
        attempt: Attempt(1),
        subtask: Subtask(0),
    };
    let mut writer = Sink::<Delays>::writer(&sink, cx.clone()).unwrap();
    writer.write(&mut rows).unwrap();
    let prepared = writer.prepare(true).unwrap()().unwrap();
    assert_eq!(prepared.commit.len(), 1);
    let mut committer = Sink::<Delays>::committer(&sink, &cx.job, &cx.uid).unwrap();
    assert_eq!(committer.commit(&prepared.commit[0]).unwrap(), Committed::Done);

    let written = fs::read_to_string(dir.path().join(&prepared.commit[0].target)).unwrap();
    let golden = fs::read_to_string(example().join("oracle/golden/delays-2013-01.csv")).unwrap();
    let differ = written.lines().zip(golden.lines()).find(|(ours, theirs)| ours != theirs);
    assert_eq!(differ, None);
    assert!(written == golden, "one has more lines");
}
