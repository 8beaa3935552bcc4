//! Checkpoint files: ranges, damage, and format 1 as it was first written.

use super::Output;
use crate::data::Res;
use crate::state::reader::{DeltaReader, FileError, RangeRead};
use crate::state::restore::{Restore, RestoreFile};
use crate::state::{Plain, RowReader, SnapshotSpec, StateTable, Table};
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

const MAX: MaxParallelism = MaxParallelism::DEFAULT;

type Names = Table<String, Plain<(u64, Option<String>)>>;

/// A full snapshot of `n` names, then a delta on top, in files of two states.
fn files(n: u64) -> (Vec<u8>, Vec<u8>, Names) {
    let mut names = Names::new(MAX, MAX.all());
    let mut counts = Table::<(u32, bool), Plain<i64>>::new(MAX, MAX.all());
    let name = |i: u64| format!("name {i}");
    for i in 0..n {
        let row = Plain((i, (i % 3 == 0).then(|| name(i * i))));
        *names.get_or_insert_with(name(i).hash64(), &name(i), Plain::default) = row;
        names.tend();
        let key = (i as u32, i % 2 == 0);
        counts.get_or_insert_with(key.hash64(), &key, Plain::default).0 = -(i as i64);
    }
    let mut snapshot = |names: &mut Names, id: u64, base: Option<u64>| {
        let mut output = Output::new(MAX);
        let (base, fold) = (base.map(CheckpointId), KeyGroupRange { start: 0, end: 0 });
        let spec = SnapshotSpec { checkpoint: CheckpointId(id), base, fold };
        names.begin(&spec).unwrap();
        counts.begin(&spec).unwrap();
        output.section("names", names);
        while !names.drain(&mut output.writer, 100).unwrap() {}
        output.section("counts", &counts);
        while !counts.drain(&mut output.writer, 100).unwrap() {}
        output.finish().0
    };
    let first = snapshot(&mut names, 1, None);
    names.completed(CheckpointId(1));
    for i in 0..n / 10 {
        names.remove(name(i).hash64(), &name(i));
        names.get_or_insert_with(name(n + i).hash64(), &name(n + i), Plain::default).0.0 = i;
    }
    let second = snapshot(&mut names, 2, Some(1));
    (first, second, names)
}

fn file(name: &str, bytes: &[u8]) -> RestoreFile {
    RestoreFile {
        name: name.to_owned(),
        groups: MAX.all(),
        footer_crc32: None,
        data: Box::new(bytes.to_vec()),
    }
}

fn load(files: Vec<RestoreFile>, range: KeyGroupRange) -> Res<Names> {
    let mut names = Names::new(MAX, range);
    Restore::open(files, MAX)?.load(&Uid::from("op"), "names", range, &mut names)?;
    Ok(names)
}

fn rows(table: &Names) -> Vec<(String, (u64, Option<String>))> {
    let mut rows = Vec::new();
    table.for_each(|key, row, _| rows.push((key.clone(), row.0.clone())));
    rows.sort();
    rows
}

/// Counts what is read.
struct Counted(Vec<u8>, Rc<Cell<u64>>);

impl RangeRead for Counted {
    fn len(&self) -> Res<u64> {
        RangeRead::len(&self.0)
    }

    fn read(&self, range: Range<u64>) -> Res<Vec<u8>> {
        self.1.set(self.1.get() + range.end - range.start);
        self.0.read(range)
    }
}

#[test]
fn a_range_of_groups_is_a_part_of_the_bytes() {
    let (first, _, table) = files(60_000);
    let (whole, read) = (first.len() as u64, Rc::new(Cell::new(0)));
    let data = Box::new(Counted(first, read.clone()));
    let data = RestoreFile { name: "f".to_owned(), groups: MAX.all(), footer_crc32: None, data };
    let restore = Restore::open(vec![data], MAX).unwrap();
    read.set(0);
    let range = MAX.range(3, 10);
    let mut part = Names::new(MAX, range);
    restore.load(&Uid::from("op"), "names", range, &mut part).unwrap();
    assert!(read.get() < whole / 5, "{} of {whole} bytes", read.get());
    let mut expected = 0;
    table.for_each(|_, row, hash| {
        expected += usize::from(range.contains(MAX.group(hash)) && row.0.0 >= 6_000);
    });
    assert!(part.len() >= expected && expected > 5_000);
}

#[test]
fn how_many_entries_come_is_known_before_they_are_read() {
    let (first, second, _) = files(20_000);
    let (op, both) = (Uid::from("op"), vec![file("a", &first), file("b", &second)]);
    let restore = Restore::open(both, MAX).unwrap();
    let all = restore.expected(&op, "names", MAX.all());
    // The 2,000 that came and the 2,000 that went are not counted.
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [(0, 20_000)]);
    let part = restore.expected(&op, "names", MAX.range(1, 4))[&0];
    assert!((4_000..6_000).contains(&part), "{part} of a quarter");
}

#[test]
fn a_table_with_room_made_for_it_does_not_grow() {
    let mut table = Names::new(MAX, MAX.all());
    table.make_room(MAX.all(), 20_000);
    let size =
        |table: &Names| table.segments.iter().map(|s| s.entries.num_buckets()).sum::<usize>();
    let (segments, buckets) = (table.segments(), size(&table));
    assert!(segments > 1 && (20_000..80_000).contains(&buckets), "{segments}, {buckets}");
    let (first, ..) = files(20_000);
    let restore = Restore::open(vec![file("a", &first)], MAX).unwrap();
    restore.load(&Uid::from("op"), "names", MAX.all(), &mut table).unwrap();
    let grown = size(&table);
    assert!(grown <= buckets + buckets / 8, "{segments} segments of {buckets} became {grown}");
    let mut slowly = Names::new(MAX, MAX.all());
    table.for_each(|key, row, hash| {
        *slowly.get_or_insert_with(hash, key, Plain::default) = Plain(row.0.clone());
        slowly.tend();
    });
    assert!(buckets <= size(&slowly) * 2, "{buckets} beside {}", size(&slowly));
    assert_eq!((rows(&slowly), slowly.len()), (rows(&table), 20_000));
}

#[test]
fn any_changed_byte_is_noticed() {
    let (first, second, _) = files(300);
    let good = load(vec![file("a", &first), file("b", &second)], MAX.all()).unwrap();
    let good = rows(&good);
    let (mut refused, mut unread) = (0, 0);
    for at in 0..second.len() {
        let mut bytes = second.clone();
        bytes[at] ^= 1 << (at % 8);
        match load(vec![file("a", &first), file("the damaged", &bytes)], MAX.all()) {
            Err(error) => {
                refused += 1;
                let error = error.to_string();
                assert!(error.contains("the damaged"), "{error}");
            }
            // The other state's block, which is not read for this one.
            Ok(table) => {
                unread += 1;
                assert_eq!(rows(&table), good, "byte {at}");
            }
        }
    }
    assert!(refused > unread, "{refused} {unread}");
}

#[test]
fn a_truncated_file_is_refused() {
    let (first, _, _) = files(300);
    for end in 0..first.len() {
        let error = DeltaReader::open("cut", Box::new(first[..end].to_vec())).err().unwrap();
        assert!(matches!(error, FileError::Truncated { .. }), "{error}");
    }
    // A tail without what should stand before it.
    for start in [1, 100, first.len() - 20] {
        let data = first[start..].to_vec();
        if let Ok(restore) = Restore::open(vec![file("tail", &data)], MAX) {
            let mut names = Names::new(MAX, MAX.all());
            let loaded = restore.load(&Uid::from("op"), "names", MAX.all(), &mut names);
            assert!(loaded.unwrap_err().to_string().contains("corrupt"));
        }
    }
}

#[test]
fn a_file_of_another_world_is_refused() {
    let (first, _, _) = files(10);
    let mut newer = first.clone();
    let at = newer.len() - 12;
    newer[at] = 9;
    let error = DeltaReader::open("new", Box::new(newer)).err().unwrap().to_string();
    assert!(error.contains("new: has format 9") && error.contains("newer"), "{error}");
    let other = MaxParallelism::new(128).unwrap();
    let error = Restore::open(vec![file("f", &first)], other).err().unwrap().to_string();
    assert!(error.contains("max parallelism 1024, and this job has 128"), "{error}");
}

#[test]
fn states_that_nobody_claims_are_listed() {
    let (first, _, _) = files(10);
    let restore = Restore::open(vec![file("f", &first)], MAX).unwrap();
    let states: Vec<_> = restore.states().into_iter().map(|(o, s)| format!("{o}/{s}")).collect();
    assert_eq!(states, ["op/counts", "op/names"]);
    let mut empty = Names::new(MAX, MAX.all());
    assert_eq!(restore.load(&Uid::from("op"), "new", MAX.all(), &mut empty).unwrap(), 0);
}

/// Format 1, as it was when it was made; never to be written again.
const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/state-1.bin");

#[test]
fn format_1_stays_readable() {
    let (first, _, _) = files(40);
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::write("tests/golden/state-1.bin", &first).unwrap();
    }
    let names = load(vec![file("golden", GOLDEN)], MAX.all()).unwrap();
    assert_eq!(rows(&names), rows(&load(vec![file("now", &first)], MAX.all()).unwrap()));
    let reader = DeltaReader::open("golden", Box::new(GOLDEN.to_vec())).unwrap();
    let (_, section) = reader.section("op", "names").unwrap();
    assert_eq!(section.groups, MAX.all());
    let schema = names.schema().unwrap();
    assert_eq!(section.schema, schema, "the traced shape is what it was");
    assert!(RowReader::new(&section.schema.row, &schema.row).is_ok());
}
