//! Delays of flights from New York per airport and hour; see the README beside this.

mod delays;
mod flight;

use clap::Args;
use delays::Delays;
use flight::Flight;
use millrace::cli::parse_duration;
use millrace::connectors::format::Csv;
use millrace::prelude::*;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The options of this program.
#[derive(Args, Clone)]
struct Options {
    /// Departures: a CSV file (plain, gzip or zip), or a directory of such files
    /// [default: January 2013, shipped with the example]
    #[arg(long, value_name = "FILE_OR_DIR")]
    input: Option<PathBuf>,
    /// Where to write: delays/, sessions/ and late/ are made in it
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// How far behind the latest departure a row may come before it is late
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = parse_duration)]
    out_of_orderness: Duration,
}

/// Rows that came after their window had been written.
const LATE: OutputTag<Flight> = OutputTag::new("late");

const HOUR: Duration = Duration::from_secs(3600);

fn build(env: &Env, options: &Options) -> Res {
    let shipped =
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-2013-01.csv.gz"));
    let input = options.input.clone().unwrap_or_else(shipped);
    let flights = env.source(
        "flights",
        FileSource::<Flight, _>::new(input, Csv::new().null("NA")),
        Watermarks::bounded(options.out_of_orderness, Flight::scheduled),
    );
    let delays = flights
        .key_by_ref(|flight| &flight.origin)
        .window(TumblingWindows::of(HOUR))
        .late_to(&LATE)
        .aggregate("delays", Delays, |origin, window, delays| delays.row(origin, window));
    delays.side_output(&LATE).sink("late", FileSink::csv(options.output.join("late")));
    delays.sink("delays-out", FileSink::csv(options.output.join("delays")));
    Ok(())
}

fn main() -> ExitCode {
    millrace::main(build)
}
