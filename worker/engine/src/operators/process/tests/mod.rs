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

/// Runs `f` with a few seeds; a failure names its seed. `MILLRACE_SEED` chooses one,
/// `MILLRACE_SEEDS=20` takes 20 times as many. Odd seeds run with state that goes to a tier
/// whenever it can.
pub(super) fn seeds(count: u64, f: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let count = count * number("MILLRACE_SEEDS").unwrap_or(1);
    for seed in number("MILLRACE_SEED").map_or(0..count, |s| s..s + 1) {
        println!("seed {seed}");
        crate::testing::SPILLS.set(seed % 2 == 1);
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
