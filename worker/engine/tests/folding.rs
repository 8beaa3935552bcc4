//! Folding rows before the exchange changes no result: windows are those of the same
//! aggregate without it, late rows left out alike, whatever the batches, the room and the
//! watermarks, behind restores too, with few keys (folding) and with many (rows travel as
//! they are).
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

use millrace_engine::api::window::{Aggregate, Count, TumblingWindows};
use millrace_engine::testing::{Harness, Input, Output};
use std::time::Duration;

/// Counts, without leave to fold.
#[derive(Clone, Copy)]
struct Unfolded;

impl<T> Aggregate<T> for Unfolded {
    type Acc = u64;
    type Out = u64;

    fn create(&self) -> u64 {
        0
    }

    fn add(&self, acc: &mut u64, _: &T) {
        *acc += 1;
    }

    fn merge(&self, acc: &mut u64, other: &u64) {
        *acc += other;
    }

    fn result(&self, acc: &u64) -> u64 {
        *acc
    }
}

type Row = (u64, i64);
type Counted = (u64, i64, u64);

type Job = (Harness, (Input<Row>, Output<Counted>));

fn job(aggregate: impl Aggregate<Row, Out = u64>, parallelism: u16) -> Job {
    Harness::at_parallelism(parallelism, |t| {
        let (rows, stream) = t.input::<Row>("rows");
        let counts = stream
            .key_by(|row| row.0)
            .window(TumblingWindows::of(Duration::from_millis(100)))
            .aggregate("counts", aggregate, |key, window, n| (*key, window.start, n));
        (rows, t.output(counts))
    })
    .unwrap()
}

#[test]
fn folded_windows_are_those_without_folding() {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..12 {
        let (keys, rows) = if round % 3 == 2 { (1_000_000, 60_000) } else { (50, 8_000) };
        let parallelism = rng.u16(1..4);
        let (mut folded, (into, counts)) = job(Count, parallelism);
        let (mut plain, (into_plain, counts_plain)) = job(Unfolded, parallelism);
        folded.stutter(rng.u64(..));
        plain.stutter(rng.u64(..));
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        let (mut now, mut watermark) = (0, i64::MIN);
        for n in 0..rows {
            now += i64::from(rng.u8(..4) == 0);
            let row = (rng.u64(..keys), now - rng.i64(0..400));
            into.push(row.1, row);
            into_plain.push(row.1, row);
            if rng.u8(..20) == 0 && now - 200 > watermark {
                watermark = now - 200;
                into.watermark(watermark);
                into_plain.watermark(watermark);
            }
            if n % 2_000 == 1_999 {
                folded.run().unwrap();
                plain.run().unwrap();
                let snapshot = folded.snapshot().unwrap();
                folded.restore(&snapshot, parallelism).unwrap();
                found.extend(counts.take());
                expected.extend(counts_plain.take());
            }
        }
        into.end();
        into_plain.end();
        folded.run().unwrap();
        plain.run().unwrap();
        found.extend(counts.take());
        expected.extend(counts_plain.take());
        found.sort_unstable();
        expected.sort_unstable();
        let counted: u64 = expected.iter().map(|row| row.2).sum();
        assert!(counted < rows, "no row was late");
        assert!(found == expected, "windows differ in round {round}, seed {seed}");
    }
}
