//! A small job for the tests of the command line: counts generated rows by key and
//! window.

use millrace::prelude::*;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args, Clone)]
struct Options {
    /// Rows to count
    #[arg(long, default_value_t = 20_000)]
    rows: u64,
    /// Rows a second
    #[arg(long)]
    rate: Option<u64>,
    /// Where to write counts
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Uid of the counting operator
    #[arg(long, default_value = "counts")]
    uid: String,
    /// Wait for half a minute at this row, and say so in a file `OUTPUT/stalled`
    #[arg(long)]
    stall_at: Option<u64>,
    /// Panic at this row
    #[arg(long)]
    panic_at: Option<u64>,
}

#[derive(Serialize)]
struct Row {
    key: u64,
    window: Ts,
    count: u64,
}

fn build(env: &Env, options: &Options) -> Res {
    let mut rows = Generator::new(|i| i).count(options.rows).splits(4);
    if let Some(rate) = options.rate {
        rows = rows.rate(rate);
    }
    let (panic_at, stall_at) = (options.panic_at, options.stall_at);
    let stalled = options.output.join("stalled");
    let on_time = Watermarks::bounded(Duration::from_millis(10), |row: &u64| *row as Ts);
    env.source("rows", rows, on_time)
        .map(move |row| {
            assert!(Some(row) != panic_at, "row {row} is not to be counted");
            if Some(row) == stall_at {
                let _ = std::fs::write(&stalled, "");
                std::thread::sleep(Duration::from_secs(30));
            }
            row
        })
        .key_by(|row| row % 10)
        .window(TumblingWindows::of(Duration::from_millis(100)))
        .aggregate(&options.uid, Count, |key, window, count| Row {
            key: *key,
            window: window.start,
            count,
        })
        .sink("out", FileSink::csv(&options.output));
    Ok(())
}

fn main() -> ExitCode {
    millrace::main(build)
}
