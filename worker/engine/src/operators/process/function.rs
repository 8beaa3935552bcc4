//! A function over one input without a key.

use super::plain::{Clocks, ProcessCx};
use crate::api::plain::{AnyList, ListSnapshot, Process, RestoredLists};
use crate::data::{AnyBatch, Res, Ts};
use crate::graph::{BuildCx, NodeId};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, Operator, drive, marks_of};
use crate::runtime::side::Sides;
use crate::runtime::snapshot::{Barrier, ListBlob, SnapshotParts};
use millrace_protocol::ids::Uid;
use std::marker::PhantomData;

/// The list states of one subtask. Items are here only between restore and start.
pub(crate) struct Lists {
    uid: Uid,
    lists: Vec<(AnyList, Vec<Vec<u8>>)>,
}

impl Lists {
    pub fn restore(cx: &BuildCx<'_>, node: NodeId, lists: &[AnyList]) -> Res<Self> {
        let uid = cx.graph.node(node).uid.clone();
        let (subtask, parallelism) = (cx.subtask, cx.parallelism(node));
        let restore =
            |list: &AnyList| cx.attempt.restore.list(&uid, list.name, subtask, parallelism);
        let lists = lists.iter().map(|list| Ok((*list, restore(list)?))).collect::<Res<_>>()?;
        Ok(Self { uid, lists })
    }

    /// What was restored; once.
    pub fn restored(&mut self, f: impl FnOnce(&RestoredLists<'_>) -> Res) -> Res {
        let result = f(&RestoredLists { lists: &self.lists });
        self.lists.iter_mut().for_each(|(_, items)| *items = Vec::new());
        result
    }

    /// Puts what `fill` adds into a checkpoint.
    pub fn barrier(
        &mut self,
        parts: &mut SnapshotParts,
        fill: impl FnOnce(&mut ListSnapshot<'_>) -> Res,
    ) -> Res {
        self.lists.iter_mut().for_each(|(_, items)| items.clear());
        fill(&mut ListSnapshot { lists: &mut self.lists })?;
        for (list, items) in &mut self.lists {
            parts.lists.push(ListBlob {
                uid: self.uid.clone(),
                state: list.name.to_owned(),
                redistribution: list.redistribution,
                shape: (list.shape)()?,
                items: std::mem::take(items),
            });
        }
        Ok(())
    }
}

/// The operator.
pub(crate) struct Function<T, F: Process<T>> {
    f: F,
    lists: Lists,
    sides: Sides,
    clocks: Clocks,
    _row: PhantomData<fn(T)>,
}

impl<T: Send + 'static, F: Process<T>> Function<T, F> {
    pub fn new(f: F, lists: Lists, sides: Sides) -> Self {
        Self { f, lists, sides, clocks: Clocks::START, _row: PhantomData }
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<F::Out>) -> Res {
        while !out.blocked() && !self.sides.blocked()? {
            let Some((ts, _, row)) = rows.next() else { break };
            let mut cx = ProcessCx::new(ts, self.clocks, out, &mut self.sides);
            let result = self.f.process(row, &mut cx);
            cx.finish(result)?;
        }
        Ok(())
    }
}

impl<T: Send + 'static, F: Process<T>> Operator for Function<T, F> {
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
        self.clocks.watermark = self.clocks.watermark.max(watermark);
        self.sides.watermark(watermark)?;
        out.mark(watermark)?;
        Ok(Flow::Done)
    }

    fn set_now(&mut self, now: Ts) {
        self.clocks.now = now;
    }

    fn barrier(&mut self, _: &Barrier, parts: &mut SnapshotParts) -> Res {
        let Self { f, lists, .. } = self;
        lists.barrier(parts, |snapshot| f.snapshot(snapshot))
    }

    fn restored(&mut self, time: EventTime) -> Res {
        self.clocks.watermark = time.watermark();
        let Self { f, lists, .. } = self;
        lists.restored(|restored| f.open(restored))
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        Some(&mut self.sides)
    }
}
