//! The output for January beside what DuckDB computed from the same file (`oracle/`).
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use std::collections::BTreeMap;

use common::{Run, example, files, golden, january, lines, multiset};

fn run(dir: &std::path::Path, parallelism: u16, more: &[&str]) {
    let (output, storage) = (dir.join("out"), dir.join("storage"));
    let input = january();
    Run { input: &input, output: &output, storage: &storage, parallelism, interval: "200ms", more }
        .finish();
}

/// With so much patience nothing is late, and every window is exactly what the oracle says.
#[test]
fn without_late_rows_every_window_is_the_oracles() {
    let expected = multiset(golden(&example().join("oracle/golden/delays-2013-01.csv")));
    let sessions = golden(&example().join("oracle/golden/sessions-2013-01-gap-12h.csv.gz"));
    for parallelism in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), parallelism, &["--out-of-orderness", "48h"]);
        assert_eq!(multiset(lines(&dir.path().join("out/delays"))), expected);
        assert_eq!(lines(&dir.path().join("out/late")), Vec::<String>::new());
        compare_sessions(&sessions, lines(&dir.path().join("out/sessions")));
    }
}

/// Each session is the oracle's, with the name of its airline.
fn compare_sessions(expected: &[String], found: Vec<String>) {
    let names: BTreeMap<String, String> = golden(&example().join("data/airlines.csv"))
        .iter()
        .map(|l| l.split_once(',').unwrap())
        .map(|(carrier, name)| (carrier.to_owned(), name.to_owned()))
        .collect();
    let mut plain = Vec::new();
    for line in found {
        let (rest, airline) = line.rsplit_once(',').unwrap();
        let (rest, carrier) = rest.rsplit_once(',').unwrap();
        assert_eq!(names[carrier], airline, "{line}");
        plain.push(rest.to_owned());
    }
    assert_eq!(multiset(plain), multiset(expected.to_vec()));
}

/// Windows and late rows together are all rows of the input.
#[test]
fn rows_in_windows_and_late_rows_are_all_rows() {
    let input = golden(&january()).len();
    for parallelism in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), parallelism, &[]);
        let delays = lines(&dir.path().join("out/delays"));
        let counted: usize =
            delays.iter().map(|l| l.split(',').nth(3).unwrap().parse::<usize>().unwrap()).sum();
        let late = lines(&dir.path().join("out/late")).len();
        assert!(late > 0, "with 2 hours of patience some cancelled flights are late");
        assert_eq!(counted + late, input);
        let header = std::fs::read_to_string(&files(&dir.path().join("out/delays"))[0]).unwrap();
        assert!(header.starts_with(
            "origin,window_start,window_end,flights,cancelled,mean_dep_delay,max_dep_delay\n"
        ));
    }
}
