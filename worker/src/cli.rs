//! The command line that every program has.
//!
//! - `run` runs the job in this process until its input ends, or until Ctrl-C or
//!   SIGTERM, which take a last checkpoint and exit with 0 (a second one exits at once).
//! - `savepoint`, `status` and `stop` ask the process that runs a job.
//! - `inspect` shows what a checkpoint or savepoint holds.
//!
//! Exit codes: 0 done, 1 the job failed, 2 the user must change something. See
//! `docs/command-line.md`.

#[cfg(feature = "cluster")]
mod cluster;
mod home;
mod inspect;
mod logs;
mod options;
mod place;
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
pub use place::Server;

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
    /// Run one process of a job that has several; `run --workers` and Kubernetes start it
    #[cfg(feature = "cluster")]
    Worker {
        #[command(flatten)]
        options: Box<cluster::worker::WorkerOptions>,
    },
    /// Try whether this program can take a job over; starts nothing
    #[cfg(feature = "cluster")]
    Check {
        #[command(flatten)]
        options: Box<cluster::check::CheckOptions>,
    },
    /// Work on the storage of a job that no process runs
    #[cfg(feature = "cluster")]
    Store {
        #[command(flatten)]
        options: Box<cluster::store::StoreOptions>,
    },
    /// Change how many processes and subtasks run a job on this machine
    #[cfg(feature = "cluster")]
    Rescale {
        #[command(flatten)]
        which: savepoint::Which,
        /// Processes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        workers: Option<u16>,
        /// Subtasks of each operator that says nothing else [default: all slots of the workers]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        parallelism: Option<u16>,
    },
    /// Take a savepoint of a job on this machine, running or not, and print its path
    Savepoint {
        #[command(flatten)]
        which: savepoint::Which,
        /// Its name in TARGET; asked twice, it is taken once [default: made of the time]
        #[arg(long)]
        id: Option<String>,
        /// The directory it is made in, or s3://bucket/prefix
        target: String,
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
            #[cfg(feature = "cluster")]
            if let Some(workers) = options.workers {
                return finish(cluster::supervise::supervise(&options, &screen, workers));
            }
            run::run(&options, &screen, |env| build(env, &own))
        }
        #[cfg(feature = "cluster")]
        Command::Worker { options } => {
            logs::start(&screen::Screen::default());
            run_worker(&options, build)
        }
        #[cfg(feature = "cluster")]
        Command::Check { options } => {
            logs::start(&screen::Screen::default());
            cluster::check::revision(&options).and_then(|revision| {
                let own = own_arguments::<A>(&revision.args)?;
                let done = cluster::check::check(&options, &revision, |env| build(env, &own));
                done.map(|said| println!("{said}"))
            })
        }
        #[cfg(feature = "cluster")]
        Command::Store { options } => {
            logs::start(&screen::Screen::default());
            cluster::store::revision(&options).and_then(|revision| {
                let own = own_arguments::<A>(&revision.args)?;
                let done = cluster::store::store(&options, &revision, |env| build(env, &own));
                done.map(|said| println!("{said}"))
            })
        }
        #[cfg(feature = "cluster")]
        Command::Rescale { which, workers, parallelism } => {
            cluster::rescale::rescale(&which, workers, parallelism).map(|how| println!("{how}"))
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
    finish(done)
}

fn finish(done: Result<(), trouble::Trouble>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => trouble.exit(),
    }
}

/// The arguments of a job that are the program's own.
#[cfg(feature = "cluster")]
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Own<A: Args> {
    #[command(flatten)]
    own: A,
}

/// What the arguments of a job mean to its program.
#[cfg(feature = "cluster")]
fn own_arguments<A: Args>(args: &[String]) -> Result<A, trouble::Trouble> {
    Own::<A>::try_parse_from(args).map(|own| own.own).map_err(|error| {
        trouble::Trouble::user(format!("the job's arguments are not this program's: {error}"))
    })
}

#[cfg(feature = "cluster")]
fn run_worker<A: Args + FromArgMatches>(
    options: &cluster::worker::WorkerOptions,
    build: impl FnOnce(&Env, &A) -> Res,
) -> Result<(), trouble::Trouble> {
    use trouble::Trouble;
    let revision = cluster::worker::read_revision(&options.config)?;
    let Some(run) = &options.run_arguments else {
        let own = own_arguments::<A>(&revision.args)?;
        return cluster::worker::worker(options, None, &revision, |env| build(env, &own));
    };
    let mut line = vec![program_name()];
    line.extend(serde_json::from_str::<Vec<String>>(run).map_err(Trouble::user)?);
    match Cli::<A>::try_parse_from(line).map_err(Trouble::user)?.command {
        Command::Run { own, options: run } => {
            cluster::worker::worker(options, Some(&run), &revision, |env| build(env, &own))
        }
        _ => Err(Trouble::user("--run-arguments is the command line of run")),
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
