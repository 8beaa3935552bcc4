//! The operator in a simulated world: the real plan and the real shell talk to a simulated
//! API server, cluster and jobs, while users, accidents and crashes happen at random. When
//! all that ends, everything must come to rest as the users asked.
//!
//! `MILLRACE_SEED` replays one schedule and prints it; `MILLRACE_SCHEDULES` says how many
//! are tried.
//!
//! Mistakes that were made on purpose, one at a time, and what noticed them. `simulation` is the
//! test below, `row ..` are those of `plan/rows`.
//!
//! | mistake | noticed by |
//! |---|---|
//! | a job with `deletionPolicy: Delete` is let go before its data is gone | `simulation`, row 44, row 45 |
//! | a job that does not answer is taken for one that does not run: its savepoint is made by a store pod beside it | `simulation` |
//! | a status is written without the version it was decided on | `simulation` |
//! | objects are ours by their owner's name, not its uid | `shell::observe` |
//! | the new template is committed while the old attempt runs | `simulation`, rows 19, 20, 24 |
//! | a delete names no uid | `simulation` |
//! | an apply names no uid: it may create, or adopt a stranger | `simulation` |
//! | who has lost the lead finishes what it was at | `simulation` |
//! | a finalizer is written without the version of the list it belongs to | `simulation` |
//! | a job at rest is not looked at when something of it changes | `simulation` |
//! | surplus workers go while the attempt still uses them | rows 31, 32 |

mod apply;
mod at_rest;
mod cluster;
mod control;
pub(crate) mod http;
mod job;
pub(crate) mod lease;
mod node;
mod operator;
mod run;
mod scripts;
pub(crate) mod server;
mod user;
mod world;

use crate::observed::Millis;

/// When all schedules begin.
pub(crate) const START: Millis = 1_700_000_000_000;

/// So many, unless asked for more.
const SCHEDULES: u64 = 150;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn everything_comes_to_rest_as_asked_whatever_happens() {
    if let Some(seed) = number("MILLRACE_SEED") {
        let told = run::schedule(seed, true);
        for line in &told.trace {
            println!("{line}");
        }
        assert!(told.broken.is_empty(), "seed {seed}: {:#?}", told.broken);
        return;
    }
    // Always the same, so that a run of the tests says something of a change; more are new.
    let more = number("MILLRACE_SCHEDULES");
    let first = more.map_or(0, |_| fastrand::u64(..) >> 20);
    let count = more.unwrap_or(SCHEDULES);
    let (mut failed, mut passes, mut writes) = (Vec::new(), 0, 0);
    for seed in first..first + count {
        let told = run::schedule(seed, false);
        passes += told.passes;
        writes += told.writes;
        if let Some(words) = told.broken.first() {
            println!("MILLRACE_SEED={seed}: {words}");
            failed.push(seed);
        }
    }
    println!("{count} schedules from {first}: {passes} passes, {writes} writes");
    assert!(failed.is_empty(), "MILLRACE_SEED={} replays the first of {}", failed[0], failed.len());
}
