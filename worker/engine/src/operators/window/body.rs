//! What the generic operator keeps of a window, and what it does when that fires.

use crate::api::window::aggregate::Accumulate;
use crate::api::window::evict::{Elements, Evictor, EvictorCx};
use crate::api::window::function::{Fire, WindowCx};
use crate::data::{Data, Res};
use crate::runtime::emit::Emitter;
use std::marker::PhantomData;

/// Contents of windows, and what becomes of them.
pub(crate) trait Body<K, T>: Send + 'static {
    type Acc: Data;
    type Out: Send + 'static;

    fn create(&self) -> Self::Acc;

    /// Takes a row in; out of `row` if it is the `last` window that wants it.
    fn add(&mut self, acc: &mut Self::Acc, ts: i64, row: &mut Option<T>, last: bool);

    /// Takes the contents of a later window in.
    fn merge(&mut self, acc: &mut Self::Acc, other: Self::Acc);

    fn fire(&mut self, key: &K, acc: &mut Self::Acc, cx: &mut WindowCx<'_, Self::Out>) -> Res;

    /// Emits on of what a firing left to be emitted; whether there is nothing left.
    fn emit_on(&mut self, _out: &mut Emitter<Self::Out>) -> Res<bool> {
        Ok(true)
    }

    /// Whether a firing has left nothing to be emitted.
    fn is_settled(&self) -> bool {
        true
    }
}

/// An accumulator per window.
pub(crate) struct Incremental<A, F, O> {
    accumulate: A,
    fire: F,
    _out: PhantomData<fn() -> O>,
}

impl<A, F, O> Incremental<A, F, O> {
    pub fn new(accumulate: A, fire: F) -> Self {
        Self { accumulate, fire, _out: PhantomData }
    }
}

impl<K, T, A, F, O> Body<K, T> for Incremental<A, F, O>
where
    T: 'static,
    A: Accumulate<T>,
    F: Fire<K, A::Out, O>,
    O: Send + 'static,
{
    type Acc = A::Acc;
    type Out = O;

    fn create(&self) -> A::Acc {
        self.accumulate.create()
    }

    #[inline]
    fn add(&mut self, acc: &mut A::Acc, _: i64, row: &mut Option<T>, last: bool) {
        if last {
            if let Some(row) = row.take() {
                self.accumulate.add(acc, row);
            }
        } else if let Some(row) = row {
            self.accumulate.add_ref(acc, row);
        }
    }

    fn merge(&mut self, acc: &mut A::Acc, other: A::Acc) {
        self.accumulate.merge(acc, &other);
    }

    fn fire(&mut self, key: &K, acc: &mut A::Acc, cx: &mut WindowCx<'_, O>) -> Res {
        let result = self.accumulate.result(acc);
        self.fire.fire(key, result, cx)
    }
}

/// All rows of a window.
pub(crate) struct Buffered<E, F, O> {
    evictor: E,
    fire: F,
    _out: PhantomData<fn() -> O>,
}

impl<E, F, O> Buffered<E, F, O> {
    pub fn new(evictor: E, fire: F) -> Self {
        Self { evictor, fire, _out: PhantomData }
    }
}

impl<K, T, E, F, O> Body<K, T> for Buffered<E, F, O>
where
    T: Data + Clone,
    E: Evictor<T>,
    F: for<'a> Fire<K, &'a [T], O>,
    O: Send + 'static,
{
    type Acc = Elements<T>;
    type Out = O;

    fn create(&self) -> Elements<T> {
        Elements::default()
    }

    #[inline]
    fn add(&mut self, acc: &mut Elements<T>, ts: i64, row: &mut Option<T>, last: bool) {
        let row = if last { row.take() } else { row.clone() };
        if let Some(row) = row {
            acc.push(ts, row);
        }
    }

    fn merge(&mut self, acc: &mut Elements<T>, other: Elements<T>) {
        acc.append(other);
    }

    fn fire(&mut self, key: &K, acc: &mut Elements<T>, cx: &mut WindowCx<'_, O>) -> Res {
        let about =
            EvictorCx { window: cx.window, watermark: cx.watermark, processing_time: cx.now };
        self.evictor.evict_before(acc, &about);
        self.fire.fire(key, acc.rows(), cx)?;
        self.evictor.evict_after(acc, &about);
        Ok(())
    }
}
