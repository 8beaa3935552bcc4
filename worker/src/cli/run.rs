//! `run`: the job in this process.

use crate::cli::{FAILED, USER_ERROR};
use clap::Args;
use millrace_connectors::DeadLetterFile;
use millrace_engine::api::env::Env;
use millrace_engine::coordinator::{Outcome, RestoreChoice, StopMode};
use millrace_engine::data::Res;
use millrace_engine::job::{self, Handle, JobError, JobOptions};
use millrace_protocol::keygroup::MaxParallelism;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How the job is run.
#[derive(Args, Clone)]
#[command(next_help_heading = "Options of run")]
pub struct RunOptions {
    /// Subtasks of each operator that says nothing else [default: number of cores]
    #[arg(long)]
    parallelism: Option<u16>,
    /// Directory for checkpoints; without it they are kept only while the job runs
    #[arg(long, value_name = "DIR")]
    storage: Option<PathBuf>,
    /// Time between checkpoints; 0 takes none but the last
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    checkpoint_interval: Duration,
    /// Where to start: `latest` checkpoint, `none` of them, or the PATH of a savepoint
    #[arg(long, value_name = "latest|none|PATH", default_value = "latest")]
    from: String,
    /// Number of key groups, fixed for the life of the job's state
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_parallelism: u32,
    /// Start although the checkpoint holds state that no operator claims (it is dropped)
    #[arg(long)]
    allow_unclaimed_state: bool,
}

/// `10s`, `250ms`, `2h`, `5m`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time such as 10s"))?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 1,
        _ => return Err(format!("{text:?} needs a unit: ms, s, m, h or d")),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text} is too long"))
}

fn program_name() -> String {
    let path = std::env::args().next().unwrap_or_default();
    Path::new(&path).file_stem().map_or("job".to_owned(), |s| s.to_string_lossy().into_owned())
}

fn user_error(message: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(USER_ERROR)
}

/// Runs the job that `build` builds.
pub fn run(options: &RunOptions, build: impl FnOnce(&Env) -> Res) -> ExitCode {
    let env = Env::new();
    if let Err(error) = build(&env) {
        return user_error(error);
    }
    let name = program_name();
    let (storage, scratch) = match &options.storage {
        Some(directory) => (directory.clone(), None),
        None => {
            let directory = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            (directory.clone(), Some(Scratch(directory)))
        }
    };
    let mut job = JobOptions::new(&name, storage.clone());
    if let Some(parallelism) = options.parallelism {
        if parallelism == 0 {
            return user_error("--parallelism must be at least 1");
        }
        job.parallelism = parallelism;
    }
    job.max_parallelism = match MaxParallelism::new(options.max_parallelism) {
        Ok(max) => max,
        Err(error) => return user_error(error),
    };
    job.checkpoints.interval =
        Some(options.checkpoint_interval).filter(|interval| !interval.is_zero());
    job.from = match options.from.as_str() {
        "latest" => RestoreChoice::Latest,
        "none" => RestoreChoice::None,
        path => RestoreChoice::Path(path.to_owned()),
    };
    job.allow_unclaimed_state = options.allow_unclaimed_state;
    match DeadLetterFile::open(&storage, &name) {
        Ok(file) => job.dead_letters = Arc::new(file),
        Err(error) => return user_error(error),
    }
    let handle = Handle::new(env.into_graph());
    if let Err(error) = stop_on_signals(handle.clone()) {
        return user_error(format!("cannot listen for signals: {error}"));
    }
    let outcome = job::run(&handle, job);
    drop(scratch);
    match outcome {
        Ok(Outcome::Finished) => ExitCode::SUCCESS,
        Ok(Outcome::FinishedBefore) => {
            eprintln!(
                "this job has read all its input before; --from none runs it again from the start"
            );
            ExitCode::SUCCESS
        }
        Ok(Outcome::Suspended) => ExitCode::SUCCESS,
        Ok(Outcome::Fenced) => {
            eprintln!("error: another process has taken this job over");
            ExitCode::from(FAILED)
        }
        Ok(Outcome::Refused(why)) | Err(JobError::User(why)) => user_error(why),
        Ok(Outcome::Failed(why)) | Err(JobError::Failed(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(FAILED)
        }
    }
}

/// Storage that goes with the process.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind if it cannot be removed: it is in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The first SIGINT or SIGTERM takes a last checkpoint; the second exits at once.
fn stop_on_signals(handle: Handle) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("millrace-signals".to_owned()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if stopping {
                std::process::exit(128 + signal);
            }
            stopping = true;
            tracing::info!("stopping with a last checkpoint; once more to exit at once");
            handle.stop(StopMode::Suspend);
        }
    })?;
    Ok(())
}
