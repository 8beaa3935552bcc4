//! What every source and every sink must pass, whoever wrote it.
//!
//! [`source`], [`growing_source`] and [`sink`] play the runtime: they assign and poll, write and
//! prepare, complete checkpoints, commit twice, crash and restore at another
//! parallelism, in an order drawn from a seed. Positions and committables go
//! through bytes, as in a checkpoint. They panic where the contract is broken,
//! and print the seed: `MILLRACE_SEED=n cargo test` repeats a run.
//!
//! ```
//! use millrace_connectors::{Collected, Collection, contract};
//!
//! contract::source(|| Collection::new(0..500).splits(3));
//!
//! contract::sink(|| {
//!     let results = Collected::new();
//!     contract::SinkUnderTest {
//!         sink: results.sink(),
//!         committed: Box::new(move || results.rows()),
//!         staged: Box::new(|| 0),
//!         guarantee: contract::Guarantee::ExactlyOnce,
//!     }
//! });
//! ```
#![allow(clippy::panic, clippy::expect_used, reason = "to panic is how a test says no")]

mod growing;
mod sink;
mod source;

pub use growing::{GrowingSource, growing_source};
pub use sink::{Guarantee, SinkUnderTest, sink};
pub use source::source;

use millrace_engine::data::Data;

/// How many runs a suite makes, each with a seed of its own.
const RUNS: u32 = 15;

/// Calls `run` with generators of random numbers; says the seed of the one that fails.
fn with_seeds(what: &str, mut run: impl FnMut(&mut fastrand::Rng)) {
    let given = std::env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = match given {
        Some(seed) => vec![seed],
        None => (0..RUNS).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        // Tests show what was printed only if they fail: the last one is to blame.
        println!("contract of a {what}: MILLRACE_SEED={seed}");
        run(&mut fastrand::Rng::with_seed(seed));
    }
}

/// Takes a value through bytes, as a checkpoint does.
fn through_bytes<T: Data>(value: &T) -> T {
    let bytes = postcard::to_stdvec(value).expect("a position or committable must serialize");
    postcard::from_bytes(&bytes).expect("a position or committable must read back")
}
