//! RocksDB as a program would use it by itself for a sum per key, one get and one put a
//! row: what the tier is measured against.

use crate::{Db, LEAST, database_options, failed};
use millrace_engine::data::{Fail, Res};
use rocksdb::WriteOptions;
use std::path::Path;

/// Sums by key.
pub struct Bare {
    db: Db,
    options: WriteOptions,
}

/// An empty database in `path`, with `memory` bytes for block cache and write buffers.
pub fn bare(path: &Path, memory: u64) -> Res<Bare> {
    let (options, _) = database_options(usize::try_from(memory.max(LEAST))?);
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    Ok(Bare { db: Db::open(&options, path).map_err(failed)?, options: write })
}

impl Bare {
    /// Waits until what was written is where it stays: no merges are under way or due.
    pub fn settle(&self) -> Res {
        self.db.flush().map_err(failed)?;
        loop {
            let busy = ["rocksdb.compaction-pending", "rocksdb.num-running-compactions"]
                .iter()
                .map(|name| self.db.property_int_value(*name).map_err(failed))
                .collect::<Result<Vec<_>, _>>()?;
            if busy.iter().all(|number| number.unwrap_or(0) == 0) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Adds to a key's sum. Threads must not share keys.
    pub fn add(&self, key: u64, value: u64) -> Res {
        let key = key.to_be_bytes();
        let old = match self.db.get_pinned(key).map_err(failed)? {
            Some(old) => u64::from_le_bytes((&*old).try_into().map_err(|_| Fail::from("length"))?),
            None => 0,
        };
        let sum = old.wrapping_add(value).to_le_bytes();
        self.db.put_opt(key, sum, &self.options).map_err(failed)
    }
}
