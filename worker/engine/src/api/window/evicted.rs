//! Windows with an evictor: they keep their rows.

use super::aggregate::Aggregate;
use super::assign::{Window, WindowAssigner};
use super::evict::Evictor;
use super::function::{
    AggregateRows, EmitEach, EmitReduced, ProcessWindowFunction, ReduceRows, WithFunction,
    WithReduced, WithRows,
};
use super::trigger::Trigger;
use super::{OutputTag, WindowedStream};
use crate::api::keyed::KeySelector;
use crate::api::stream::DataStream;
use crate::data::{Data, Fun};
use std::time::Duration;

/// A keyed stream cut into windows, some of whose rows an evictor leaves out.
pub struct EvictedStream<T, S: KeySelector<T>, W, G, E> {
    pub(super) windowed: WindowedStream<T, S, W, G>,
    pub(super) evictor: E,
}

impl<T, S, W, G, E> EvictedStream<T, S, W, G, E>
where
    T: Data + Clone,
    S: KeySelector<T>,
    W: WindowAssigner<T>,
    G: Trigger<T>,
    E: Evictor<T>,
{
    /// See [`WindowedStream::allowed_lateness`].
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.windowed = self.windowed.allowed_lateness(lateness);
        self
    }

    /// See [`WindowedStream::late_to`].
    pub fn late_to(mut self, tag: &OutputTag<T>) -> Self {
        self.windowed = self.windowed.late_to(tag);
        self
    }

    /// Aggregates the rows that are left, at each firing anew.
    pub fn aggregate<A: Aggregate<T>, O: Send + 'static>(
        self,
        uid: &str,
        aggregate: A,
        emit: impl FnMut(&S::Key, Window, A::Out) -> O + Fun,
    ) -> DataStream<O> {
        let fire = AggregateRows(aggregate, EmitEach(emit));
        self.windowed.buffered(uid, self.evictor, fire, Vec::new())
    }

    /// Aggregates the rows that are left; a window function sees the result.
    pub fn aggregate_with<A: Aggregate<T>, O: Send + 'static>(
        self,
        uid: &str,
        aggregate: A,
        function: impl ProcessWindowFunction<S::Key, A::Out, O>,
    ) -> DataStream<O> {
        let tags = function.side_outputs();
        let fire = AggregateRows(aggregate, WithFunction(function));
        self.windowed.buffered(uid, self.evictor, fire, tags)
    }

    /// Folds the rows that are left into one; nothing is emitted if none is.
    pub fn reduce(self, uid: &str, f: impl FnMut(&mut T, T) + Fun) -> DataStream<T> {
        self.windowed.buffered(uid, self.evictor, ReduceRows(f, EmitReduced), Vec::new())
    }

    /// Folds the rows that are left; a window function sees the folded row.
    pub fn reduce_with<O: Send + 'static>(
        self,
        uid: &str,
        f: impl FnMut(&mut T, T) + Fun,
        function: impl ProcessWindowFunction<S::Key, T, O>,
    ) -> DataStream<O> {
        let tags = function.side_outputs();
        let fire = ReduceRows(f, WithReduced(function));
        self.windowed.buffered(uid, self.evictor, fire, tags)
    }

    /// A window function sees the rows that are left, in order of arrival.
    pub fn process<O: Send + 'static>(
        self,
        uid: &str,
        function: impl ProcessWindowFunction<S::Key, [T], O>,
    ) -> DataStream<O> {
        let tags = function.side_outputs();
        self.windowed.buffered(uid, self.evictor, WithRows(function), tags)
    }
}
