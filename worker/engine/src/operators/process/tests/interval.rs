use super::{maybe_restart, seeds};
use crate::api::tags::OutputTag;
use crate::testing::Harness;

const LATE_LEFT: OutputTag<(u32, u64)> = OutputTag::new("late left");

type Out = (u32, u64, u64);

#[test]
fn interval_joins_equal_nested_loops() {
    seeds(30, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let lower = rng.i64(-40..20);
        let upper = lower + rng.i64(0..60);
        let exclusive = upper - lower > 1 && rng.bool();
        let (mut harness, (left, right, out, late)) =
            Harness::at_parallelism(rng.u16(1..=3), |t| {
                let (left, lefts) = t.input::<(u32, u64)>("left");
                let (right, rights) = t.input::<(u32, u64)>("right");
                let mut join = lefts
                    .key_by(|r| r.0)
                    .interval_join(rights.key_by(|r| r.0), lower, upper)
                    .late_left_to(&LATE_LEFT);
                if exclusive {
                    join = join.lower_exclusive().upper_exclusive();
                }
                let joined = join.process("join", |k, a, b| (*k, a.1, b.1));
                let late = t.output(joined.side_output(&LATE_LEFT));
                (left, right, t.output(joined), late)
            })
            .unwrap();
        harness.stutter(seed);
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        let (mut watermark, mut expected_late) = (0, 0);
        left.watermark(watermark);
        right.watermark(watermark);
        harness.run().unwrap();
        for id in 0..800u64 {
            let (ts, key) = (watermark + rng.i64(-5..120), rng.u32(0..6));
            if rng.bool() {
                left.push(ts, (key, id));
                if ts >= watermark {
                    lefts.push((ts, key, id));
                } else {
                    expected_late += 1;
                }
            } else {
                right.push(ts, (key, id));
                if ts >= watermark {
                    rights.push((ts, key, id));
                }
            }
            if rng.u32(0..10) == 0 {
                harness.run().unwrap();
                watermark += rng.i64(1..30);
                left.watermark(watermark);
                right.watermark(watermark);
                harness.run().unwrap();
                maybe_restart(&mut harness, &mut rng);
            }
        }
        harness.run().unwrap();
        let slack = i64::from(exclusive);
        let mut expected: Vec<(i64, Out)> = Vec::new();
        for (lts, lkey, l) in &lefts {
            for (rts, rkey, r) in &rights {
                let between = rts - lts >= lower + slack && rts - lts <= upper - slack;
                if lkey == rkey && between {
                    expected.push(((*lts).max(*rts), (*lkey, *l, *r)));
                }
            }
        }
        let mut got = out.take_with_timestamps();
        got.sort();
        expected.sort();
        assert_eq!(got, expected);
        assert_eq!(late.take().len(), expected_late);
        // All state goes with the watermark.
        left.watermark(watermark + 10_000);
        right.watermark(watermark + 10_000);
        harness.run().unwrap();
        // Of what lies in a tier it is only known how much there is at most.
        if !crate::testing::SPILLS.get() {
            assert_eq!(harness.keys(), 0);
        }
    });
}

#[test]
fn an_empty_interval_is_an_error_before_the_start() {
    let Err(error) = Harness::new(|t| {
        let (_, lefts) = t.input::<(u32, u64)>("left");
        let (_, rights) = t.input::<(u32, u64)>("right");
        let join = lefts.key_by(|r| r.0).interval_join(rights.key_by(|r| r.0), 5, 4);
        t.output(join.process("join", |_, a, b| (a.1, b.1)));
    }) else {
        panic!("it was accepted");
    };
    assert!(error.to_string().contains("\"join\" is empty"), "{error}");
}
