//! `run`: the job in this process.

use crate::cli::options::RunOptions;
use crate::cli::place::Place;
use crate::cli::progress::{self, Progress};
use crate::cli::screen::Screen;
use crate::cli::server::{Running, serve};
use crate::cli::state::spill;
use crate::cli::trouble::Trouble;
use crate::cli::{program_name, scratch_prefix};
use millrace_connectors::DeadLetterFile;
use millrace_engine::api::env::Env;
use millrace_engine::coordinator::export::find;
use millrace_engine::coordinator::{Outcome, RestoreChoice, StopMode};
use millrace_engine::data::Res;
use millrace_engine::graph::Graph;
use millrace_engine::job::{self, Handle, JobError, JobOptions};
use millrace_engine::store::opener::is_url;
use millrace_engine::store::{Opener, OwnerLock};
use millrace_protocol::head::Owner;
use millrace_protocol::keygroup::MaxParallelism;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs the job that `build` builds.
pub fn run(
    options: &RunOptions,
    screen: &Screen,
    build: impl FnOnce(&Env) -> Res,
) -> Result<(), Trouble> {
    let env = Env::new();
    build(&env).map_err(Trouble::user)?;
    let graph = env.into_graph();
    let name = program_name();
    let scratch = Scratch::new(options, &name);
    let storage = match &options.storage {
        Some(location) => Place::new(location, &options.server),
        None => Place::from(scratch.directory.as_path()),
    };
    let here = storage.here();
    let mut job = JobOptions::new(&name, &storage.location);
    job.opener = Arc::clone(&storage.opener);
    job.parallelism = options.parallelism.unwrap_or(job.parallelism);
    job.max_parallelism = MaxParallelism::new(options.max_parallelism).map_err(Trouble::user)?;
    job.checkpoints = options.checkpoints();
    job.restart = options.restart.clone();
    job.from = origin(&options.from, storage.opener.as_ref())?;
    job.unclaimed = options.unclaimed();
    job.copies = is_url(&storage.location).then(|| here.join("copies"));
    graph.check(job.parallelism, job.max_parallelism).map_err(Trouble::User)?;
    job.spill = spill(&options.state)?;
    // From here on the directory is this process's. Of storage elsewhere it is only known
    // that no other process of this machine has it.
    let lock = OwnerLock::acquire(&here).map_err(Trouble::user)?;
    let letters = options.dead_letters.clone().unwrap_or_else(|| match options.storage {
        Some(_) => here.join("dead-letters"),
        None => scratch.letters.clone(),
    });
    let letters = Arc::new(DeadLetterFile::open(&letters, &name).map_err(Trouble::user)?);
    job.dead_letters = Arc::clone(&letters) as _;
    if options.storage.is_none() {
        tracing::info!(
            directory = %here.display(),
            "state is kept only while the job runs; --storage DIR keeps it"
        );
    }
    let mode = match options.progress {
        progress::Mode::Auto if prints_to_terminal(&graph) => progress::Mode::Never,
        mode => mode,
    };
    let handle = Handle::new(graph);
    let running = Running::new(
        handle.clone(),
        &name,
        options.storage.clone(),
        storage.opener,
        Arc::clone(&letters),
    );
    let running = Arc::new(running);
    let socket = match serve(&running, &here) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "no control socket: savepoint, status and stop cannot reach this job");
            None
        }
    };
    // What a second signal must still clean up.
    let leftovers = Arc::new(Mutex::new(Some((socket, scratch))));
    let failed = |what, error| Trouble::failed(format!("cannot {what}: {error}"));
    stop_on_signals(&running, &leftovers, screen).map_err(|e| failed("listen for signals", e))?;
    let viewed = Arc::clone(&running);
    let progress = Progress::start(mode, screen.clone(), move || viewed.view())
        .map_err(|e| failed("start a thread", e))?;
    let outcome = job::run_owned(&handle, job, Some(lock));
    running.set_over();
    drop(progress);
    let told = tell(outcome);
    running.ended(told.as_ref().map(|how| (*how).to_owned()).map_err(ToString::to_string));
    if letters.count() > 0 {
        let (count, path) = (crate::cli::units::count(letters.count()), letters.path().display());
        tracing::warn!("{count} bad rows: see {path}");
    }
    drop(take(&leftovers));
    told.map(drop)
}

/// What `--from` means. A savepoint's own path is made absolute: it stands in the
/// job's records until the first checkpoint.
pub fn origin(from: &str, opener: &dyn Opener) -> Result<RestoreChoice, Trouble> {
    Ok(match from {
        "latest" => RestoreChoice::Latest,
        "none" => RestoreChoice::None,
        url if is_url(url) => {
            find(opener, url).map_err(Trouble::User)?;
            RestoreChoice::Path(url.to_owned())
        }
        path => {
            let found = Path::new(path).canonicalize().map_err(|error| {
                Trouble::user(format!(
                    "cannot start from {path}: {error}: give latest, none, or the path of a \
                     savepoint"
                ))
            })?;
            // The manifest of a savepoint stands for the savepoint.
            let of_savepoint = found.file_name().is_some_and(|name| name == "_manifest");
            let found = found.parent().filter(|_| of_savepoint).unwrap_or(&found);
            check_name(found, opener)?;
            RestoreChoice::Path(found.display().to_string())
        }
    })
}

/// A savepoint may be moved and copied, but its files are found by its own name.
fn check_name(savepoint: &Path, opener: &dyn Opener) -> Result<(), Trouble> {
    let found = find(opener, &savepoint.display().to_string()).map_err(Trouble::User)?;
    let first = found.manifest.files.first().map(|file| file.key.as_str());
    let own = first.and_then(|key| key.split('/').next()).filter(|_| savepoint.is_dir());
    match own {
        Some(own) if savepoint.file_name().is_none_or(|name| name != own) => {
            Err(Trouble::user(format!(
                "{} was called {own} when it was taken: give it that name again (it may be in \
                 any directory)",
                savepoint.display()
            )))
        }
        _ => Ok(()),
    }
}

/// Says how the job ended, in a word for those who asked it to stop.
pub fn tell(outcome: Result<Outcome, JobError>) -> Result<&'static str, Trouble> {
    let how = match outcome? {
        Outcome::Finished => Ok("finished"),
        Outcome::FinishedBefore => {
            tracing::warn!(
                "this job has read all its input before; --from none runs it again from the start"
            );
            Ok("finished before")
        }
        Outcome::Suspended => Ok("stopped with a last checkpoint"),
        Outcome::Fenced(owner) => Err(Trouble::failed(format!(
            "{} has taken this job over: see what else runs on its storage",
            owner.map_or("another process".to_owned(), |owner| who(&owner))
        ))),
        Outcome::Deleted => Err(Trouble::failed("the data of this job were deleted")),
        Outcome::Superseded(by) => {
            Err(Trouble::TakenOver(format!("{by} goes on from the state of this job")))
        }
        Outcome::Refused(why) => Err(Trouble::User(why)),
        Outcome::EarlierState(why) => Err(Trouble::EarlierState(why)),
        Outcome::StateMissing(why) => Err(Trouble::StateMissing(why)),
        Outcome::Failed(why) => Err(Trouble::Failed(why)),
    }?;
    tracing::info!(how, "the job has ended");
    Ok(how)
}

/// A process that owns a job.
fn who(owner: &Owner) -> String {
    let Owner { pod, process, address } = owner;
    let at = if address.is_empty() { "" } else { ", at " };
    match pod.as_str() {
        "" => format!("process {process}{at}{address}"),
        place => format!("process {process} of {place}{at}{address}"),
    }
}

/// Whether rows go to the terminal that the picture would be drawn on.
fn prints_to_terminal(graph: &Graph) -> bool {
    let prints = |types: &str| types.contains("millrace_connectors::print::Print");
    std::io::stdout().is_terminal() && graph.nodes().iter().any(|node| prints(&node.types))
}

/// Directories that go with the process, in the temporary directory.
pub struct Scratch {
    /// State, where the user gave no storage.
    directory: PathBuf,
    /// Dead letters then; kept if there are any.
    letters: PathBuf,
    used: bool,
}

impl Scratch {
    /// Of a program called `name`.
    pub fn new(options: &RunOptions, name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("{}{}", scratch_prefix(name), std::process::id()));
        let letters = directory.with_extension("dead-letters");
        Self { directory, letters, used: options.storage.is_none() }
    }
}

#[cfg(feature = "cluster")]
impl Scratch {
    /// For the state.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.used {
            return;
        }
        // Left behind if it cannot be removed: it is in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
        let files = std::fs::read_dir(&self.letters).into_iter().flatten().flatten();
        for file in files.filter(|file| file.metadata().is_ok_and(|data| data.len() == 0)) {
            let _ = std::fs::remove_file(file.path());
        }
        let _ = std::fs::remove_dir(&self.letters);
    }
}

fn take<T>(leftovers: &Mutex<Option<T>>) -> Option<T> {
    leftovers.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The first SIGINT or SIGTERM takes a last checkpoint; the second exits at once.
pub fn stop_on_signals<T: Send + 'static>(
    running: &Arc<Running>,
    leftovers: &Arc<Mutex<Option<T>>>,
    screen: &Screen,
) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (running, leftovers, screen) = (Arc::clone(running), Arc::clone(leftovers), screen.clone());
    std::thread::Builder::new().name("millrace-signals".to_owned()).spawn(move || {
        let mut signalled = false;
        for signal in signals.forever() {
            if signalled {
                screen.leave();
                drop(take(&leftovers));
                std::process::exit(128 + signal);
            }
            signalled = true;
            running.stop(StopMode::Suspend);
            tracing::info!("stopping with a last checkpoint; once more to exit at once");
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_fenced_names_the_winner() {
        let owner = |address: &str| Owner {
            pod: "big-host".to_owned(),
            process: 4711,
            address: address.to_owned(),
        };
        let told = |owner| tell(Ok(Outcome::Fenced(owner))).unwrap_err().to_string();
        let why = told(Some(owner("")));
        assert!(why.contains("process 4711 of big-host has taken this job over"), "{why}");
        let why = told(Some(owner("10.0.0.7:7070")));
        assert!(why.contains("process 4711 of big-host, at 10.0.0.7:7070 has"), "{why}");
        assert!(told(None).contains("another process has taken this job over"));
    }
}
