//! Window operators against a naive interpreter, on random streams: random batches and
//! watermarks, an output that is full at random, and in the middle a snapshot from which
//! fresh operators at another parallelism go on.

mod driver;
mod floors;
mod join;
mod merges;
mod random;
mod scripts;
mod speed;

use crate::api::keyed::ByValue;
use crate::api::window::Aggregate;
use serde::{Deserialize, Serialize};

/// A row: key, value.
pub(super) type Event = (u64, u64);

/// What a window gives: key, start, end, count and sum.
pub(super) type Fired = (u64, i64, i64, u64, u64);

/// Counts and sums.
#[derive(Clone)]
pub(super) struct CountSum;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Acc {
    count: u64,
    sum: u64,
}

impl Aggregate<Event> for CountSum {
    type Acc = Acc;
    type Out = (u64, u64);

    fn create(&self) -> Acc {
        Acc::default()
    }

    fn add(&self, acc: &mut Acc, row: &Event) {
        acc.count += 1;
        acc.sum += row.1;
    }

    fn merge(&self, acc: &mut Acc, other: &Acc) {
        acc.count += other.count;
        acc.sum += other.sum;
    }

    fn result(&self, acc: &Acc) -> (u64, u64) {
        (acc.count, acc.sum)
    }
}

/// By the first field.
pub(super) fn by_key() -> ByValue<u64, fn(&Event) -> u64> {
    ByValue::new(|row: &Event| row.0)
}
