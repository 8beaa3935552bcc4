//! Which subtask gets which row.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, reason = "tests")]

use millrace_engine::api::stream::DataStream;
use millrace_engine::testing::Harness;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tells subtasks apart: each gets a number with its first row.
fn place<T>() -> impl FnMut(T) -> (usize, T) + Clone + Send + 'static {
    let (count, mut mine) = (Arc::new(AtomicUsize::new(0)), None);
    move |row| (*mine.get_or_insert_with(|| count.fetch_add(1, Ordering::SeqCst)), row)
}

/// Where each of the rows from 0 on goes, of three subtasks.
fn places(rows: u64, how: impl FnOnce(DataStream<u64>) -> DataStream<u64>) -> Vec<Vec<usize>> {
    let (mut harness, (input, out)) = Harness::at_parallelism(3, |t| {
        let (input, stream) = t.input::<u64>("rows");
        (input, t.output(how(stream).map(place())))
    })
    .unwrap();
    for row in 0..rows {
        input.push(row as i64, row);
    }
    harness.run().unwrap();
    let mut places = vec![Vec::new(); rows as usize];
    for (subtask, row) in out.take() {
        places[row as usize].push(subtask);
    }
    places
}

/// The same of what sends every row to one subtask.
fn place_of(rows: u64, how: impl FnOnce(DataStream<u64>) -> DataStream<u64>) -> Vec<usize> {
    let one = |at: Vec<usize>| <[usize; 1]>::try_from(at).unwrap()[0];
    places(rows, how).into_iter().map(one).collect()
}

#[test]
fn rebalance_takes_turns() {
    let places = place_of(300, DataStream::rebalance);
    assert_eq!(places[..3].iter().collect::<BTreeSet<_>>().len(), 3);
    assert!((3..300).all(|row| places[row] == places[row - 3]));
}

#[test]
fn shuffle_is_even_and_without_a_pattern() {
    let places = place_of(6_000, DataStream::shuffle);
    for subtask in 0..3 {
        let n = places.iter().filter(|at| **at == subtask).count();
        assert!((1_700..2_300).contains(&n), "subtask {subtask} got {n}");
    }
    // Neither in turns nor in stretches: each follows each.
    let pairs: BTreeSet<_> = places.windows(2).map(|w| (w[0], w[1])).collect();
    assert_eq!(pairs.len(), 9);
    let repeats = (3..6_000).filter(|row| places[*row] == places[row - 3]).count();
    assert!(repeats < 3_000, "{repeats} rows followed the one three before");
}

#[test]
fn broadcast_reaches_everybody_once() {
    for mut at in places(200, DataStream::broadcast_all) {
        at.sort_unstable();
        assert_eq!(at, [0, 1, 2]);
    }
}

#[test]
fn a_function_of_ones_own_chooses_modulo_the_parallelism() {
    let places = place_of(300, |rows| {
        rows.partition_custom(|row, parallelism| {
            assert_eq!(parallelism, 3);
            (*row / 10) as usize
        })
    });
    let first: Vec<usize> = (0..3).map(|i| places[10 * i]).collect();
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3);
    assert!((0..300).all(|row| places[row] == first[row / 10 % 3]));
}

/// Which subtasks of `downs` each of `ups` sends to.
fn reach(
    ups: u16,
    downs: u16,
    how: impl FnOnce(DataStream<(usize, u64)>) -> DataStream<(usize, u64)>,
) -> Vec<BTreeSet<usize>> {
    let (mut harness, (input, out)) = Harness::new(|t| {
        let (input, stream) = t.input::<u64>("rows");
        let above = stream.partition_custom(|row, _| *row as usize).parallelism(ups);
        let below = how(above.map(place()).erase()).parallelism(downs);
        (input, t.output(below.map(place())))
    })
    .unwrap();
    for row in 0..600 {
        input.push(row as i64, row);
    }
    harness.run().unwrap();
    let mut reach: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let rows = out.take();
    assert_eq!(rows.len(), 600);
    for (down, (up, _)) in rows {
        reach.entry(up).or_default().insert(down);
    }
    reach.into_values().collect()
}

#[test]
fn rescale_stays_near_by_where_rebalance_crosses() {
    for (ups, downs, each) in [(2, 4, 2), (4, 2, 1), (2, 6, 3), (3, 3, 1)] {
        let near = reach(ups, downs, DataStream::rescale);
        assert_eq!(near.len(), usize::from(ups));
        assert!(near.iter().all(|r| r.len() == each), "{ups} to {downs}: {near:?}");
        let reached: BTreeSet<_> = near.iter().flatten().collect();
        assert_eq!(reached.len(), usize::from(downs), "{ups} to {downs}: {near:?}");
        let far = reach(ups, downs, DataStream::rebalance);
        assert!(far.iter().all(|r| r.len() == usize::from(downs)), "{ups} to {downs}: {far:?}");
    }
}
