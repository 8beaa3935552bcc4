//! A harness for tests of users' own functions, and of the engine's operators.
//!
//! [`Harness::new`] builds a piece of dataflow between [`Input`]s and [`Output`]s of the
//! test, out of the same tasks, gates, channels and tables that a job runs on, at any
//! parallelism, but without threads, clock or files: the test says what arrives, how
//! far event time and processing time have come, and when to take a snapshot or to go
//! on from one. The same steps give the same outputs, always.
//!
//! - [`harness`]: runs the tasks; [`input`], [`output`]: the two ends;
//!   [`snapshot`]: state as bytes.

pub mod harness;
pub mod input;
pub mod output;
pub mod snapshot;

#[cfg(test)]
pub(crate) use harness::SPILLS;
pub use harness::{Harness, TestEnv};
pub use input::Input;
pub use output::{Element, Output};
pub use snapshot::Snapshot;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Disturbance: random batch sizes, outputs that are full at random moments.
#[derive(Clone, Default)]
pub(crate) struct Stutter(Arc<Mutex<Option<fastrand::Rng>>>);

impl Stutter {
    fn seed(&self, seed: u64) {
        *lock(&self.0) = Some(fastrand::Rng::with_seed(seed));
    }

    /// True about once in `n` times, if there is disturbance at all.
    fn happens(&self, n: u32) -> bool {
        lock(&self.0).as_mut().is_some_and(|rng| rng.u32(0..n) == 0)
    }

    /// How many rows to take at once, up to `limit`.
    fn batch(&self, limit: usize) -> usize {
        lock(&self.0).as_mut().map_or(limit, |rng| rng.usize(1..=limit))
    }
}
