//! The output for January beside what DuckDB computed from the same file (`oracle/`).

#[allow(dead_code)]
mod common;

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
    for parallelism in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), parallelism, &["--out-of-orderness", "48h"]);
        assert_eq!(multiset(lines(&dir.path().join("out/delays"))), expected);
        assert_eq!(lines(&dir.path().join("out/late")), Vec::<String>::new());
    }
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
