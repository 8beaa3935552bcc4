//! The command line that every program has.
//!
//! `run` runs the job in this process until its input ends, or until Ctrl-C or SIGTERM,
//! which take a last checkpoint and exit with 0 (a second one exits at once).
//!
//! Exit codes: 0 done, 1 the job failed, 2 the user must change something.

mod logs;
mod run;

pub use run::parse_duration;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use millrace_engine::api::env::Env;
use millrace_engine::data::Res;
use std::process::ExitCode;

/// The job's mistakes, as opposed to its user's.
pub const FAILED: u8 = 1;
/// What only the user can mend.
pub const USER_ERROR: u8 = 2;

#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli<A: Args> {
    #[command(subcommand)]
    command: Command<A>,
}

#[derive(Subcommand)]
enum Command<A: Args> {
    /// Run the job in this process
    Run {
        #[command(flatten)]
        own: A,
        #[command(flatten)]
        options: run::RunOptions,
    },
}

/// A program's main function: parses the command line, builds the dataflow with `build`
/// and does what was asked.
pub fn main<A: Args + FromArgMatches>(build: impl FnOnce(&Env, &A) -> Res) -> ExitCode {
    let cli = Cli::<A>::parse();
    match cli.command {
        Command::Run { own, options } => {
            logs::start();
            run::run(&options, |env| build(env, &own))
        }
    }
}
