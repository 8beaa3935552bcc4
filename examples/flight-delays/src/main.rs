//! Delays of flights from New York per airport and hour; see the README beside this.

mod delays;
mod flight;
mod sessions;

use clap::Args;
use delays::Delays;
use flight::Flight;
use millrace::cli::parse_duration;
use millrace::connectors::file::join;
use millrace::connectors::format::Csv;
use millrace::prelude::*;
use sessions::{Airline, Names, Session, Work};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The options of this program.
#[derive(Args, Clone)]
struct Options {
    /// Departures: a CSV file (plain, gzip or zip), or a directory of such files, or either
    /// in S3: s3://bucket/prefix
    /// [default: January 2013, shipped with the example]
    #[arg(long, value_name = "FILE_OR_DIR")]
    input: Option<PathBuf>,
    /// Where to write: delays/, sessions/ and late/ are made in it
    #[arg(long, value_name = "DIR|URL")]
    output: PathBuf,
    /// How far behind the latest departure a row may come before it is late
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = parse_duration)]
    out_of_orderness: Duration,
    /// A pause between an aircraft's departures that ends its session
    #[arg(long, value_name = "TIME", default_value = "12h", value_parser = parse_duration)]
    session_gap: Duration,
    /// Names of the airlines: CSV with the columns carrier and name
    /// [default: shipped with the example]
    #[arg(long, value_name = "FILE")]
    airlines: Option<PathBuf>,
}

/// Rows that came after their window had been written.
const LATE: OutputTag<Flight> = OutputTag::new("late");

const HOUR: Duration = Duration::from_secs(3600);

/// A file that comes with the example: of the checkout it is run in, if by cargo; it may
/// have been built in another that shares its target directory.
fn shipped(name: &str) -> PathBuf {
    let built_in = || env!("CARGO_MANIFEST_DIR").into();
    let example = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built_in);
    PathBuf::from(example).join("data").join(name)
}

fn build(env: &Env, options: &Options) -> Res {
    let input = options.input.clone().unwrap_or_else(|| shipped("flights-2013-01.csv.gz"));
    let flights = env.source(
        "flights",
        FileSource::<Flight, _>::new(input, Csv::new().null("NA")),
        Watermarks::bounded(options.out_of_orderness, Flight::scheduled),
    );

    let delays = flights
        .clone()
        .key_by_ref(|flight| &flight.origin)
        .window(TumblingWindows::of(HOUR))
        .late_to(&LATE)
        .aggregate("delays", Delays, |origin, window, delays| delays.row(origin, window));
    delays.side_output(&LATE).sink("late", FileSink::csv(join(&options.output, "late")));
    delays.sink("delays-out", FileSink::csv(join(&options.output, "delays")));

    let airlines = options.airlines.clone().unwrap_or_else(|| shipped("airlines.csv"));
    let airlines =
        env.source("airlines", FileSource::<Airline, _>::csv(airlines), Watermarks::none());
    flights
        .filter(|flight| flight.tailnum.is_some())
        .key_by(|flight| flight.tailnum.clone().unwrap_or_default())
        .window(SessionWindows::with_gap(options.session_gap))
        .aggregate("sessions", Work, |tailnum, window, work| Session::new(tailnum, window, work))
        .key_by_ref(|session| &session.carrier)
        .connect_broadcast(airlines.broadcast())
        .process("airline-names", Names)
        .sink("sessions-out", FileSink::csv(join(&options.output, "sessions")));
    Ok(())
}

fn main() -> ExitCode {
    millrace::main(build)
}
