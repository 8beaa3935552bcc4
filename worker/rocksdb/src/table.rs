//! The tier of one table: a column family.

use crate::dead::{Dead, last_below};
use crate::{Db, Shared, failed};
use millrace_engine::data::{Res, Ts};
use millrace_engine::state::tier::{OnEntry, Packed, Tier};
use rocksdb::{BoundColumnFamily, Options, ReadOptions, WriteBatch, WriteOptions};
use std::sync::Arc;

pub(crate) struct TableTier {
    shared: Arc<Shared>,
    family: String,
    dead: Dead,
}

impl TableTier {
    pub fn new(shared: Arc<Shared>, family: String, options: &Options) -> Res<Self> {
        let (mut options, dead) = (options.clone(), Dead::default());
        options.set_compaction_filter_factory(dead.clone());
        shared.db.create_cf(&family, &options).map_err(failed)?;
        Ok(Self { shared, family, dead })
    }

    /// Calls `f` with the database and the column family.
    fn with<T>(&self, f: impl FnOnce(&Db, &Arc<BoundColumnFamily<'_>>) -> Res<T>) -> Res<T> {
        let family = self.shared.db.cf_handle(&self.family);
        let family = family.ok_or_else(|| format!("the local state {} is gone", self.family))?;
        f(&self.shared.db, &family)
    }
}

impl Tier for TableTier {
    fn write(&self, gone: &Packed, keys: &Packed, values: &Packed) -> Res {
        self.with(|db, family| {
            let mut batch = WriteBatch::default();
            gone.iter().for_each(|key| batch.delete_cf(family, key));
            for (key, value) in keys.iter().zip(values.iter()) {
                batch.put_cf(family, key, value);
            }
            let mut options = WriteOptions::default();
            options.disable_wal(true);
            db.write_opt(batch, &options).map_err(failed)
        })
    }

    fn get(&self, keys: &Packed, found: &mut dyn FnMut(usize, &[u8]) -> Res) -> Res {
        self.with(|db, family| {
            let values = db.batched_multi_get_cf(family, keys.iter(), false);
            for (at, value) in values.into_iter().enumerate() {
                if let Some(value) = value.map_err(failed)? {
                    found(at, &value)?;
                }
            }
            Ok(())
        })
    }

    fn scan(&self, from: &[u8], until: &[u8], entry: &mut OnEntry<'_>) -> Res {
        self.with(|db, family| {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(until);
            // What is written whole is not what is asked for next.
            options.fill_cache(false);
            options.set_readahead_size(self.shared.read_ahead);
            let mut entries = db.raw_iterator_cf_opt(family, options);
            entries.seek(from);
            while let Some((key, value)) = entries.item() {
                if !entry(key, value)? {
                    return Ok(());
                }
                entries.next();
            }
            entries.status().map_err(failed)
        })
    }

    fn forget(&self, until: &[u8]) -> Res {
        self.dead.below(until);
        // Both bounds are within the range.
        let Some(last) = last_below(until) else { return Ok(()) };
        self.with(|db, family| {
            db.delete_file_in_range_cf(family, [].as_slice(), &last).map_err(failed)
        })
    }

    fn expire(&self, now: Ts) {
        self.dead.expired(now);
    }
}

impl Drop for TableTier {
    fn drop(&mut self) {
        if let Err(error) = self.shared.db.drop_cf(&self.family) {
            tracing::warn!(family = self.family, %error, "local state is left until the end");
        }
    }
}
