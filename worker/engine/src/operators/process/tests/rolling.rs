use super::{maybe_restart, seeds};
use crate::api::window::Count;
use crate::testing::Harness;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Row {
    key: u32,
    id: u64,
    n: i64,
}

/// What each aggregate makes of the rows of a key so far.
fn naive(which: &str, rows: &[Row]) -> Row {
    let mut first = rows[0].clone();
    let values = rows.iter().map(|r| r.n);
    match which {
        "sum" => first.n = values.sum(),
        "min" => first.n = values.min().unwrap(),
        "max" => first.n = values.max().unwrap(),
        "min_by" => first = rows.iter().min_by_key(|r| r.n).unwrap().clone(),
        // Of several, the first: `max_by_key` gives the last.
        "max_by" => first = rows.iter().rev().max_by_key(|r| r.n).unwrap().clone(),
        _ => first = Row { key: first.key, id: rows.len() as u64, n: 0 },
    }
    first
}

#[test]
fn rolling_aggregates_equal_naive_ones() {
    for which in ["sum", "min", "max", "min_by", "max_by", "aggregate"] {
        seeds(4, |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut harness, (input, out)) = Harness::at_parallelism(2, |t| {
                let (input, rows) = t.input::<Row>("rows");
                let keyed = rows.key_by(|r| r.key);
                let stream = match which {
                    "sum" => keyed.sum("a", |r| &mut r.n),
                    "min" => keyed.min("a", |r| &mut r.n),
                    "max" => keyed.max("a", |r| &mut r.n),
                    "min_by" => keyed.min_by("a", |r| r.n),
                    "max_by" => keyed.max_by("a", |r| r.n),
                    _ => keyed.aggregate("a", Count, |k, n| Row { key: *k, id: n, n: 0 }),
                };
                (input, t.output(stream))
            })
            .unwrap();
            harness.stutter(seed);
            let mut rows: BTreeMap<u32, Vec<Row>> = BTreeMap::new();
            let mut expected = Vec::new();
            for id in 0..2000 {
                let row = Row { key: rng.u32(0..20), id, n: rng.i64(-9..9) };
                let of_key = rows.entry(row.key).or_default();
                of_key.push(row.clone());
                expected.push(naive(which, of_key));
                input.push(0, row);
                if rng.u32(0..50) == 0 {
                    maybe_restart(&mut harness, &mut rng);
                }
            }
            harness.run().unwrap();
            let mut got = out.take();
            got.sort_by_key(|r| r.key);
            expected.sort_by_key(|r| r.key);
            assert_eq!(got, expected);
        });
    }
}

#[test]
fn a_sum_that_overflows_fails_and_says_which() {
    let (mut harness, input) = Harness::new(|t| {
        let (input, rows) = t.input::<(u8, u8)>("rows");
        t.output(rows.key_by(|r| r.0).sum("bytes", |r| &mut r.1));
        input
    })
    .unwrap();
    input.push(0, (1, 200)).push(0, (1, 55));
    harness.run().unwrap();
    input.push(0, (1, 1));
    let error = harness.run().unwrap_err().to_string();
    assert!(error.contains("\"bytes\" overflows"), "{error}");
}
