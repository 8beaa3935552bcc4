//! Numbers the rows of each key, for ever and at a steady rate.
//!
//! Row `i` belongs to key `i % keys`. Whatever happened in between, the output holds for
//! each key the numbers 1, 2, 3 ... once each: a number twice is a row that was counted
//! or committed twice, a gap is one that was lost. So a scenario needs no reference run.

use millrace::prelude::*;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args, Clone)]
struct Options {
    /// Rows a second
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Number of keys
    #[arg(long, default_value_t = 100)]
    keys: u64,
    /// End after this many rows [default: never]
    #[arg(long)]
    rows: Option<u64>,
    /// Splits of the source: the highest parallelism that has work for all
    #[arg(long, default_value_t = 8)]
    splits: u32,
    /// Where to write: a directory or s3://BUCKET/PREFIX
    #[arg(long, value_name = "WHERE")]
    output: String,
    /// Milliseconds until a file of the output is complete, at the next checkpoint
    #[arg(long, default_value_t = 2_000)]
    part_ms: u64,
    /// Uid of the counting operator
    #[arg(long, default_value = "counts")]
    uid: String,
    /// Panic when the dataflow is built: a program that is broken from its start
    #[arg(long)]
    broken: bool,
    /// Fail at the first row: a program that is broken, and only shows it when it runs
    #[arg(long)]
    fails: bool,
}

/// A row of the output.
#[derive(Serialize)]
struct Numbered {
    key: u64,
    number: u64,
}

#[derive(Default, State)]
struct Seen {
    rows: Value<u64>,
}

/// Numbers the rows of a key.
#[derive(Clone)]
struct Number {
    fails: bool,
}

impl KeyedProcess<u64, u64> for Number {
    type Out = Numbered;
    type State = Seen;

    fn process(&mut self, _row: u64, seen: &mut Seen, cx: &mut Cx<'_, u64, Numbered>) -> Res {
        if self.fails {
            return Err("this program was told to fail".into());
        }
        let rows = seen.rows.or_insert(0);
        *rows += 1;
        let number = *rows;
        let key = *cx.key();
        cx.emit(Numbered { key, number });
        Ok(())
    }
}

fn build(env: &Env, options: &Options) -> Res {
    assert!(!options.broken, "this program was told to be broken");
    let keys = options.keys.max(1);
    let mut rows = Generator::new(|i| i).rate(options.rate).splits(options.splits);
    if let Some(count) = options.rows {
        rows = rows.count(count);
    }
    // Some are open over a checkpoint, so that there is more that can be lost.
    let parts = Rolling { max_age: Duration::from_millis(options.part_ms), ..Rolling::default() };
    env.source("rows", rows, Watermarks::none())
        .key_by(move |row| row % keys)
        .process(&options.uid, Number { fails: options.fails })
        .sink("out", FileSink::csv(&options.output).rolling(parts));
    Ok(())
}

fn main() -> ExitCode {
    millrace::main(build)
}
