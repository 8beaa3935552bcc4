//! The command line that every program has.
//!
//! - `run` runs the job in this process until its input ends, or until Ctrl-C or
//!   SIGTERM, which take a last checkpoint and exit with 0 (a second one exits at once).
//! - `savepoint`, `status` and `stop` ask the process that runs a job.
//! - `inspect` shows what a checkpoint or savepoint holds.
//!
//! Exit codes: 0 done, 1 the job failed, 2 the user must change something. See
//! `docs/command-line.md`.

mod home;
mod inspect;
mod logs;
mod options;
mod progress;
mod render;
mod run;
mod savepoint;
mod screen;
mod server;
mod socket;
mod state;
mod trouble;
mod units;
mod view;

pub use options::{RunOptions, parse_duration, parse_restart};

use clap::{Args, FromArgMatches, Parser, Subcommand};
use millrace_engine::api::env::Env;
use millrace_engine::data::Res;
use std::path::{Path, PathBuf};
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
        own: Box<A>,
        #[command(flatten)]
        options: Box<RunOptions>,
    },
    /// Take a savepoint of a job on this machine, running or not, and print its path
    Savepoint {
        #[command(flatten)]
        which: savepoint::Which,
        /// Its name in TARGET; asked twice, it is taken once [default: made of the time]
        #[arg(long)]
        id: Option<String>,
        /// The directory it is made in
        target: PathBuf,
    },
    /// Show how a job on this machine is doing
    Status {
        #[command(flatten)]
        which: savepoint::Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop a job on this machine with a last checkpoint
    Stop {
        #[command(flatten)]
        which: savepoint::Which,
        /// Fire all windows and finish, as at the end of the input
        #[arg(long)]
        drain: bool,
    },
    /// Show what a checkpoint or savepoint holds
    Inspect {
        /// A storage directory, a savepoint, or a manifest
        path: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Read only the ends of state files, and leave their blocks unchecked
        #[arg(long)]
        quick: bool,
    },
}

/// A program's main function: parses the command line, builds the dataflow with `build`
/// and does what was asked.
pub fn main<A: Args + FromArgMatches>(build: impl FnOnce(&Env, &A) -> Res) -> ExitCode {
    let done = match Cli::<A>::parse().command {
        Command::Run { own, options } => {
            let screen = screen::Screen::default();
            logs::start(&screen);
            run::run(&options, &screen, |env| build(env, &own))
        }
        Command::Savepoint { which, id, target } => {
            savepoint::savepoint(&which, id.as_deref(), &target).map(|path| println!("{path}"))
        }
        Command::Status { which, json } => savepoint::status(&which, json),
        Command::Stop { which, drain } => {
            savepoint::stop(&which, drain).map(|how| println!("{how}"))
        }
        Command::Inspect { path, json, quick } => inspect::inspect(&path, json, quick),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => trouble.exit(),
    }
}

fn program_name() -> String {
    let path = std::env::args().next().unwrap_or_default();
    Path::new(&path).file_stem().map_or("job".to_owned(), |s| s.to_string_lossy().into_owned())
}

/// How the temporary storage of this program's jobs begins; their process id follows.
fn scratch_prefix(name: &str) -> String {
    format!("millrace-{name}-")
}
