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

/// Which rows there are: each of `keys` once, then for ever uniform ones of `hot`
/// keys, the next ones after every `stay` rows. (Keys are hashed, so they lie
/// scattered over all state.) So a changed entry has seen about as many updates as
/// wanted however many rows there are between two checkpoints: somewhat fewer, for
/// the keys that are hot at a barrier count on both of its sides.
///
/// A row is one u64, key and value, so that an entry is (u64 -> u64). Its upper
/// bits are set, so that no encoding makes an entry smaller than it is.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    keys: u64,
    hot: u64,
    /// As a power of two.
    stay_bits: u32,
}

impl Load {
    /// Each changed entry sees `updates`; `keys` below 2^24.
    pub fn new(keys: u64, updates: f64) -> Self {
        // At least eight moves until the first keys come round again: about a second.
        let stay_bits = (keys / 8).max(1).ilog2();
        let stay = (1_u64 << stay_bits) as f64;
        Self { keys, hot: ((stay / turns_of(updates)) as u64).clamp(1, keys), stay_bits }
    }

    /// All keys are updated alike, for ever.
    pub fn uniform(keys: u64) -> Self {
        Self { keys, hot: keys, stay_bits: 63 }
    }

    #[inline]
    fn key(self, i: u64) -> u64 {
        if i < self.keys {
            return i;
        }
        let place = ((i - self.keys) >> self.stay_bits) as u32 % (self.keys / self.hot) as u32;
        u64::from(place) * self.hot + (((splitmix(i) >> 32) * self.hot) >> 32)
    }

    fn row(self, i: u64) -> u64 {
        let key = self.key(i);
        key << VALUE_BITS | ((key & 0xff) + 1)
    }

    /// How many entries are changed by the rows `from..to`, which come after all
    /// keys were loaded: expected. Keys that come round again count once.
    pub fn changed(self, from: u64, to: u64) -> f64 {
        let (from, to) = (from.saturating_sub(self.keys), to.saturating_sub(self.keys));
        let stay = 1_u64 << self.stay_bits;
        let mut rows_of = vec![0_u64; (self.keys / self.hot) as usize];
        let mut at = from;
        while at < to {
            let next = (at / stay + 1).saturating_mul(stay).min(to);
            let place = (at >> self.stay_bits) as u32 as usize % rows_of.len();
            rows_of[place] += next - at;
            at = next;
        }
        let hot = self.hot as f64;
        rows_of.iter().map(|rows| -hot * (-(*rows as f64) / hot).exp_m1()).sum()
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

/// Rows by keys, for each changed entry to see so many on average: the `x` whose
/// `x / (1 - exp(-x))` that is.
fn turns_of(updates_per_entry: f64) -> f64 {
    (0..200).fold(updates_per_entry, |x, _| -updates_per_entry * (-x).exp_m1())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_changed_entry_sees_somewhat_fewer_updates_than_wanted() {
        for updates in [1.6, 20.0] {
            let load = Load::new(200_000, updates);
            let (from, to) = (300_000, 400_000);
            let keys: BTreeSet<u64> = (from..to).map(|i| load.key(i)).collect();
            assert!(keys.iter().all(|key| *key < 200_000));
            let changed = load.changed(from, to);
            assert!((changed / keys.len() as f64 - 1.0).abs() < 0.01, "{changed} {}", keys.len());
            let share = (to - from) as f64 / changed / updates;
            assert!((0.85..=1.0).contains(&share), "{updates}: {share}");
        }
    }

    #[test]
    fn keys_that_come_round_again_are_changed_once() {
        let load = Load::new(200_000, 1.6);
        let keys: BTreeSet<u64> = (200_000..1_400_000).map(|i| load.key(i)).collect();
        let changed = load.changed(200_000, 1_400_000);
        assert!((changed / keys.len() as f64 - 1.0).abs() < 0.01, "{changed} {}", keys.len());
    }
}
