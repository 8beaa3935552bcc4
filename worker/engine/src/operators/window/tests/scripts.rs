//! Triggers, evictors, clocks, count windows and side outputs, step by step.

use super::driver::{Driver, LATE, Place};
use super::{Event, by_key};
use crate::api::tags::{AnyTag, OutputTag};
use crate::api::window::assign::{
    GlobalWindows, SessionWindows, SlidingWindows, TimeDomain, TumblingWindows, Window,
    WindowAssigner,
};
use crate::api::window::evict::{
    CountEvictor, DeltaEvictor, Elements, Evictor, EvictorCx, KeepAll, TimeEvictor,
};
use crate::api::window::function::WithRows;
use crate::api::window::trigger::{
    ContinuousEventTimeTrigger, ContinuousProcessingTimeTrigger, CountTrigger, DefaultTrigger,
    EventTimeTrigger, ProcessingTimeTrigger, PurgingTrigger, Trigger, TriggerCx, TriggerResult,
};
use crate::api::window::{ProcessWindowFunction, WindowCx};
use crate::data::{Res, Rows, Ts};
use crate::operators::window::LateRows;
use crate::operators::window::body::Buffered;
use crate::operators::window::generic::{WindowOperator, WindowParts};
use crate::runtime::operator::Operator;
use fastrand::Rng;
use std::time::Duration;

/// Window end, timestamp, values.
type Out = (Ts, Ts, Vec<u64>);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[derive(Clone)]
struct Values;

impl ProcessWindowFunction<u64, [Event], Vec<u64>> for Values {
    fn process(&mut self, _: &u64, rows: &[Event], cx: &mut WindowCx<'_, Vec<u64>>) -> Res {
        let values: Vec<u64> = rows.iter().map(|r| r.1).collect();
        if values.len() > 3 {
            cx.side(&MANY, (0, values.len() as u64))?;
        }
        let mut row = vec![cx.window().end as u64];
        row.extend(values);
        cx.emit(row)
    }

    fn side_outputs(&self) -> Vec<AnyTag> {
        vec![MANY.any()]
    }
}

const MANY: OutputTag<Event> = OutputTag::new(LATE);

fn operator<W, G, E>(
    assigner: W,
    trigger: G,
    evictor: E,
    lateness: Ts,
) -> Driver<impl Operator<Out = Vec<u64>>, Event>
where
    W: WindowAssigner<Event>,
    G: Trigger<Event>,
    E: Evictor<Event>,
{
    Driver::new(Rng::new(), 1, move |place: Place| {
        WindowOperator::new(WindowParts {
            selector: by_key(),
            assigner: assigner.clone(),
            trigger: trigger.clone(),
            body: Buffered::new(evictor.clone(), WithRows(Values)),
            lateness,
            late: LateRows { tag: Some(LATE), second: None, metrics: place.metrics.clone() },
            take_late: LateRows::take::<Event>,
            table: place.table(),
            sides: place.sides,
        })
    })
}

fn row<O: Operator<Out = Vec<u64>>>(driver: &mut Driver<O, Event>, ts: Ts, value: u64) {
    let mut rows = Rows::default();
    rows.push(ts, (1, value));
    driver.feed(0, &rows, |row| row.0);
}

fn fired<O: Operator<Out = Vec<u64>>>(driver: &mut Driver<O, Event>) -> Vec<Out> {
    driver.settle();
    let rows = std::mem::take(&mut driver.fired);
    rows.into_iter().map(|(ts, row)| (row[0] as Ts, ts, row[1..].to_vec())).collect()
}

#[test]
fn count_windows() {
    let trigger = PurgingTrigger::of(CountTrigger::of(3));
    let mut d = operator(GlobalWindows, trigger, KeepAll, 0);
    for i in 0..8 {
        row(&mut d, 10 * i as Ts, i);
        if i == 4 {
            d.restore(1);
        }
    }
    d.end();
    let end = Ts::MAX;
    assert_eq!(fired(&mut d), [(end, 20, vec![0, 1, 2]), (end, 50, vec![3, 4, 5])]);
}

#[test]
fn sliding_count_windows() {
    let mut d = operator(GlobalWindows, CountTrigger::of(2), CountEvictor::of(3), 0);
    for i in 0..7 {
        row(&mut d, i as Ts, i);
        d.restore(1);
    }
    let values: Vec<_> = fired(&mut d).into_iter().map(|o| o.2).collect();
    assert_eq!(values, [vec![0, 1], vec![1, 2, 3], vec![3, 4, 5]]);
}

#[test]
fn a_global_window_fires_at_the_end_of_the_input_if_asked_to() {
    let mut d = operator(GlobalWindows, EventTimeTrigger, KeepAll, 0);
    row(&mut d, 5, 1);
    row(&mut d, 3, 2);
    d.restore(1);
    d.watermark(1_000_000);
    assert_eq!(fired(&mut d), []);
    d.end();
    assert_eq!(fired(&mut d), [(Ts::MAX, Ts::MAX, vec![1, 2])]);
    let mut d = operator(GlobalWindows, DefaultTrigger::Never, KeepAll, 0);
    row(&mut d, 5, 1);
    d.end();
    assert_eq!(fired(&mut d), []);
}

/// On a global window there is no last multiple of the interval.
#[test]
fn a_global_window_that_fires_at_intervals_fires_once_more_at_the_end_of_the_input() {
    let trigger = ContinuousEventTimeTrigger::of(ms(10));
    let mut d = operator(GlobalWindows, trigger, KeepAll, 0);
    row(&mut d, 3, 1);
    row(&mut d, 27, 2);
    d.watermark(20);
    let end = Ts::MAX;
    assert_eq!(fired(&mut d), [(end, 10, vec![1, 2]), (end, 20, vec![1, 2])]);
    d.restore(1);
    row(&mut d, 28, 3);
    d.end();
    assert_eq!(fired(&mut d), [(end, end, vec![1, 2, 3])]);
    let mut d = operator(GlobalWindows, PurgingTrigger::of(trigger), KeepAll, 0);
    row(&mut d, 3, 1);
    d.watermark(15);
    row(&mut d, 16, 2);
    d.end();
    assert_eq!(fired(&mut d), [(end, 10, vec![1]), (end, end, vec![2])]);
}

/// Asks for the next call in each.
#[derive(Clone)]
struct ForEver;

impl Trigger<Event> for ForEver {
    type State = ();

    fn on_element(&self, _: &Event, ts: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        cx.register_event_time(ts + 1);
        TriggerResult::Continue
    }

    fn on_event_time(&self, at: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        cx.register_event_time(at + 1);
        TriggerResult::Fire
    }

    fn on_merge(&self, _: &mut (), _: (), _: &mut TriggerCx<'_>) {}
}

#[test]
fn a_trigger_that_goes_on_for_ever_comes_to_an_end_with_the_input() {
    let mut d = operator(GlobalWindows, ForEver, KeepAll, 0);
    row(&mut d, 3, 1);
    row(&mut d, 7, 2);
    d.watermark(5);
    let end = Ts::MAX;
    assert_eq!(fired(&mut d), [(end, 4, vec![1, 2]), (end, 5, vec![1, 2])]);
    d.end();
    // What it had asked for before the end.
    assert_eq!(fired(&mut d), [(end, 6, vec![1, 2]), (end, 8, vec![1, 2])]);
}

#[test]
fn continuous_event_time() {
    let trigger = ContinuousEventTimeTrigger::of(ms(10));
    let mut d = operator(TumblingWindows::of(ms(35)), trigger, KeepAll, 0);
    row(&mut d, 3, 1);
    d.watermark(9);
    assert_eq!(fired(&mut d), []);
    d.watermark(10);
    assert_eq!(fired(&mut d), [(35, 34, vec![1])]);
    row(&mut d, 11, 2);
    d.restore(1);
    d.watermark(31);
    assert_eq!(fired(&mut d), [(35, 34, vec![1, 2]), (35, 34, vec![1, 2])]);
    d.watermark(35);
    assert_eq!(fired(&mut d), [(35, 34, vec![1, 2])]);
    d.end();
    assert_eq!(fired(&mut d), []);
}

#[test]
fn purging_at_the_end_of_the_window_with_lateness() {
    let trigger = PurgingTrigger::of(EventTimeTrigger);
    let mut d = operator(TumblingWindows::of(ms(10)), trigger, KeepAll, 20);
    row(&mut d, 3, 1);
    d.watermark(12);
    row(&mut d, 4, 2);
    d.restore(1);
    d.watermark(29);
    row(&mut d, 5, 3);
    d.watermark(30);
    row(&mut d, 6, 4);
    assert_eq!(
        fired(&mut d),
        [(10, 9, vec![1]), (10, 9, vec![2]), (10, 9, vec![3])],
        "each only with the rows since"
    );
    assert_eq!(d.late(), [(6, (1, 4))]);
}

#[test]
fn processing_time_windows() {
    let windows = TumblingWindows::of(ms(10)).processing_time();
    let mut d = operator(windows, DefaultTrigger::ProcessingTime, KeepAll, 0);
    d.clock(1_003);
    row(&mut d, 0, 1);
    d.watermark(500_000);
    d.clock(1_009);
    row(&mut d, 0, 2);
    assert_eq!(fired(&mut d), []);
    d.restore(1);
    d.clock(1_012);
    assert_eq!(fired(&mut d), [(1_010, 1_009, vec![1, 2])]);
    row(&mut d, 7, 3);
    d.end();
    assert_eq!(fired(&mut d), [(1_020, 1_019, vec![3])], "the end of the input fires the rest");
}

#[test]
fn processing_time_sessions() {
    let windows = SessionWindows::with_gap(ms(10)).processing_time();
    let mut d = operator(windows, DefaultTrigger::ProcessingTime, KeepAll, 0);
    for (now, value) in [(100, 1), (110, 2), (121, 3)] {
        d.clock(now);
        row(&mut d, 0, value);
    }
    assert_eq!(fired(&mut d), [(120, 119, vec![1, 2])]);
    d.clock(132);
    assert_eq!(fired(&mut d), [(131, 130, vec![3])]);
}

#[test]
fn a_processing_time_trigger_on_event_time_windows() {
    let mut d = operator(TumblingWindows::of(ms(10)), ProcessingTimeTrigger, KeepAll, 0);
    d.clock(2);
    row(&mut d, 3, 1);
    d.clock(10);
    assert_eq!(fired(&mut d), [(10, 9, vec![1])]);
}

#[test]
fn continuous_processing_time() {
    let trigger = ContinuousProcessingTimeTrigger::of(ms(10));
    let mut d = operator(GlobalWindows, trigger, KeepAll, 0);
    d.clock(3);
    row(&mut d, 1, 1);
    d.clock(9);
    assert_eq!(fired(&mut d), []);
    d.clock(10);
    row(&mut d, 2, 2);
    d.restore(1);
    d.clock(20);
    let values: Vec<_> = fired(&mut d).into_iter().map(|o| o.2).collect();
    assert_eq!(values, [vec![1], vec![1, 2]]);
    d.end();
}

/// Fires when the values of a window add up to ten; a timer fires what is left 5 ms after
/// the first row, by event time.
#[derive(Clone)]
struct AtTen;

impl Trigger<Event> for AtTen {
    type State = (u64, Option<Ts>);

    fn on_element(
        &self,
        row: &Event,
        ts: Ts,
        state: &mut Self::State,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        state.0 += row.1;
        if state.0 >= 10 {
            if let Some(time) = state.1.take() {
                cx.delete_event_time(time);
            }
            state.0 = 0;
            return TriggerResult::FireAndPurge;
        }
        if state.1.is_none() {
            state.1 = Some(ts + 5);
            cx.register_event_time(ts + 5);
        }
        TriggerResult::Continue
    }

    fn on_event_time(
        &self,
        time: Ts,
        state: &mut Self::State,
        _: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        if state.1 != Some(time) {
            return TriggerResult::Continue;
        }
        *state = (0, None);
        TriggerResult::FireAndPurge
    }

    fn on_merge(&self, state: &mut Self::State, other: Self::State, _: &mut TriggerCx<'_>) {
        state.0 += other.0;
        state.1 = state.1.into_iter().chain(other.1).min();
    }
}

#[test]
fn a_trigger_with_state_and_timers() {
    let mut d = operator(GlobalWindows, AtTen, KeepAll, 0);
    row(&mut d, 0, 4);
    row(&mut d, 1, 7);
    row(&mut d, 2, 1);
    d.restore(1);
    row(&mut d, 3, 2);
    d.watermark(6);
    row(&mut d, 7, 3);
    d.watermark(8);
    row(&mut d, 8, 3);
    d.watermark(100);
    // A timer that is past already fires when the watermark next advances.
    row(&mut d, 1, 5);
    d.watermark(100);
    d.watermark(101);
    let fired: Vec<_> = fired(&mut d).into_iter().map(|o| (o.1, o.2)).collect();
    assert_eq!(
        fired,
        [(1, vec![4, 7]), (7, vec![1, 2, 3]), (13, vec![3]), (6, vec![5])],
        "timestamps are those of the row or timer that fired"
    );
}

#[test]
fn a_trigger_over_sessions_that_merge() {
    let mut d = operator(SessionWindows::with_gap(ms(10)), AtTen, KeepAll, 100);
    row(&mut d, 0, 4);
    row(&mut d, 15, 5);
    row(&mut d, 8, 1);
    assert_eq!(fired(&mut d), [(25, 24, vec![4, 5, 1])], "the sum of both sessions counts");
}

#[test]
fn evictors() {
    let mut d =
        operator(TumblingWindows::of(ms(100)), EventTimeTrigger, TimeEvictor::of(ms(10)), 0);
    for (ts, value) in [(40, 1), (55, 2), (45, 3), (46, 4)] {
        row(&mut d, ts, value);
    }
    d.watermark(100);
    assert_eq!(fired(&mut d), [(100, 99, vec![2, 4])], "45 is ten older than 55");
    let delta = DeltaEvictor::of(5.0, |a: &Event, b: &Event| b.1.abs_diff(a.1) as f64);
    let mut d = operator(TumblingWindows::of(ms(100)), EventTimeTrigger, delta, 0);
    for value in [1, 8, 30, 12, 10] {
        row(&mut d, 1, value);
    }
    d.watermark(100);
    assert_eq!(fired(&mut d), [(100, 99, vec![8, 12, 10])]);
    let after = CountEvictor::of(1).after();
    let mut d = operator(GlobalWindows, CountTrigger::of(2), after, 0);
    (0..6).for_each(|value| row(&mut d, 1, value));
    let values: Vec<_> = fired(&mut d).into_iter().map(|o| o.2).collect();
    assert_eq!(values, [vec![0, 1], vec![1, 2, 3], vec![3, 4, 5]]);
}

/// Leaves the odd values out.
#[derive(Clone)]
struct NoOdd;

impl Evictor<Event> for NoOdd {
    fn evict_before(&mut self, rows: &mut Elements<Event>, cx: &EvictorCx) {
        assert_eq!(cx.window.end, 100);
        rows.retain(|_, row| row.1 % 2 == 0);
    }
}

#[test]
fn an_evictor_of_the_users() {
    let mut d = operator(TumblingWindows::of(ms(100)), EventTimeTrigger, NoOdd, 0);
    (0..5).for_each(|value| row(&mut d, 1, value));
    d.watermark(100);
    assert_eq!(fired(&mut d), [(100, 99, vec![0, 2, 4])]);
}

#[test]
fn a_window_function_emits_to_side_outputs() {
    let mut d = operator(TumblingWindows::of(ms(100)), EventTimeTrigger, KeepAll, 0);
    (0..5).for_each(|value| row(&mut d, 1, value));
    d.watermark(100);
    assert_eq!(d.late(), [(99, (0, 5))]);
}

#[test]
fn late_rows_that_nobody_reads_are_counted() {
    let metrics = std::sync::Arc::<crate::runtime::metrics::NodeMetrics>::default();
    let seen = metrics.clone();
    let mut d: Driver<_, Event> = Driver::new(Rng::new(), 1, move |place: Place| {
        WindowOperator::new(WindowParts {
            selector: by_key(),
            assigner: TumblingWindows::of(ms(10)),
            trigger: DefaultTrigger::EventTime,
            body: Buffered::new(KeepAll, WithRows(Values)),
            lateness: 0,
            late: LateRows { tag: None, second: None, metrics: metrics.clone() },
            take_late: LateRows::take::<Event>,
            table: place.table(),
            sides: place.sides,
        })
    });
    d.watermark(50);
    row(&mut d, 49, 1);
    row(&mut d, 39, 1);
    row(&mut d, 50, 1);
    assert_eq!(seen.late_dropped.get(), 2);
}

#[test]
fn assigners() {
    let mut windows = Vec::new();
    let mut of = SlidingWindows::of(ms(10), ms(4)).offset(ms(1));
    WindowAssigner::<Event>::assign(&mut of, &(0, 0), -2, 0, &mut windows);
    let bounds: Vec<_> = windows.iter().map(|w| (w.start, w.end)).collect();
    assert_eq!(bounds, [(-11, -1), (-7, 3), (-3, 7)]);
    assert!(windows.iter().all(|w: &Window| w.contains(-2)));
    assert!(WindowAssigner::<Event>::check(&TumblingWindows::of(ms(0))).is_err());
    assert!(WindowAssigner::<Event>::check(&SessionWindows::with_gap(ms(0))).is_err());
    assert_eq!(WindowAssigner::<Event>::domain(&of), TimeDomain::Event);
}

#[test]
fn a_row_without_a_timestamp_fails_event_time_windows_only() {
    let ms = Duration::from_millis;
    let fails = |windows: TumblingWindows, trigger| {
        std::panic::catch_unwind(move || {
            let mut d = operator(windows, trigger, KeepAll, 0);
            row(&mut d, Ts::MIN, 1);
        })
        .is_err()
    };
    assert!(fails(TumblingWindows::of(ms(10)), DefaultTrigger::EventTime));
    let windows = TumblingWindows::of(ms(10)).processing_time();
    assert!(!fails(windows, DefaultTrigger::ProcessingTime));
}
