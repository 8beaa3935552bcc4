//! `savepoint`, `status` and `stop`: asks the process that runs a job or, where none
//! does, looks into its storage.

use crate::cli::home::{Stored, is_storage};
use crate::cli::place::{Place, Server};
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
use millrace_engine::store::opener::join;
use millrace_engine::store::{Access, InUse, OwnerLock};
use millrace_protocol::head::Phase;
use millrace_protocol::ids::JobUid;
use millrace_protocol::objects;
use std::io::IsTerminal;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a process that owns the storage may take to answer: it may be starting.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the two looks from which `status` reckons rates.
const GLANCE: Duration = Duration::from_millis(500);

/// Which job.
#[derive(Args, Clone)]
pub struct Which {
    /// The job's storage, a directory or s3://bucket/prefix [default: that of the only job
    /// of this program that runs without one]
    #[arg(long, value_name = "DIR|URL")]
    storage: Option<String>,
    #[command(flatten)]
    server: Server,
}

impl Which {
    /// The storage, which some job has used.
    pub fn find(&self) -> Result<Place, Trouble> {
        match &self.storage {
            Some(storage) => {
                let place = Place::new(storage, &self.server);
                if socket::connect(&place.here()).is_some() || is_storage(&place)? {
                    return Ok(place);
                }
                Err(Trouble::user(format!(
                    "{storage} is not the storage of a job: give the directory that its `run \
                     --storage` had"
                )))
            }
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
                    (Some(only), None) => Ok(Place::from(only.as_path())),
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
pub fn existing(id: &str, target: &Place, job: Option<&JobUid>) -> Result<Option<String>, String> {
    let manifest = objects::savepoint_manifest(id).map_err(|error| error.to_string())?;
    let store = target.open(Access::Read).map_err(|error| error.to_string())?;
    if store.size(&manifest).map_err(|error| error.to_string())?.is_none() {
        return Ok(None);
    }
    let path = join(&target.location, id);
    let found = find(target.opener.as_ref(), &path)?.manifest;
    match job {
        Some(job) if *job != found.job => Err(format!(
            "{path} is a savepoint of job {}: choose another id or another directory",
            found.job
        )),
        _ => Ok(Some(path)),
    }
}

/// Takes a savepoint, and answers with its path.
pub fn savepoint(which: &Which, id: Option<&str>, target: &str) -> Result<String, Trouble> {
    let storage = which.find()?;
    let target = Place::new(target, &which.server).absolute()?;
    // Before the job is asked, which would try for long.
    target.open(Access::Write).map_err(Trouble::user)?;
    let id = id.map_or_else(fresh_id, str::to_owned);
    match owner(&storage)? {
        Owner::Other(stream) => {
            let target = target.location;
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

fn owner(storage: &Place) -> Result<Owner, Trouble> {
    let here = storage.here();
    let begun = Instant::now();
    loop {
        if let Some(stream) = socket::connect(&here) {
            return Ok(Owner::Other(stream));
        }
        match OwnerLock::acquire(&here) {
            Ok(lock) => return Ok(Owner::Me(lock)),
            Err(InUse::Process { owner, .. }) if begun.elapsed() > PATIENCE => {
                return Err(Trouble::failed(format!(
                    "{} is in use by process {owner}, which does not answer: ask again, or stop it",
                    storage.location
                )));
            }
            // It is starting, or ending.
            Err(InUse::Process { .. }) => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(Trouble::user(error)),
        }
    }
}

/// Exports the latest checkpoint of a job that does not run.
pub fn export_latest(storage: &Place, id: &str, target: &Place) -> Result<String, Trouble> {
    let stored = Stored::read(storage)?;
    let shown = &storage.location;
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
    let to = target.open(Access::Write).map_err(Trouble::user)?;
    export(stored.store(), to.as_ref(), id, &manifest).map_err(|error| {
        Trouble::failed(format!("cannot export checkpoint {}: {error}", latest.checkpoint))
    })?;
    Ok(join(&target.location, id))
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
pub fn look(storage: &std::path::Path) -> Result<Option<View>, Trouble> {
    let Some(stream) = socket::connect(storage) else { return Ok(None) };
    match socket::ask(stream, &Request::Status)? {
        Response::Status(view) => Ok(Some(*view)),
        other => Err(unexpected(other)),
    }
}

/// Prints how the job is doing.
pub fn status(which: &Which, json: bool) -> Result<(), Trouble> {
    let storage = which.find()?;
    let look = || look(&storage.here());
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
    println!("process {}, storage {}", now.process, storage.location);
    for line in render(&now, before.as_ref(), style) {
        println!("{line}");
    }
    Ok(())
}

fn offline_status(storage: &Place, json: bool) -> Result<(), Trouble> {
    let head = Stored::read(storage)?.head;
    if json {
        let state = serde_json::json!({
            "state": "none",
            "storage": &storage.location,
            "head": head,
        });
        println!("{state:#}");
        return Ok(());
    }
    println!("no process runs the job in {}", storage.location);
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
