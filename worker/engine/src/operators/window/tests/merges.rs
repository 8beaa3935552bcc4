//! What sliding windows cost: merges are counted, not timed.

use super::driver::{Driver, LATE, MAX};
use super::{Event, by_key};
use crate::api::window::Aggregate;
use crate::api::window::aggregate::ByAggregate;
use crate::api::window::assign::{Aligned, Window};
use crate::api::window::function::EmitEach;
use crate::data::Rows;
use crate::operators::window::LateRows;
use crate::operators::window::sliding::{Sliding, SlidingParts};
use crate::state::PaneTables;
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Default)]
struct Counting {
    adds: Arc<AtomicU64>,
    merges: Arc<AtomicU64>,
}

impl Aggregate<Event> for Counting {
    type Acc = u64;
    type Out = u64;

    fn create(&self) -> u64 {
        0
    }

    fn add(&self, acc: &mut u64, row: &Event) {
        self.adds.fetch_add(1, Ordering::Relaxed);
        *acc += row.1;
    }

    fn merge(&self, acc: &mut u64, other: &u64) {
        self.merges.fetch_add(1, Ordering::Relaxed);
        *acc += other;
    }

    fn result(&self, acc: &u64) -> u64 {
        *acc
    }
}

/// The highest number of merges per result in the firing of any one window, once windows
/// are full; every key has a row in every pane.
fn merges_per_result(size: i64, slide: i64, keys: u64) -> f64 {
    let counting = Counting::default();
    let aggregate = counting.clone();
    let mut driver: Driver<_, Event> = Driver::new(Rng::with_seed(1), 1, move |place| {
        Sliding::new(SlidingParts {
            selector: by_key(),
            accumulate: ByAggregate(aggregate.clone()),
            fire: EmitEach(|key: &u64, window: Window, sum: u64| (*key, window.end, sum)),
            windows: Aligned { size, slide, offset: 0 },
            lateness: 0,
            late: LateRows { tag: Some(LATE), second: None, metrics: place.metrics },
            panes: PaneTables::new(MAX, place.range),
            sides: place.sides,
            max: MAX,
            budget: None,
        })
    });
    driver.full = false;
    let overlap = size / slide;
    let mut worst = 0.0;
    for pane in 0..overlap * 3 {
        let mut rows = Rows::default();
        (0..keys).for_each(|key| rows.push(pane * slide, (key, 1_u64)));
        let (adds, merges) = (&counting.adds, &counting.merges);
        driver.feed(0, &rows, |row| row.0);
        assert_eq!(adds.swap(0, Ordering::Relaxed), keys, "a row updates one pane");
        merges.store(0, Ordering::Relaxed);
        driver.fired.clear();
        driver.watermark((pane + 1) * slide);
        driver.late();
        assert_eq!(driver.fired.len() as u64, keys);
        if pane > overlap {
            assert!(driver.fired.iter().all(|(_, row)| row.2 == overlap as u64));
            worst = f64::max(worst, merges.load(Ordering::Relaxed) as f64 / keys as f64);
        }
    }
    worst
}

#[test]
fn merges_per_firing_do_not_grow_with_the_overlap() {
    for overlap in [2, 10, 60, 360] {
        let worst = merges_per_result(overlap * 10, 10, 2_000);
        println!("size/slide {overlap}: at most {worst:.2} merges a result in any one firing");
        // Two, and those of the keys whose turn it is to rebuild: one in `overlap` keys,
        // `overlap` merges each; more than expected fall together at random.
        assert!(worst < 6.0, "{worst} merges at an overlap of {overlap}");
    }
}
