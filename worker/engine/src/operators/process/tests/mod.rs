//! Each operator against a naive interpreter: random rows, batches, blocking, and
//! snapshots from which another parallelism goes on.

#[cfg(feature = "async")]
mod async_io;
mod broadcast;
mod connect;
mod interval;
mod keyed;
mod plain;
mod rolling;

use crate::testing::{Harness, Snapshot};

/// Runs `f` with a few seeds; a failure names its seed. `MILLRACE_SEED` chooses one.
pub(super) fn seeds(count: u64, f: impl Fn(u64)) {
    let chosen = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    for seed in chosen.map_or(0..count, |s: u64| s..s + 1) {
        println!("seed {seed}");
        f(seed);
    }
}

/// Now and then takes a snapshot, and goes on from one at another parallelism.
pub(super) fn maybe_restart(harness: &mut Harness, rng: &mut fastrand::Rng) {
    if rng.u32(0..12) > 0 {
        return;
    }
    let mut snapshot = harness.snapshot().unwrap();
    if rng.bool() {
        snapshot = Snapshot::from_bytes(&snapshot.to_bytes().unwrap()).unwrap();
        harness.restore(&snapshot, rng.u16(1..=4)).unwrap();
    }
}
