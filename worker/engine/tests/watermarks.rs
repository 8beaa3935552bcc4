//! Strategies for watermarks, each over the rows of one split.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, reason = "tests")]

use millrace_engine::data::{TS_MIN, Ts};
use millrace_engine::time::{LaneClock, WatermarkGenerator, Watermarks};
use std::time::Duration;

type Clock = Box<dyn LaneClock<Ts>>;

/// Stamps rows; the marks that they made.
fn marks(clock: &mut Clock, rows: &[Ts]) -> Vec<(u32, Ts)> {
    let (mut ts, mut marks) = (Vec::new(), Vec::new());
    clock.stamp(rows, &[], &mut ts, &mut marks);
    assert_eq!(ts.len(), rows.len());
    marks
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_grain_spaces_watermarks() {
    let grained = Watermarks::bounded_with_grain(ms(10), ms(100), |ts: &Ts| *ts);
    let mut clock = grained.lane(TS_MIN, TS_MIN);
    let rows = [0, 109, 110, 108, 209, 250];
    assert_eq!(marks(&mut clock, &rows), [(1, -100), (2, 0), (3, 100), (6, 200)]);
    assert_eq!((clock.watermark(), clock.max_ts()), (200, 250));
    // A grain of nothing is one of a millisecond.
    let mut clock = Watermarks::bounded_with_grain(ms(10), ms(0), |ts: &Ts| *ts).lane(0, -10);
    assert_eq!(marks(&mut clock, &[1, 0, 2]), [(1, -9), (3, -8)]);
    // It goes on where a checkpoint says, and not before.
    let mut clock = grained.lane(250, 200);
    assert_eq!(marks(&mut clock, &[251, 309, 310]), [(3, 300)]);
}

/// Whole stretches that move nothing are passed over: that must not be seen.
#[test]
fn bounded_beside_a_naive_one() {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..50 {
        let (delay, grain) = (rng.i64(0..300), rng.i64(1..400));
        let times =
            Watermarks::bounded_with_grain(ms(delay as u64), ms(grain as u64), |ts: &Ts| *ts);
        let (mut clock, mut now) = (times.lane(TS_MIN, TS_MIN), rng.i64(-1_000..1_000));
        let (mut highest, mut watermark) = (TS_MIN, TS_MIN);
        for _ in 0..20 {
            let rows: Vec<Ts> = (0..rng.usize(0..400))
                .map(|_| {
                    now += rng.i64(0..3);
                    now - rng.i64(0..=2 * delay)
                })
                .collect();
            let mut expected = Vec::new();
            for (i, ts) in rows.iter().enumerate() {
                highest = highest.max(*ts);
                let next = (highest - delay).div_euclid(grain) * grain;
                if next > watermark {
                    watermark = next;
                    expected.push((i as u32 + 1, next));
                }
            }
            assert_eq!(marks(&mut clock, &rows), expected, "delay {delay}, grain {grain}");
            if rng.bool() && highest != TS_MIN {
                assert_eq!((clock.max_ts(), clock.watermark()), (highest, watermark));
                clock = times.lane(highest, watermark);
            }
        }
    }
}

#[test]
fn punctuated_watermarks_come_from_the_rows_that_carry_them() {
    let of = |ts: &Ts| (ts % 10 == 0).then_some(*ts - 3);
    let times = Watermarks::punctuated(|ts: &Ts| *ts, of);
    let mut clock = times.lane(TS_MIN, TS_MIN);
    assert_eq!(clock.watermark(), TS_MIN);
    // The one of row 10 is lower than what holds already.
    assert_eq!(marks(&mut clock, &[5, 20, 99, 10, 31]), [(2, 17)]);
    assert_eq!((clock.watermark(), clock.max_ts()), (17, 99));
    let mut clock = times.lane(99, 17);
    assert_eq!(marks(&mut clock, &[10, 200]), [(2, 197)]);
}

/// A watermark each third row, of the highest timestamp by then; counts its restores.
#[derive(Clone)]
struct EachThird {
    rows: u64,
    highest: Ts,
    watermark: Ts,
}

impl WatermarkGenerator<Ts> for EachThird {
    fn on_row(&mut self, _: &Ts, ts: Ts) -> Ts {
        self.rows += 1;
        self.highest = self.highest.max(ts);
        if self.rows.is_multiple_of(3) {
            self.watermark = self.highest;
        }
        self.watermark
    }

    fn restore(&mut self, max_ts: Ts) {
        self.highest = max_ts;
    }
}

#[test]
fn a_generator_of_ones_own_sees_every_row() {
    let generator = EachThird { rows: 0, highest: TS_MIN, watermark: TS_MIN };
    let times = Watermarks::custom(|ts: &Ts| *ts, generator);
    let mut clock = times.lane(TS_MIN, TS_MIN);
    let rows: Vec<Ts> = (0..200).map(|i| 1_000 - i).collect();
    assert_eq!(marks(&mut clock, &rows), [(3, 1_000)], "it never goes back");
    // 201 is the 67th third.
    assert_eq!(marks(&mut clock, &[2_000, 3_000]), [(1, 2_000)]);
    let mut clock = times.lane(3_000, 2_000);
    assert_eq!(marks(&mut clock, &[1, 2, 3]), [(3, 3_000)], "it was told what there had been");
}

#[test]
fn timestamps_of_the_source_go_before_those_of_the_rows() {
    let mut clock = Watermarks::monotonous(|ts: &Ts| *ts).lane(TS_MIN, TS_MIN);
    let (mut ts, mut marks) = (Vec::new(), Vec::new());
    clock.stamp(&[1, 2], &[70, 80], &mut ts, &mut marks);
    assert_eq!((ts, marks), (vec![70, 80], vec![(1, 70), (2, 80)]));
}
