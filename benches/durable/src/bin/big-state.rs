//! The job that is measured: an entry of 100 bytes for each of many keys, of which a
//! twentieth is changed again and again, and then another twentieth.

use clap::Args;
use millrace::prelude::*;
use std::process::ExitCode;

#[derive(Args, Clone)]
struct Options {
    /// Number of keys
    #[arg(long, default_value_t = 8_000_000)]
    keys: u64,
    /// Rows a second [default: as many as it can]
    #[arg(long)]
    rate: Option<u64>,
    /// Rows until another twentieth of the keys is changed
    #[arg(long, default_value_t = 40_000_000)]
    turn: u64,
}

#[derive(Default, State)]
struct Entry {
    words: Value<[u64; 12]>,
}

#[derive(Clone)]
struct Update;

impl KeyedProcess<u64, u64> for Update {
    type Out = u64;
    type State = Entry;

    fn process(&mut self, row: u64, entry: &mut Entry, cx: &mut Cx<'_, u64, u64>) -> Res {
        // All bits are used: small numbers would be written in fewer bytes.
        let words = entry.words.or_insert_with(|| std::array::from_fn(|i| mix(row + i as u64)));
        words[(row % 12) as usize] = mix(row);
        let first = words[0];
        cx.emit(first);
        Ok(())
    }
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// All keys once, then those of a twentieth at random, then of the next.
fn key(row: u64, keys: u64, turn: u64) -> u64 {
    let Some(after) = row.checked_sub(keys) else { return row };
    let share = (keys / 20).max(1);
    // Scattered over all key groups.
    (after / turn % 20 * share + mix(row) % share).wrapping_mul(20).wrapping_add(7) % keys
}

fn build(env: &Env, options: &Options) -> Res {
    let Options { keys, rate, turn } = options.clone();
    let mut rows = Generator::new(|row| row).splits(8);
    if let Some(rate) = rate {
        rows = rows.rate(rate);
    }
    env.source("rows", rows, Watermarks::none())
        .key_by(move |row| key(*row, keys, turn.max(1)))
        .process("entries", Update)
        .sink("out", Blackhole);
    Ok(())
}

fn main() -> ExitCode {
    millrace::main(build)
}
