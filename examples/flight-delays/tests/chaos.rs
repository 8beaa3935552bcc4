//! The example as a process, killed with SIGKILL at random moments and started again,
//! beside a run that nothing disturbed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use common::job::accounts;
use common::{OUTPUTS, Run, lines, long_input, same, seed, sorted, tell_faults, wait};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is done to a job.
struct Chaos<'a> {
    kills: usize,
    /// Of the input.
    months: usize,
    /// One after the other.
    parallelism: &'a [u16],
    /// Whether rows have to come in the same order, too.
    bytes: bool,
    /// Whether it is given another output directory at every start.
    moves: bool,
}

/// Kills the job, then lets it finish; returns how often it was really killed before its end.
/// Its output is in directories in `out`.
fn disturbed(dir: &Path, input: &Path, how: &Chaos, life: Duration, seed: u64) -> usize {
    let Chaos { kills, parallelism, .. } = *how;
    let mut rng = fastrand::Rng::with_seed(seed);
    let storage = dir.join("storage");
    let mut killed = 0;
    for round in 0..=kills {
        let output = dir.join("out").join(if how.moves { round.to_string() } else { "0".into() });
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

fn compare(how: &Chaos) {
    let kills = how.kills;
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), how.months);
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
    let killed = disturbed(&wild, &input, how, life, seed);
    tell_faults(killed, "kills");
    assert!(killed >= kills / 2, "only {killed} of {kills} kills came before the end");
    let places: Vec<_> =
        fs::read_dir(wild.join("out")).unwrap().map(|e| e.unwrap().path()).collect();
    for (name, ordered) in OUTPUTS {
        let expected = lines(&calm.join("out").join(name));
        let found: Vec<_> = places.iter().flat_map(|place| lines(&place.join(name))).collect();
        assert!(!expected.is_empty(), "no {name} in the undisturbed run");
        if how.bytes && ordered {
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
    compare(&Chaos { kills: 50, months: 36, parallelism: &[2], bytes: true, moves: false });
}

/// The input cut into so many files, in a directory of its own: splits of the source.
fn in_files(dir: &Path, months: usize, count: usize) -> PathBuf {
    let whole = fs::read_to_string(long_input(dir, months)).unwrap();
    let (header, rows) = whole.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    let files = dir.join("files");
    fs::create_dir(&files).unwrap();
    for (n, chunk) in rows.chunks(rows.len().div_ceil(count)).enumerate() {
        let text = format!("{header}\n{}\n", chunk.join("\n"));
        fs::write(files.join(format!("{n}.csv")), text).unwrap();
    }
    files
}

/// With several splits, which rows are late depends on how far each subtask has read.
#[test]
fn killed_while_several_splits_are_read_each_row_is_counted_or_late_once() {
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let input = in_files(dir.path(), 24, 7);
    let how = Chaos { kills: 30, months: 24, parallelism: &[2, 3, 1], bytes: false, moves: false };
    let wild = dir.path().join("wild");
    let killed = disturbed(&wild, &input, &how, Duration::from_millis(100), seed);
    tell_faults(killed, "kills");
    assert!(killed > 0, "no kill came before the end");
    accounts(&input, &wild.join("out/0"), seed);
}

/// The same while the parallelism changes at every start.
#[test]
fn killed_and_rescaled_it_gives_what_an_undisturbed_run_gives() {
    let parallelism = &[2, 1, 3];
    compare(&Chaos { kills: 10, months: 12, parallelism, bytes: false, moves: false });
}

/// Each start writes elsewhere, and finds output that is not visible yet where the last wrote.
#[test]
fn killed_and_its_output_moved_it_loses_and_repeats_no_row() {
    compare(&Chaos { kills: 8, months: 12, parallelism: &[2], bytes: false, moves: true });
}

/// At least 50 kills each.
#[test]
#[ignore = "takes minutes: make chaos"]
fn killed_a_hundred_times() {
    let how = Chaos { kills: 100, months: 96, parallelism: &[2], bytes: true, moves: false };
    compare(&how);
    compare(&Chaos { parallelism: &[1, 2, 3, 4], bytes: false, ..how });
    compare(&Chaos { bytes: false, moves: true, ..how });
}
