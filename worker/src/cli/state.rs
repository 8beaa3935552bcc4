//! `--backend`, `--memory`, `--local-dir`: where state lives, and how much of it in memory.

use crate::cli::options::RunOptions;
use crate::cli::trouble::Trouble;
use millrace_engine::graph::SpillTo;
use std::path::PathBuf;

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
    /// Memory of this process, for --backend rocksdb: 512MiB, 4GiB [default: the limit of the
    /// cgroup, or what the machine has]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Directory for state that memory has no room for, emptied at the start and at the end
    /// [default: one in the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub local_dir: Option<PathBuf>,
}

/// What the job's tables spill to, if they do.
pub fn spill(options: &RunOptions) -> Result<Option<SpillTo>, Trouble> {
    let state = &options.state;
    match state.backend {
        StateBackend::Memory if state.memory.is_some() || state.local_dir.is_some() => {
            Err(Trouble::user(
                "--memory and --local-dir bound what --backend rocksdb keeps in memory: add it, \
                 or leave them out",
            ))
        }
        StateBackend::Memory => Ok(None),
        StateBackend::Rocksdb => rocksdb(state).map(Some),
    }
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb(_: &StateOptions) -> Result<SpillTo, Trouble> {
    Err(Trouble::user(
        "this program was built without RocksDB: build it with the feature \"rocksdb\" of the \
         crate millrace, or use --backend memory",
    ))
}

#[cfg(feature = "rocksdb")]
fn rocksdb(options: &StateOptions) -> Result<SpillTo, Trouble> {
    use millrace_engine::runtime::memory;
    use millrace_engine::state::budget::{Budget, LEAST, Shares};
    use millrace_rocksdb::{LocalDir, RocksTiers};
    use std::sync::Arc;

    let limit = memory::limit();
    let total = match (options.memory, &limit) {
        (Some(bytes), _) => bytes,
        (None, Some(limit)) => limit.bytes,
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
            "--memory of {} MiB is more than the {} allows ({} MiB)",
            total >> 20,
            limit.of,
            limit.bytes >> 20
        )));
    }
    let shares = Shares::of(total);
    let directory = match &options.local_dir {
        Some(directory) => LocalDir::within(directory),
        None => LocalDir::temporary(),
    };
    let directory = directory.map_err(Trouble::user)?;
    tracing::info!(memory = %shares, local = %directory.path().display(), "memory budget");
    let tiers = RocksTiers::open(directory, shares.tier).map_err(Trouble::user)?;
    Ok(SpillTo { tiers: Arc::new(tiers), budget: Budget::new(shares.tables) })
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
