//! State larger than its budget, and what keeps it there: early checkpoints, for which
//! sources wait.

use crate::common::{options, run_watched};
use millrace::connectors::{Blackhole, Generator};
use millrace::engine::coordinator::{CheckpointPolicy, Event, Outcome};
use millrace::engine::graph::SpillTo;
use millrace::engine::job::Handle;
use millrace::engine::state::budget::Budget;
use millrace::engine::state::tier::MemoryTiers;
use millrace::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: u64 = 4 << 20;
/// Four times as many as there is room for.
const KEYS: u64 = 400_000;
const ROUNDS: u64 = 2;

/// Without a complete checkpoint everything may leave, as all is written anew then. So one
/// is asked for at the start, and from then on the tables have to ask.
#[test]
fn sources_wait_for_checkpoints_that_tables_ask_for() {
    let complete = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&complete);
    let env = Env::new();
    let rows = Generator::new(|i| (i % KEYS, 1_u64));
    let rows = rows.count(KEYS * ROUNDS).rate(400_000).splits(2);
    env.source("rows", rows, Watermarks::none())
        .key_by(|row: &(u64, u64)| row.0)
        .reduce("sums", |sum, row| sum.1 += row.1)
        .map(move |row| {
            if row.1 == ROUNDS {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        })
        .sink("none", Blackhole);
    let storage = tempfile::tempdir().unwrap();
    let mut options = options(storage.path(), 2);
    options.checkpoints = CheckpointPolicy { interval: None, ..CheckpointPolicy::default() };
    let budget = Budget::new(LIMIT);
    let tiers = Arc::new(MemoryTiers::default());
    options.spill = Some(SpillTo { tiers, budget: Arc::clone(&budget) });
    let handle = Handle::new(env.into_graph());
    let (asking, ended) = (handle.clone(), Arc::new(AtomicBool::new(false)));
    let over = Arc::clone(&ended);
    let watch = std::thread::spawn(move || {
        let (mut most, mut held, mut looks) = (0, false, 0);
        while !over.load(Ordering::Relaxed) {
            if looks == 50 {
                asking.event(Event::RequestCheckpoint);
            }
            looks += 1;
            most = most.max(budget.used());
            held |= budget.pressed();
            std::thread::sleep(Duration::from_millis(1));
        }
        (most, held)
    });
    let outcome = run_watched(&handle, options).unwrap();
    ended.store(true, Ordering::Relaxed);
    let (most, held) = watch.join().unwrap();
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
    assert_eq!(complete.load(Ordering::Relaxed), KEYS, "every key has all its rows");
    println!("at most {most} of {LIMIT}");
    assert!(held, "sources were never held back: too little state for this test");
    // Batches that were under way are taken in while the checkpoint completes, however slow
    // the machine's disk is; what is not held back takes more than ten times as much.
    assert!(most < 3 * LIMIT, "{most}");
}
