//! A small job for the tests of the command line: copies the rows of files, each once.

use millrace::connectors::file::source::OnError;
use millrace::connectors::format::{Csv, Decode, JsonLines};
use millrace::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args, Clone)]
struct Options {
    /// A file, or a directory of files
    #[arg(long, value_name = "FILE_OR_DIR")]
    input: PathBuf,
    /// Where to write rows
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// The input is JSON lines instead of CSV
    #[arg(long)]
    json: bool,
    /// Fail at a row that cannot be read
    #[arg(long)]
    fail: bool,
    /// Look for new files every so often, in milliseconds
    #[arg(long, value_name = "MILLISECONDS")]
    watch: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    n: u64,
    text: String,
}

fn copy<F: Decode<Row>>(env: &Env, options: &Options, format: F) {
    let mut rows = FileSource::<Row, F>::new(&options.input, format);
    if options.fail {
        rows = rows.on_error(OnError::Fail);
    }
    if let Some(every) = options.watch {
        rows = rows.watch(Duration::from_millis(every));
    }
    // Visible with the next checkpoint.
    let rolling = Rolling { max_age: Duration::ZERO, ..Rolling::default() };
    env.source("rows", rows, Watermarks::none())
        .sink("copy", FileSink::csv(&options.output).rolling(rolling));
}

fn build(env: &Env, options: &Options) -> Res {
    match options.json {
        true => copy(env, options, JsonLines::new()),
        false => copy(env, options, Csv::new()),
    }
    Ok(())
}

fn main() -> ExitCode {
    millrace::main(build)
}
