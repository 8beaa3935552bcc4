//! Windows over two streams, against nested loops.

use super::Event;
use super::driver::{Driver, LATE, Place};
use crate::api::join::Either;
use crate::api::keyed::ByValue;
use crate::api::window::assign::{SessionWindows, TumblingWindows, WindowAssigner};
use crate::api::window::function::WindowCx;
use crate::api::window::trigger::{CountTrigger, DefaultTrigger, Trigger};
use crate::data::{Res, Rows, TS_MIN, Ts};
use crate::operators::cogroup::{CoGroup, CoGroupBody, EitherKey, JoinBody};
use crate::operators::window::LateRows;
use crate::operators::window::body::Body;
use crate::operators::window::generic::WindowParts;
use crate::runtime::operator::Operator;
use fastrand::Rng;
use std::time::Duration;

/// The right stream's rows are of another type.
pub type Right = (u64, String);

pub type Row = Either<Event, Right>;
type Keys = EitherKey<ByValue<u64, fn(&Event) -> u64>, ByValue<u64, fn(&Right) -> u64>>;

fn late(late: &LateRows, sides: &mut crate::runtime::side::Sides, ts: Ts, row: Row) -> Res {
    // The tests' one side output carries (key, value).
    let row: Event = match row {
        Either::Left(row) => row,
        Either::Right((key, value)) => (key, value.parse()?),
    };
    late.take(sides, ts, row)
}

pub fn driver<W, G, B>(
    rng: Rng,
    parallelism: u16,
    assigner: W,
    trigger: G,
    lateness: Ts,
    body: impl Fn() -> B + 'static,
) -> Driver<impl Operator<Out = B::Out>, Event>
where
    W: WindowAssigner<Row>,
    G: Trigger<Row>,
    B: Body<u64, Row>,
{
    Driver::new(rng, parallelism, move |place: Place| {
        let keys: Keys = EitherKey(ByValue::new(|row| row.0), ByValue::new(|row| row.0));
        CoGroup::new(WindowParts {
            selector: keys,
            assigner: assigner.clone(),
            trigger: trigger.clone(),
            body: body(),
            lateness,
            late: LateRows { tag: Some(LATE), second: None, metrics: place.metrics.clone() },
            take_late: late,
            table: place.table(),
            sides: place.sides,
        })
    })
}

pub fn pair(left: &Event, right: &Right) -> (u64, u64, String) {
    (left.0, left.1, right.1.clone())
}

/// Rows of both streams: (timestamp, left?, key, value), with the watermark before each.
fn stream(rng: &mut Rng, keys: u64) -> Vec<(Ts, bool, u64, u64)> {
    let mut time = 0;
    let mut rows = Vec::new();
    for value in 0..2_000 {
        time += rng.i64(0..4);
        rows.push((time - rng.i64(0..50), rng.bool(), rng.u64(..keys), value));
    }
    rows
}

#[test]
fn a_join_gives_each_pair_of_a_window() {
    for round in 0..12 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = Rng::with_seed(seed);
        // Few keys: thousands of pairs in a window.
        let rows = stream(&mut rng, [1, 5, 40][round % 3]);
        let size = 300;
        let (mut expected, mut late) = (Vec::new(), Vec::new());
        let (mut watermark, mut max) = (TS_MIN, TS_MIN);
        let mut on_time = Vec::new();
        for row in &rows {
            max = max.max(row.0);
            let end = (row.0.div_euclid(size) + 1) * size;
            if end <= watermark {
                late.push((row.0, (row.2, row.3)));
            } else {
                on_time.push((end, *row));
            }
            watermark = watermark.max(max - 30);
        }
        for (end, left) in on_time.iter().filter(|(_, r)| r.1) {
            for (_, right) in on_time.iter().filter(|(e, r)| !r.1 && e == end && r.2 == left.2) {
                expected.push((end - 1, (left.2, left.3, right.3.to_string())));
            }
        }
        let ms = Duration::from_millis;
        let windows = TumblingWindows::of(ms(size as u64));
        let mut d =
            driver(rng.fork(), 2, windows, DefaultTrigger::EventTime, 0, || JoinBody::new(pair));
        let mut late_rows = Vec::new();
        let mut max = TS_MIN;
        let mut from = 0;
        while from < rows.len() {
            // A watermark after every row, so that lateness is as above.
            let to = (from + 1 + rng.usize(0..3)).min(rows.len());
            for row in &rows[from..to] {
                max = max.max(row.0);
                if row.1 {
                    let mut batch = Rows::default();
                    batch.push(row.0, (row.2, row.3));
                    batch.mark(max - 30);
                    d.feed(0, &batch, |r: &Event| r.0);
                } else {
                    let mut batch = Rows::default();
                    batch.push(row.0, (row.2, row.3.to_string()));
                    batch.mark(max - 30);
                    d.feed(1, &batch, |r: &Right| r.0);
                }
            }
            from = to;
            if rng.u16(..100) == 0 {
                d.settle();
                d.checkpoint();
            }
            if rng.u16(..400) == 0 {
                late_rows.append(&mut d.late());
                d.restore(rng.u16(1..4));
            }
        }
        d.end();
        late_rows.append(&mut d.late());
        late_rows.sort_unstable();
        late.sort_unstable();
        assert_eq!(late_rows, late, "seed {seed}");
        assert_eq!(d.behind, 0, "seed {seed}");
        let mut fired = std::mem::take(&mut d.fired);
        fired.sort_unstable();
        expected.sort_unstable();
        assert_eq!(fired.len(), expected.len(), "seed {seed}");
        assert!(fired == expected, "seed {seed}");
    }
}

#[test]
fn many_pairs_wait_for_room() {
    // A million pairs in one firing, by the watermark and by a row.
    let ms = Duration::from_millis;
    let by_count = CountTrigger::of(2_000);
    let feed = |d: &mut Driver<_, Event>| {
        let mut left = Rows::default();
        (0..1_000).for_each(|i| left.push(1, (7_u64, i)));
        let mut right = Rows::default();
        (0..1_000).for_each(|i: u64| right.push(1, (7_u64, i.to_string())));
        d.feed(0, &left, |r: &Event| r.0);
        d.feed(1, &right, |r: &Right| r.0);
    };
    let body = || JoinBody::new(|a: &Event, b: &Right| (a.1, b.1.clone()));
    let mut d = driver(Rng::with_seed(1), 2, TumblingWindows::of(ms(10)), by_count, 0, body);
    feed(&mut d);
    d.settle();
    assert_eq!(d.fired.len(), 1_000_000);
}

#[test]
fn co_group_sees_both_lists() {
    let ms = Duration::from_millis;
    type Out = (u64, Vec<u64>, Vec<String>, Ts);
    let body = || {
        CoGroupBody::new(
            |key: &u64, left: &[Event], right: &[Right], cx: &mut WindowCx<'_, Out>| {
                let left = left.iter().map(|r| r.1).collect();
                let right = right.iter().map(|r| r.1.clone()).collect();
                cx.emit((*key, left, right, cx.window().end))
            },
        )
    };
    let windows = SessionWindows::with_gap(ms(10));
    let mut d = driver(Rng::new(), 2, windows, DefaultTrigger::EventTime, 5, body);
    let left = |d: &mut Driver<_, Event>, ts, value| {
        let mut rows = Rows::default();
        rows.push(ts, (1_u64, value));
        d.feed(0, &rows, |r: &Event| r.0);
    };
    let mut rows = Rows::default();
    rows.push(8, (1_u64, "a".to_owned()));
    rows.push(30, (1_u64, "b".to_owned()));
    left(&mut d, 0, 1);
    d.feed(1, &rows, |r: &Right| r.0);
    left(&mut d, 18, 2);
    d.restore(3);
    d.watermark(29);
    d.settle();
    let ab = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    assert_eq!(d.fired, [(27, (1, vec![1, 2], ab(&["a"]), 28))]);
    // Late, but bridges the session that has fired and the one that is open.
    left(&mut d, 25, 3);
    d.end();
    let last = d.fired.last().cloned();
    assert_eq!(last, Some((39, (1, vec![1, 2, 3], ab(&["a", "b"]), 40))));
    assert_eq!(d.fired.len(), 2);
}
