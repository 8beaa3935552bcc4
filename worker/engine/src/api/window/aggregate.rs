//! Incremental aggregates: what is kept of a window instead of its rows. Pure.

use crate::data::{Data, Fun};

/// An incremental aggregate.
///
/// `merge` must be associative, and merging must give what adding the rows one by one
/// gives: sliding windows merge panes, sessions merge sessions, in order of time.
pub trait Aggregate<T>: Fun {
    /// What is kept per key and pane.
    type Acc: Data + Clone;
    /// The result.
    type Out;

    /// Whether rows of a key may be folded into partial accumulators before they travel
    /// to its subtask, and those merged there: less to send where a key has many rows.
    /// Right for what does not depend on grouping (counts, sums of integers, lowest,
    /// highest), and wrong for sums of floating-point numbers, whose rounding does. Heeded
    /// by tumbling windows without allowed lateness and late side output.
    const COMBINES: bool = false;

    /// An empty accumulator.
    fn create(&self) -> Self::Acc;
    /// Takes a row in.
    fn add(&self, acc: &mut Self::Acc, row: &T);
    /// Takes another accumulator in. Associative.
    fn merge(&self, acc: &mut Self::Acc, other: &Self::Acc);
    /// The result so far.
    fn result(&self, acc: &Self::Acc) -> Self::Out;
}

/// Counts rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count;

impl<T> Aggregate<T> for Count {
    type Acc = u64;
    type Out = u64;

    const COMBINES: bool = true;

    fn create(&self) -> u64 {
        0
    }

    #[inline]
    fn add(&self, acc: &mut u64, _: &T) {
        *acc += 1;
    }

    fn merge(&self, acc: &mut u64, other: &u64) {
        *acc += other;
    }

    fn result(&self, acc: &u64) -> u64 {
        *acc
    }
}

/// What the operators know of an aggregate or a reduce function.
pub(crate) trait Accumulate<T>: Fun {
    type Acc: Data + Clone;
    type Out;
    /// See [`Aggregate::COMBINES`].
    const COMBINES: bool;
    fn create(&self) -> Self::Acc;
    fn add(&mut self, acc: &mut Self::Acc, row: T);
    fn add_ref(&mut self, acc: &mut Self::Acc, row: &T);
    fn merge(&mut self, acc: &mut Self::Acc, other: &Self::Acc);
    fn result(&self, acc: &Self::Acc) -> Self::Out;
}

/// By an [`Aggregate`].
#[derive(Clone)]
pub(crate) struct ByAggregate<A>(pub A);

impl<T, A: Aggregate<T>> Accumulate<T> for ByAggregate<A> {
    type Acc = A::Acc;
    type Out = A::Out;

    const COMBINES: bool = A::COMBINES;

    #[inline(always)]
    fn create(&self) -> A::Acc {
        self.0.create()
    }

    #[inline(always)]
    fn add(&mut self, acc: &mut A::Acc, row: T) {
        self.0.add(acc, &row);
    }

    #[inline(always)]
    fn add_ref(&mut self, acc: &mut A::Acc, row: &T) {
        self.0.add(acc, row);
    }

    #[inline(always)]
    fn merge(&mut self, acc: &mut A::Acc, other: &A::Acc) {
        self.0.merge(acc, other);
    }

    #[inline(always)]
    fn result(&self, acc: &A::Acc) -> A::Out {
        self.0.result(acc)
    }
}

/// By a function that folds one row into another. Empty until the first row.
#[derive(Clone)]
pub(crate) struct ByReduce<F>(pub F);

impl<T: Data + Clone, F: FnMut(&mut T, T) + Fun> Accumulate<T> for ByReduce<F> {
    type Acc = Option<T>;
    type Out = Option<T>;

    // Unknown of a closure.
    const COMBINES: bool = false;

    #[inline(always)]
    fn create(&self) -> Option<T> {
        None
    }

    #[inline(always)]
    fn add(&mut self, acc: &mut Option<T>, row: T) {
        match acc {
            Some(acc) => (self.0)(acc, row),
            None => *acc = Some(row),
        }
    }

    #[inline(always)]
    fn add_ref(&mut self, acc: &mut Option<T>, row: &T) {
        self.add(acc, row.clone());
    }

    #[inline(always)]
    fn merge(&mut self, acc: &mut Option<T>, other: &Option<T>) {
        if let Some(other) = other {
            self.add(acc, other.clone());
        }
    }

    #[inline(always)]
    fn result(&self, acc: &Option<T>) -> Option<T> {
        acc.clone()
    }
}
