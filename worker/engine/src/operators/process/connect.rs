//! Two inputs: closures over both, and a keyed function over both.

use super::core::KeyedCore;
use crate::api::connect::KeyedCoProcess;
use crate::api::keyed::KeySelector;
use crate::data::{AnyBatch, Fun, Res, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, LookAhead, Operator, drive, marks_of};
use crate::runtime::side::Sides;
use crate::state::StateTable;
use std::marker::PhantomData;

/// A closure for each input.
pub(crate) struct CoFlatMap<A, B, F, G> {
    first: F,
    second: G,
    _rows: PhantomData<fn(A, B)>,
}

impl<A, B, F, G> CoFlatMap<A, B, F, G> {
    pub fn new(first: F, second: G) -> Self {
        Self { first, second, _rows: PhantomData }
    }
}

fn flat_map<T, I: IntoIterator>(
    f: &mut impl FnMut(T) -> I,
    rows: &mut Cursor<'_, '_, T>,
    out: &mut Emitter<I::Item>,
) -> Res {
    while !out.blocked() {
        let Some((ts, _, row)) = rows.next() else { break };
        for row in f(row) {
            out.emit(ts, row)?;
        }
    }
    Ok(())
}

impl<A, B, F, G, I, J> Operator for CoFlatMap<A, B, F, G>
where
    A: Send + 'static,
    B: Send + 'static,
    F: FnMut(A) -> I + Fun,
    G: FnMut(B) -> J + Fun,
    I: IntoIterator<Item: Send + 'static>,
    J: IntoIterator<Item = I::Item>,
{
    type Out = I::Item;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<A>, marks_of::<B>]
    }

    fn batch(
        &mut self,
        input: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<I::Item>,
    ) -> Res<Flow> {
        let mark = |op: &mut Self, w, out: &mut Emitter<I::Item>| op.watermark(w, out);
        if input == 0 {
            drive(self, batch, out, |op, rows, out| flat_map(&mut op.first, rows, out), mark)
        } else {
            drive(self, batch, out, |op, rows, out| flat_map(&mut op.second, rows, out), mark)
        }
    }
}

/// A keyed function over two inputs.
pub(crate) struct CoProcess<A, B, S, R, F>
where
    S: KeySelector<A>,
    R: KeySelector<B, Key = S::Key>,
    F: KeyedCoProcess<S::Key, A, B>,
{
    selectors: (S, R),
    f: F,
    core: KeyedCore<S::Key, F::State>,
    _rows: PhantomData<fn(A, B)>,
}

impl<A, B, S, R, F> CoProcess<A, B, S, R, F>
where
    A: Send + 'static,
    B: Send + 'static,
    S: KeySelector<A>,
    R: KeySelector<B, Key = S::Key>,
    F: KeyedCoProcess<S::Key, A, B>,
{
    pub fn new(selectors: (S, R), f: F, core: KeyedCore<S::Key, F::State>) -> Self {
        Self { selectors, f, core, _rows: PhantomData }
    }

    fn first(&mut self, rows: &mut Cursor<'_, '_, A>, out: &mut Emitter<F::Out>) -> Res {
        self.core.fetch_ahead(&self.selectors.0, rows)?;
        let mut ahead = LookAhead::default();
        while !self.core.blocked(out)? {
            self.core.look_ahead(&mut ahead, rows);
            let Some((ts, hash, row)) = rows.next() else { break };
            let key = self.selectors.0.owned(&row);
            let f = &mut self.f;
            self.core.call(hash, &key, ts, out, |state, cx| f.first(row, state, cx))?;
        }
        self.core.tend();
        Ok(())
    }

    fn second(&mut self, rows: &mut Cursor<'_, '_, B>, out: &mut Emitter<F::Out>) -> Res {
        self.core.fetch_ahead(&self.selectors.1, rows)?;
        let mut ahead = LookAhead::default();
        while !self.core.blocked(out)? {
            self.core.look_ahead(&mut ahead, rows);
            let Some((ts, hash, row)) = rows.next() else { break };
            let key = self.selectors.1.owned(&row);
            let f = &mut self.f;
            self.core.call(hash, &key, ts, out, |state, cx| f.second(row, state, cx))?;
        }
        self.core.tend();
        Ok(())
    }
}

impl<A, B, S, R, F> Operator for CoProcess<A, B, S, R, F>
where
    A: Send + 'static,
    B: Send + 'static,
    S: KeySelector<A>,
    R: KeySelector<B, Key = S::Key>,
    F: KeyedCoProcess<S::Key, A, B>,
{
    type Out = F::Out;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<A>, marks_of::<B>]
    }

    fn batch(
        &mut self,
        input: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<F::Out>,
    ) -> Res<Flow> {
        if input == 0 {
            drive(self, batch, out, Self::first, |op, w, out| op.watermark(w, out))
        } else {
            drive(self, batch, out, Self::second, |op, w, out| op.watermark(w, out))
        }
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<F::Out>) -> Res<Flow> {
        let Self { f, core, .. } = self;
        if core.advance(watermark)
            && core.fire_event(out, |timer, state, cx| f.on_timer(timer, state, cx))?
                == Flow::Blocked
        {
            return Ok(Flow::Blocked);
        }
        core.sides.watermark(watermark)?;
        out.mark(watermark)?;
        Ok(Flow::Done)
    }

    fn processing_time(&mut self, now: Ts, out: &mut Emitter<F::Out>) -> Res<Flow> {
        let Self { f, core, .. } = self;
        core.now = now;
        core.fire_processing(out, |timer, state, cx| f.on_timer(timer, state, cx))
    }

    fn next_processing_time(&self) -> Option<Ts> {
        self.core.next_processing_time()
    }

    fn set_now(&mut self, now: Ts) {
        self.core.now = now;
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        vec![self.core.table()]
    }

    fn restored(&mut self, time: EventTime) -> Res {
        self.core.restored(time)?;
        self.f.open()
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        Some(&mut self.core.sides)
    }
}
