//! Splits that have nothing, or that nobody has come to yet, in running jobs.

use crate::common::{assert_same, multiset, options, run_watched, until};
use millrace::connectors::file::FileSource;
use millrace::connectors::{Blackhole, Collected, Generator};
use millrace::engine::api::window::{Count, TumblingWindows};
use millrace::engine::connector::{Lane, Next, Reader, Source, SourceCx, SourceOut, Split};
use millrace::engine::coordinator::Outcome;
use millrace::engine::job::Handle;
use millrace::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    at: i64,
}

const FILES: u64 = 7;
const ROWS: i64 = 2_000;
const WINDOW: i64 = 100;

/// A reader takes its files one after the other, much more slowly than splits become idle.
#[test]
fn files_that_wait_for_others_to_be_read_do_not_become_late() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    fs::create_dir_all(&input).unwrap();
    for file in 0..FILES {
        let rows: String = (0..ROWS).map(|at| format!("{{\"at\":{at}}}\n")).collect();
        fs::write(input.join(format!("{file}.jsonl")), rows).unwrap();
    }
    let out = Collected::new();
    let env = Env::new();
    let times = Watermarks::monotonous(|row: &Row| row.at).idle_after(Duration::from_millis(1));
    env.source("files", FileSource::json_lines(&input), times)
        .map(|row: Row| {
            if row.at % 100 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            row
        })
        .key_by(|_| 0u64)
        .window(TumblingWindows::of(Duration::from_millis(WINDOW as u64)))
        .aggregate("count", Count, |_, w, n| (w.start, n))
        .sink("out", out.sink());
    let handle = Handle::new(env.into_graph());
    let outcome = run_watched(&handle, options(&dir.path().join("state"), 2)).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let late: u64 = handle.status().nodes.iter().map(|n| n.late_dropped).sum();
    assert_eq!(late, 0);
    let windows = (0..ROWS).step_by(WINDOW as usize).map(|w| (w, FILES * WINDOW as u64));
    assert_same(&multiset(out.rows()), &multiset(windows), "windows");
}

/// One row, and then nothing for an hour.
#[derive(Clone)]
struct Seldom;

#[derive(Clone, Serialize, Deserialize)]
struct Said(bool);

impl Split for Said {
    fn id(&self) -> String {
        "only".to_owned()
    }
}

struct SeldomReader(Option<(Lane, Said)>);

impl Source for Seldom {
    type Out = u64;
    type Split = Said;
    type Reader = SeldomReader;

    fn discover(&mut self, _: &[Said]) -> Res<Vec<Said>> {
        Ok(vec![Said(false)])
    }

    fn reader(&self, _: SourceCx) -> Res<SeldomReader> {
        Ok(SeldomReader(None))
    }
}

impl Reader<u64, Said> for SeldomReader {
    fn assign(&mut self, lane: Lane, split: Said) -> Res {
        self.0 = Some((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, u64>) -> Res<Next> {
        if let Some((lane, said)) = self.0.as_mut().filter(|(_, said)| !said.0) {
            said.0 = true;
            out.emit(*lane, 0);
        }
        Ok(Next::Until(Instant::now() + Duration::from_secs(3600)))
    }

    fn positions(&mut self) -> Res<Vec<(Lane, Said)>> {
        Ok(self.0.iter().cloned().collect())
    }
}

/// It is looked at when it may be idle, and not only when its next row comes.
#[test]
fn a_split_whose_next_row_is_far_off_becomes_idle_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::new();
    let times = Watermarks::monotonous(|i: &u64| *i as i64).idle_after(Duration::from_millis(50));
    let busy = env.source("busy", Generator::new(|i| i).rate(10_000), times.clone());
    env.source("seldom", Seldom, times)
        .union(vec![busy])
        .key_by(|_| 0u64)
        .window(TumblingWindows::of(Duration::from_millis(WINDOW as u64)))
        .aggregate("count", Count, |_, _, n| n)
        .rebalance()
        .name("fired")
        .sink("out", Blackhole);
    let handle = Handle::new(env.into_graph());
    let stopper = handle.clone();
    let thread = std::thread::spawn(move || {
        until(&stopper, "fired", 3);
        stopper.cancel();
    });
    let mut options = options(dir.path(), 1);
    // A barrier would wake the reader.
    options.checkpoints.interval = None;
    run_watched(&handle, options).unwrap();
    thread.join().unwrap();
    let fired: u64 =
        handle.status().nodes.iter().filter(|n| n.name == "fired").map(|n| n.rows_in).sum();
    assert!(fired >= 3, "the watermark stood still");
}
