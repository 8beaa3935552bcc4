//! Names and uids that are given later than the operators are made.

use crate::common::{assert_same, multiset, options, run_until, run_watched, seed};
use millrace::connectors::{Collected, Generator};
use millrace::engine::api::window::{Count, TumblingWindows};
use millrace::engine::coordinator::Outcome;
use millrace::engine::job::Handle;
use millrace::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Kind, key, start of the window, number of rows.
type Out = (String, u64, i64, u64);

const ROWS: u64 = 4_000;
const KEYS: u64 = 7;
const WINDOW: i64 = 100;

/// A step that names the head of a stream, or leaves it alone.
type Rename = fn(DataStream<u64>) -> DataStream<u64>;

/// Two sources, the first renamed by `rename`, and two operators with state, both given
/// other names and uids than they were made with. Row `bad` fails `poison` times.
fn job(out: &Collected<Out>, rename: Rename, bad: u64, poison: &Arc<AtomicU32>) -> Handle {
    let env = Env::new();
    let source = |uid: &str, share: u64| {
        let source = Generator::new(move |i| 2 * i + share).count(ROWS / 2).splits(3).rate(10_000);
        env.source(uid, source, Watermarks::monotonous(|i: &u64| *i as i64))
    };
    let left = Arc::clone(poison);
    let even = rename(source("even", 0));
    let rows = even
        .union(vec![source("odd", 1)])
        .name("both")
        .uid("both of them")
        .try_map(move |row| {
            let take = |n: u32| n.checked_sub(1);
            let armed =
                row == bad && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
            if armed { Err("poison".into()) } else { Ok(row) }
        })
        .erase();
    rows.clone()
        .key_by(|i| i % KEYS)
        .window(TumblingWindows::of(Duration::from_millis(WINDOW as u64)))
        .aggregate("w", Count, |key, w, n| ("window".to_owned(), *key, w.start, n))
        .name("per window")
        .uid("windows")
        .sink("windows out", out.sink());
    rows.map(|i| (i % KEYS, 1u64))
        .key_by(|r| r.0)
        .reduce("r", |acc, row| acc.1 += row.1)
        .uid("running")
        .map(|(key, n)| ("running".to_owned(), key, 0, n))
        .name("running counts")
        .sink("running out", out.sink());
    Handle::new(env.into_graph())
}

fn expected() -> Vec<Out> {
    let window = |k: u64, start: i64| {
        (start..start + WINDOW).filter(|i| *i as u64 % KEYS == k).count() as u64
    };
    let starts = (0..ROWS as i64).step_by(WINDOW as usize);
    let windows =
        starts.flat_map(|s| (0..KEYS).map(move |k| ("window".to_owned(), k, s, window(k, s))));
    let running = (0..ROWS).map(|i| ("running".to_owned(), i % KEYS, 0, i / KEYS + 1));
    windows.chain(running).collect()
}

/// Suspended, resumed at another parallelism, failing: every row counts once.
fn exactly_once(what: &str, dir: &Path, rename: Rename, name: &str) {
    println!("{what}");
    let mut rng = fastrand::Rng::with_seed(seed());
    let out = Collected::new();
    let poison = Arc::new(AtomicU32::new(2));
    let make = || job(&out, rename, rng.clone().u64(ROWS / 2..ROWS), &poison);
    run_until(&make(), options(dir, 2), name, ROWS / 8);
    let last = make();
    let outcome = run_watched(&last, options(dir, rng.u16(1..=3))).unwrap();
    assert_eq!(outcome, Outcome::Finished, "{what}");
    assert_eq!(poison.load(Ordering::SeqCst), 0, "{what}: it fails on the way");
    assert_same(&multiset(out.rows()), &multiset(expected()), what);
}

#[test]
fn a_source_keeps_its_place_under_a_uid_given_later() {
    let cases: [(&str, Rename, &str); 4] = [
        ("as it was made", |rows| rows, "even"),
        ("named", |rows| rows.name("half"), "half"),
        ("with a uid of its own", |rows| rows.uid("evens").name("half"), "half"),
        // What stands between is part of the source.
        ("behind a closure", |rows| rows.map(|i| i).uid("parsed").erase(), "even"),
    ];
    for (what, rename, name) in cases {
        let dir = tempfile::tempdir().unwrap();
        exactly_once(what, dir.path(), rename, name);
    }
}

/// The names that people see: in the status, in errors.
#[test]
fn the_name_given_last_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::new();
    env.source("in", Generator::new(|i| i).count(100), Watermarks::none())
        .name("numbers")
        .uid("digits")
        .try_map(|i: u64| if i == 50 { Err("fifty".into()) } else { Ok(i) })
        .sink("out", millrace::connectors::Blackhole);
    let mut options = options(dir.path(), 1);
    options.restart = millrace::engine::coordinator::RestartPolicy::None;
    let handle = Handle::new(env.into_graph());
    let error = run_watched(&handle, options).unwrap_err().to_string();
    assert!(error.contains("numbers") && error.contains("fifty"), "{error}");
    assert!(!error.contains("\"in\""), "{error}");
    let names: Vec<String> = handle.status().nodes.into_iter().map(|n| n.name).collect();
    assert_eq!(names, ["numbers: splits", "numbers", "out"], "{names:?}");
}
