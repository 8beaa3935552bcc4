//! How jobs end: input that is empty, draining, stops at awkward moments, savepoints.

use crate::common::{
    Counts, How, Out, assert_same, multiset, options, run_and_stop, run_until, run_watched,
    stop_after, until,
};
use millrace::connectors::{Collected, Collection, Generator};
use millrace::engine::api::window::{Count, TumblingWindows};
use millrace::engine::coordinator::{Outcome, RestartPolicy, RestoreChoice, StopMode};
use millrace::engine::job::Handle;
use millrace::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const JOB: Counts = Counts { rows: 4_000, keys: 13, rate: 20_000 };

/// Rows counted by windows, and by running counts.
fn counted(rows: &[Out]) -> (u64, u64) {
    let windows = rows.iter().filter(|r| r.0 == "window").map(|r| r.3).sum();
    (windows, rows.iter().filter(|r| r.0 == "running").count() as u64)
}

#[test]
fn a_drained_job_has_fired_its_windows_and_is_finished() {
    for parallelism in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let out = Collected::new();
        // Long enough for a slow machine to stop it in the middle.
        let long = Counts { rows: 400_000, ..JOB };
        let handle = long.job(&out);
        let some = ("running", JOB.rows / 4);
        let outcome = stop_after(&handle, options(dir.path(), parallelism), some, StopMode::Drain);
        assert_eq!(outcome, Outcome::Finished);
        let (windows, running) = counted(&out.rows());
        assert_eq!(windows, running, "rows before the drain are in windows that fired");
        assert!(windows < long.rows, "it was not stopped in the middle");
        let again = run_watched(&long.job(&out), options(dir.path(), 2)).unwrap();
        assert_eq!(again, Outcome::FinishedBefore);
        assert_eq!(counted(&out.rows()), (windows, running));
    }
}

#[test]
fn empty_input_ends() {
    for (rows, splits) in [(0u64, 1), (0, 5), (1, 5)] {
        let dir = tempfile::tempdir().unwrap();
        let out = Collected::new();
        let env = Env::new();
        let source = Collection::new(0..rows).splits(splits);
        env.source("rows", source, Watermarks::monotonous(|i: &u64| *i as i64))
            .rebalance()
            .key_by(|i| *i)
            .window(TumblingWindows::of(Duration::from_secs(1)))
            .aggregate("count", Count, |key, _, n| (*key, n))
            .sink("out", out.sink());
        let handle = Handle::new(env.into_graph());
        let outcome = run_watched(&handle, options(dir.path(), 3));
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        assert_eq!(out.rows().len() as u64, rows);
    }
}

/// Before the first deployment, while it waits for a restart, twice, and after its end.
#[test]
fn stops_at_awkward_moments() {
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    for how in [How::Suspend, How::Cancel] {
        let handle = JOB.job(&out);
        for _ in 0..2 {
            match how {
                How::Suspend => handle.stop(StopMode::Suspend),
                How::Cancel => handle.cancel(),
            }
        }
        let outcome = run_watched(&handle, options(dir.path(), 2)).unwrap();
        assert_eq!(outcome, Outcome::Suspended, "{how:?}");
    }
    for how in [How::Suspend, How::Cancel] {
        let fails = JOB.build(out.sink(), |i| if i > 500 { Err("always".into()) } else { Ok(i) });
        let mut options = options(dir.path(), 3);
        options.restart =
            RestartPolicy::FixedDelay { attempts: 9, delay: Duration::from_secs(3600) };
        let after = Duration::from_millis(400);
        let outcome = run_and_stop(&fails, options, after, how).unwrap();
        assert_eq!(outcome, Outcome::Suspended, "{how:?} while it waits");
        assert!(!fails.status().failures.is_empty());
    }
    let handle = JOB.job(&out);
    assert_eq!(run_watched(&handle, options(dir.path(), 1)).unwrap(), Outcome::Finished);
    handle.stop(StopMode::Suspend);
    assert!(run_watched(&handle, options(dir.path(), 1)).is_err(), "a handle is for one run");
    assert_same(&multiset(out.rows()), &JOB.expected(), "after stops");
}

/// A job that begins from another's savepoint gives what that would have given from
/// there; the other is not disturbed.
#[test]
fn a_job_forked_from_a_savepoint() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let target = dir.path().join("savepoints");
    let (out, forked) = (Collected::new(), Collected::new());
    // Long enough for a slow machine to take it in the middle.
    let job = Counts { rows: 20_000, rate: 10_000, ..JOB };
    let handle = job.job(&out);
    let asker = handle.clone();
    let to = target.clone();
    let thread = std::thread::spawn(move || {
        until(&asker, "running", 1_000);
        asker.savepoint("one", &to);
        asker.savepoint("one", &to);
    });
    assert_eq!(run_watched(&handle, options(&first, 2)).unwrap(), Outcome::Finished);
    thread.join().unwrap();
    let savepoints = handle.status().savepoints;
    assert!(matches!(&savepoints[..], [(id, Ok(_))] if id == "one"), "{savepoints:?}");
    assert_same(&multiset(out.rows()), &job.expected(), "the original");
    let mut from = options(&second, 3);
    from.from = RestoreChoice::Path(target.join("one").display().to_string());
    assert_eq!(run_watched(&job.job(&forked), from).unwrap(), Outcome::Finished);
    // For each key the running counts go on without a gap to the same end.
    let expected = job.expected();
    let found = multiset(forked.rows());
    assert!(found.iter().all(|(row, n)| *n == 1 && expected.contains_key(row)));
    let mut by_key: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (_, key, _, n) in found.keys().filter(|row| row.0 == "running") {
        by_key.entry(*key).or_default().push(*n);
    }
    for (key, counts) in by_key {
        let end = expected.keys().filter(|r| r.0 == "running" && r.1 == key).count() as u64;
        let begin = end + 1 - counts.len() as u64;
        assert!(counts.into_iter().eq(begin..=end), "key {key}");
    }
    assert!(counted(&forked.rows()).1 < job.rows, "the savepoint was in the middle");
}

/// All windows fire at the end, into channels that are full: the end must not overtake
/// the last rows.
#[test]
fn the_end_comes_behind_the_last_row() {
    for (round, drain) in [(0u64, false), (1, true), (2, false), (3, true)] {
        let dir = tempfile::tempdir().unwrap();
        let out = Collected::new();
        let env = Env::new();
        let hour = Duration::from_secs(3600);
        let keys = 20_000 + 700 * round;
        let source = Generator::new(|i| i).splits(2);
        let source = if drain { source } else { source.count(keys) };
        env.source("rows", source, Watermarks::monotonous(|_: &u64| 0))
            .erase()
            .key_by(|i| *i)
            .window(TumblingWindows::of(hour))
            .aggregate("first", Count, |key, _, n| (*key, n))
            .rebalance()
            .map(|row| {
                if row.0 % 128 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                row
            })
            .erase()
            .key_by(|row| row.0 % 7)
            .window(TumblingWindows::of(hour))
            .aggregate("second", Count, |_, _, n| n)
            .sink("out", out.sink());
        let handle = Handle::new(env.into_graph());
        let stopper = handle.clone();
        let thread = std::thread::spawn(move || {
            while drain && stopper.status().nodes.iter().all(|n| n.rows_in == 0) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if drain {
                stopper.stop(StopMode::Drain);
            }
        });
        let mut options = options(dir.path(), 3);
        options.checkpoints.interval = None;
        let outcome = run_watched(&handle, options).unwrap();
        assert_eq!(outcome, Outcome::Finished, "drain {drain}: {:?}", handle.status());
        thread.join().unwrap();
        let nodes = handle.status().nodes;
        let rows: u64 = nodes.iter().filter(|n| n.name == "rows").map(|n| n.rows_out).sum();
        let dropped: u64 = nodes.iter().map(|n| n.late_dropped).sum();
        assert_eq!(dropped, 0, "{rows} rows, drain {drain}");
        assert_eq!(out.rows().iter().sum::<u64>(), rows, "drain {drain}");
    }
}

/// Before a process, a split or a row is there.
#[test]
fn a_drain_asked_for_before_the_first_row_is_a_drain() {
    for (round, parallelism) in [1, 3, 2, 1, 3, 2].into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let out = Collected::new();
        let handle = Counts { rows: 400_000, ..JOB }.job(&out);
        let stopper = handle.clone();
        let pause = Duration::from_millis(4 * round as u64);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(pause);
            stopper.stop(StopMode::Drain);
        });
        let mut options = options(dir.path(), parallelism);
        options.checkpoints.interval = None;
        options.loopback = [None, Some(2)][round % 2];
        let outcome = run_watched(&handle, options).unwrap();
        thread.join().unwrap();
        assert_eq!(outcome, Outcome::Finished, "after {pause:?}: {:?}", handle.status());
        let (windows, running) = counted(&out.rows());
        assert_eq!(windows, running, "rows before the drain are in windows that fired");
    }
}

/// Subtasks behind a source's subtasks without a split have seen the end. Resumed, they
/// get rows of others, which must not be late.
#[test]
fn a_subtask_that_had_seen_the_end_gets_rows_after_a_rescale() {
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    let rows = 2_000;
    let job = |parallelism| {
        let env = Env::new();
        let source = |name: &str| {
            let source = Generator::new(|i| i).count(rows).rate(10_000);
            let times = Watermarks::monotonous(|i: &u64| *i as i64);
            env.source(name, source, times).parallelism(parallelism)
        };
        source("one")
            .union(vec![source("two")])
            .parallelism(3)
            .key_by(|i| i % 5)
            .window(TumblingWindows::of(Duration::from_millis(50)))
            .aggregate("count", Count, |key, w, n| (*key, w.start, n))
            .sink("out", out.sink());
        Handle::new(env.into_graph())
    };
    run_until(&job(3), options(dir.path(), 2), "union", 1_000);
    let outcome = run_watched(&job(1), options(dir.path(), 2)).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let windows = (0..rows as i64).step_by(50).flat_map(|w| (0..5).map(move |k| (k, w, 20)));
    assert_same(&multiset(out.rows()), &multiset(windows), "after the rescale");
}
