//! A job that an older version of the example began.
//!
//! `golden/before-unmeasured` is what that version left, which did not count departures of
//! unknown delay: its storage, and its windows so far. It read the first rows of January as
//! [`FILE`] in its working directory and [`AIRLINES`], with parallelism 2, and was told to stop
//! when it had read about half of them (a sleep in a function held it up). Golden files stay
//! as they are; a later change of the state's types gets files of its own.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use common::{HEADER, Run, example, golden, january, lines, multiset, same, sorted, wait};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const FILE: &str = "flights.csv";
const AIRLINES: &str = "airlines.csv";
const ROWS: usize = 6_000;

/// Runs in a directory, in which all paths are: the storage remembers them.
fn run(dir: &Path, parallelism: u16) -> (Option<i32>, String) {
    let run = Run {
        input: Path::new(FILE),
        output: Path::new("out"),
        storage: Path::new("storage"),
        parallelism,
        interval: "200ms",
        more: &["--airlines", AIRLINES, "--out-of-orderness", "12h"],
    };
    wait(run.command().current_dir(dir).spawn().unwrap())
}

fn input(dir: &Path) {
    let lines = golden(&january());
    fs::write(dir.join(FILE), format!("{HEADER}\n{}\n", lines[..ROWS].join("\n"))).unwrap();
    fs::copy(example().join("data").join(AIRLINES), dir.join(AIRLINES)).unwrap();
}

fn inspect(storage: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flight-delays"));
    let output = command.arg("inspect").arg(storage).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Its windows are half full, their accumulators lack a field.
#[test]
fn what_an_older_version_began_goes_on_in_this_one() {
    let before = example().join("tests/golden/before-unmeasured");
    let held = inspect(&before.join("storage"));
    let sum =
        "Sum { flights: u64, cancelled: u64, total_delay: i64, max_delay: Option<i64> = default }";
    assert!(held.contains(sum), "{held}");
    let calm = tempfile::tempdir().unwrap();
    input(calm.path());
    assert_eq!(run(calm.path(), 2).0, Some(0));
    for parallelism in [2, 3] {
        let dir = tempfile::tempdir().unwrap();
        input(dir.path());
        let copied = Command::new("cp").arg("-r").arg(before.join(".")).arg(dir.path()).status();
        assert!(copied.unwrap().success());
        let already = lines(&dir.path().join("out/delays")).len();
        let (code, log) = run(dir.path(), parallelism);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("starts from checkpoint"), "{log}");
        let of = |dir: &Path, name| sorted(lines(&dir.join("out").join(name)));
        same(&of(calm.path(), "delays"), &of(dir.path(), "delays"), "delays", 0);
        for name in ["late", "sessions"] {
            let (mut all, rest) = (multiset(of(calm.path(), name)), of(dir.path(), name));
            assert!(!rest.is_empty(), "no {name}");
            for row in rest {
                let left = all.get_mut(&row).filter(|left| **left > 0);
                *left.unwrap_or_else(|| panic!("{name}: {row}")) -= 1;
            }
        }
        let all = lines(&dir.path().join("out/delays")).len();
        assert!(0 < already && already < all, "{already} of {all} windows");
    }
}
