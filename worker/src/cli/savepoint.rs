//! `savepoint`, `status` and `stop`: asks the process that runs a job or, where none
//! does, looks into its storage.

use crate::cli::home::{Stored, is_storage};
use crate::cli::render::{Style, render};
use crate::cli::screen;
use crate::cli::socket::{self, Request, Response};
use crate::cli::trouble::Trouble;
use crate::cli::view::View;
use crate::cli::{program_name, scratch_prefix};
use clap::Args;
use millrace_connectors::rfc3339;
use millrace_engine::coordinator::export::{export, find};
use millrace_engine::runtime::source::wall_clock;
use millrace_engine::store::{DirectoryStore, InUse, OwnerLock};
use millrace_protocol::head::Phase;
use millrace_protocol::ids::JobUid;
use millrace_protocol::objects;
use std::io::IsTerminal;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a process that owns the storage may take to answer: it may be starting.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the two looks from which `status` reckons rates.
const GLANCE: Duration = Duration::from_millis(500);

/// Which job.
#[derive(Args, Clone)]
pub struct Which {
    /// The job's storage directory [default: that of the only job of this program
    /// that runs without one]
    #[arg(long, value_name = "DIR")]
    storage: Option<PathBuf>,
}

impl Which {
    /// The storage directory, which some job has used.
    pub fn find(&self) -> Result<PathBuf, Trouble> {
        match &self.storage {
            Some(storage) if is_storage(storage) || socket::connect(storage).is_some() => {
                Ok(storage.clone())
            }
            Some(storage) => Err(Trouble::user(format!(
                "{} is not the storage of a job: give the directory that its `run --storage` had",
                storage.display()
            ))),
            None => {
                let prefix = scratch_prefix(&program_name());
                let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten();
                let named = entries.flatten().filter(|entry| {
                    entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix))
                });
                let mut live = named.map(|entry| entry.path()).filter(|path| {
                    // Only what runs: the rest was left by a killed process.
                    socket::connect(path).is_some()
                });
                match (live.next(), live.next()) {
                    (Some(only), None) => Ok(only),
                    (None, _) => Err(Trouble::user(
                        "no job of this program runs without a storage directory: give --storage",
                    )),
                    (Some(_), Some(_)) => Err(Trouble::user(
                        "several jobs of this program run without a storage directory: give one \
                         of those that the logs name as --storage",
                    )),
                }
            }
        }
    }
}

/// The savepoint `target/id`, if it is there.
pub fn existing(id: &str, target: &Path, job: Option<&JobUid>) -> Result<Option<String>, String> {
    objects::savepoint_manifest(id).map_err(|error| error.to_string())?;
    let path = target.join(id);
    if !path.join("_manifest").exists() {
        return Ok(None);
    }
    let found = find(&path.display().to_string())?.manifest;
    match job {
        Some(job) if *job != found.job => Err(format!(
            "{} is a savepoint of job {}: choose another id or another directory",
            path.display(),
            found.job
        )),
        _ => Ok(Some(path.display().to_string())),
    }
}

/// Takes a savepoint, and answers with its path.
pub fn savepoint(which: &Which, id: Option<&str>, target: &Path) -> Result<String, Trouble> {
    let storage = which.find()?;
    let target = std::path::absolute(target)
        .map_err(|e| Trouble::user(format!("cannot use {}: {e}", target.display())))?;
    // Before the job is asked, which would try for long.
    std::fs::create_dir_all(&target)
        .map_err(|e| Trouble::user(format!("cannot make {}: {e}", target.display())))?;
    let id = id.map_or_else(fresh_id, str::to_owned);
    match owner(&storage)? {
        Owner::Other(stream) => {
            let target = target.display().to_string();
            match socket::ask(stream, &Request::Savepoint { id, target })? {
                Response::Savepoint(path) => Ok(path),
                other => Err(unexpected(other)),
            }
        }
        Owner::Me(lock) => {
            let exported = export_latest(&storage, &id, &target);
            drop(lock);
            exported
        }
    }
}

fn fresh_id() -> String {
    let now = rfc3339::format(wall_clock()).to_string();
    let digits = now.chars().filter(char::is_ascii_alphanumeric);
    format!("savepoint-{}", digits.collect::<String>())
}

fn unexpected(response: Response) -> Trouble {
    match response {
        Response::Failed(why) => Trouble::Failed(why),
        Response::Refused(why) => Trouble::User(why),
        _ => Trouble::failed("the job's process gave another answer than was asked for"),
    }
}

/// Who has a storage directory.
enum Owner {
    /// A process, which answers.
    Other(UnixStream),
    /// Nobody had it; this process has it now.
    Me(OwnerLock),
}

fn owner(storage: &Path) -> Result<Owner, Trouble> {
    let begun = Instant::now();
    loop {
        if let Some(stream) = socket::connect(storage) {
            return Ok(Owner::Other(stream));
        }
        match OwnerLock::acquire(storage) {
            Ok(lock) => return Ok(Owner::Me(lock)),
            Err(InUse::Process { owner, .. }) if begun.elapsed() > PATIENCE => {
                return Err(Trouble::failed(format!(
                    "{} is in use by process {owner}, which does not answer: ask again, or stop it",
                    storage.display()
                )));
            }
            // It is starting, or ending.
            Err(InUse::Process { .. }) => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(Trouble::user(error)),
        }
    }
}

/// Exports the latest checkpoint of a job that does not run.
fn export_latest(storage: &Path, id: &str, target: &Path) -> Result<String, Trouble> {
    let stored = Stored::read(storage)?;
    let shown = storage.display();
    let Some(head) = &stored.head else {
        return Err(Trouble::user(format!("the job in {shown} has never run: run it first")));
    };
    if let Some(path) = existing(id, target, Some(&head.job)).map_err(Trouble::User)? {
        return Ok(path);
    }
    let Some(latest) = &head.latest else {
        return Err(Trouble::user(format!(
            "the job in {shown} has no complete checkpoint: run it until it has one"
        )));
    };
    if latest.pending > 0 {
        return Err(Trouble::user(format!(
            "checkpoint {} in {shown} holds output that is not committed yet: run the job once, \
             which commits it (and stop it again if need be), then ask again",
            latest.checkpoint
        )));
    }
    let manifest = stored.manifest(latest)?;
    let to = DirectoryStore::open(target).map_err(Trouble::user)?;
    let home = stored.store()?;
    export(&home, &to, id, &manifest).map_err(|error| {
        Trouble::failed(format!("cannot export checkpoint {}: {error}", latest.checkpoint))
    })?;
    Ok(target.join(id).display().to_string())
}

/// Stops the job with a last checkpoint, and waits until it has ended.
pub fn stop(which: &Which, drain: bool) -> Result<String, Trouble> {
    let storage = which.find()?;
    match owner(&storage)? {
        Owner::Other(stream) => match socket::ask(stream, &Request::Stop { drain })? {
            Response::Stopped(how) => Ok(how),
            other => Err(unexpected(other)),
        },
        Owner::Me(lock) => {
            let head = Stored::read(&storage)?.head;
            drop(lock);
            let phase = head.map_or("it has never run", |head| ended(head.phase));
            Ok(format!("no process runs the job; {phase}"))
        }
    }
}

/// What the phase of a job means that no process runs.
fn ended(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "its process ended without a last checkpoint",
        Phase::Stopping(_) => "its last checkpoint is taken and its output not all committed",
        Phase::Suspended => "it is stopped, and goes on when it is run",
        Phase::Failed => "it has failed, and is tried again when it is run",
        Phase::Finished => "it has finished",
        Phase::Moved => "it went on in another storage",
        Phase::Deleted => "it was deleted",
    }
}

/// How the job on a storage directory is doing; `None`: nobody answers.
pub fn look(storage: &Path) -> Result<Option<View>, Trouble> {
    let Some(stream) = socket::connect(storage) else { return Ok(None) };
    match socket::ask(stream, &Request::Status)? {
        Response::Status(view) => Ok(Some(*view)),
        other => Err(unexpected(other)),
    }
}

/// Prints how the job is doing.
pub fn status(which: &Which, json: bool) -> Result<(), Trouble> {
    let storage = which.find()?;
    let look = || look(&storage);
    let Some(view) = look()? else { return offline_status(&storage, json) };
    if json {
        let text = serde_json::to_string_pretty(&view).map_err(Trouble::failed)?;
        println!("{text}");
        return Ok(());
    }
    std::thread::sleep(GLANCE);
    // It may have ended in between.
    let (before, now) = match look() {
        Ok(Some(now)) => (Some(view), now),
        _ => (None, view),
    };
    let terminal = std::io::stdout().is_terminal();
    let columns = screen::size().filter(|_| terminal).map_or(160, |(columns, _)| columns);
    let style = Style { width: columns, colour: terminal && screen::wants_colour() };
    println!("process {}, storage {}", now.process, storage.display());
    for line in render(&now, before.as_ref(), style) {
        println!("{line}");
    }
    Ok(())
}

fn offline_status(storage: &Path, json: bool) -> Result<(), Trouble> {
    let head = Stored::read(storage)?.head;
    if json {
        let state = serde_json::json!({
            "state": "none",
            "storage": storage.display().to_string(),
            "head": head,
        });
        println!("{state:#}");
        return Ok(());
    }
    println!("no process runs the job in {}", storage.display());
    let Some(head) = head else { return Ok(()) };
    println!("{} (job {}, attempt {})", ended(head.phase), head.job, head.attempt);
    if let Some(cause) = &head.cause {
        println!("cause: {cause}");
    }
    match &head.latest {
        Some(latest) => println!("latest checkpoint: {}", latest.checkpoint),
        None => println!("no complete checkpoint"),
    }
    Ok(())
}
