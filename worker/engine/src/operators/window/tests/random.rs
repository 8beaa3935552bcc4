//! Random streams.

use super::driver::{Driver, LATE, MAX, Place};
use super::{Acc, CountSum, Event, Fired, by_key};
use crate::api::window::aggregate::{ByAggregate, ByReduce};
use crate::api::window::assign::{
    Aligned, SessionWindows, SlidingWindows, TumblingWindows, Window, WindowAssigner,
};
use crate::api::window::evict::KeepAll;
use crate::api::window::function::{EmitEach, WithReduced, WithRows};
use crate::api::window::trigger::DefaultTrigger;
use crate::api::window::{Aggregate, WindowCx};
use crate::data::{AnyBatch, Res, Rows, TS_MAX, TS_MIN, Ts};
use crate::operators::window::LateRows;
use crate::operators::window::body::{Buffered, Incremental};
use crate::operators::window::generic::{WindowOperator, WindowParts};
use crate::operators::window::sliding::{Sliding, SlidingParts};
use crate::operators::window::tumbling::{Tumbling, TumblingParts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Flow, Operator};
use crate::runtime::side::Sides;
use crate::state::StateTable;
use fastrand::Rng;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

fn fired(key: &u64, window: Window, (count, sum): (u64, u64)) -> Fired {
    (*key, window.start, window.end, count, sum)
}

type Emit = EmitEach<fn(&u64, Window, (u64, u64)) -> Fired>;

pub fn emit() -> Emit {
    EmitEach(fired)
}

fn late(place: &Place) -> LateRows {
    LateRows { tag: Some(LATE), second: None, metrics: place.metrics.clone() }
}

pub fn tumbling(windows: Aligned, lateness: Ts) -> impl Fn(Place) -> Box<dyn Fires> {
    move |place| {
        Box::new(Tumbling::new(TumblingParts {
            selector: by_key(),
            accumulate: ByAggregate(CountSum),
            fire: emit(),
            size: windows.size,
            offset: windows.offset,
            lateness,
            late: late(&place),
            panes: place.spilling_panes(),
            sides: place.sides,
        }))
    }
}

pub fn sliding(windows: Aligned, lateness: Ts) -> impl Fn(Place) -> Box<dyn Fires> {
    move |place| {
        Box::new(Sliding::new(SlidingParts {
            selector: by_key(),
            accumulate: ByAggregate(CountSum),
            fire: emit(),
            windows,
            lateness,
            late: late(&place),
            panes: place.panes(),
            budget: place.budget(),
            sides: place.sides,
            max: MAX,
        }))
    }
}

pub fn generic<W: WindowAssigner<Event>>(
    assigner: W,
    lateness: Ts,
) -> impl Fn(Place) -> Box<dyn Fires> {
    move |place| {
        Box::new(WindowOperator::new(WindowParts {
            selector: by_key(),
            assigner: assigner.clone(),
            trigger: DefaultTrigger::EventTime,
            body: Incremental::new(ByAggregate(CountSum), emit()),
            lateness,
            late: late(&place),
            take_late: LateRows::take::<Event>,
            table: place.table(),
            sides: place.sides,
        }))
    }
}

pub fn buffered<W: WindowAssigner<Event>>(
    assigner: W,
    lateness: Ts,
) -> impl Fn(Place) -> Box<dyn Fires> {
    let function = |key: &u64, rows: &[Event], cx: &mut WindowCx<'_, Fired>| {
        let mut acc = Acc::default();
        rows.iter().for_each(|row| CountSum.add(&mut acc, row));
        let row = fired(key, cx.window(), CountSum.result(&acc));
        cx.emit(row)
    };
    move |place| {
        Box::new(WindowOperator::new(WindowParts {
            selector: by_key(),
            assigner: assigner.clone(),
            trigger: DefaultTrigger::EventTime,
            body: Buffered::new(KeepAll, WithRows(function)),
            lateness,
            late: late(&place),
            take_late: LateRows::take::<Event>,
            table: place.table(),
            sides: place.sides,
        }))
    }
}

/// As if by an aggregate: the sum of values by a reduce function; the count is not known.
fn reduced(windows: Aligned, lateness: Ts) -> impl Fn(Place) -> Box<dyn Fires> {
    let function = |key: &u64, row: &Event, cx: &mut WindowCx<'_, Fired>| -> Res {
        let row = fired(key, cx.window(), (0, row.1));
        cx.emit(row)
    };
    move |place| {
        Box::new(Sliding::new(SlidingParts {
            selector: by_key(),
            accumulate: ByReduce(|a: &mut Event, b: Event| a.1 += b.1),
            fire: WithReduced(function),
            windows,
            lateness,
            late: late(&place),
            panes: place.panes(),
            budget: place.budget(),
            sides: place.sides,
            max: MAX,
        }))
    }
}

/// Any of the operators.
pub trait Fires: Operator<Out = Fired> {}
impl<O: Operator<Out = Fired>> Fires for O {}

impl Operator for Box<dyn Fires> {
    type Out = Fired;

    fn inputs() -> Vec<Marks> {
        Vec::new()
    }

    fn batch(
        &mut self,
        input: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<Fired>,
    ) -> Res<Flow> {
        (**self).batch(input, batch, out)
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<Fired>) -> Res<Flow> {
        (**self).watermark(watermark, out)
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        (**self).tables()
    }

    fn restored(&mut self, time: EventTime) -> Res {
        (**self).restored(time)
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        (**self).sides()
    }
}

/// Windows by their definition.
struct Naive {
    sessions: Option<Ts>,
    windows: Aligned,
    lateness: Ts,
    open: BTreeMap<(u64, Ts, Ts), Acc>,
    watermark: Ts,
    fired: Vec<Fired>,
    late: Vec<(Ts, Event)>,
}

impl Naive {
    fn complete_at(&self, end: Ts) -> Ts {
        end + Ts::from(self.sessions.is_some())
    }

    fn row(&mut self, ts: Ts, row: Event) {
        let mut windows = Vec::new();
        if let Some(gap) = self.sessions {
            let gap = gap_after(gap, &row);
            let (mut start, mut end) = (ts, ts + gap);
            let mut acc = Acc::default();
            let mut joined = Vec::new();
            // Touching, until nothing more does.
            for ((key, s, e), other) in &self.open {
                if *key == row.0 && *s <= ts + gap && ts <= *e {
                    (start, end) = (start.min(*s), end.max(*e));
                    CountSum.merge(&mut acc, other);
                    joined.push((*key, *s, *e));
                }
            }
            if joined.is_empty() && self.complete_at(end) + self.lateness <= self.watermark {
                return self.late.push((ts, row));
            }
            joined.iter().for_each(|w| {
                self.open.remove(w);
            });
            self.open.insert((row.0, start, end), acc);
            windows.push((start, end));
        } else {
            let Aligned { size, slide, offset } = self.windows;
            let mut start = (ts - offset).div_euclid(slide) * slide + offset;
            let mut assigned = 0;
            while start > ts - size {
                assigned += 1;
                if start + size + self.lateness > self.watermark {
                    windows.push((start, start + size));
                }
                start -= slide;
            }
            if windows.is_empty() && assigned > 0 {
                self.late.push((ts, row));
            }
        }
        for (start, end) in windows {
            let acc = self.open.entry((row.0, start, end)).or_default();
            CountSum.add(acc, &row);
            let (count, sum) = CountSum.result(acc);
            if self.complete_at(end) <= self.watermark {
                self.fired.push((row.0, start, end, count, sum));
            }
        }
    }

    fn watermark(&mut self, watermark: Ts) {
        for ((key, start, end), acc) in &self.open {
            let at = self.complete_at(*end);
            if self.watermark < at && at <= watermark {
                self.fired.push((*key, *start, *end, acc.count, acc.sum));
            }
        }
        let open = std::mem::take(&mut self.open);
        let gone = |end: Ts| self.complete_at(end).saturating_add(self.lateness) <= watermark;
        self.open = open.into_iter().filter(|((_, _, end), _)| !gone(*end)).collect();
        self.watermark = watermark;
    }
}

/// Negative: a gap that depends on the row.
fn gap_after(gap: Ts, row: &Event) -> Ts {
    if gap > 0 { gap } else { -gap + (row.1 % 5) as Ts * 20 }
}

struct Stream {
    keys: u64,
    rows: usize,
    /// How far rows may be behind, beyond what watermarks allow for.
    jitter: Ts,
    /// Mean distance of rows in time.
    step: Ts,
}

/// Runs a random stream through an operator and the definition, and compares; answers the
/// most bytes that were in a tier.
fn compare<F>(
    seed: u64,
    sessions: Option<Ts>,
    windows: Aligned,
    lateness: Ts,
    stream: Stream,
    make: F,
) -> u64
where
    F: Fn(Place) -> Box<dyn Fires> + 'static,
{
    println!("seed {seed} windows {windows:?} sessions {sessions:?} lateness {lateness}");
    let mut rng = Rng::with_seed(seed);
    let mut naive = Naive {
        sessions,
        windows,
        lateness,
        open: BTreeMap::new(),
        watermark: TS_MIN / 4,
        fired: Vec::new(),
        late: Vec::new(),
    };
    let mut driver: Driver<Box<dyn Fires>, Event> = Driver::new(rng.fork(), rng.u16(1..4), make);
    let (mut time, mut watermark) = (rng.i64(-5_000..5_000), TS_MIN);
    let mut left = stream.rows;
    let mut late = Vec::new();
    while left > 0 {
        let mut rows = Rows::default();
        for _ in 0..rng.usize(1..500).min(left) {
            left -= 1;
            // Quiet times, so that windows are empty and sessions end.
            time += if rng.u16(..300) == 0 { rng.i64(0..3_000) } else { rng.i64(0..=stream.step) };
            let ts = time - rng.i64(0..=stream.jitter);
            let row = (rng.u64(..stream.keys), rng.u64(..100));
            rows.push(ts, row);
            naive.row(ts, row);
            if rng.u8(..20) == 0 && time - stream.jitter / 2 > watermark {
                watermark = time - stream.jitter / 2;
                rows.mark(watermark);
                naive.watermark(watermark);
            }
        }
        driver.feed(0, &rows, |row| row.0);
        if rng.bool() && time - stream.jitter / 2 > watermark {
            watermark = time - stream.jitter / 2;
            naive.watermark(watermark);
            driver.watermark(watermark);
        }
        if rng.bool() {
            driver.settle();
            driver.checkpoint();
        }
        if rng.u8(..4) == 0 {
            late.append(&mut driver.late());
            driver.restore(rng.u16(1..5));
        }
    }
    naive.watermark(TS_MAX);
    driver.end();
    late.append(&mut driver.late());
    late.sort_unstable();
    naive.late.sort_unstable();
    assert_eq!(late, naive.late, "late rows; seed {seed}");
    for (ts, row) in &driver.fired {
        assert_eq!(*ts, row.2 - 1, "timestamp; seed {seed}");
    }
    if lateness == 0 {
        assert_eq!(driver.behind, 0, "results behind the watermark; seed {seed}");
    }
    let mut fired: Vec<Fired> = driver.fired.iter().map(|(_, row)| *row).collect();
    if fired.iter().all(|row| row.3 == 0) {
        naive.fired.iter_mut().for_each(|row| row.3 = 0);
    }
    fired.sort_unstable();
    naive.fired.sort_unstable();
    assert_eq!(fired.len(), naive.fired.len(), "number of results; seed {seed}");
    for (got, expected) in fired.iter().zip(&naive.fired) {
        assert_eq!(got, expected, "seed {seed}");
    }
    assert!(!fired.is_empty());
    driver.spilled
}

pub fn aligned(size: Ts, slide: Ts, offset: Ts) -> Aligned {
    Aligned { size, slide, offset }
}

/// Streams with few keys and many, with and without lateness; bytes that were in a tier.
fn runs(rounds: u64, mut run: impl FnMut(u64, Ts, Stream) -> u64) -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let mut spilled = 0;
    for round in 0..rounds {
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        let keys = if round % 4 == 3 { 4_000 } else { 1 + round * 7 };
        let rows = if keys > 1_000 { 8_000 } else { 3_000 };
        let step = if keys > 1_000 { 1 } else { 10 };
        let lateness = [0, 150, 0, 1_000][(round / 2 % 4) as usize];
        spilled += run(seed, lateness, Stream { keys, rows, jitter: 200, step });
    }
    spilled
}

#[test]
fn tumbling_windows() {
    let spilled = runs(8, |seed, lateness, stream| {
        let windows = aligned(100, 100, 30);
        compare(seed, None, windows, lateness, stream, tumbling(windows, lateness))
    });
    assert!(spilled > 0, "all stayed in memory");
}

/// Windows that were kept for late rows, of a program that allows for none any more.
#[test]
fn what_was_kept_under_another_lateness_does_not_fire_again() {
    let lateness = Rc::new(Cell::new(1_000));
    let of = Rc::clone(&lateness);
    let windows = aligned(100, 100, 0);
    let make = move |place| tumbling(windows, of.get())(place);
    let mut driver = Driver::<_, Event>::new(Rng::with_seed(1), 2, make);
    let mut rows = Rows::default();
    (0..50).for_each(|key| rows.push(10, (key, 1)));
    driver.feed(0, &rows, |row: &Event| row.0);
    driver.watermark(150);
    driver.settle();
    assert_eq!(driver.fired.len(), 50);
    lateness.set(0);
    driver.restore(3);
    driver.watermark(500);
    driver.end();
    driver.settle();
    assert_eq!(driver.fired.len(), 50);
}

#[test]
fn sliding_windows_of_shared_panes() {
    for (size, slide) in [(100, 20), (100, 30), (70, 100), (640, 10), (25, 24), (101, 100)] {
        runs(8, |seed, lateness, stream| {
            let windows = aligned(size, slide, 7);
            compare(seed, None, windows, lateness, stream, sliding(windows, lateness))
        });
    }
}

#[test]
fn sliding_windows_by_reduce() {
    runs(4, |seed, lateness, stream| {
        let windows = aligned(100, 30, 0);
        compare(seed, None, windows, lateness, stream, reduced(windows, lateness))
    });
}

#[test]
fn aligned_windows_by_the_generic_operator() {
    let ms = Duration::from_millis;
    runs(8, |seed, lateness, stream| {
        let assigner = TumblingWindows::of(ms(100)).offset(ms(30));
        let windows = aligned(100, 100, 30);
        compare(seed, None, windows, lateness, stream, generic(assigner, lateness))
    });
    runs(8, |seed, lateness, stream| {
        let assigner = SlidingWindows::of(ms(100), ms(30));
        let windows = aligned(100, 30, 0);
        compare(seed, None, windows, lateness, stream, buffered(assigner, lateness))
    });
    runs(4, |seed, lateness, stream| {
        let assigner = SlidingWindows::of(ms(70), ms(100));
        let windows = aligned(70, 100, 0);
        compare(seed, None, windows, lateness, stream, generic(assigner, lateness))
    });
}

#[test]
fn sessions() {
    let ms = Duration::from_millis;
    for gap in [1, 40, 500] {
        let spilled = runs(8, |seed, lateness, stream| {
            let assigner = SessionWindows::with_gap(ms(gap as u64));
            let windows = aligned(1, 1, 0);
            compare(seed, Some(gap), windows, lateness, stream, generic(assigner, lateness))
        });
        assert!(spilled > 0, "all stayed in memory");
        runs(4, |seed, lateness, stream| {
            let assigner =
                SessionWindows::with_dynamic_gap(
                    move |row: &Event| ms(gap_after(-gap, row) as u64),
                );
            let windows = aligned(1, 1, 0);
            compare(seed, Some(-gap), windows, lateness, stream, buffered(assigner, lateness))
        });
    }
}

/// Rows in any order within what the watermark allows for: the sessions of the batch.
#[test]
fn sessions_are_those_of_the_batch() {
    for round in 0..30 {
        let seed = fastrand::u64(..);
        println!("seed {seed} round {round}");
        let mut rng = Rng::with_seed(seed);
        let (gap, delay) = (rng.i64(1..60), rng.i64(0..300));
        let mut rows: Vec<(Ts, Event)> = Vec::new();
        let mut at = 0;
        for _ in 0..1_000 {
            at += rng.i64(0..20);
            rows.push((at, (rng.u64(..6), 1)));
        }
        let mut batch: Vec<Fired> = Vec::new();
        for key in 0..6 {
            for (ts, row) in rows.iter().filter(|r| r.1.0 == key) {
                match batch.last_mut().filter(|s| s.0 == key && *ts <= s.2) {
                    Some(session) => {
                        (session.2, session.3) = (ts + gap, session.3 + 1);
                        session.4 += row.1;
                    }
                    None => batch.push((key, *ts, ts + gap, 1, row.1)),
                }
            }
        }
        // Each row comes up to `delay` later than its time.
        let mut arrival: Vec<_> =
            rows.iter().map(|(ts, row)| (ts + rng.i64(0..=delay), *ts, *row)).collect();
        arrival.sort_unstable();
        let mut input = Rows::default();
        let mut max = TS_MIN;
        for (_, ts, row) in arrival {
            input.push(ts, row);
            max = max.max(ts);
            input.mark(max - delay);
        }
        let assigner = SessionWindows::with_gap(Duration::from_millis(gap as u64));
        let mut driver: Driver<Box<dyn Fires>, Event> = Driver::new(rng, 2, generic(assigner, 0));
        driver.feed(0, &input, |row| row.0);
        driver.end();
        assert_eq!(driver.late(), [], "seed {seed}");
        let mut fired: Vec<Fired> = driver.fired.iter().map(|(_, row)| *row).collect();
        fired.sort_unstable();
        batch.sort_unstable();
        assert_eq!(fired, batch, "seed {seed}");
    }
}

/// The order of what comes out depends on the rows and marks only.
#[test]
fn order_does_not_depend_on_batches_or_room() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut input = Rows::default();
    for i in 0..6_000 {
        input.push(i / 10 - rng.i64(0..100), (rng.u64(..300), rng.u64(..100)));
        if rng.u8(..50) == 0 {
            input.mark(i / 10 - 80);
        }
    }
    type Make = Box<dyn Fn(Place) -> Box<dyn Fires>>;
    let operators: [fn() -> Make; 4] = [
        || Box::new(tumbling(aligned(20, 20, 0), 30)),
        || Box::new(sliding(aligned(40, 7, 0), 30)),
        || Box::new(generic(SessionWindows::with_gap(Duration::from_millis(5)), 30)),
        || {
            let ms = Duration::from_millis;
            Box::new(generic(SlidingWindows::of(ms(40), ms(7)), 30))
        },
    ];
    for (i, make) in operators.iter().enumerate() {
        let run = |full: bool, seed: u64| {
            let mut driver: Driver<Box<dyn Fires>, Event> =
                Driver::new(Rng::with_seed(seed), 1, make());
            driver.full = full;
            driver.feed(0, &input, |row| row.0);
            driver.end();
            driver.fired
        };
        let plain = run(false, 1);
        assert!(plain.len() > 100);
        for other in 2..6 {
            assert_eq!(run(true, other), plain, "operator {i} seed {seed}");
        }
    }
}
