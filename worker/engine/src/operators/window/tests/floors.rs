//! Subtasks that have come to different event times, and restores at other parallelisms:
//! nothing comes twice, and what was late stays late.
//!
//! All is done to two drivers. One is restored; the other has so many subtasks that those of
//! the first always own all key groups of some of them, and is never restored: each of its
//! subtasks is told what the owner of its key groups is told, but for watermarks that it has
//! passed before. Both must give the same.

use super::driver::{Driver, MAX, Place};
use super::join::{self, Right};
use super::random::{Fires, aligned, buffered, generic, sliding, tumbling};
use super::{Acc, Event, by_key};
use crate::api::process::{Cx, KeyedProcess, Timer};
use crate::api::window::assign::{SessionWindows, SlidingWindows, TumblingWindows};
use crate::api::window::function::WindowCx;
use crate::api::window::trigger::{CountTrigger, DefaultTrigger};
use crate::data::{Packet, Res, Rows, TS_MIN, Ts};
use crate::operators::cogroup::{CoGroupBody, JoinBody};
use crate::operators::process::core::KeyedCore;
use crate::operators::process::keyed::Process;
use crate::runtime::combine::Partial;
use crate::runtime::operator::Operator;
use crate::state::{Table, Value};
use fastrand::Rng;
use millrace_derive::State;
use millrace_protocol::key::Key;
use std::fmt::Debug;
use std::time::Duration;

/// Subtasks of the driver that is never restored.
const ATOMS: u16 = 12;

/// Its subtasks' key groups make up those of subtasks at these.
const PARALLELISMS: [u16; 5] = [1, 2, 3, 4, 6];

#[derive(Clone, Copy)]
enum Item {
    Row(Ts, Event),
    Mark(Ts),
}

/// Gives a subtask rows and watermarks.
type Deliver<O> = fn(&mut Driver<O, Event>, usize, &[Item]);

/// Operators of one input.
fn one_input<O: Operator>(driver: &mut Driver<O, Event>, subtask: usize, items: &[Item]) {
    let mut rows = Rows::default();
    for item in items {
        match item {
            Item::Row(ts, row) => rows.push(*ts, *row),
            Item::Mark(watermark) => rows.mark(*watermark),
        }
    }
    driver.feed_one(subtask, 0, &rows, |row: &Event| row.0);
}

/// Tumbling windows of 100 ms whose rows were folded upstream, one by one.
fn folded(driver: &mut Driver<Box<dyn Fires>, Event>, subtask: usize, items: &[Item]) {
    for item in items {
        let Item::Row(ts, row) = item else {
            one_input(driver, subtask, &[*item]);
            continue;
        };
        let hash = row.0.hash64();
        let acc = Acc { count: 1, sum: row.1 };
        let rows = vec![(ts.div_euclid(100) * 100, hash, Partial { key: row.0, acc, rows: 1 })];
        if driver.owns(subtask, hash) {
            let mut batch = Packet { rows, marks: Vec::new() };
            driver.call(subtask, |operator, out| operator.batch(0, &mut batch, out));
        }
    }
}

/// Operators of two: every other row is of the right one.
fn two_inputs<O: Operator>(driver: &mut Driver<O, Event>, subtask: usize, items: &[Item]) {
    for item in items {
        match item {
            Item::Row(ts, row) if row.1 % 2 == 1 => {
                let mut rows = Rows::default();
                rows.push(*ts, (row.0, row.1.to_string()));
                driver.feed_one(subtask, 1, &rows, |row: &Right| row.0);
            }
            item => one_input(driver, subtask, &[*item]),
        }
    }
}

/// The two drivers on one stream, each subtask of which is somewhere else.
struct Both<O: Operator> {
    restored: Driver<O, Event>,
    twin: Driver<O, Event>,
    deliver: Deliver<O>,
    parallelism: u16,
    items: Vec<Item>,
    /// How much of it each subtask has had.
    at: Vec<usize>,
    /// How much of it each of the twin's has had.
    had: Vec<usize>,
    /// Restores after which some keys were ahead of the watermark.
    uneven: usize,
}

fn atom(row: &Event) -> usize {
    usize::from(MAX.owner(MAX.group(row.0.hash64()), ATOMS))
}

impl<O: Operator<Out: Ord + Debug>> Both<O> {
    fn new(
        rng: &mut Rng,
        parallelism: u16,
        make: impl Fn(Rng, u16) -> Driver<O, Event>,
        deliver: Deliver<O>,
    ) -> Self {
        Self {
            restored: make(rng.fork(), parallelism),
            twin: make(rng.fork(), ATOMS),
            deliver,
            parallelism,
            items: Vec::new(),
            at: vec![0; usize::from(parallelism)],
            had: vec![0; usize::from(ATOMS)],
            uneven: 0,
        }
    }

    fn atoms_of(&self, subtask: usize) -> std::ops::Range<usize> {
        let each = usize::from(ATOMS / self.parallelism);
        subtask * each..(subtask + 1) * each
    }

    /// Gives a subtask all until there; without `marks`, as rows in flight come.
    fn go(&mut self, subtask: usize, to: usize, marks: bool) {
        let from = self.at[subtask];
        if to <= from {
            return;
        }
        let counts = |at: usize, item: &Item, time: Ts| match item {
            Item::Row(_, row) => at >= self.had[atom(row)],
            Item::Mark(watermark) => marks && *watermark > time,
        };
        let of = |from: usize, time: Ts| -> Vec<Item> {
            let items = self.items.iter().enumerate().take(to).skip(from);
            items.filter(|(at, item)| counts(*at, item, time)).map(|(_, item)| *item).collect()
        };
        let time = |driver: &Driver<O, Event>, subtask: usize| {
            driver.times().nth(subtask).map_or(TS_MIN, |time| time.watermark())
        };
        let items = of(from, time(&self.restored, subtask));
        (self.deliver)(&mut self.restored, subtask, &items);
        for atom in self.atoms_of(subtask) {
            let items = of(self.had[atom], time(&self.twin, atom));
            (self.deliver)(&mut self.twin, atom, &items);
        }
        for atom in self.atoms_of(subtask) {
            self.had[atom] = self.had[atom].max(to);
        }
        self.at[subtask] = to;
    }

    /// All is lost but a checkpoint. Without `marks`, what is under way comes first.
    fn restore(&mut self, parallelism: u16, marks: bool) {
        self.restored.restore(parallelism);
        self.parallelism = parallelism;
        self.uneven += usize::from(self.restored.times().any(|time| !time.is_level()));
        let subtasks = 0..usize::from(parallelism);
        let behind = |subtask| self.atoms_of(subtask).map(|atom| self.had[atom]).min();
        self.at = subtasks.clone().map(|subtask| behind(subtask).unwrap_or(0)).collect();
        if !marks {
            subtasks.for_each(|subtask| self.go(subtask, self.items.len(), false));
        }
    }

    /// The stream ends.
    fn end(mut self, what: &str) {
        for subtask in 0..usize::from(self.parallelism) {
            self.go(subtask, self.items.len(), true);
        }
        self.restored.end();
        self.twin.end();
        let sorted = |driver: &mut Driver<O, Event>| {
            let (mut late, mut fired) = (driver.late(), std::mem::take(&mut driver.fired));
            late.sort_unstable();
            fired.sort_unstable();
            (late, fired)
        };
        let (late, fired) = sorted(&mut self.restored);
        let (twin_late, twin_fired) = sorted(&mut self.twin);
        assert_eq!(late, twin_late, "late rows; {what}");
        for (got, expected) in fired.iter().zip(&twin_fired) {
            assert_eq!(got, expected, "{what}");
        }
        assert_eq!(fired.len(), twin_fired.len(), "number of results; {what}");
        assert!(fired.len() > 20, "only {} results; {what}", fired.len());
    }
}

/// Two subtasks at 1000 and 500, restored into one that goes on to 700, that into two, those
/// into three, and these into one while some keys are still ahead. Late rows come all the time.
fn script<O: Operator<Out: Ord + Debug>>(
    what: &str,
    make: impl Fn(Rng, u16) -> Driver<O, Event>,
    deliver: Deliver<O>,
) {
    for (ahead, marks) in [(0, true), (1, true), (0, false), (1, false)] {
        let what = format!("{what}: subtask {ahead} was ahead, watermarks again: {marks}");
        let mut both = Both::new(&mut Rng::with_seed(1), 2, &make, deliver);
        let mut value = 0;
        let mut rows = |times: &[Ts]| -> Vec<Item> {
            let rows = (0..48).flat_map(|key| times.iter().map(move |ts| (key, *ts)));
            rows.map(|(key, ts)| {
                value += 1;
                Item::Row(ts, (key, value))
            })
            .collect()
        };
        let late = [450, 650, 990, 30];
        let mut stream = vec![rows(&[120, 480, 540, 630, 660, 870, 960, 1040])];
        stream.push(vec![Item::Mark(500)]);
        stream.push(rows(&late));
        stream.push(vec![Item::Mark(700)]);
        stream.push(rows(&late));
        stream.push(vec![Item::Mark(1000)]);
        let ends: Vec<usize> = stream
            .iter()
            .scan(0, |end, part| {
                *end += part.len();
                Some(*end)
            })
            .collect();
        both.items = stream.concat();
        both.go(ahead, ends[5], true);
        both.go(1 - ahead, ends[1], true);
        both.restore(1, marks);
        both.go(0, ends[3], true);
        both.restore(2, marks);
        both.go(1 - ahead, ends[4], true);
        both.items.extend(rows(&late));
        both.restore(3, marks);
        both.restore(1, marks);
        assert_eq!(both.uneven, 3, "{what}");
        both.items.push(Item::Mark(1010));
        both.items.extend(rows(&[650, 990, 1020, 1300, 2000]));
        both.end(&what);
    }
}

/// Rows that come late by up to what they may and somewhat more, and subtasks that are
/// restored wherever they are.
fn at_random<O: Operator<Out: Ord + Debug>>(
    what: &str,
    make: impl Fn(Rng, u16) -> Driver<O, Event>,
    deliver: Deliver<O>,
) {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut uneven = 0;
    for round in 0..6 {
        let what = format!("{what}: round {round} of seed {seed}");
        let parallelism = PARALLELISMS[rng.usize(..PARALLELISMS.len())];
        let mut both = Both::new(&mut rng, parallelism, &make, deliver);
        let (mut time, mut watermark, keys) = (0, TS_MIN, rng.u64(20..150));
        while both.items.len() < 4_000 {
            for value in 0..rng.u64(1..300) {
                time += rng.i64(0..10);
                let ts = time - rng.i64(0..400);
                both.items.push(Item::Row(ts, (rng.u64(..keys), value)));
                if rng.u8(..20) == 0 && time - 150 > watermark {
                    watermark = time - 150;
                    both.items.push(Item::Mark(watermark));
                }
            }
            for subtask in 0..usize::from(both.parallelism) {
                let to = rng.usize(both.at[subtask]..=both.items.len());
                both.go(subtask, to, true);
            }
            if rng.bool() {
                both.restore(PARALLELISMS[rng.usize(..PARALLELISMS.len())], rng.u8(..4) != 0);
            }
        }
        uneven += both.uneven;
        both.end(&what);
    }
    assert!(uneven > 0, "{what}: seed {seed}");
}

fn check<O: Operator<Out: Ord + Debug>>(
    what: &str,
    make: impl Fn(Rng, u16) -> Driver<O, Event>,
    deliver: Deliver<O>,
) {
    script(what, &make, deliver);
    at_random(what, &make, deliver);
}

/// Operators of one input.
fn check_one<F: Fn(Place) -> Box<dyn Fires> + 'static>(what: &str, make: impl Fn() -> F) {
    let make = |rng, parallelism| Driver::new(rng, parallelism, make());
    check(what, make, one_input);
}

const MS: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn tumbling_windows() {
    let windows = aligned(100, 100, 30);
    check_one("without lateness", || tumbling(windows, 0));
    check_one("with lateness", || tumbling(windows, 350));
    let make = |rng, parallelism| Driver::new(rng, parallelism, tumbling(aligned(100, 100, 0), 0));
    check("folded upstream", make, folded);
}

#[test]
fn sliding_windows() {
    for (size, slide) in [(300, 100), (250, 70), (70, 100)] {
        let windows = aligned(size, slide, 7);
        check_one(&format!("{size} by {slide}"), || sliding(windows, 0));
        check_one(&format!("{size} by {slide}, with lateness"), || sliding(windows, 350));
    }
}

#[test]
fn windows_of_the_generic_operator() {
    check_one("tumbling", || generic(TumblingWindows::of(MS(100)), 0));
    check_one("tumbling, with lateness", || generic(TumblingWindows::of(MS(100)), 350));
    check_one("sliding", || buffered(SlidingWindows::of(MS(300), MS(70)), 0));
    check_one("sliding, with lateness", || buffered(SlidingWindows::of(MS(300), MS(70)), 350));
    check_one("sessions", || generic(SessionWindows::with_gap(MS(40)), 0));
    check_one("sessions, with lateness", || generic(SessionWindows::with_gap(MS(40)), 350));
}

#[test]
fn windows_of_two_streams() {
    let windows = TumblingWindows::of(MS(200));
    for lateness in [0, 350] {
        let make = |rng, parallelism| {
            let body = || JoinBody::new(join::pair);
            join::driver(rng, parallelism, windows, DefaultTrigger::EventTime, lateness, body)
        };
        check(&format!("a join, lateness {lateness}"), make, two_inputs);
        type Grouped = (u64, Vec<u64>, Vec<String>, Ts);
        let group =
            |key: &u64, left: &[Event], right: &[Right], cx: &mut WindowCx<'_, Grouped>| -> Res {
                let left = left.iter().map(|row| row.1).collect();
                let right = right.iter().map(|row| row.1.clone()).collect();
                cx.emit((*key, left, right, cx.window().end))
            };
        let make = |rng, parallelism| {
            let body = move || CoGroupBody::new(group);
            join::driver(rng, parallelism, windows, CountTrigger::of(2), lateness, body)
        };
        check(&format!("groups by count, lateness {lateness}"), make, two_inputs);
        let make = |rng, parallelism| {
            let (body, windows) =
                (move || CoGroupBody::new(group), SessionWindows::with_gap(MS(30)));
            join::driver(rng, parallelism, windows, DefaultTrigger::EventTime, lateness, body)
        };
        check(&format!("groups of sessions, lateness {lateness}"), make, two_inputs);
    }
}

/// Tells the event time at which it sees each row, and the timers that fire.
#[derive(Clone)]
struct Clocks;

#[derive(Default, State)]
#[state(crate = "crate::state")]
struct Count {
    timers: Value<u64>,
}

impl KeyedProcess<u64, Event> for Clocks {
    type Out = (u64, u64, Ts);
    type State = Count;

    fn process(&mut self, row: Event, st: &mut Count, cx: &mut Cx<'_, u64, Self::Out>) -> Res {
        if cx.timestamp() >= cx.watermark() {
            *st.timers.or_insert(0) += 1;
            cx.register(Timer::Event(cx.timestamp() + 300));
        }
        cx.emit((row.0, row.1, cx.watermark()));
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer, st: &mut Count, cx: &mut Cx<'_, u64, Self::Out>) -> Res {
        let Timer::Event(at) = timer else { return Ok(()) };
        assert!(at <= cx.watermark());
        cx.emit((*cx.key(), *st.timers.or_insert(0), at));
        Ok(())
    }
}

#[test]
fn what_functions_see_of_event_time() {
    let make = |rng, parallelism| {
        Driver::new(rng, parallelism, |place: Place| {
            let core = KeyedCore::new(Table::new(MAX, place.range), place.sides);
            Process::new(by_key(), Clocks, core)
        })
    };
    check("a process function", make, one_input);
}
