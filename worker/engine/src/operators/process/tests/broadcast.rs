use super::{maybe_restart, seeds};
use crate::api::broadcast::{
    BroadcastCx, BroadcastMap, BroadcastProcess, KeyedBroadcast, ProcessCx,
};
use crate::api::process::{Cx, Timer};
use crate::data::Res;
use crate::state::{ListState, Value};
use crate::testing::Harness;
use millrace_derive::State;
use millrace_protocol::key::Key;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default, State)]
#[state(crate = "crate::state")]
struct Names {
    names: BroadcastMap<u64, String>,
}

#[derive(Default, State)]
#[state(crate = "crate::state")]
struct Waiting {
    rows: ListState<u64>,
    seen: Value<u64>,
}

/// Rows wait in their key's state until the key has a name.
#[derive(Clone)]
struct Join;

type Out = (u64, String, u64);

impl KeyedBroadcast<u64, (u64, u64), (u64, String)> for Join {
    type Out = Out;
    type State = Waiting;
    type Shared = Names;

    fn process(
        &mut self,
        (key, row): (u64, u64),
        st: &mut Waiting,
        shared: &Names,
        cx: &mut Cx<'_, u64, Out>,
    ) -> Res {
        *st.seen.or_insert(0) += 1;
        match shared.names.get(&key) {
            Some(name) => cx.emit((key, name.clone(), row)),
            None => {
                st.rows.add(row);
                cx.register(Timer::Event(cx.timestamp() + 100));
            }
        }
        Ok(())
    }

    fn broadcast(
        &mut self,
        (key, name): (u64, String),
        shared: &mut Names,
        cx: &mut BroadcastCx<'_, u64, Waiting, Out>,
    ) -> Res {
        if key == 0 {
            // All keys at once.
            return cx.each(|st, cx| {
                let key = *cx.key();
                cx.emit((key, "seen".into(), st.seen.get().copied().unwrap_or(0)));
                Ok(())
            });
        }
        shared.names.put(key, name.clone());
        cx.with_key(&key, |st, cx| {
            for row in std::mem::take(st.rows.get_mut()) {
                cx.emit((key, name.clone(), row));
            }
            Ok(())
        })
    }

    fn on_timer(
        &mut self,
        _: Timer,
        st: &mut Waiting,
        _: &Names,
        cx: &mut Cx<'_, u64, Out>,
    ) -> Res {
        for row in std::mem::take(st.rows.get_mut()) {
            cx.emit((*cx.key(), "nobody".into(), row));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Naive {
    names: BTreeMap<u64, String>,
    waiting: BTreeMap<u64, Vec<u64>>,
    seen: BTreeMap<u64, u64>,
    timers: BTreeSet<(i64, u64, u64)>,
    out: Vec<Out>,
}

impl Naive {
    fn row(&mut self, ts: i64, key: u64, row: u64) {
        *self.seen.entry(key).or_default() += 1;
        match self.names.get(&key) {
            Some(name) => self.out.push((key, name.clone(), row)),
            None => {
                self.waiting.entry(key).or_default().push(row);
                self.timers.insert((ts + 100, key.hash64(), key));
            }
        }
    }

    fn flush(&mut self, key: u64, name: &str) {
        for row in self.waiting.remove(&key).unwrap_or_default() {
            self.out.push((key, name.to_owned(), row));
        }
    }
}

#[test]
fn keyed_broadcast_equals_the_naive_join() {
    seeds(25, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut harness, (rows, names, out)) = Harness::at_parallelism(rng.u16(1..=3), |t| {
            let (rows, row_stream) = t.input::<(u64, u64)>("rows");
            let (names, name_stream) = t.input::<(u64, String)>("names");
            let joined = row_stream
                .key_by(|r| r.0)
                .connect_broadcast(name_stream.broadcast())
                .process("join", Join);
            (rows, names, t.output(joined))
        })
        .unwrap();
        if rng.bool() {
            harness.stutter(seed);
        }
        let mut naive = Naive::default();
        let mut watermark = 0;
        for _ in 0..300 {
            // Between inputs there is no order: one runs out before the other goes on.
            if rng.bool() {
                for i in 0..rng.u64(0..40) {
                    let (ts, key) = (watermark + rng.i64(0..200), rng.u64(1..60));
                    rows.push(ts, (key, i));
                    naive.row(ts, key, i);
                }
            } else if rng.u32(0..10) == 0 {
                names.push(watermark, (0, String::new()));
                for (key, seen) in &naive.seen {
                    naive.out.push((*key, "seen".into(), *seen));
                }
            } else {
                let (key, name) = (rng.u64(1..60), format!("n{}", rng.u32(0..5)));
                names.push(watermark, (key, name.clone()));
                naive.flush(key, &name);
                naive.names.insert(key, name);
            }
            harness.run().unwrap();
            if rng.u32(0..4) == 0 {
                watermark += rng.i64(1..150);
                rows.watermark(watermark);
                names.watermark(watermark);
                while let Some((at, hash, key)) = naive.timers.first().copied() {
                    if at > watermark {
                        break;
                    }
                    naive.timers.remove(&(at, hash, key));
                    naive.flush(key, "nobody");
                }
                harness.run().unwrap();
            }
            maybe_restart(&mut harness, &mut rng);
        }
        let (mut got, mut expected) = (out.take(), naive.out);
        got.sort_by_key(|r| r.0);
        expected.sort_by_key(|r| r.0);
        assert_eq!(got, expected);
    });
}

#[derive(Clone)]
struct Enrich;

impl BroadcastProcess<u64, (u64, String)> for Enrich {
    type Out = (u64, Option<String>);
    type Shared = Names;

    fn process(&mut self, row: u64, shared: &Names, cx: &mut ProcessCx<'_, Self::Out>) -> Res {
        cx.emit((row, shared.names.get(&row).cloned()));
        Ok(())
    }

    fn broadcast(
        &mut self,
        (key, name): (u64, String),
        shared: &mut Names,
        _: &mut ProcessCx<'_, Self::Out>,
    ) -> Res {
        if name.is_empty() {
            shared.names.remove(&key);
        } else {
            shared.names.put(key, name);
        }
        Ok(())
    }
}

#[test]
fn broadcast_state_without_keys_is_the_same_in_all_subtasks() {
    seeds(10, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut harness, (rows, names, out)) = Harness::at_parallelism(3, |t| {
            let (rows, row_stream) = t.input::<u64>("rows");
            let (names, name_stream) = t.input::<(u64, String)>("names");
            let enriched =
                row_stream.connect_broadcast(name_stream.broadcast()).process("enrich", Enrich);
            (rows, names, t.output(enriched))
        })
        .unwrap();
        let mut known: BTreeMap<u64, String> = BTreeMap::new();
        let mut expected = Vec::new();
        for _ in 0..200 {
            let key = rng.u64(0..20);
            match rng.u32(0..3) {
                0 => {
                    let name = format!("{}", rng.u32(0..100));
                    names.push(0, (key, name.clone()));
                    known.insert(key, name);
                }
                1 => {
                    names.push(0, (key, String::new()));
                    known.remove(&key);
                }
                _ => {
                    // As many as there are subtasks, and more.
                    for _ in 0..5 {
                        rows.push(0, key);
                        expected.push((key, known.get(&key).cloned()));
                    }
                }
            }
            harness.run().unwrap();
            maybe_restart(&mut harness, &mut rng);
        }
        let mut got = out.take();
        got.sort();
        expected.sort();
        assert_eq!(got, expected);
    });
}

mod before {
    use super::*;

    /// As `Names` once was.
    #[derive(Default, State)]
    #[state(crate = "crate::state")]
    pub struct OldNames {
        pub gone: BroadcastMap<String, u64>,
        pub names: BroadcastMap<u64, String>,
    }

    #[derive(Clone)]
    pub struct OldEnrich;

    impl BroadcastProcess<u64, (u64, String)> for OldEnrich {
        type Out = (u64, Option<String>);
        type Shared = OldNames;

        fn process(&mut self, _: u64, _: &OldNames, _: &mut ProcessCx<'_, Self::Out>) -> Res {
            Ok(())
        }

        fn broadcast(
            &mut self,
            (key, name): (u64, String),
            shared: &mut OldNames,
            _: &mut ProcessCx<'_, Self::Out>,
        ) -> Res {
            shared.gone.put(name.clone(), key);
            shared.names.put(key, name);
            Ok(())
        }
    }
}

#[test]
fn shared_state_is_read_by_a_program_whose_fields_changed() {
    let build = |old: bool| {
        Harness::new(move |t| {
            let (rows, row_stream) = t.input::<u64>("rows");
            let (names, name_stream) = t.input::<(u64, String)>("names");
            let connected = row_stream.connect_broadcast(name_stream.broadcast());
            let out = match old {
                true => t.output(connected.process("enrich", before::OldEnrich)),
                false => t.output(connected.process("enrich", Enrich)),
            };
            (rows, names, out)
        })
        .unwrap()
    };
    let (mut old, (_rows, names, _)) = build(true);
    names.push(0, (7, "seven".into()));
    let snapshot = old.snapshot().unwrap();
    let (mut new, (rows, _names, out)) = build(false);
    new.restore(&snapshot, 2).unwrap();
    rows.push(0, 7).push(0, 8);
    new.run().unwrap();
    let mut got = out.take();
    got.sort();
    assert_eq!(got, vec![(7, Some("seven".into())), (8, None)]);
}
