//! The example as a process, killed with SIGKILL at random moments and started again,
//! beside a run that nothing disturbed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use common::{OUTPUTS, Run, lines, long_input, same, seed, sorted, wait};
use std::path::Path;
use std::time::{Duration, Instant};

/// Kills the job `kills` times, then lets it finish; returns how often it was really
/// killed before its end.
fn disturbed(
    dir: &Path,
    input: &Path,
    kills: usize,
    life: Duration,
    parallelism: &[u16],
    seed: u64,
) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (output, storage) = (dir.join("out"), dir.join("storage"));
    let mut killed = 0;
    for round in 0..=kills {
        let run = Run {
            input,
            output: &output,
            storage: &storage,
            parallelism: parallelism[round % parallelism.len()],
            interval: "20ms",
            more: &[],
        };
        if round == kills {
            run.finish();
            break;
        }
        let mut child = run.start();
        std::thread::sleep(life.mul_f64(rng.f64() * 2.0));
        child.kill().unwrap();
        let (code, log) = wait(child);
        match code {
            None => killed += 1,
            Some(0) => {}
            Some(code) => panic!("exit code {code} in round {round}:\n{log}"),
        }
    }
    killed
}

fn compare(kills: usize, months: usize, parallelism: &[u16], bytes: bool) {
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), months);
    let calm = dir.path().join("calm");
    let (output, storage) = (calm.join("out"), calm.join("storage"));
    let begun = Instant::now();
    Run {
        input: &input,
        output: &output,
        storage: &storage,
        parallelism: 2,
        interval: "1s",
        more: &[],
    }
    .finish();
    let wild = dir.path().join("wild");
    // Long enough to start, load and take a checkpoint; short enough for all the kills.
    let life = Duration::from_millis(40) + begun.elapsed() / u32::try_from(kills).unwrap() / 2;
    let killed = disturbed(&wild, &input, kills, life, parallelism, seed);
    println!("killed {killed} times before the end");
    assert!(killed >= kills / 2, "only {killed} of {kills} kills came before the end");
    for (name, ordered) in OUTPUTS {
        let expected = lines(&calm.join("out").join(name));
        let found = lines(&wild.join("out").join(name));
        assert!(!expected.is_empty(), "no {name} in the undisturbed run");
        if bytes && ordered {
            // Parts are named by subtask, attempt and counter: in that order their lines
            // are each subtask's rows in the order of writing.
            same(&expected, &found, name, seed);
        }
        let (expected, found) = (sorted(expected), sorted(found));
        same(&expected, &found, name, seed);
    }
}

/// A short one, for every run of the tests.
#[test]
fn killed_and_started_again_it_gives_what_an_undisturbed_run_gives() {
    compare(12, 12, &[2], true);
}

/// The same while the parallelism changes at every start.
#[test]
fn killed_and_rescaled_it_gives_what_an_undisturbed_run_gives() {
    compare(10, 12, &[2, 1, 3], false);
}

/// At least 50 kills each.
#[test]
#[ignore = "takes minutes: make chaos"]
fn killed_a_hundred_times() {
    compare(100, 96, &[2], true);
    compare(100, 96, &[1, 2, 3, 4], false);
}
