//! The RocksDB tier: where a job's state goes that memory has no room for.
//!
//! One database per process in a directory of its own, a column family per table. It is
//! a cache of what checkpoints hold: without a write-ahead log, emptied when the process
//! starts and removed when it ends, never read at a restore. Block cache and write
//! buffers share one allowance. What a table says is dead goes with whole files and in
//! compactions.

#[cfg(feature = "bare")]
mod bare;
mod dead;
mod files;
mod table;

#[cfg(feature = "bare")]
pub use bare::{Bare, bare};
pub use files::LocalDir;

use millrace_engine::data::{Fail, Res};
use millrace_engine::state::tier::{Tier, TierFactory, TierStats};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBWithThreadMode, MultiThreaded, Options,
    WriteBufferManager,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use table::TableTier;

pub(crate) type Db = DBWithThreadMode<MultiThreaded>;

/// The least that RocksDB is given: below it, it would spend its time on tiny files.
const LEAST: u64 = 8 << 20;

/// The tiers of a process.
pub struct RocksTiers {
    shared: Arc<Shared>,
    options: Options,
    next: AtomicU64,
}

/// The database; closed and removed with the last table.
pub(crate) struct Shared {
    // In this order: closed, then removed.
    pub db: Db,
    _directory: LocalDir,
    cache: Cache,
    /// Bytes that a scan reads ahead in each file.
    pub read_ahead: usize,
}

impl RocksTiers {
    /// An empty database in `directory`, whose block cache and write buffers take
    /// `memory` bytes together.
    pub fn open(directory: LocalDir, memory: u64) -> Res<Self> {
        let memory = usize::try_from(memory.max(LEAST))?;
        let (options, cache) = database_options(memory);
        let path = directory.path();
        let db = Db::open(&options, path)
            .map_err(|e| Fail::from(format!("cannot keep state in {}: {e}", path.display())))?;
        let read_ahead = read_ahead(memory);
        let shared = Arc::new(Shared { db, _directory: directory, cache, read_ahead });
        Ok(Self { shared, options, next: AtomicU64::new(0) })
    }
}

/// Bytes to read ahead in a file: a scan and a merge have a buffer for each of the files
/// that they go through, beside the cache.
fn read_ahead(memory: usize) -> usize {
    (memory / 256).clamp(32 << 10, 1 << 20)
}

/// Options of a database whose block cache and write buffers take `memory` bytes together,
/// and that cache.
pub(crate) fn database_options(memory: usize) -> (Options, Cache) {
    let cache = Cache::new_lru_cache(memory);
    let buffers =
        WriteBufferManager::new_write_buffer_manager_with_cache(memory / 2, false, cache.clone());
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_manager(&buffers);
    options.set_write_buffer_size((memory / 8).clamp(1 << 20, 64 << 20));
    options.set_max_background_jobs(2);
    // What merges hold is not charged to the cache: small buffers, and files whose filters
    // are small.
    options.set_compaction_readahead_size(read_ahead(memory));
    options.set_writable_file_max_buffer_size(read_ahead(memory) as u64);
    options.set_target_file_size_base((memory as u64 / 4).clamp(2 << 20, 64 << 20));
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_keep_log_file_num(1);
    options.set_max_log_file_size(1 << 20);
    // Tables are many and files few: what is read is found by key.
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    blocks.set_block_size(4 << 10);
    blocks.set_bloom_filter(10.0, false);
    // Indexes and filters in pieces of a block's size: whole ones are a megabyte each, and
    // where the cache is smaller than the data, a get would read one for a single key.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(4 << 10);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    options.set_block_based_table_factory(&blocks);
    (options, cache)
}

pub(crate) fn failed(error: rocksdb::Error) -> Fail {
    Fail::from(format!("state on the local disk: {error}"))
}

impl TierFactory for RocksTiers {
    fn open(&self, name: &str) -> Res<Box<dyn Tier>> {
        // A new attempt opens its tables while those of the last may still be closing.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number}: {name}");
        Ok(Box::new(TableTier::new(Arc::clone(&self.shared), name, &self.options)?))
    }

    fn stats(&self) -> TierStats {
        let files = self.shared.db.live_files().unwrap_or_default();
        TierStats {
            disk: files.iter().map(|file| file.size as u64).sum(),
            memory: self.shared.cache.get_usage() as u64,
        }
    }
}
