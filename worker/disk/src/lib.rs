//! A tier of files: where a job's state goes that memory has no room for.
//!
//! Each table has what was written last in memory, and below it *runs*: files that are
//! sorted, written once, and merged in the background when several are of about a size (a
//! log-structured merge tree: O'Neil and others, 1996; merged as in Bentley and Saxe's
//! logarithmic method, 1980). A key is looked for in the young, then in each run from the
//! newest on whose filter does not rule it out: one block is read, out of the operating
//! system's cache or from the disk.
//!
//! It is a cache of what checkpoints hold: nothing is synced, files have no names and go with
//! the process, and none is read at a restore. What an error leaves undone is answered by the
//! next call of whoever owns the table, which fails the attempt.
//!
//! In memory are the first key of each block of 4 KiB and ten bits for each key; where that is
//! more than the tier is given, the oldest runs have no filters.
//!
//! Rooms: `young` what was written last, `run` files, `block` what is read of them at once,
//! `filter` which keys a run may have, `place` what they take, `order` several sources as one,
//! `work` the threads that write, `table` all of it as one table's tier.

mod block;
mod filter;
mod order;
mod place;
mod run;
mod table;
mod work;
mod young;

use millrace_engine::data::{Fail, Res};
use millrace_engine::state::tier::{Tier, TierFactory, TierStats};
use place::Place;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use table::DiskTier;
use work::Worker;

/// The allocator of a program that is linked with this crate: with tables that give entries
/// away all the time, glibc's kept half as much again as was in use, jemalloc keeps a fifth.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The tiers of a process.
pub struct DiskTiers(Arc<Shared>);

/// What all tables share.
pub(crate) struct Shared {
    place: Arc<Place>,
    /// Bytes that are not in runs.
    young: Arc<AtomicU64>,
    memory: u64,
    flushes: Worker,
    merges: Worker,
}

impl DiskTiers {
    /// Keeps files in `directory`, which is made if it is not there; they have no names
    /// there. `memory`: bytes for what is young and for finding what is in files, half each.
    pub fn open(directory: &Path, memory: u64) -> Res<Self> {
        std::fs::create_dir_all(directory).map_err(|e| {
            Fail::from(format!("cannot keep state in {}: {e}", directory.display()))
        })?;
        let place = Arc::new(Place::new(directory, memory / 2));
        // Tries the place.
        run::RunWriter::new(&place, 0, true)?;
        let flushes = Worker::start("millrace-flush", &place)?;
        let merges = Worker::start("millrace-merge", &place)?;
        let young = Arc::new(AtomicU64::new(0));
        Ok(Self(Arc::new(Shared { place, young, memory, flushes, merges })))
    }
}

impl Shared {
    /// Whether a table with so many young bytes is to write them.
    fn is_enough(&self, bytes: u64) -> bool {
        let all = self.young.load(Ordering::Relaxed);
        bytes >= self.memory / 8 || all >= self.memory / 2 && bytes >= self.memory / 64
    }
}

impl TierFactory for DiskTiers {
    fn open(&self, _name: &str) -> Res<Box<dyn Tier>> {
        Ok(Box::new(DiskTier::new(Arc::clone(&self.0))))
    }

    fn stats(&self) -> TierStats {
        let Shared { place, young, .. } = &*self.0;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TierStats { disk: read(&place.disk), memory: read(young) + read(&place.memory) }
    }
}

pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}
