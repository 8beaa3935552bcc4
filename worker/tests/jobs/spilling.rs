//! State larger than its budget, and what keeps it there: early checkpoints, for which
//! sources wait.

use crate::common::{Counts, How, assert_same, multiset, options, run_and_stop, run_watched, seed};
use millrace::connectors::{Blackhole, Collected, Generator};
use millrace::engine::coordinator::{CheckpointPolicy, Event, Outcome};
use millrace::engine::graph::SpillTo;
use millrace::engine::job::Handle;
use millrace::engine::state::budget::Budget;
use millrace::engine::state::tier::{MemoryTiers, TierFactory};
use millrace::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
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

/// Failures, stops and other parallelisms, with next to no memory for tables: nearly all
/// state is in files, and the output is that of a job which nobody disturbed.
#[test]
#[cfg(feature = "disk")]
fn what_is_in_files_is_exact_through_failures_and_rescales() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let job = Counts { rows: 60_000, keys: 4_001, rate: 60_000 };
    let (storage, local) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (out, left) = (Collected::new(), Arc::new(AtomicU32::new(5)));
    let spilled = Arc::new(AtomicU64::new(0));
    for round in 0..20 {
        let mut options = options(storage.path(), rng.u16(1..=3));
        options.checkpoints.interval = Some(Duration::from_millis(30));
        let tiers = millrace_disk::DiskTiers::open(local.path(), 64 << 10).unwrap();
        let tiers: Arc<dyn TierFactory> = Arc::new(tiers);
        options.spill = Some(SpillTo { tiers: Arc::clone(&tiers), budget: Budget::new(64 << 10) });
        let (bad, left, most) = (rng.u64(..job.rows), Arc::clone(&left), Arc::clone(&spilled));
        let handle = job.build(out.sink(), move |row| {
            let take = |n: u32| n.checked_sub(1);
            if row == bad && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                return Err("poison".into());
            }
            if row % 100 == 0 {
                most.fetch_max(tiers.stats().disk, Ordering::Relaxed);
            }
            Ok(row)
        });
        let how = if rng.bool() { How::Suspend } else { How::Cancel };
        let outcome = match round < 3 {
            true => {
                let after = Duration::from_millis(rng.u64(150..400));
                run_and_stop(&handle, options, after, how)
            }
            false => run_watched(&handle, options),
        };
        match outcome.unwrap() {
            Outcome::Finished | Outcome::FinishedBefore => break,
            Outcome::Suspended => {}
            other => panic!("round {round} ended with {other:?}"),
        }
    }
    assert_same(&multiset(out.rows()), &job.expected(), "with state in files");
    let spilled = spilled.load(Ordering::Relaxed);
    println!("{spilled} bytes of files");
    assert!(spilled > 64 << 10, "{spilled} bytes of files: too little state for this test");
}
