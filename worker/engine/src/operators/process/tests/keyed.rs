use super::{maybe_restart, seeds};
use crate::api::process::{Cx, KeyedProcess, Timer};
use crate::api::tags::{AnyTag, OutputTag};
use crate::data::{Res, TS_MAX, Ts};
use crate::state::{MapState, Value};
use crate::testing::{Element, Harness, SPILLS};
use millrace_derive::State;
use millrace_protocol::key::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
enum Op {
    Add(u64),
    Register(Timer),
    Delete(Timer),
    Clear,
    Aside,
}

type Row = (String, Op);
/// Key, what, count, number of timers that fired.
type Out = (String, String, u64, u64);

const ASIDE: OutputTag<String> = OutputTag::new("aside");

#[derive(Default, State)]
#[state(crate = "crate::state")]
struct Mine {
    count: Value<u64>,
    fired: MapState<u64, u64>,
}

#[derive(Clone)]
struct Machine;

/// Whether a timer is followed by another one.
fn chained(at: Ts) -> bool {
    at % 4 == 0
}

impl KeyedProcess<String, Row> for Machine {
    type Out = Out;
    type State = Mine;

    fn side_outputs(&self) -> Vec<AnyTag> {
        vec![ASIDE.any()]
    }

    fn process(&mut self, row: Row, st: &mut Mine, cx: &mut Cx<'_, String, Out>) -> Res {
        match row.1 {
            Op::Add(n) => *st.count.or_insert(0) += n,
            Op::Register(timer) => cx.register(timer),
            Op::Delete(timer) => cx.delete(timer),
            Op::Clear => *st = Mine::default(),
            Op::Aside => {
                let key = cx.key().clone();
                cx.side(&ASIDE, key);
                return Ok(());
            }
        }
        let fired = st.fired.get(&0)?.copied().unwrap_or(0);
        cx.emit((cx.key().clone(), "row".into(), st.count.get().copied().unwrap_or(0), fired));
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer, st: &mut Mine, cx: &mut Cx<'_, String, Out>) -> Res {
        let fired = st.fired.get(&0)?.copied().unwrap_or(0) + 1;
        st.fired.put(0, fired)?;
        match timer {
            Timer::Event(at) if chained(at) => cx.register(Timer::Event(at + 7)),
            Timer::Processing(at) if chained(at) => cx.register(Timer::Processing(at + 7)),
            Timer::Event(_) => st.count.clear(),
            Timer::Processing(_) => {}
        }
        let count = st.count.get().copied().unwrap_or(0);
        cx.emit((cx.key().clone(), format!("{timer:?}"), count, fired));
        Ok(())
    }
}

#[derive(Default)]
struct Naive {
    keys: BTreeMap<String, (u64, u64)>,
    timers: BTreeSet<(Timer, u64, String)>,
    out: Vec<Out>,
    aside: Vec<String>,
}

impl Naive {
    fn row(&mut self, (key, op): Row) {
        let state = self.keys.entry(key.clone()).or_default();
        match op {
            Op::Add(n) => state.0 += n,
            Op::Register(timer) => {
                self.timers.insert((timer, key.hash64(), key.clone()));
            }
            Op::Delete(timer) => {
                self.timers.remove(&(timer, key.hash64(), key.clone()));
            }
            Op::Clear => *state = (0, 0),
            Op::Aside => return self.aside.push(key),
        }
        self.out.push((key, "row".into(), state.0, state.1));
    }

    fn fire(&mut self, due: impl Fn(Timer) -> bool) {
        while let Some((timer, hash, key)) = self.timers.iter().find(|t| due(t.0)).cloned() {
            self.timers.remove(&(timer, hash, key.clone()));
            let state = self.keys.entry(key.clone()).or_default();
            state.1 += 1;
            match timer {
                Timer::Event(at) if chained(at) => {
                    self.timers.insert((Timer::Event(at + 7), hash, key.clone()));
                }
                Timer::Processing(at) if chained(at) => {
                    self.timers.insert((Timer::Processing(at + 7), hash, key.clone()));
                }
                Timer::Event(_) => state.0 = 0,
                Timer::Processing(_) => {}
            }
            self.out.push((key, format!("{timer:?}"), state.0, state.1));
        }
    }
}

fn by_key(mut out: Vec<Out>) -> Vec<Out> {
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

#[test]
fn machine_equals_the_naive_one() {
    seeds(25, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut harness, (input, out, aside)) = Harness::at_parallelism(rng.u16(1..=3), |t| {
            let (input, rows) = t.input::<Row>("rows");
            let stream = rows.key_by_ref(|r| &r.0).process("machine", Machine);
            let aside = t.output(stream.side_output(&ASIDE));
            (input, t.output(stream), aside)
        })
        .unwrap();
        if rng.bool() {
            harness.stutter(seed);
        }
        let mut naive = Naive::default();
        let (mut watermark, mut now) = (0, 0);
        let keys = rng.u32(1..200);
        for _ in 0..400 {
            for _ in 0..rng.usize(0..60) {
                let timer = if rng.u32(0..3) > 0 {
                    Timer::Event(watermark + rng.i64(-50..5000))
                } else {
                    Timer::Processing(now + rng.i64(1..5000))
                };
                let known = naive.timers.iter().next().cloned();
                let key = format!("k{}", rng.u32(0..keys));
                let row = match (rng.u32(0..12), known) {
                    (0..4, _) => (key, Op::Add(rng.u64(1..9))),
                    (4..8, _) => (key, Op::Register(timer)),
                    (8..10, Some((timer, _, key))) => (key, Op::Delete(timer)),
                    (10, _) => (key, Op::Aside),
                    _ => (key, Op::Clear),
                };
                naive.row(row.clone());
                input.push(watermark, row);
            }
            if rng.bool() {
                watermark += rng.i64(1..600);
                input.watermark(watermark);
                naive.fire(|t| matches!(t, Timer::Event(at) if at <= watermark));
            }
            if rng.u32(0..4) == 0 {
                harness.run().unwrap();
                now += rng.i64(1..900);
                harness.advance_to(now).unwrap();
                naive.fire(|t| matches!(t, Timer::Processing(at) if at <= now));
            }
            maybe_restart(&mut harness, &mut rng);
        }
        input.end();
        harness.run().unwrap();
        naive.fire(|t| matches!(t, Timer::Event(_)));
        assert_eq!(by_key(out.take()), by_key(naive.out));
        let (mut aside, mut expected) = (aside.take(), naive.aside);
        aside.sort();
        expected.sort();
        assert_eq!(aside, expected);
    });
}

#[test]
fn timers_fire_in_order_of_time_and_hash_before_the_watermark() {
    let (mut harness, (input, out)) = Harness::new(|t| {
        let (input, rows) = t.input::<Row>("rows");
        (input, t.output(rows.key_by_ref(|r| &r.0).process("machine", Machine)))
    })
    .unwrap();
    let mut expected = Vec::new();
    for i in 0..500 {
        let (key, at) = (format!("k{i}"), 1 + 2 * (i % 9));
        input.push(0, (key.clone(), Op::Register(Timer::Event(at))));
        expected.push((at, key.hash64(), key));
    }
    // One that is moved, one that is deleted, one registered twice.
    input.push(0, ("k0".into(), Op::Delete(Timer::Event(1))));
    input.push(0, ("k0".into(), Op::Register(Timer::Event(5))));
    input.push(0, ("k1".into(), Op::Delete(Timer::Event(3))));
    input.push(0, ("k2".into(), Op::Register(Timer::Event(5))));
    expected[0].0 = 5;
    expected.remove(1);
    expected.sort();
    harness.run().unwrap();
    out.take();
    input.watermark(100).push(100, ("k0".into(), Op::Add(1)));
    harness.run().unwrap();
    let elements = out.take_elements();
    let fired = elements.iter().map_while(|e| match e {
        Element::Row(ts, (key, ..)) => Some((*ts, key.hash64(), key.clone())),
        Element::Watermark(_) => None,
    });
    assert_eq!(fired.collect::<Vec<_>>(), expected);
    assert_eq!(elements[expected.len()], Element::Watermark(100));
    assert_eq!(elements.len(), expected.len() + 2);
}

/// State that lives for a second.
#[derive(Default, State)]
#[state(crate = "crate::state", ttl = "1s")]
struct Brief {
    count: Value<u64>,
}

#[derive(Clone)]
struct Counts;

impl KeyedProcess<u64, (u64, Ts)> for Counts {
    type Out = (u64, u64, bool);
    type State = Brief;

    fn process(
        &mut self,
        (_, timer): (u64, Ts),
        st: &mut Brief,
        cx: &mut Cx<'_, u64, Self::Out>,
    ) -> Res {
        let n = st.count.or_insert(0);
        *n += 1;
        let n = *n;
        if timer > 0 {
            cx.register(Timer::Processing(timer));
        }
        cx.emit((*cx.key(), n, false));
        Ok(())
    }

    fn on_timer(&mut self, _: Timer, st: &mut Brief, cx: &mut Cx<'_, u64, Self::Out>) -> Res {
        cx.emit((*cx.key(), st.count.get().copied().unwrap_or(0), true));
        Ok(())
    }
}

#[test]
fn expired_state_is_empty_and_its_timers_still_fire() {
    for spills in [false, true] {
        SPILLS.set(spills);
        let (mut harness, (input, out)) = Harness::new(|t| {
            let (input, rows) = t.input::<(u64, Ts)>("rows");
            (input, t.output(rows.key_by(|r| r.0).process("counts", Counts)))
        })
        .unwrap();
        input.push(0, (1, 5000)).push(0, (1, 0)).push(0, (2, 0)).push(0, (3, 900));
        harness.run().unwrap();
        let counts = vec![(1, 1, false), (1, 2, false), (2, 1, false), (3, 1, false)];
        assert_eq!(out.take(), counts);
        harness.advance_to(900).unwrap();
        assert_eq!(out.take(), vec![(3, 1, true)]);
        harness.advance_to(Duration::from_secs(2).as_millis() as Ts).unwrap();
        let snapshot = harness.snapshot().unwrap();
        harness.restore(&snapshot, 3).unwrap();
        input.push(0, (2, 0)).push(0, (3, 0));
        harness.run().unwrap();
        let mut counts = out.take();
        counts.sort();
        assert_eq!(counts, vec![(2, 1, false), (3, 1, false)]);
        harness.advance_to(5000).unwrap();
        assert_eq!(out.take(), vec![(1, 0, true)]);
    }
    SPILLS.set(false);
}

#[derive(Clone)]
struct Undeclared;

impl KeyedProcess<u64, u64> for Undeclared {
    type Out = u64;
    type State = Brief;

    fn process(&mut self, _: u64, _: &mut Brief, cx: &mut Cx<'_, u64, u64>) -> Res {
        cx.side(&ASIDE, String::new());
        Ok(())
    }
}

#[test]
fn an_undeclared_side_output_is_an_error_that_says_so() {
    let (mut harness, input) = Harness::new(|t| {
        let (input, rows) = t.input::<u64>("rows");
        t.output(rows.key_by(|r| *r).process("p", Undeclared));
        input
    })
    .unwrap();
    input.push(0, 1);
    let error = harness.run().unwrap_err().to_string();
    assert!(error.contains("\"p\"") && error.contains("aside"), "{error}");
}

/// `Mine` of a later program: a field is new, one is gone.
#[derive(Default, State)]
#[state(crate = "crate::state")]
struct Later {
    note: Value<String>,
    count: Value<u64>,
}

#[derive(Clone)]
struct LaterMachine;

impl KeyedProcess<String, Row> for LaterMachine {
    type Out = Out;
    type State = Later;

    fn process(&mut self, _: Row, _: &mut Later, _: &mut Cx<'_, String, Out>) -> Res {
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer, st: &mut Later, cx: &mut Cx<'_, String, Out>) -> Res {
        st.note.set("seen".into());
        let count = st.count.get().copied().unwrap_or(0);
        cx.emit((cx.key().clone(), format!("{timer:?}"), count, 0));
        Ok(())
    }
}

#[test]
fn state_and_timers_are_read_by_a_program_whose_fields_changed() {
    let (mut old, input) = Harness::new(|t| {
        let (input, rows) = t.input::<Row>("rows");
        t.output(rows.key_by_ref(|r| &r.0).process("machine", Machine));
        input
    })
    .unwrap();
    input.push(0, ("a".into(), Op::Add(5)));
    for at in [7, 9] {
        input.push(0, ("a".into(), Op::Register(Timer::Event(at))));
    }
    input.push(0, ("a".into(), Op::Register(Timer::Processing(50))));
    let snapshot = old.snapshot().unwrap();
    let (mut new, (input, out)) = Harness::new(|t| {
        let (input, rows) = t.input::<Row>("rows");
        (input, t.output(rows.key_by_ref(|r| &r.0).process("machine", LaterMachine)))
    })
    .unwrap();
    new.restore(&snapshot, 2).unwrap();
    input.watermark(8);
    new.advance_to(50).unwrap();
    input.watermark(10);
    new.run().unwrap();
    let mut fired: Vec<String> =
        out.take().into_iter().map(|o| format!("{} {}", o.1, o.2)).collect();
    fired.sort();
    assert_eq!(fired, ["Event(7) 5", "Event(9) 5", "Processing(50) 5"]);
}

#[test]
fn moving_a_timer_does_not_grow_the_index() {
    use crate::operators::process::timers::{Domain, Due, TimerIndex, Timers};
    let (mut timers, mut index) = (Timers::default(), TimerIndex::<u64>::new());
    let mut entries = 0;
    for at in 1..100_000 {
        timers.remove(Timer::Event(at - 1));
        timers.insert(Timer::Event(at));
        if let Some(at) = timers.claim_entry(Domain::Event) {
            index.push(Due { at, hash: 1, key: 1 });
            entries += 1;
        }
    }
    assert_eq!(entries, 1);
    assert_eq!(index.pop(1).map(|d| d.at), Some(1));
}

/// Reports each 10 ms, for as long as there is input.
#[derive(Clone)]
struct Every;

impl KeyedProcess<u64, u64> for Every {
    type Out = Ts;
    type State = Mine;

    fn process(&mut self, left: u64, st: &mut Mine, cx: &mut Cx<'_, u64, Ts>) -> Res {
        st.count.set(left);
        cx.register(Timer::Event(cx.timestamp() + 10));
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer, st: &mut Mine, cx: &mut Cx<'_, u64, Ts>) -> Res {
        cx.emit(timer.at());
        let left = st.count.get().copied().unwrap_or(0);
        st.count.set(left.saturating_sub(1));
        if left > 0 || cx.watermark() < TS_MAX {
            cx.register(Timer::Event(timer.at() + 10));
        }
        Ok(())
    }
}

/// What is left to do is done at the end, timer after timer; whoever would go on for ever
/// sees that it is the end.
#[test]
fn a_chain_of_timers_ends_with_the_input_if_it_looks_at_the_watermark() {
    let (mut harness, (input, out)) = Harness::new(|t| {
        let (input, rows) = t.input::<u64>("rows");
        (input, t.output(rows.key_by(|_| 0u64).process("every", Every)))
    })
    .unwrap();
    input.push(0, 5).watermark(35);
    harness.run().unwrap();
    assert_eq!(out.take(), [10, 20, 30]);
    input.end();
    harness.run().unwrap();
    assert_eq!(out.take(), [40, 50, 60]);
}
