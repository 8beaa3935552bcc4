//! `millrace-bench`: each row of the table in README.md, ours beside what it is
//! compared with, in one run. See README.md for how to read it.

mod engine;
mod events;
mod exchange;
mod flink;
mod machine;
mod measure;
mod plain;
mod report;
mod rows;

use anyhow::{Context, Result, bail};
use std::process::ExitCode;

const USAGE: &str = "usage: millrace-bench [OPTION...] [ROW...]
  --runs N       measured runs a figure, of which the median counts (5)
  --scale X      multiplies the number of rows, to try something quickly (1.0)
  --flink FILE   also compare with what flink/run.sh wrote to FILE
  --no-machine   leave out what the machine itself can do
  --check        exit 1 if a target is missed
rows: all unless named";

struct Options {
    runs: measure::Runs,
    flink: flink::Flink,
    machine: bool,
    check: bool,
    rows: Vec<&'static rows::Row>,
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        runs: measure::Runs { count: 5, scale: 1.0 },
        flink: flink::Flink::default(),
        machine: true,
        check: false,
        rows: Vec::new(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--runs" => options.runs.count = value()?.parse().context("--runs")?,
            "--scale" => options.runs.scale = value()?.parse().context("--scale")?,
            "--flink" => {
                let path = value()?;
                let text = std::fs::read_to_string(&path).with_context(|| path)?;
                options.flink = flink::Flink::parse(&text)?;
            }
            "--no-machine" => options.machine = false,
            "--check" => options.check = true,
            name => match rows::ROWS.iter().find(|row| row.name == name) {
                Some(row) => options.rows.push(row),
                None => {
                    let names: Vec<&str> = rows::ROWS.iter().map(|row| row.name).collect();
                    bail!("no row or option {name}\n{USAGE}: {}", names.join(" "));
                }
            },
        }
    }
    if options.rows.is_empty() {
        options.rows = rows::ROWS.iter().collect();
    }
    Ok(options)
}

fn run(options: &Options) -> Result<ExitCode> {
    let mut measured = Vec::new();
    for row in &options.rows {
        eprintln!("{} ...", row.name);
        measured.extend((row.measure)(options.runs, &options.flink).context(row.name)?);
    }
    println!("{}", report::markdown(&measured));
    if options.machine {
        eprintln!("the machine ...");
        println!("{}", report::machine(&machine::measure(options.runs)?));
    }
    let missed = measured.iter().any(|row| row.reached() == Some(false));
    Ok(if options.check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == engine::apart::FLAG).is_some() {
        return engine::apart::main(args).map_or_else(
            |error| {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let options = match options(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    run(&options).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
