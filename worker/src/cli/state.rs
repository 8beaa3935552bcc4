//! `--backend`, `--memory`, `--local-dir`: where state lives, and how much of it in memory.

use crate::cli::trouble::Trouble;
use millrace_engine::graph::SpillTo;
#[cfg(feature = "cluster")]
use millrace_protocol::config::{Backend, Revision};
use std::path::{Path, PathBuf};

/// The memory of a process that nobody started by `run`, such as a pod's.
#[cfg(feature = "cluster")]
const MEMORY_LIMIT: &str = "MILLRACE_MEMORY_LIMIT";

/// Where keyed state lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StateBackend {
    /// In memory.
    Memory,
    /// In memory, as far as the budget goes; the rest in RocksDB on a local disk.
    Rocksdb,
}

/// The options about it.
#[derive(clap::Args, Clone, Debug)]
pub struct StateOptions {
    /// Where keyed state lives
    #[arg(long, value_name = "BACKEND", value_enum, default_value = "memory")]
    pub backend: StateBackend,
    /// Memory of each process, for --backend rocksdb: 512MiB, 4GiB [default: the limit of the
    /// cgroup, or what the machine has, divided among the processes]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Directory in which state that memory has no room for gets a directory of its own
    /// [default: that for temporary files]
    #[arg(long, value_name = "DIR")]
    pub local_dir: Option<PathBuf>,
}

/// What the tables of a job in this process alone spill to, if they do.
pub fn spill(options: &StateOptions) -> Result<Option<SpillTo>, Trouble> {
    options.check()?;
    match options.backend {
        StateBackend::Memory => Ok(None),
        StateBackend::Rocksdb => {
            let room = Room { asked: options.memory, processes: 1 };
            rocksdb(room, options.local_dir.as_deref()).map(Some)
        }
    }
}

/// As [`spill`], of one process of several. `options`: those of `run`, where there are
/// any; `here`: a directory for this process's own files; `neighbours`: processes that share
/// the machine or the container with it, itself included.
#[cfg(feature = "cluster")]
pub fn spill_of_worker(
    revision: &Revision,
    options: Option<&StateOptions>,
    (index, neighbours): (u16, u16),
    here: &Path,
) -> Result<Option<SpillTo>, Trouble> {
    match revision.backend {
        Backend::Memory => Ok(None),
        Backend::RocksDB => {
            let asked = match options.and_then(|o| o.memory) {
                Some(bytes) => Some(bytes),
                None => memory_in_environment()?,
            };
            let parent = options.and_then(|o| o.local_dir.as_deref()).unwrap_or(here);
            let directory = parent.join(format!("state-{index}"));
            rocksdb(Room { asked, processes: neighbours }, Some(&directory)).map(Some)
        }
    }
}

/// What whoever started this process says of its memory.
#[cfg(feature = "cluster")]
fn memory_in_environment() -> Result<Option<u64>, Trouble> {
    let Some(text) = std::env::var_os(MEMORY_LIMIT) else { return Ok(None) };
    let size = text.to_str().ok_or_else(|| format!("{} is not text", text.display()));
    let size = size.and_then(parse_size);
    size.map(Some).map_err(|error| Trouble::user(format!("{MEMORY_LIMIT}: {error}")))
}

impl StateOptions {
    /// Whether they go together.
    pub fn check(&self) -> Result<(), Trouble> {
        match self.backend {
            StateBackend::Memory if self.memory.is_some() || self.local_dir.is_some() => {
                Err(Trouble::user(
                    "--memory and --local-dir bound what --backend rocksdb keeps in memory: add \
                     it, or leave them out",
                ))
            }
            StateBackend::Rocksdb if !cfg!(feature = "rocksdb") => Err(without()),
            _ => Ok(()),
        }
    }
}

/// What memory a process may take.
#[cfg_attr(not(feature = "rocksdb"), allow(dead_code))]
struct Room {
    /// Said by the user.
    asked: Option<u64>,
    /// Among so many what there is is divided, where nothing was said.
    processes: u16,
}

fn without() -> Trouble {
    Trouble::user(
        "this program was built without RocksDB: build it with the feature \"rocksdb\" of the \
         crate millrace, or use the memory backend",
    )
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb(_: Room, _: Option<&Path>) -> Result<SpillTo, Trouble> {
    Err(without())
}

#[cfg(feature = "rocksdb")]
fn rocksdb(room: Room, directory: Option<&Path>) -> Result<SpillTo, Trouble> {
    use millrace_engine::runtime::memory;
    use millrace_engine::state::budget::{Budget, LEAST, Shares};
    use millrace_rocksdb::{LocalDir, RocksTiers};
    use std::sync::Arc;

    let limit = memory::limit();
    let total = match (room.asked, &limit) {
        (Some(bytes), _) => bytes,
        (None, Some(limit)) => limit.bytes / u64::from(room.processes.max(1)),
        (None, None) => {
            return Err(Trouble::user(
                "how much memory there is cannot be found out here: say it with --memory SIZE",
            ));
        }
    };
    if total < LEAST {
        return Err(Trouble::user(format!(
            "{} MiB of memory are too few: give at least {}",
            total >> 20,
            LEAST >> 20
        )));
    }
    if let Some(limit) = limit.filter(|l| l.bytes < total) {
        return Err(Trouble::user(format!(
            "{} MiB of memory are more than the {} allows ({} MiB)",
            total >> 20,
            limit.of,
            limit.bytes >> 20
        )));
    }
    let shares = Shares::of(total);
    let directory = match directory {
        Some(directory) => LocalDir::within(directory),
        None => LocalDir::temporary(),
    };
    let directory = directory.map_err(Trouble::user)?;
    tracing::info!(memory = %shares, local = %directory.path().display(), "memory budget");
    let tiers = RocksTiers::open(directory, shares.tier).map_err(Trouble::user)?;
    let budget = Budget::new(shares.tables);
    memory::hold(&budget, total).map_err(Trouble::failed)?;
    Ok(SpillTo { tiers: Arc::new(tiers), budget })
}

/// `512MiB`, `4GiB`, `1073741824`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a size such as 512MiB");
    let shift = match unit {
        "" => 0,
        "KiB" | "Ki" => 10,
        "MiB" | "Mi" => 20,
        "GiB" | "Gi" => 30,
        _ => return Err(format!("{text:?} needs a unit: KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let sizes = ["7", "1KiB", "512MiB", "4Gi"].map(|s| parse_size(s).unwrap());
        assert_eq!(sizes, [7, 1024, 512 << 20, 4 << 30]);
        for bad in ["", "MiB", "1MB", "-1MiB", "1.5GiB", "99999999999999999999", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
