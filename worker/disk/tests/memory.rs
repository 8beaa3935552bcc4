//! State larger than memory in files.
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

mod large;

use millrace_disk::DiskTiers;
use millrace_engine::state::tier::TierFactory;
use std::sync::Arc;

fn tiers(memory: u64) -> Arc<dyn TierFactory> {
    Arc::new(DiskTiers::open(&std::env::temp_dir(), memory).unwrap())
}
