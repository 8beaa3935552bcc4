//! What a long-lived job keeps in its storage stays bounded.

use crate::common::{How, options, run_and_stop};
use crate::refusals::tree;
use millrace::connectors::{Blackhole, Generator};
use millrace::engine::coordinator::Outcome;
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
    let mut checkpoints = 0;
    for _ in 0..2 {
        let handle = trickle();
        let mut options = options(dir.path(), 2);
        options.checkpoints.interval = Some(Duration::from_millis(4));
        let after = Duration::from_millis(3_500);
        assert_eq!(
            run_and_stop(&handle, options, after, How::Suspend).unwrap(),
            Outcome::Suspended
        );
        let status = handle.status();
        let (report, _) = status.checkpoint.unwrap();
        checkpoints = report.checkpoint.0;
        let (states, manifests) = (files(dir.path(), "/s"), files(dir.path(), "/m-"));
        println!("{checkpoints} checkpoints, {states} state files, {manifests} manifests");
        // For each slot: as many as are borne before the sweep, and one turn of the sweep.
        assert!(states <= 2 * (64 + 2 * 16), "{states} state files");
        assert!(manifests <= 2, "{manifests} manifests");
        assert!(report.files <= states);
    }
    assert!(checkpoints > 250, "only {checkpoints} checkpoints: nothing was shown");
}
