//! State that gathers many values into one: [`ReducingState`], [`AggregatingState`]. Pure.

use super::fields::{Field, Value};
use super::row::FieldShape;
use crate::data::{Data, Res};
use millrace_protocol::shape::ShapeError;

/// How [`ReducingState`] joins two values.
pub trait Reducer: 'static {
    /// What is reduced.
    type Value: Data;
    /// Adds `value` to `into`.
    fn reduce(into: &mut Self::Value, value: Self::Value);
}

/// State that holds one value, to which others are added.
pub struct ReducingState<R: Reducer>(Value<R::Value>);

impl<R: Reducer> Default for ReducingState<R> {
    fn default() -> Self {
        Self(Value::default())
    }
}

impl<R: Reducer> ReducingState<R> {
    /// The reduced value, if anything was added.
    #[inline]
    pub fn get(&self) -> Option<&R::Value> {
        self.0.get()
    }

    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: R::Value) {
        match self.0.get_mut() {
            Some(into) => R::reduce(into, value),
            None => self.0.set(value),
        }
    }

    /// Removes the value.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<R: Reducer> Field for ReducingState<R> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    fn is_dirty(&self) -> bool {
        self.0.is_dirty()
    }

    #[inline]
    fn clean(&mut self) {
        self.0.clean();
    }

    fn write(&self, out: &mut Vec<u8>) -> Res {
        self.0.write(out)
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        Ok(Self(Field::read(bytes, old)?))
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        Value::<R::Value>::shape(name)
    }
}

/// How [`AggregatingState`] gathers values.
pub trait Aggregator: 'static {
    /// What is added.
    type In;
    /// What is stored.
    type Acc: Data;
    /// What comes out.
    type Out;
    /// The accumulator of nothing.
    fn create() -> Self::Acc;
    /// Adds a value.
    fn add(acc: &mut Self::Acc, value: Self::In);
    /// The result so far.
    fn result(acc: &Self::Acc) -> Self::Out;
}

/// State that holds an accumulator.
pub struct AggregatingState<A: Aggregator>(Value<A::Acc>);

impl<A: Aggregator> Default for AggregatingState<A> {
    fn default() -> Self {
        Self(Value::default())
    }
}

impl<A: Aggregator> AggregatingState<A> {
    /// The result, if anything was added.
    #[inline]
    pub fn get(&self) -> Option<A::Out> {
        self.0.get().map(A::result)
    }

    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: A::In) {
        A::add(self.0.or_insert_with(A::create), value);
    }

    /// Removes the accumulator.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<A: Aggregator> Field for AggregatingState<A> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    fn is_dirty(&self) -> bool {
        self.0.is_dirty()
    }

    #[inline]
    fn clean(&mut self) {
        self.0.clean();
    }

    fn write(&self, out: &mut Vec<u8>) -> Res {
        self.0.write(out)
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        Ok(Self(Field::read(bytes, old)?))
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        Value::<A::Acc>::shape(name)
    }
}
