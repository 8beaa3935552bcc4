//! What a long-lived job keeps in its storage stays bounded.

use crate::common::{options, run_watched};
use crate::refusals::tree;
use millrace::connectors::{Blackhole, Generator};
use millrace::engine::coordinator::{Event, Failure, Outcome, StopMode};
use millrace::engine::job::Handle;
use millrace::prelude::*;
use std::path::Path;
use std::time::Duration;

/// Ten thousand keys at once, then one row now and then.
fn trickle() -> Handle {
    let env = Env::new();
    let rows = Generator::new(|i| i).splits(1).rate(1_000);
    env.source("rows", rows, Watermarks::none())
        .flat_map(|i| if i == 0 { 0..10_000 } else { i..i + 1 })
        .map(|i| (i % 10_000, 1u64))
        .key_by(|r| r.0)
        .reduce("counts", |acc, row| acc.1 += row.1)
        .sink("out", Blackhole);
    Handle::new(env.into_graph())
}

fn files(dir: &Path, part: &str) -> usize {
    tree(dir).keys().filter(|p| p.to_string_lossy().contains(part)).count()
}

/// A checkpoint writes a file for each slot, however little has changed; older ones are
/// folded into newer, and deleted, also over a restart.
#[test]
fn many_checkpoints_keep_few_files() {
    let dir = tempfile::tempdir().unwrap();
    for wanted in [130, 260] {
        let handle = trickle();
        let mut options = options(dir.path(), 2);
        options.checkpoints.interval = Some(Duration::from_millis(4));
        let job = handle.clone();
        let stopper = std::thread::spawn(move || {
            let newest = || job.status().checkpoint.map_or(0, |(report, _)| report.checkpoint.0);
            while newest() < wanted {
                std::thread::sleep(Duration::from_millis(5));
            }
            job.stop(StopMode::Suspend);
        });
        assert_eq!(run_watched(&handle, options).unwrap(), Outcome::Suspended);
        stopper.join().unwrap();
        let status = handle.status();
        let (report, _) = status.checkpoint.unwrap();
        let checkpoints = report.checkpoint.0;
        let (states, manifests) = (files(dir.path(), "/s"), files(dir.path(), "/m-"));
        println!("{checkpoints} checkpoints, {states} state files, {manifests} manifests");
        // For each slot: as many as are borne before the sweep, and one turn of the sweep.
        assert!(states <= 2 * (64 + 2 * 16), "{states} state files");
        assert!(manifests <= 2, "{manifests} manifests");
        assert!(report.files <= states);
    }
}

/// A failure seldom comes alone: a process that dies takes connections of others with it. Of
/// those that come after the first nothing follows, above all not that the checkpoint which
/// the attempt began from is damaged: its files went as later checkpoints replaced them.
#[test]
fn a_second_failure_of_an_attempt_does_not_blame_files_that_are_no_longer_needed() {
    let dir = tempfile::tempdir().unwrap();
    let handle = trickle();
    let mut options = options(dir.path(), 2);
    options.checkpoints.interval = Some(Duration::from_millis(4));
    let job = handle.clone();
    let tester = std::thread::spawn(move || {
        let newest = || job.status().checkpoint.map_or(0, |(report, _)| report.checkpoint.0);
        let wait_for = |checkpoint: u64| {
            while newest() < checkpoint {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        for _ in 0..2 {
            wait_for(newest() + 150);
            let attempt = job.status().attempt.unwrap();
            for _ in 0..2 {
                let failure =
                    Failure { operator: None, subtask: None, cause: "injected".to_owned() };
                job.event(Event::TaskFailed { attempt, failure });
            }
        }
        wait_for(newest() + 10);
        job.stop(StopMode::Suspend);
        job.status()
    });
    assert_eq!(run_watched(&handle, options).unwrap(), Outcome::Suspended);
    let status = tester.join().unwrap();
    assert_eq!(status.restarts, 2, "{:?}", status.failures);
}
