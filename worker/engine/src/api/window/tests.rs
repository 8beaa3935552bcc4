//! Windows through the API, on the harness: what is declared, restored at another
//! parallelism, and refused before the start.

use super::*;
use crate::testing::{Harness, Input, Output, TestEnv};
use std::collections::BTreeMap;

type Row = (u64, u64);

const LATE: OutputTag<Row> = OutputTag::new("late");
const LATE_TOO: OutputTag<Row> = OutputTag::new("late too");

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Key, window end, number of rows.
type Counted = (u64, Ts, u64);

/// A random stream through windows, with snapshots and restores at random parallelism;
/// compared with the same at parallelism 1 without.
fn survives(build: impl Fn(DataStream<Row>) -> DataStream<Counted>) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let run = |disturbed: bool| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let place = |env: &TestEnv| -> (Input<Row>, Output<Counted>) {
            let (input, rows) = env.input::<Row>("rows");
            (input, env.output(build(rows)))
        };
        let (mut harness, (input, output)) = Harness::new(place).unwrap();
        if disturbed {
            harness.stutter(seed);
        }
        let (mut time, mut rows) = (0, Vec::new());
        for step in 0..40 {
            for _ in 0..rng.usize(0..60) {
                time += rng.i64(0..8);
                input.push(time - rng.i64(0..30), (rng.u64(..20), 0));
            }
            time += if rng.u8(..5) == 0 { 200 } else { 0 };
            input.watermark(time - 30);
            harness.run().unwrap();
            rows.append(&mut output.take_with_timestamps());
            let parallelism = rng.u16(1..5);
            if disturbed && step % 7 == 6 {
                let snapshot = harness.snapshot().unwrap();
                harness.restore(&snapshot, parallelism).unwrap();
            }
        }
        input.end();
        harness.run().unwrap();
        rows.append(&mut output.take_with_timestamps());
        assert_eq!(harness.keys(), 0, "state is left behind");
        rows.sort_unstable();
        rows
    };
    let plain = run(false);
    assert!(plain.len() > 50);
    assert_eq!(run(true), plain, "seed {seed}");
}

fn counted(key: &u64, window: Window, n: u64) -> Counted {
    (*key, window.end, n)
}

#[test]
fn every_kind_goes_on_at_another_parallelism() {
    survives(|rows| {
        rows.key_by(|r| r.0).window(TumblingWindows::of(ms(50))).aggregate("w", Count, counted)
    });
    survives(|rows| {
        let windows = SlidingWindows::of(ms(100), ms(30));
        rows.key_by(|r| r.0).window(windows).allowed_lateness(ms(40)).aggregate("w", Count, counted)
    });
    survives(|rows| {
        rows.key_by(|r| r.0).window(SessionWindows::with_gap(ms(40))).aggregate("w", Count, counted)
    });
    survives(|rows| {
        rows.key_by(|r| r.0)
            .window(SessionWindows::with_dynamic_gap(|row: &Row| ms(10 + row.0)))
            .process("w", |key: &u64, rows: &[Row], cx: &mut WindowCx<'_, Counted>| {
                cx.emit((*key, cx.window().end, rows.len() as u64))
            })
    });
    survives(|rows| {
        rows.key_by(|r| r.0)
            .window(TumblingWindows::of(ms(50)))
            .trigger(ContinuousEventTimeTrigger::of(ms(20)))
            .evictor(CountEvictor::of(4))
            .aggregate("w", Count, counted)
    });
    survives(|rows| {
        let rows = rows.erase();
        let right = rows.clone().filter(|row| row.0 % 3 == 0);
        rows.key_by(|r| r.0)
            .co_group(right.key_by(|r| r.0))
            .window(TumblingWindows::of(ms(50)))
            .apply("w", |key, left: &[Row], right: &[Row], cx: &mut WindowCx<'_, Counted>| {
                cx.emit((*key, cx.window().end, (left.len() * 100 + right.len()) as u64))
            })
    });
}

#[test]
fn late_rows_of_two_streams_go_to_two_side_outputs() {
    let (mut harness, (left, right, late, late_too)) = Harness::new(|env| {
        let (left_in, left) = env.input::<Row>("left");
        let (right_in, right) = env.input::<Row>("right");
        let joined = left
            .key_by(|r| r.0)
            .join(right.key_by(|r| r.0))
            .window(TumblingWindows::of(ms(10)))
            .late_to(&LATE, &LATE_TOO)
            .apply("join", |a, b| (a.1, b.1));
        let (late, late_too) = (joined.side_output(&LATE), joined.side_output(&LATE_TOO));
        env.output(joined);
        (left_in, right_in, env.output(late), env.output(late_too))
    })
    .unwrap();
    left.watermark(50);
    right.watermark(50);
    harness.run().unwrap();
    left.push(49, (1, 1));
    right.push(39, (1, 2)).push(51, (1, 3));
    harness.run().unwrap();
    assert_eq!(late.take(), [(1, 1)]);
    assert_eq!(late_too.take(), [(1, 2)]);
}

/// What a job is refused with.
fn refused(
    build: impl FnOnce(KeyedStream<Row, crate::api::keyed::ByValue<u64, fn(&Row) -> u64>>),
) -> String {
    let built = Harness::new(|env| {
        let (_, rows) = env.input::<Row>("rows");
        let key: fn(&Row) -> u64 = |row| row.0;
        build(KeyedStream::new(rows, crate::api::keyed::ByValue::new(key)));
    });
    built.err().map(|e| e.to_string()).unwrap_or_default()
}

#[derive(Clone)]
struct NoMerge;

impl Trigger<Row> for NoMerge {
    type State = BTreeMap<u64, u64>;

    fn on_element(
        &self,
        _: &Row,
        _: Ts,
        _: &mut Self::State,
        _: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_merge(&self, _: &mut Self::State, _: Self::State, _: &mut TriggerCx<'_>) {}

    fn can_merge(&self) -> bool {
        false
    }
}

#[test]
fn mistakes_are_told_before_the_start() {
    let told = refused(|rows| {
        rows.window(SlidingWindows::of(ms(10), ms(0))).aggregate("clicks", Count, counted);
    });
    assert!(told.contains("\"clicks\"") && told.contains("at least 1 ms"), "{told}");
    let told = refused(|rows| {
        rows.window(SessionWindows::with_gap(ms(10)))
            .trigger(NoMerge)
            .aggregate("visits", Count, counted);
    });
    assert!(told.contains("\"visits\"") && told.contains("merge"), "{told}");
}
