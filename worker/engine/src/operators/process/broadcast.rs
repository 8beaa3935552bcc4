//! Functions over an input and a broadcast one, with shared state.

use super::core::{Cx, KeyedCore};
use super::plain::{Clocks, ProcessCx};
use super::shared::Shared;
use crate::api::broadcast::{BroadcastProcess, KeyedBroadcast};
use crate::api::keyed::KeySelector;
use crate::api::tags::OutputTag;
use crate::data::{AnyBatch, Fail, Res, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, LookAhead, Operator, drive, marks_of};
use crate::runtime::side::Sides;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use crate::state::{State, StateTable};
use millrace_protocol::key::Key;
use std::marker::PhantomData;

/// What a call for a broadcast row finds: clocks, outputs, and the subtask's keys.
pub struct BroadcastCx<'a, K: Key, S: State, O> {
    core: &'a mut KeyedCore<K, S>,
    out: &'a mut Emitter<O>,
    timestamp: Ts,
    failed: Option<Fail>,
}

impl<K: Key, S: State, O> BroadcastCx<'_, K, S, O> {
    /// Event time of the row in milliseconds, or [`crate::data::TS_MIN`] if it has none.
    pub fn timestamp(&self) -> Ts {
        self.timestamp
    }

    /// The operator's watermark in milliseconds.
    pub fn watermark(&self) -> Ts {
        self.core.time.watermark()
    }

    /// The clock, in milliseconds since the epoch. It is read once per batch.
    pub fn processing_time(&self) -> Ts {
        self.core.now
    }

    /// Emits a row, from every subtask.
    pub fn emit(&mut self, row: O) {
        if let Err(error) = self.out.emit(self.timestamp, row) {
            self.failed.get_or_insert(error);
        }
    }

    /// Emits a row to a declared side output, from every subtask.
    pub fn side<U: Send + 'static>(&mut self, tag: &OutputTag<U>, row: U) {
        if let Err(error) = self.core.sides.emit(tag.name(), self.timestamp, row) {
            self.failed.get_or_insert(error);
        }
    }

    /// Calls `f` with every key's state, in order of hash. All are visited in this one
    /// call, so it takes time in proportion to the keys, and emits without regard to room.
    pub fn each(&mut self, mut f: impl FnMut(&mut S, &mut Cx<'_, K, O>) -> Res) -> Res {
        for keys in self.core.keys()?.chunks(AT_ONCE) {
            self.core.fetch(keys.iter().map(|(hash, key)| (*hash, key)))?;
            for (hash, key) in keys {
                self.core.call(*hash, key, self.timestamp, self.out, &mut f)?;
            }
            self.core.tend();
        }
        Ok(())
    }

    /// Calls `f` with the state of one key, in the subtask that owns it and in no other.
    pub fn with_key(&mut self, key: &K, f: impl FnOnce(&mut S, &mut Cx<'_, K, O>) -> Res) -> Res {
        let hash = key.hash64();
        if self.core.owns(hash) {
            self.core.fetch([(hash, key)])?;
            self.core.call(hash, key, self.timestamp, self.out, f)?;
        }
        Ok(())
    }
}

/// Keys whose rows are in memory together while a call goes through all keys.
const AT_ONCE: usize = 512;

/// A keyed input and a broadcast one.
pub(crate) struct KeyedBroadcasted<A, B, S, F>
where
    S: KeySelector<A>,
    F: KeyedBroadcast<S::Key, A, B>,
{
    selector: S,
    f: F,
    core: KeyedCore<S::Key, F::State>,
    shared: Shared<F::Shared>,
    _rows: PhantomData<fn(A, B)>,
}

impl<A, B, S, F> KeyedBroadcasted<A, B, S, F>
where
    A: Send + 'static,
    B: Send + 'static,
    S: KeySelector<A>,
    F: KeyedBroadcast<S::Key, A, B>,
{
    pub fn new(
        selector: S,
        f: F,
        core: KeyedCore<S::Key, F::State>,
        shared: Shared<F::Shared>,
    ) -> Self {
        Self { selector, f, core, shared, _rows: PhantomData }
    }

    fn keyed_rows(&mut self, rows: &mut Cursor<'_, '_, A>, out: &mut Emitter<F::Out>) -> Res {
        self.core.fetch_ahead(&self.selector, rows)?;
        let mut ahead = LookAhead::default();
        while !self.core.blocked(out)? {
            self.core.look_ahead(&mut ahead, rows);
            let Some((ts, hash, row)) = rows.next() else { break };
            let key = self.selector.owned(&row);
            let Self { f, core, shared, .. } = self;
            core.call(hash, &key, ts, out, |state, cx| f.process(row, state, shared.get(), cx))?;
        }
        self.core.tend();
        Ok(())
    }

    fn broadcast_rows(&mut self, rows: &mut Cursor<'_, '_, B>, out: &mut Emitter<F::Out>) -> Res {
        while !self.core.blocked(out)? {
            let Some((timestamp, _, row)) = rows.next() else { break };
            let Self { f, core, shared, .. } = self;
            let mut cx = BroadcastCx { core, out, timestamp, failed: None };
            let result = f.broadcast(row, shared.get_mut(), &mut cx);
            let failed = cx.failed;
            result.and(failed.map_or(Ok(()), Err))?;
        }
        self.core.tend();
        Ok(())
    }
}

impl<A, B, S, F> Operator for KeyedBroadcasted<A, B, S, F>
where
    A: Send + 'static,
    B: Send + 'static,
    S: KeySelector<A>,
    F: KeyedBroadcast<S::Key, A, B>,
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
            drive(self, batch, out, Self::keyed_rows, |op, w, out| op.watermark(w, out))
        } else {
            drive(self, batch, out, Self::broadcast_rows, |op, w, out| op.watermark(w, out))
        }
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<F::Out>) -> Res<Flow> {
        let Self { f, core, shared, .. } = self;
        let shared = shared.get();
        if core.advance(watermark)
            && core.fire_event(out, |timer, state, cx| f.on_timer(timer, state, shared, cx))?
                == Flow::Blocked
        {
            return Ok(Flow::Blocked);
        }
        core.sides.watermark(watermark)?;
        out.mark(watermark)?;
        Ok(Flow::Done)
    }

    fn processing_time(&mut self, now: Ts, out: &mut Emitter<F::Out>) -> Res<Flow> {
        let Self { f, core, shared, .. } = self;
        let shared = shared.get();
        core.now = now;
        core.fire_processing(out, |timer, state, cx| f.on_timer(timer, state, shared, cx))
    }

    fn next_processing_time(&self) -> Option<Ts> {
        self.core.next_processing_time()
    }

    fn set_now(&mut self, now: Ts) {
        self.core.now = now;
    }

    fn barrier(&mut self, _: &Barrier, parts: &mut SnapshotParts) -> Res {
        self.shared.barrier(parts)
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

/// An input without a key and a broadcast one.
pub(crate) struct Broadcasted<A, B, F: BroadcastProcess<A, B>> {
    f: F,
    shared: Shared<F::Shared>,
    sides: Sides,
    clocks: Clocks,
    _rows: PhantomData<fn(A, B)>,
}

impl<A: Send + 'static, B: Send + 'static, F: BroadcastProcess<A, B>> Broadcasted<A, B, F> {
    pub fn new(f: F, shared: Shared<F::Shared>, sides: Sides) -> Self {
        Self { f, shared, sides, clocks: Clocks::START, _rows: PhantomData }
    }

    fn main_rows(&mut self, rows: &mut Cursor<'_, '_, A>, out: &mut Emitter<F::Out>) -> Res {
        while !out.blocked() && !self.sides.blocked()? {
            let Some((ts, _, row)) = rows.next() else { break };
            let mut cx = ProcessCx::new(ts, self.clocks, out, &mut self.sides);
            let result = self.f.process(row, self.shared.get(), &mut cx);
            cx.finish(result)?;
        }
        Ok(())
    }

    fn broadcast_rows(&mut self, rows: &mut Cursor<'_, '_, B>, out: &mut Emitter<F::Out>) -> Res {
        while !out.blocked() && !self.sides.blocked()? {
            let Some((ts, _, row)) = rows.next() else { break };
            let mut cx = ProcessCx::new(ts, self.clocks, out, &mut self.sides);
            let result = self.f.broadcast(row, self.shared.get_mut(), &mut cx);
            cx.finish(result)?;
        }
        Ok(())
    }
}

impl<A, B, F> Operator for Broadcasted<A, B, F>
where
    A: Send + 'static,
    B: Send + 'static,
    F: BroadcastProcess<A, B>,
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
            drive(self, batch, out, Self::main_rows, |op, w, out| op.watermark(w, out))
        } else {
            drive(self, batch, out, Self::broadcast_rows, |op, w, out| op.watermark(w, out))
        }
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<F::Out>) -> Res<Flow> {
        self.clocks.watermark = self.clocks.watermark.max(watermark);
        self.sides.watermark(watermark)?;
        out.mark(watermark)?;
        Ok(Flow::Done)
    }

    fn set_now(&mut self, now: Ts) {
        self.clocks.now = now;
    }

    fn barrier(&mut self, _: &Barrier, parts: &mut SnapshotParts) -> Res {
        self.shared.barrier(parts)
    }

    fn restored(&mut self, time: EventTime) -> Res {
        self.clocks.watermark = time.watermark();
        self.f.open()
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        Some(&mut self.sides)
    }
}
