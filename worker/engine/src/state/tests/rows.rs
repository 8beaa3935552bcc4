//! Rows of user state: dirtiness, emptiness, time to live, evolution.

use super::{Output, rng};
use crate::state::budget::Budget;
use crate::state::restore::{Restore, RestoreFile};
use crate::state::tier::{MemoryTiers, TierFactory};
use crate::state::*;
use millrace_derive::{Key, State};
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::key::Key as _;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MAX: MaxParallelism = MaxParallelism::DEFAULT;

struct Max;

impl Reducer for Max {
    type Value = u32;
    fn reduce(into: &mut u32, value: u32) {
        *into = value.max(*into);
    }
}

struct Mean;

impl Aggregator for Mean {
    type In = f64;
    type Acc = (f64, u32);
    type Out = f64;
    fn create() -> Self::Acc {
        (0.0, 0)
    }
    fn add(acc: &mut Self::Acc, value: f64) {
        *acc = (acc.0 + value, acc.1 + 1);
    }
    fn result(acc: &Self::Acc) -> f64 {
        acc.0 / f64::from(acc.1)
    }
}

#[derive(Default, State)]
#[state(crate = "crate::state")]
struct Seen {
    count: Value<u64>,
    names: ListState<String>,
    pages: MapState<String, u32>,
    highest: ReducingState<Max>,
    mean: AggregatingState<Mean>,
}

#[derive(Default, State)]
#[state(crate = "crate::state", ttl = "1600ms")]
struct Brief {
    count: Value<u64>,
}

#[derive(Default, State)]
#[state(crate = "crate::state", ttl = "1600ms", refresh = "read")]
struct BriefRead {
    count: Value<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Key)]
#[key(crate = "millrace_protocol::key")]
enum Place {
    Nowhere,
    Gate(u8),
    Airport { code: String, terminal: Option<char> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Key)]
#[key(crate = "millrace_protocol::key")]
struct Pair<K> {
    first: K,
    second: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Key)]
#[key(crate = "millrace_protocol::key")]
struct Wrapped(u64);

fn act<S: State, T>(table: &mut Table<u64, Keyed<S>>, now: i64, f: impl FnOnce(&mut S) -> T) -> T {
    table.update(1_u64.hash64(), &1, Keyed::new, |row| {
        let answer = f(row.open(now));
        (answer, row.close(now))
    })
}

fn keyed<S: State>() -> Table<u64, Keyed<S>> {
    Table::new(MAX, MAX.all())
}

/// Writes a table's changes to a file.
fn snapshot(table: &mut dyn StateTable, id: u64, base: Option<u64>) -> (Vec<u8>, u64) {
    let mut output = Output::new(MAX);
    output.section("s", table);
    let base = base.map(CheckpointId);
    let fold = KeyGroupRange { start: 0, end: 0 };
    table.begin(&SnapshotSpec { checkpoint: CheckpointId(id), base, fold }).unwrap();
    while !table.drain(&mut output.writer, 1000).unwrap() {}
    table.completed(CheckpointId(id));
    let (bytes, written) = output.finish();
    (bytes, written.entries + written.dead)
}

fn restore(files: &[Vec<u8>], table: &mut dyn StateTable) -> Result<(), String> {
    let file = |(i, bytes): (usize, &Vec<u8>)| RestoreFile {
        name: format!("file {i}"),
        groups: MAX.all(),
        footer_crc32: None,
        data: Box::new(bytes.clone()),
    };
    let files = files.iter().enumerate().map(file).collect();
    let restore = Restore::open(files, MAX).map_err(|e| e.to_string())?;
    restore.check(&Uid::from("op"), "s", &table.schema().unwrap()).map_err(|e| e.to_string())?;
    let loaded = restore.load(&Uid::from("op"), "s", MAX.all(), table);
    loaded.map(drop).map_err(|e| e.to_string())
}

#[test]
fn only_what_was_written_is_in_the_next_file() {
    let mut table = keyed::<Seen>();
    act(&mut table, 0, |s| assert!(s.count.get().is_none() && s.names.get().is_empty()));
    assert!(table.is_empty(), "reading leaves nothing");
    act(&mut table, 0, |s| *s.count.or_insert(0) += 1);
    assert_eq!(snapshot(&mut table, 1, None).1, 1);
    act(&mut table, 0, |s| assert_eq!(s.count.get(), Some(&1)));
    assert_eq!(snapshot(&mut table, 2, Some(1)).1, 0, "reading is no change");
    act(&mut table, 0, |s| s.pages.put("a".into(), 1).unwrap());
    assert_eq!(snapshot(&mut table, 3, Some(2)).1, 1);
    act(&mut table, 0, |s| *s = Seen::default());
    assert!(table.is_empty(), "an empty row goes");
    assert_eq!(snapshot(&mut table, 4, Some(3)).1, 1, "a tombstone");
    act(&mut table, 0, |s| s.highest.add(1));
    act(&mut table, 0, |s| s.highest.clear());
    assert_eq!(snapshot(&mut table, 5, Some(4)).1, 0, "what no file holds leaves no tombstone");
}

#[test]
fn every_kind_of_state_comes_back() {
    let mut table = keyed::<Seen>();
    act(&mut table, 0, |s| {
        s.count.set(300);
        s.names.add("x".into());
        s.names.add(String::new());
        for i in 0..40 {
            s.pages.put(format!("page {i}"), i).unwrap();
        }
        s.pages.remove(&"page 3".to_owned()).unwrap();
        s.highest.add(7);
        s.highest.add(3);
        s.mean.add(1.0);
        s.mean.add(2.0);
    });
    let (file, _) = snapshot(&mut table, 1, None);
    let mut back = keyed::<Seen>();
    restore(&[file], &mut back).unwrap();
    let order =
        |s: &mut Seen| -> Vec<String> { s.pages.iter().unwrap().map(|(k, _)| k.clone()).collect() };
    let before = act(&mut table, 0, order);
    act(&mut back, 0, |s| {
        assert_eq!(s.count.get(), Some(&300));
        assert_eq!(s.names.get(), ["x", ""]);
        assert_eq!(order(s), before, "in the same order");
        assert_eq!(s.pages.len(), 39);
        assert_eq!(s.pages.get(&"page 39".to_owned()).unwrap(), Some(&39));
        assert_eq!(s.highest.get(), Some(&7));
        assert_eq!(s.mean.get(), Some(1.5));
    });
}

#[test]
fn a_map_is_as_a_map_should_be() {
    let rng = &mut rng();
    for _ in 0..50 {
        let (mut map, mut model) = (MapState::<u8, u32>::default(), BTreeMap::new());
        for _ in 0..rng.usize(..200) {
            let (key, value) = (rng.u8(..30), rng.u32(..));
            match rng.u8(..4) {
                0 | 1 => assert_eq!(map.put(key, value).unwrap(), model.insert(key, value)),
                2 => assert_eq!(map.remove(&key).unwrap(), model.remove(&key)),
                _ => assert_eq!(map.get(&key).unwrap(), model.get(&key)),
            }
            assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        }
        let found: BTreeMap<u8, u32> = map.iter().unwrap().map(|(k, v)| (*k, *v)).collect();
        assert_eq!(found, model);
    }
}

#[test]
fn state_expires_unless_it_is_written_to() {
    let mut table = keyed::<Brief>();
    act(&mut table, 0, |s| s.count.set(1));
    act(&mut table, 1_599, |s| assert_eq!(s.count.get(), Some(&1)));
    act(&mut table, 1_600, |s| assert_eq!(s.count.get(), None, "reading does not renew"));
    assert!(table.is_empty(), "and what expired goes when it is met");
    act(&mut table, 2_000, |s| s.count.set(1));
    act(&mut table, 3_000, |s| *s.count.or_insert(0) += 1);
    act(&mut table, 4_599, |s| assert_eq!(s.count.get(), Some(&2)));
    let row = table.get(1_u64.hash64(), &1).unwrap();
    assert!(row.view(4_599).is_some() && row.view(4_600).is_none());
}

#[test]
fn reading_renews_after_a_sixteenth() {
    let mut table = keyed::<BriefRead>();
    act(&mut table, 0, |s| s.count.set(1));
    snapshot(&mut table, 1, None);
    act(&mut table, 100, |s| assert!(s.count.get().is_some()));
    assert_eq!(snapshot(&mut table, 2, Some(1)).1, 0, "not yet");
    act(&mut table, 101, |s| assert!(s.count.get().is_some()));
    assert_eq!(snapshot(&mut table, 3, Some(2)).1, 1);
    act(&mut table, 1_700, |s| assert!(s.count.get().is_some()));
    act(&mut table, 3_300, |s| assert!(s.count.get().is_none()));
}

#[test]
fn what_expired_is_swept_with_tombstones() {
    let mut table = keyed::<Brief>();
    for key in 0..3_000_u64 {
        table.update(key.hash64(), &key, Keyed::new, |row| {
            row.open(0).count.set(key);
            ((), row.close(key as i64))
        });
        table.tend();
    }
    let (file, _) = snapshot(&mut table, 1, None);
    assert_eq!(table.sweep(1_599, 1_000_000), 0);
    let mut gone = 0;
    for _ in 0..20_000 {
        gone += StateTable::sweep(&mut table, 2_599, 10);
    }
    assert_eq!((gone, table.len()), (1_000, 2_000));
    let (delta, written) = snapshot(&mut table, 2, Some(1));
    assert_eq!(written, 1_000);
    let mut back = keyed::<Brief>();
    restore(&[file, delta], &mut back).unwrap();
    assert_eq!(back.len(), 2_000);
    assert!(back.get(2_999_u64.hash64(), &2_999).unwrap().view(4_598).is_some());
    assert!(back.get(2_999_u64.hash64(), &2_999).unwrap().view(4_599).is_none());
}

#[test]
fn what_expired_in_the_tier_is_not_seen_again_and_may_leave_it() {
    for (tiers, drops) in [(MemoryTiers::default(), true), (MemoryTiers::that_keep(), false)] {
        let mut table = keyed::<Brief>();
        table.spill_to(tiers.open("s").unwrap(), &Budget::new(1));
        let act = |table: &mut Table<u64, Keyed<Brief>>, key: u64, now: i64, value: u64| {
            table.want(key.hash64(), &key);
            table.fetch().unwrap();
            table.update(key.hash64(), &key, Keyed::new, |row| {
                let count = &mut row.open(now).count;
                let found = count.get().copied();
                count.set(value);
                (found, row.close(now))
            })
        };
        for key in 0..3_000 {
            assert_eq!(act(&mut table, key, key as i64, key), None);
        }
        let (file, _) = snapshot(&mut table, 1, None);
        for at in 0..table.segments() {
            table.shed_some(at, usize::MAX);
        }
        assert_eq!((table.len(), table.spills()), (0, true));
        let spilled = |table: &mut Table<u64, Keyed<Brief>>| {
            let mut keys = Vec::new();
            table.for_each_spilled(|key, _, _| keys.push(*key)).unwrap();
            keys.sort_unstable();
            keys
        };
        table.sweep(1_599, 10);
        assert_eq!(spilled(&mut table).len(), 3_000, "nothing has expired");
        table.sweep(2_599, 10);
        let kept = spilled(&mut table);
        assert!(kept.ends_with(&(1_000..3_000).collect::<Vec<_>>()), "what has not, stays");
        assert_eq!(kept.len(), if drops { 2_000 } else { 3_000 });
        // One that expired begins anew, one that did not goes on.
        assert_eq!(act(&mut table, 7, 2_599, 70), None);
        assert_eq!(act(&mut table, 1_000, 2_599, 71), Some(1_000));
        let (delta, _) = snapshot(&mut table, 2, Some(1));
        let mut back = keyed::<Brief>();
        restore(&[file, delta], &mut back).unwrap();
        let count = |key: u64| {
            let row = back.get(key.hash64(), &key)?;
            row.view(2_599)?.count.get().copied()
        };
        for (key, expected) in
            [(7, Some(70)), (8, None), (999, None), (1_000, Some(71)), (1_001, Some(1_001))]
        {
            assert_eq!(count(key), expected, "{key}");
        }
    }
}

mod later {
    use super::*;

    #[derive(Default, State)]
    #[state(crate = "crate::state", ttl = "1h")]
    pub struct Seen {
        pub mean: AggregatingState<Mean>,
        pub count: Value<i128>,
        pub pages: MapState<String, u64>,
        pub fresh: Value<u8>,
        pub names: ListState<Option<String>>,
    }

    #[derive(Default, State)]
    #[state(crate = "crate::state")]
    pub struct Narrower {
        pub count: Value<u32>,
    }

    #[derive(Default, State)]
    #[state(crate = "crate::state")]
    pub struct OtherKind {
        pub count: ListState<u64>,
    }
}

#[test]
fn state_evolves_field_by_field() {
    let mut table = keyed::<Seen>();
    act(&mut table, 0, |s| {
        s.count.set(300);
        s.names.add("x".into());
        s.pages.put("p".into(), 5).unwrap();
        s.highest.add(7);
        s.mean.add(4.0);
    });
    let (file, _) = snapshot(&mut table, 1, None);
    let mut back = keyed::<later::Seen>();
    restore(std::slice::from_ref(&file), &mut back).unwrap();
    act(&mut back, 0, |s| {
        assert_eq!(s.count.get(), Some(&300));
        assert_eq!(s.names.get(), [Some("x".to_owned())]);
        assert_eq!(s.pages.get(&"p".to_owned()).unwrap(), Some(&5));
        assert_eq!((s.mean.get(), s.fresh.get()), (Some(4.0), None));
    });
    let error = restore(std::slice::from_ref(&file), &mut keyed::<later::Narrower>()).unwrap_err();
    assert!(error.contains("operator op state s") && error.contains("count: was u64, is u32"));
    let error = restore(&[file], &mut keyed::<later::OtherKind>()).unwrap_err();
    assert!(error.contains("count: was Value state, is List state"), "{error}");
}

#[test]
fn derived_keys_are_ordered_and_read_back() {
    let airport = |code: &str, terminal| Place::Airport { code: code.to_owned(), terminal };
    let places = [
        Place::Nowhere,
        Place::Gate(1),
        Place::Gate(2),
        airport("EWR", None),
        airport("EWR", Some('A')),
        airport("JFK", None),
    ];
    let written = |place: &Place| {
        let mut out = Vec::new();
        place.write(&mut out);
        out
    };
    assert!(places.is_sorted_by(|a, b| written(a) < written(b)));
    for place in &places {
        let mut bytes = written(place);
        bytes.push(0);
        let mut rest = bytes.as_slice();
        assert_eq!(Place::read(&mut rest).as_ref(), Ok(place));
        assert_eq!(rest, [0]);
    }
    assert!(Place::read(&mut &[3][..]).is_err());
    assert_eq!(Wrapped(5).hash64(), 5_u64.hash64());
    let pair = Pair { first: "a".to_owned(), second: 5 };
    assert_eq!(pair.hash64(), ("a".to_owned(), 5_u32).hash64());
    assert_eq!(Place::Gate(1).hash64(), 0x4ffe_56f4_c29c_ed70, "{:#x}", Place::Gate(1).hash64());
}
