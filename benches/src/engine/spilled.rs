//! A running reduce whose state is five times what its tables may hold, beside the same
//! accesses on bare RocksDB. Each half is a process of its own, for its memory is looked at.

use super::apart::Apart;
use super::looking::Looking;
use super::pace::Pace;
use super::running::Running;
use super::{INTERVAL, PARALLELISM};
use crate::events::splitmix;
use crate::measure::resident_bytes;
use anyhow::{Context, Result, bail, ensure};
use millrace::prelude::*;
use millrace_disk::DiskTiers;
use millrace_engine::graph::SpillTo;
use millrace_engine::state::budget::{Budget, FIXED, LEAST, Shares};
use millrace_engine::state::tier::TierFactory;
use millrace_rocksdb::{LocalDir, RocksTiers};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first argument of the engine's process, with the tier of files.
pub const FILES: &str = "spilled-files";
/// The first argument of the engine's process, with the RocksDB tier.
pub const ROCKSDB: &str = "spilled-rocksdb";
/// The first argument of the other.
pub const BARE: &str = "bare-rocksdb";

/// Bytes of an entry in our tables, about.
const TABLE_BYTES: u64 = 46;
/// State by what tables may hold.
const TIMES: u64 = 5;
/// Each half is measured for so long, after all keys were loaded.
const MEASURED: Duration = Duration::from_secs(10);

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// All alike.
    Uniform,
    /// Zipf's law with exponent 0.99.
    Zipf,
}

/// What a half reached.
#[derive(Debug, Clone, Copy)]
pub struct Spilled {
    /// Million rows a second.
    pub mrows_per_s: f64,
    /// The highest resident size while it was measured, by the memory it was given.
    pub resident: f64,
}

/// Chooses keys: Gray et al., "Quickly generating billion-record synthetic databases", 1994.
#[derive(Debug, Clone, Copy)]
struct Keys {
    keys: u64,
    skew: Skew,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Keys {
    fn new(keys: u64, skew: Skew) -> Self {
        let zeta = match skew {
            Skew::Uniform => 1.0,
            Skew::Zipf => (1..=keys).map(|i| (i as f64).powf(-THETA)).sum(),
        };
        let two = 1.0 + 0.5_f64.powf(THETA);
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - THETA)) / (1.0 - two / zeta);
        Self { keys, skew, zeta, eta }
    }

    /// The key of access `i`.
    fn at(self, i: u64) -> u64 {
        let random = splitmix(i);
        if self.skew == Skew::Uniform {
            return ((u128::from(random) * u128::from(self.keys)) >> 64) as u64;
        }
        let u = (random >> 11) as f64 / (1_u64 << 53) as f64;
        let uz = u * self.zeta;
        let rank = if uz < 1.0 {
            0
        } else if uz < 1.0 + 0.5_f64.powf(THETA) {
            1
        } else {
            let spread = self.eta * u - self.eta + 1.0;
            ((self.keys as f64) * spread.powf(1.0 / (1.0 - THETA))) as u64
        };
        rank.min(self.keys - 1)
    }
}

/// With so many keys: with the tier of files, with the RocksDB tier, and bare RocksDB.
pub fn spilled(keys: u64, skew: Skew) -> Result<[Spilled; 3]> {
    Ok([apart(FILES, keys, skew)?, apart(ROCKSDB, keys, skew)?, apart(BARE, keys, skew)?])
}

fn apart(half: &str, keys: u64, skew: Skew) -> Result<Spilled> {
    let skew = if skew == Skew::Zipf { "zipf" } else { "uniform" };
    let mut process = Apart::start(&[half, &keys.to_string(), skew])?;
    let line = process.line()?;
    let (rate, resident) = line.split_once(' ').with_context(|| format!("it said {line:?}"))?;
    Ok(Spilled { mrows_per_s: rate.parse()?, resident: resident.parse()? })
}

/// The main function of such a process.
pub fn main(half: &str, keys: &str, skew: &str) -> Result<()> {
    let skew = if skew == "zipf" { Skew::Zipf } else { Skew::Uniform };
    let keys = Keys::new(keys.parse()?, skew);
    let tables = keys.keys * TABLE_BYTES / TIMES;
    let total = FIXED + tables / 35 * 100;
    ensure!(total >= LEAST, "too few keys: the memory for them would be too small to work");
    let result = match half {
        FILES | ROCKSDB => ours(keys, total, half)?,
        BARE => bare(keys, total)?,
        _ => bail!("{half} is no half"),
    };
    println!("{} {}", result.mrows_per_s, result.resident);
    Ok(())
}

fn ours(keys: Keys, total: u64, half: &str) -> Result<Spilled> {
    let shares = Shares::of(total);
    let local = tempfile::tempdir()?;
    let open = |e| anyhow::anyhow!("the tier: {e}");
    let tiers: Arc<dyn TierFactory> = if half == FILES {
        Arc::new(DiskTiers::open(local.path(), shares.tier).map_err(open)?)
    } else {
        let directory = LocalDir::within(local.path()).map_err(open)?;
        Arc::new(RocksTiers::open(directory, shares.tier).map_err(open)?)
    };
    let spill = SpillTo { tiers, budget: Budget::new(shares.tables) };
    millrace_engine::runtime::memory::hold(&spill.budget, total)?;
    let (env, pace) = (Env::new(), Pace::default());
    let row = move |i| if i < keys.keys { (i, i | 1 << 40) } else { (keys.at(i), i & 0xff) };
    let rows = Generator::new(row).splits(PARALLELISM.into());
    let eye = pace.clone();
    env.source("rows", rows, Watermarks::none())
        .key_by(|row: &(u64, u64)| row.0)
        .reduce("sum-by-key", |sum, row| sum.1 += row.1)
        .sink("pace", Looking(move || eye.eye()));
    let mut job = Running::start_with(env, Some(INTERVAL), Some(spill))?;
    let mut resident = 0;
    let look = |resident: &mut u64| {
        *resident = resident_bytes("self").unwrap_or(u64::MAX).max(*resident);
    };
    job.until(|_| {
        look(&mut resident);
        pace.rows() > keys.keys + keys.keys / 10
    })?;
    let (begun, before) = (Instant::now(), pace.rows());
    job.until(|_| {
        look(&mut resident);
        begun.elapsed() >= MEASURED
    })?;
    let rows = pace.rows() - before;
    Ok(Spilled {
        mrows_per_s: rows as f64 / 1e6 / begun.elapsed().as_secs_f64(),
        resident: resident as f64 / total as f64,
    })
}

/// Get and put a row, on as many threads, with all the memory for RocksDB alone.
fn bare(keys: Keys, total: u64) -> Result<Spilled> {
    let local = tempfile::tempdir()?;
    let db = millrace_rocksdb::bare(local.path(), total).map_err(|e| anyhow::anyhow!("{e}"))?;
    let threads = u64::from(PARALLELISM);
    let each = |thread: u64, rows: &dyn Fn(u64) -> Option<(u64, u64)>| -> Result<u64> {
        let mut done = 0;
        let mut i = thread;
        while let Some((key, add)) = rows(i) {
            db.add(key, add).map_err(|e| anyhow::anyhow!("{e}"))?;
            (done, i) = (done + 1, i + threads);
        }
        Ok(done)
    };
    let all = |rows: &(dyn Fn(u64) -> Option<(u64, u64)> + Sync)| -> Result<u64> {
        std::thread::scope(|scope| {
            let each = &each;
            let threads: Vec<_> =
                (0..threads).map(|t| scope.spawn(move || each(t, &|i| rows(i)))).collect();
            let done = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a panic")));
            done.sum()
        })
    };
    all(&|i| (i < keys.keys).then_some((i, i | 1 << 40)))?;
    // Ours has merged some of its own by now, in the rows before it is measured.
    db.settle().map_err(|e| anyhow::anyhow!("{e}"))?;
    let begun = Instant::now();
    let done = all(&|i| (begun.elapsed() < MEASURED).then(|| (keys.at(i + keys.keys), i & 0xff)))?;
    Ok(Spilled {
        mrows_per_s: done as f64 / 1e6 / begun.elapsed().as_secs_f64(),
        resident: resident_bytes("self")? as f64 / total as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_prefers_the_first_keys() {
        let keys = Keys::new(10_000, Skew::Zipf);
        let first = (0..100_000).filter(|i| keys.at(*i) == 0).count() as f64 / 100_000.0;
        assert!((first * keys.zeta - 1.0).abs() < 0.05, "{first}");
        assert!((0..100_000).all(|i| keys.at(i) < 10_000));
        let uniform = Keys::new(10, Skew::Uniform);
        assert!((0..10).all(|key| (0..1000).any(|i| uniform.at(i) == key)));
    }
}
