//! Rolling aggregates: after every row, its key's aggregate so far.

use crate::api::keyed::{KeySelector, KeyedStream, declare};
use crate::api::stream::DataStream;
use crate::api::window::Aggregate;
use crate::data::{Data, Fail, Fun};
use crate::operators::rolling::{ACC, Rolling};
use crate::state::Plain;

/// What can be summed up.
pub trait Sum: Copy + 'static {
    /// The sum; `None` if it cannot be represented.
    fn plus(self, other: Self) -> Option<Self>;
}

macro_rules! integers {
    ($($int:ident)*) => {$(
        impl Sum for $int {
            #[inline]
            fn plus(self, other: Self) -> Option<Self> {
                self.checked_add(other)
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

macro_rules! floats {
    ($($float:ident)*) => {$(
        impl Sum for $float {
            #[inline]
            fn plus(self, other: Self) -> Option<Self> {
                Some(self + other)
            }
        }
    )*};
}

floats!(f32 f64);

impl Sum for std::time::Duration {
    fn plus(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }
}

impl<T: Data + Clone, S: KeySelector<T>> KeyedStream<T, S> {
    /// Emits, for every row, the key's first row with the sum of all its rows' fields in
    /// the place of the field. A sum that overflows fails the attempt.
    ///
    /// `field` points at the field: `|row| &mut row.amount`.
    pub fn sum<N: Sum>(
        self,
        uid: &str,
        field: impl for<'a> Fn(&'a mut T) -> &'a mut N + Fun,
    ) -> DataStream<T> {
        let name = uid.to_owned();
        self.try_reduce(uid, move |acc, mut row| {
            let into = field(acc);
            *into = into.plus(*field(&mut row)).ok_or_else(|| {
                Fail::from(format!("the sum of {name:?} overflows: give the field a wider type"))
            })?;
            Ok(())
        })
    }

    /// Emits, for every row, the key's first row with the lowest value so far in the
    /// place of the field.
    pub fn min<N: PartialOrd + Clone>(
        self,
        uid: &str,
        field: impl for<'a> Fn(&'a mut T) -> &'a mut N + Fun,
    ) -> DataStream<T> {
        self.reduce(uid, move |acc, mut row| {
            let value = field(&mut row);
            if *value < *field(acc) {
                *field(acc) = value.clone();
            }
        })
    }

    /// As [`KeyedStream::min`], with the highest value.
    pub fn max<N: PartialOrd + Clone>(
        self,
        uid: &str,
        field: impl for<'a> Fn(&'a mut T) -> &'a mut N + Fun,
    ) -> DataStream<T> {
        self.reduce(uid, move |acc, mut row| {
            let value = field(&mut row);
            if *value > *field(acc) {
                *field(acc) = value.clone();
            }
        })
    }

    /// Emits, for every row, the key's whole row that has the lowest value so far; the
    /// first of several.
    pub fn min_by<N: PartialOrd>(self, uid: &str, value: impl Fn(&T) -> N + Fun) -> DataStream<T> {
        self.reduce(uid, move |acc, row| {
            if value(&row) < value(acc) {
                *acc = row;
            }
        })
    }

    /// As [`KeyedStream::min_by`], with the highest value.
    pub fn max_by<N: PartialOrd>(self, uid: &str, value: impl Fn(&T) -> N + Fun) -> DataStream<T> {
        self.reduce(uid, move |acc, row| {
            if value(&row) > value(acc) {
                *acc = row;
            }
        })
    }
}

impl<T: Send + 'static, S: KeySelector<T>> KeyedStream<T, S> {
    /// Takes every row into its key's aggregate, over all time, and emits the result so
    /// far; `emit` makes the output row. State is kept for every key for ever: for
    /// aggregates that end, see [`KeyedStream::window`].
    pub fn aggregate<A: Aggregate<T>, O: Send + 'static>(
        self,
        uid: &str,
        aggregate: A,
        emit: impl FnMut(&S::Key, A::Out) -> O + Fun,
    ) -> DataStream<O> {
        let states = declare::<S::Key, Plain<A::Acc>>(self.env(), uid, ACC, false);
        let selector = self.selector.clone();
        self.operator("aggregate", uid, states, move |cx, node| {
            let table = cx.spilling_table(node)?;
            Ok(Rolling::new(selector.clone(), aggregate.clone(), emit.clone(), table))
        })
    }
}
