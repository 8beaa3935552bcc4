//! The example in several processes, of which any is killed at random moments, beside a run
//! in one that nothing disturbed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use common::job::{Disturbance, Job, Places, calm, compare, disturbed};
use common::{long_input, seed};

#[test]
fn several_processes_give_what_one_gives() {
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), 2);
    let expected = calm(&dir.path().join("calm"), &input);
    let wild = dir.path().join("wild");
    let job = Job::start(&wild, Places::local(&wild, &input), 3, 5);
    compare(&expected, &job.finish().output, 0);
}

fn disturb(faults: usize, months: usize, rescales: bool) {
    disturbed(&Disturbance {
        seed: seed(),
        faults,
        months,
        rescales,
        places: &Places::local,
        fetch: &|_, places| places.output.clone(),
    });
}

#[test]
fn killed_workers_and_leaders_change_nothing() {
    disturb(10, 60, false);
}

#[test]
fn killed_while_it_is_rescaled_it_gives_what_an_undisturbed_run_gives() {
    disturb(10, 60, true);
}

#[test]
#[ignore = "takes minutes: make chaos"]
fn two_hundred_faults() {
    for _ in 0..4 {
        disturb(50, 240, true);
    }
}
