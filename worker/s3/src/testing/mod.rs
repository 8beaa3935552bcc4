//! A real server and a proxy that makes it fail, for tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

pub mod proxy;
mod relay;
mod server;

pub use proxy::{Faults, Proxy};
pub use server::Server;

/// The seed of a random test: `MILLRACE_SEED`, or another one every time. Printed, so that
/// a failure can be had again.
pub fn seed() -> u64 {
    let given = std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    seed
}
