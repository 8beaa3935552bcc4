//! State larger than memory in RocksDB.
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

#[path = "../../disk/tests/large/mod.rs"]
mod large;

// For its allocator.
use millrace_disk as _;
use millrace_engine::state::tier::TierFactory;
use millrace_rocksdb::{LocalDir, RocksTiers};
use std::sync::Arc;

fn tiers(memory: u64) -> Arc<dyn TierFactory> {
    Arc::new(RocksTiers::open(LocalDir::temporary().unwrap(), memory).unwrap())
}
