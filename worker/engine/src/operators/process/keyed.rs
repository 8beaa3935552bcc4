//! A keyed function over one input.

use super::core::KeyedCore;
use crate::api::keyed::KeySelector;
use crate::api::process::KeyedProcess;
use crate::data::{AnyBatch, Res, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, LookAhead, Operator, drive, marks_of};
use crate::runtime::side::Sides;
use crate::state::StateTable;
use std::marker::PhantomData;

/// The operator.
pub(crate) struct Process<T, S: KeySelector<T>, F: KeyedProcess<S::Key, T>> {
    selector: S,
    f: F,
    core: KeyedCore<S::Key, F::State>,
    _row: PhantomData<fn(T)>,
}

impl<T: Send + 'static, S: KeySelector<T>, F: KeyedProcess<S::Key, T>> Process<T, S, F> {
    pub fn new(selector: S, f: F, core: KeyedCore<S::Key, F::State>) -> Self {
        Self { selector, f, core, _row: PhantomData }
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<F::Out>) -> Res {
        self.core.fetch_ahead(&self.selector, rows)?;
        let mut ahead = LookAhead::default();
        while !self.core.blocked(out)? {
            self.core.look_ahead(&mut ahead, rows);
            let Some((ts, hash, row)) = rows.next() else { break };
            let key = self.selector.owned(&row);
            let f = &mut self.f;
            self.core.call(hash, &key, ts, out, |state, cx| f.process(row, state, cx))?;
        }
        self.core.tend();
        Ok(())
    }
}

impl<T: Send + 'static, S: KeySelector<T>, F: KeyedProcess<S::Key, T>> Operator
    for Process<T, S, F>
{
    type Out = F::Out;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<T>]
    }

    fn batch(
        &mut self,
        _: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<F::Out>,
    ) -> Res<Flow> {
        drive(self, batch, out, Self::rows, |op, w, out| op.watermark(w, out))
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
