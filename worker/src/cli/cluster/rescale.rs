//! `rescale`: another parallelism for a job that `run --workers` runs here.

use crate::cli::cluster::files::{Files, replace};
use crate::cli::savepoint::{Which, look};
use crate::cli::trouble::Trouble;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the new attempt may take to run before this command stops waiting for it.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Writes what the job should be, and waits until it is.
pub fn rescale(
    which: &Which,
    workers: Option<u16>,
    parallelism: Option<u16>,
) -> Result<String, Trouble> {
    let storage = which.find()?.here();
    let files = Files::of(&storage);
    let mut live = files.read_live()?;
    let revision = read_revision(&files.revision())?;
    let slots = revision.slots_per_worker;
    let (workers, parallelism) = match (workers, parallelism) {
        (Some(workers), None) => (workers, workers.saturating_mul(slots)),
        (Some(workers), Some(parallelism)) => (workers, parallelism),
        (None, Some(parallelism)) => (parallelism.div_ceil(slots.max(1)), parallelism),
        (None, None) => return Err(Trouble::user("give --workers, --parallelism, or both")),
    };
    if u32::from(parallelism) > u32::from(workers) * u32::from(slots) {
        return Err(Trouble::user(format!(
            "{workers} workers of {slots} slots cannot run a parallelism of {parallelism}: give \
             more --workers or a lower --parallelism"
        )));
    }
    if u32::from(parallelism) > revision.max_parallelism {
        return Err(Trouble::user(format!(
            "a parallelism of {parallelism} is above the job's max parallelism, {}: give a lower \
             one, or begin a new job with a higher --max-parallelism",
            revision.max_parallelism
        )));
    }
    live.generation += 1;
    live.workers = workers;
    live.parallelism = parallelism;
    let bytes = live.encode().map_err(Trouble::failed)?;
    replace(&files.live(), &bytes).map_err(|error| {
        Trouble::user(format!("cannot write {}: {error}", files.live().display()))
    })?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        // Between two processes that lead, nobody answers.
        let generation = look(&storage).ok().flatten().and_then(|view| view.generation);
        if generation.is_some_and(|generation| generation >= live.generation) {
            return Ok(format!("parallelism {parallelism} on {workers} workers"));
        }
        if files.read_live().is_err() {
            return Err(Trouble::failed("the job ended before it was rescaled"));
        }
        std::thread::sleep(POLL);
    }
    Err(Trouble::failed(format!(
        "the job does not run with parallelism {parallelism} after {PATIENCE:?}: see its log and \
         `status`; it still will when it can"
    )))
}

fn read_revision(path: &Path) -> Result<millrace_protocol::config::Revision, Trouble> {
    let name = path.display().to_string();
    let bytes =
        std::fs::read(path).map_err(|e| Trouble::user(format!("cannot read {name}: {e}")))?;
    millrace_protocol::config::Revision::decode(&name, &bytes).map_err(Trouble::user)
}
