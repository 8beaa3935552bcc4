use super::{maybe_restart, seeds};
use crate::api::connect::KeyedCoProcess;
use crate::api::process::{Cx, Timer};
use crate::data::Res;
use crate::state::{ListState, Value};
use crate::testing::Harness;
use millrace_derive::State;
use millrace_protocol::key::Key;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn co_flat_map_takes_both_inputs() {
    seeds(5, |seed| {
        let (mut harness, (left, right, out)) = Harness::at_parallelism(2, |t| {
            let (left, lefts) = t.input::<u64>("left");
            let (right, rights) = t.input::<String>("right");
            let both = lefts.connect(rights).flat_map(
                |n| (0..n).map(|i| i.to_string()).collect::<Vec<_>>(),
                |s| s.split(' ').map(str::to_owned).collect::<Vec<_>>(),
            );
            (left, right, t.output(both))
        })
        .unwrap();
        harness.stutter(seed);
        let mut expected = Vec::new();
        for n in 0..100u64 {
            left.push(1, n % 4).watermark(n as i64);
            right.push(2, format!("a{n} b{n}")).watermark(n as i64 / 2);
            expected.extend((0..n % 4).map(|i| i.to_string()));
            expected.extend([format!("a{n}"), format!("b{n}")]);
        }
        harness.run().unwrap();
        assert_eq!(out.watermark(), 49);
        let mut got = out.take();
        got.sort();
        expected.sort();
        assert_eq!(got, expected);
    });
}

#[derive(Default, State)]
#[state(crate = "crate::state")]
struct Pending {
    lefts: ListState<u64>,
    right: Value<String>,
}

/// The newest right row answers left rows; those without an answer time out.
#[derive(Clone)]
struct Answer;

type Out = (u32, u64, String);

impl KeyedCoProcess<u32, (u32, u64), (u32, String)> for Answer {
    type Out = Out;
    type State = Pending;

    fn first(&mut self, row: (u32, u64), st: &mut Pending, cx: &mut Cx<'_, u32, Out>) -> Res {
        match st.right.get() {
            Some(answer) => cx.emit((row.0, row.1, answer.clone())),
            None => {
                st.lefts.add(row.1);
                cx.register(Timer::Event(cx.timestamp() + 30));
            }
        }
        Ok(())
    }

    fn second(
        &mut self,
        (key, answer): (u32, String),
        st: &mut Pending,
        cx: &mut Cx<'_, u32, Out>,
    ) -> Res {
        for left in std::mem::take(st.lefts.get_mut()) {
            cx.emit((key, left, answer.clone()));
        }
        st.right.set(answer);
        Ok(())
    }

    fn on_timer(&mut self, _: Timer, st: &mut Pending, cx: &mut Cx<'_, u32, Out>) -> Res {
        for left in std::mem::take(st.lefts.get_mut()) {
            cx.emit((*cx.key(), left, "none".into()));
        }
        st.right.clear();
        Ok(())
    }
}

#[test]
fn co_process_equals_a_naive_one() {
    seeds(20, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut harness, (left, right, out)) = Harness::at_parallelism(rng.u16(1..=3), |t| {
            let (left, lefts) = t.input::<(u32, u64)>("left");
            let (right, rights) = t.input::<(u32, String)>("right");
            let answered =
                lefts.key_by(|r| r.0).connect(rights.key_by_ref(|r| &r.0)).process("a", Answer);
            (left, right, t.output(answered))
        })
        .unwrap();
        harness.stutter(seed);
        let mut state: BTreeMap<u32, (Vec<u64>, Option<String>)> = BTreeMap::new();
        let mut timers: BTreeSet<(i64, u64, u32)> = BTreeSet::new();
        let (mut expected, mut watermark) = (Vec::new(), 0);
        for id in 0..600u64 {
            let key = rng.u32(0..15);
            let entry = state.entry(key).or_default();
            if rng.u32(0..3) > 0 {
                left.push(watermark, (key, id));
                match &entry.1 {
                    Some(answer) => expected.push((key, id, answer.clone())),
                    None => {
                        entry.0.push(id);
                        timers.insert((watermark + 30, key.hash64(), key));
                    }
                }
            } else {
                right.push(watermark, (key, id.to_string()));
                expected.extend(entry.0.drain(..).map(|l| (key, l, id.to_string())));
                entry.1 = Some(id.to_string());
            }
            harness.run().unwrap();
            if rng.u32(0..10) == 0 {
                watermark += rng.i64(1..20);
                left.watermark(watermark);
                right.watermark(watermark);
                // Else the next row might overtake one of the watermarks.
                harness.run().unwrap();
                while let Some(timer) = timers.first().copied().filter(|t| t.0 <= watermark) {
                    timers.remove(&timer);
                    let entry = state.entry(timer.2).or_default();
                    expected.extend(entry.0.drain(..).map(|l| (timer.2, l, "none".into())));
                    entry.1 = None;
                }
            }
            maybe_restart(&mut harness, &mut rng);
        }
        harness.run().unwrap();
        let mut got = out.take();
        got.sort_by_key(|r| r.0);
        expected.sort_by_key(|r| r.0);
        assert_eq!(got, expected);
    });
}
