//! A running reduce whose state holds so many keys before anything is measured.

use super::PARALLELISM;
use super::looking::Looking;
use super::pace::Pace;
use super::running::Running;
use crate::events::splitmix;
use anyhow::{Result, ensure};
use millrace::prelude::*;
use std::time::Duration;

/// Bits of a row that hold the value; the key stands above them.
const VALUE_BITS: u32 = 40;
const VALUE: u64 = (1 << VALUE_BITS) - 1;

/// Bytes of an entry: a u64 key and a u64 value.
pub const ENTRY_BYTES: u64 = 16;

/// Which rows there are: each of `keys` once, then for ever any of the first
/// `hot`, uniformly. (Keys are hashed, so those lie scattered over all state.)
///
/// A row is one u64, key and value, so that an entry is (u64 -> u64). Its upper
/// bits are set, so that no encoding makes an entry smaller than it is.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Keys of the state, below 2^24.
    pub keys: u64,
    /// Keys that are updated.
    pub hot: u64,
}

impl Load {
    fn row(self, i: u64) -> u64 {
        let key = if i < self.keys { i } else { ((splitmix(i) >> 32) * self.hot) >> 32 };
        key << VALUE_BITS | ((key & 0xff) + 1)
    }

    /// Starts the job and lets it load all keys.
    pub fn start(self, interval: Option<Duration>) -> Result<(Running, Pace)> {
        ensure!(self.keys < 1 << 24, "so many keys do not fit into a row");
        let (env, pace) = (Env::new(), Pace::default());
        let rows = Generator::new(move |i| self.row(i)).splits(PARALLELISM.into());
        let eye = pace.clone();
        env.source("rows", rows, Watermarks::none())
            .key_by(|row| row >> VALUE_BITS)
            .reduce("sum-by-key", |sum, row| *sum += row & VALUE)
            .sink("pace", Looking(move || eye.eye()));
        let mut job = Running::start(env, interval)?;
        // Subtasks are not quite in step.
        job.until(|_| pace.rows() > self.keys + self.keys / 10)?;
        job.until(|job| job.status().nodes.iter().any(|node| node.state_entries == self.keys))?;
        Ok((job, pace))
    }
}
