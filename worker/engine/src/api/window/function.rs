//! Window functions: what is emitted when a window fires.

use crate::api::tags::{AnyTag, OutputTag};
use crate::api::window::aggregate::Aggregate;
use crate::api::window::assign::Window;
use crate::data::{Fun, Res, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::side::Sides;

/// What a window function knows of the firing, and where it emits to.
pub struct WindowCx<'a, O> {
    pub(crate) window: Window,
    pub(crate) watermark: Ts,
    pub(crate) now: Ts,
    /// Timestamp of what is emitted.
    pub(crate) timestamp: Ts,
    /// Timestamp of what goes to side outputs.
    pub(crate) side_timestamp: Ts,
    pub(crate) out: &'a mut Emitter<O>,
    pub(crate) sides: &'a mut Sides,
}

impl<O> WindowCx<'_, O> {
    /// The window's bounds.
    pub fn window(&self) -> Window {
        self.window
    }

    /// No earlier event time is expected. When a window fires because it is complete, this
    /// is the watermark that completed it; in a firing by a late row it lies behind the
    /// window's end.
    pub fn watermark(&self) -> Ts {
        self.watermark
    }

    /// The clock: milliseconds since the epoch.
    pub fn processing_time(&self) -> Ts {
        self.now
    }

    /// Emits a row with the timestamp [`Window::last`].
    #[inline]
    pub fn emit(&mut self, row: O) -> Res {
        self.out.emit(self.timestamp, row)
    }

    /// Emits a row to a side output, which the function must declare; it is dropped if
    /// nobody reads that.
    pub fn side<U: Send + 'static>(&mut self, tag: &OutputTag<U>, row: U) -> Res {
        self.sides.emit(tag.name(), self.side_timestamp, row).map(|_| ())
    }
}

/// Sees a window when it fires and emits any number of rows.
///
/// `I` is `[T]`, all rows of the window in order of arrival, for
/// [`process`](super::WindowedStream::process); the aggregate's result for
/// [`aggregate_with`](super::WindowedStream::aggregate_with); the folded row for
/// [`reduce_with`](super::WindowedStream::reduce_with). Closures of `(key, input, cx)` are
/// window functions without side outputs. One call may emit more rows than the output has
/// room for: they wait in memory, so emit thousands, not millions.
///
/// An error fails the attempt with the operator's name.
pub trait ProcessWindowFunction<K, I: ?Sized, O>: Fun {
    /// The window of `key` fires.
    fn process(&mut self, key: &K, input: &I, cx: &mut WindowCx<'_, O>) -> Res;

    /// The side outputs that it emits to.
    fn side_outputs(&self) -> Vec<AnyTag> {
        Vec::new()
    }
}

impl<K, I: ?Sized, O, F> ProcessWindowFunction<K, I, O> for F
where
    F: FnMut(&K, &I, &mut WindowCx<'_, O>) -> Res + Fun,
{
    fn process(&mut self, key: &K, input: &I, cx: &mut WindowCx<'_, O>) -> Res {
        self(key, input, cx)
    }
}

/// What the operators do with the result of a key's window.
pub(crate) trait Fire<K, R, O>: Fun {
    fn fire(&mut self, key: &K, result: R, cx: &mut WindowCx<'_, O>) -> Res;
}

/// One row per firing.
#[derive(Clone)]
pub(crate) struct EmitEach<E>(pub E);

impl<K, R, O, E: FnMut(&K, Window, R) -> O + Fun> Fire<K, R, O> for EmitEach<E> {
    #[inline]
    fn fire(&mut self, key: &K, result: R, cx: &mut WindowCx<'_, O>) -> Res {
        let row = (self.0)(key, cx.window, result);
        cx.emit(row)
    }
}

/// A window function over the result.
#[derive(Clone)]
pub(crate) struct WithFunction<F>(pub F);

impl<K, R, O, F: ProcessWindowFunction<K, R, O>> Fire<K, R, O> for WithFunction<F> {
    fn fire(&mut self, key: &K, result: R, cx: &mut WindowCx<'_, O>) -> Res {
        self.0.process(key, &result, cx)
    }
}

/// The folded row itself.
#[derive(Clone)]
pub(crate) struct EmitReduced;

impl<K, T> Fire<K, Option<T>, T> for EmitReduced {
    #[inline]
    fn fire(&mut self, _: &K, row: Option<T>, cx: &mut WindowCx<'_, T>) -> Res {
        row.map_or(Ok(()), |row| cx.emit(row))
    }
}

/// A window function over the folded row.
#[derive(Clone)]
pub(crate) struct WithReduced<F>(pub F);

impl<K, T, O, F: ProcessWindowFunction<K, T, O>> Fire<K, Option<T>, O> for WithReduced<F> {
    fn fire(&mut self, key: &K, row: Option<T>, cx: &mut WindowCx<'_, O>) -> Res {
        row.map_or(Ok(()), |row| self.0.process(key, &row, cx))
    }
}

/// Aggregates the rows that an evictor left.
#[derive(Clone)]
pub(crate) struct AggregateRows<A, F>(pub A, pub F);

impl<K, T, O, A: Aggregate<T>, F: Fire<K, A::Out, O>> Fire<K, &[T], O> for AggregateRows<A, F> {
    fn fire(&mut self, key: &K, rows: &[T], cx: &mut WindowCx<'_, O>) -> Res {
        let mut acc = self.0.create();
        rows.iter().for_each(|row| self.0.add(&mut acc, row));
        self.1.fire(key, self.0.result(&acc), cx)
    }
}

/// Folds the rows that an evictor left.
#[derive(Clone)]
pub(crate) struct ReduceRows<R, F>(pub R, pub F);

impl<K, T: Clone, O, R: FnMut(&mut T, T) + Fun, F: Fire<K, Option<T>, O>> Fire<K, &[T], O>
    for ReduceRows<R, F>
{
    fn fire(&mut self, key: &K, rows: &[T], cx: &mut WindowCx<'_, O>) -> Res {
        let mut rows = rows.iter().cloned();
        let folded = rows.next().map(|mut first| {
            rows.for_each(|row| (self.0)(&mut first, row));
            first
        });
        self.1.fire(key, folded, cx)
    }
}

/// A window function over all rows.
#[derive(Clone)]
pub(crate) struct WithRows<F>(pub F);

impl<K, T, O, F: ProcessWindowFunction<K, [T], O>> Fire<K, &[T], O> for WithRows<F> {
    fn fire(&mut self, key: &K, rows: &[T], cx: &mut WindowCx<'_, O>) -> Res {
        self.0.process(key, rows, cx)
    }
}
