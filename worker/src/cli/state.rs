//! `--backend`, `--memory`, `--local-dir`: where state lives, and how much of it in memory.

use crate::cli::trouble::Trouble;
use millrace_engine::graph::SpillTo;
use millrace_protocol::config::Backend;
#[cfg(feature = "cluster")]
use millrace_protocol::config::Revision;
use std::path::{Path, PathBuf};

/// The memory of a process that nobody started by `run`, such as a pod's.
#[cfg(feature = "cluster")]
const MEMORY_LIMIT: &str = "MILLRACE_MEMORY_LIMIT";

/// Where keyed state lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StateBackend {
    /// In memory.
    Memory,
    /// In memory, as far as the budget goes; the rest in files on a local disk.
    Disk,
    /// In memory, as far as the budget goes; the rest in RocksDB on a local disk.
    Rocksdb,
}

impl From<StateBackend> for Backend {
    fn from(backend: StateBackend) -> Self {
        match backend {
            StateBackend::Memory => Self::Memory,
            StateBackend::Disk => Self::Disk,
            StateBackend::Rocksdb => Self::RocksDB,
        }
    }
}

/// The features that this program would need for a backend, but was built without.
pub fn missing_for(backend: Backend) -> Option<&'static str> {
    match backend {
        Backend::Disk if !cfg!(feature = "disk") => Some("disk"),
        Backend::RocksDB if !cfg!(feature = "rocksdb") => Some("rocksdb"),
        _ => None,
    }
}

/// The options about it.
#[derive(clap::Args, Clone, Debug)]
pub struct StateOptions {
    /// Where keyed state lives
    #[arg(long, value_name = "BACKEND", value_enum, default_value = "memory")]
    pub backend: StateBackend,
    /// Memory of each process, for --backend disk: 512MiB, 4GiB [default: the limit of the
    /// cgroup, or what the machine has, divided among the processes]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Directory for state that memory has no room for [default: that for temporary files]
    #[arg(long, value_name = "DIR")]
    pub local_dir: Option<PathBuf>,
}

/// What the tables of a job in this process alone spill to, if they do.
pub fn spill(options: &StateOptions) -> Result<Option<SpillTo>, Trouble> {
    options.check()?;
    let room = Room { asked: options.memory, processes: 1 };
    spill_to(options.backend.into(), room, options.local_dir.as_deref())
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
    if revision.backend == Backend::Memory {
        return Ok(None);
    }
    let asked = match options.and_then(|o| o.memory) {
        Some(bytes) => Some(bytes),
        None => memory_in_environment()?,
    };
    let parent = options.and_then(|o| o.local_dir.as_deref()).unwrap_or(here);
    let directory = parent.join(format!("state-{index}"));
    spill_to(revision.backend, Room { asked, processes: neighbours }, Some(&directory))
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
        if self.backend == StateBackend::Memory
            && (self.memory.is_some() || self.local_dir.is_some())
        {
            return Err(Trouble::user(
                "--memory and --local-dir bound what --backend disk keeps in memory: add it, or \
                 leave them out",
            ));
        }
        match missing_for(self.backend.into()) {
            Some(feature) => Err(without(feature)),
            None => Ok(()),
        }
    }
}

/// What memory a process may take.
#[cfg_attr(not(feature = "disk"), allow(dead_code))]
struct Room {
    /// Said by the user.
    asked: Option<u64>,
    /// Among so many what there is is divided, where nothing was said.
    processes: u16,
}

fn without(feature: &str) -> Trouble {
    Trouble::user(format!(
        "this program was built without this backend: build it with the feature {feature:?} of \
         the crate millrace, or use another"
    ))
}

#[cfg(not(feature = "disk"))]
fn spill_to(backend: Backend, _: Room, _: Option<&Path>) -> Result<Option<SpillTo>, Trouble> {
    missing_for(backend).map_or(Ok(None), |feature| Err(without(feature)))
}

#[cfg(feature = "disk")]
fn spill_to(
    backend: Backend,
    room: Room,
    directory: Option<&Path>,
) -> Result<Option<SpillTo>, Trouble> {
    use millrace_engine::runtime::memory;
    use millrace_engine::state::budget::{Budget, Shares};

    if backend == Backend::Memory {
        return Ok(None);
    }
    let total = room.bytes()?;
    let shares = Shares::of(total);
    let local = directory.map_or_else(std::env::temp_dir, Path::to_path_buf);
    tracing::info!(memory = %shares, local = %local.display(), "memory budget");
    let tiers = tiers(backend, directory, shares.tier)?;
    let budget = Budget::new(shares.tables);
    memory::hold(&budget, total).map_err(Trouble::failed)?;
    Ok(Some(SpillTo { tiers, budget }))
}

#[cfg(feature = "disk")]
impl Room {
    /// What the process may take.
    fn bytes(&self) -> Result<u64, Trouble> {
        use millrace_engine::runtime::memory;
        use millrace_engine::state::budget::LEAST;

        let limit = memory::limit();
        let total = match (self.asked, &limit) {
            (Some(bytes), _) => bytes,
            (None, Some(limit)) => limit.bytes / u64::from(self.processes.max(1)),
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
        match limit.filter(|limit| limit.bytes < total) {
            None => Ok(total),
            Some(limit) => Err(Trouble::user(format!(
                "{} MiB of memory are more than the {} allows ({} MiB)",
                total >> 20,
                limit.of,
                limit.bytes >> 20
            ))),
        }
    }
}

/// A table has up to two dozen files, and a process many tables: as many open files as it may
/// have, where a shell gives it a few hundred of them.
#[cfg(feature = "disk")]
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, "cannot allow this process more open files");
    }
}

/// Where state goes that memory has no room for.
#[cfg(feature = "disk")]
fn tiers(
    backend: Backend,
    directory: Option<&Path>,
    memory: u64,
) -> Result<std::sync::Arc<dyn millrace_engine::state::tier::TierFactory>, Trouble> {
    use std::sync::Arc;

    #[cfg(feature = "rocksdb")]
    if backend == Backend::RocksDB {
        use millrace_rocksdb::{LocalDir, RocksTiers};
        let directory = match directory {
            Some(directory) => LocalDir::within(directory),
            None => LocalDir::temporary(),
        };
        let directory = directory.map_err(Trouble::user)?;
        return Ok(Arc::new(RocksTiers::open(directory, memory).map_err(Trouble::user)?));
    }
    if let Some(feature) = missing_for(backend) {
        return Err(without(feature));
    }
    allow_open_files();
    let temporary = std::env::temp_dir();
    let directory = directory.unwrap_or(&temporary);
    let tiers = millrace_disk::DiskTiers::open(directory, memory).map_err(Trouble::user)?;
    Ok(Arc::new(tiers))
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
