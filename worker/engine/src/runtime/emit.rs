//! Stages: what stands behind a task's head and is called directly.
//!
//! A head emits batches into a [`Fanout`]; each consumer is a [`Stage`]. The usual
//! stage is a [`ChainStage`]: the user's closures as one monomorphic loop that
//! ends in an [`End`]: a partitioner, a sink's writer, or the next fan-out.

use crate::api::pipe::Pipe;
use crate::data::{Res, Rows, Ts};
use crate::runtime::BATCH_ROWS;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use std::sync::Arc;

/// A consumer of batches, called by the head of its task.
pub trait Stage<T> {
    /// Takes rows and marks off the front of `rows`, until it has no room.
    /// What is left in `rows` is offered again once [`Stage::blocked`] is false.
    fn push(&mut self, rows: &mut Rows<T>) -> Res;
    /// A watermark outside of a batch.
    fn watermark(&mut self, watermark: Ts) -> Res;
    /// Idle or active again.
    fn idle(&mut self, idle: bool) -> Res;
    /// A barrier; only called when not blocked. Rows buffered before it go first.
    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res;
    /// No more rows (the watermark has been set to its maximum before).
    fn end(&mut self) -> Res;
    /// Tries to hand on what waits for room; `all`: also what waits for company.
    fn flush(&mut self, all: bool) -> Res;
    /// Hands on what waits whether there is room or not: in front of a barrier that does
    /// not wait for room. Then it takes more rows, at least one.
    fn force(&mut self) -> Res;
    /// Whether rows would have to wait.
    fn blocked(&self) -> bool;
    /// Whether barriers may overtake all that is forced into it, and that lies with us.
    fn gives_way(&self) -> bool {
        false
    }
}

/// Where a chain ends.
pub trait End<T> {
    /// Takes a row.
    fn push(&mut self, ts: Ts, value: T) -> Res;
    /// A watermark stands here.
    fn mark(&mut self, watermark: Ts) -> Res;
    /// Whether rows would have to wait. Asked between rows, so it should be a field.
    fn blocked(&self) -> bool;
    /// End of a batch: what should not stay in buffers goes on.
    fn batch_done(&mut self) -> Res {
        Ok(())
    }
    /// See [`Stage::idle`].
    fn idle(&mut self, idle: bool) -> Res;
    /// See [`Stage::barrier`].
    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res;
    /// See [`Stage::end`].
    fn end(&mut self) -> Res;
    /// See [`Stage::flush`].
    fn flush(&mut self, all: bool) -> Res;
    /// See [`Stage::force`].
    fn force(&mut self) -> Res;
    /// See [`Stage::gives_way`].
    fn gives_way(&self) -> bool {
        false
    }
}

/// The user's closures from a head to an [`End`], as one loop.
pub struct ChainStage<P, E> {
    /// The closures.
    pub pipe: P,
    /// What takes their results.
    pub end: E,
}

impl<P: Pipe, E: End<P::Out>> Stage<P::In> for ChainStage<P, E> {
    fn push(&mut self, rows: &mut Rows<P::In>) -> Res {
        let total = rows.values.len();
        let mut at = 0;
        let mut mark = 0;
        let mut values = rows.values.drain(..);
        'batch: loop {
            let stop = rows.marks.get(mark).map_or(total, |m| (m.0 as usize).min(total));
            let end = &mut self.end;
            for ts in &rows.ts[at..stop] {
                let Some(value) = values.next() else { break };
                at += 1;
                self.pipe.push(value, &mut |out| end.push(*ts, out))?;
                if end.blocked() {
                    break 'batch;
                }
            }
            match rows.marks.get(mark) {
                Some(m) => self.end.mark(m.1)?,
                None => break,
            }
            mark += 1;
        }
        if at == total && mark == rows.marks.len() {
            drop(values);
            rows.clear();
        } else {
            let rest: Vec<P::In> = values.collect();
            rows.values = rest;
            rows.forget_front(at, mark);
        }
        self.end.batch_done()
    }

    fn watermark(&mut self, watermark: Ts) -> Res {
        self.end.mark(watermark)?;
        self.end.batch_done()
    }

    fn idle(&mut self, idle: bool) -> Res {
        self.end.idle(idle)
    }

    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        self.end.barrier(barrier, parts)
    }

    fn end(&mut self) -> Res {
        self.end.end()
    }

    fn flush(&mut self, all: bool) -> Res {
        self.end.flush(all)
    }

    fn force(&mut self) -> Res {
        self.end.force()
    }

    fn blocked(&self) -> bool {
        self.end.blocked()
    }

    fn gives_way(&self) -> bool {
        self.end.gives_way()
    }
}

struct Outlet<T> {
    stage: Box<dyn Stage<T>>,
    /// What the stage had no room for.
    waiting: Rows<T>,
}

impl<T> Outlet<T> {
    fn push(&mut self, rows: &mut Rows<T>) -> Res {
        if self.waiting_any() {
            self.waiting.append(rows);
            return self.retry();
        }
        self.stage.push(rows)?;
        if !rows.is_empty() || !rows.marks.is_empty() {
            std::mem::swap(rows, &mut self.waiting);
        }
        Ok(())
    }

    fn waiting_any(&self) -> bool {
        !self.waiting.is_empty() || !self.waiting.marks.is_empty()
    }

    fn retry(&mut self) -> Res {
        if self.waiting_any() && !self.stage.blocked() {
            self.stage.push(&mut self.waiting)?;
        }
        Ok(())
    }

    fn blocked(&self) -> bool {
        self.waiting_any() || self.stage.blocked()
    }
}

/// How a batch is copied for all consumers but the last.
pub type CopyRows<T> = fn(&Rows<T>) -> Rows<T>;

/// All consumers of a head's output.
pub struct Fanout<T> {
    outlets: Vec<Outlet<T>>,
    copy: Option<CopyRows<T>>,
    blocked: bool,
    metrics: Arc<NodeMetrics>,
}

impl<T> Fanout<T> {
    /// A fan-out to `stages`; more than one needs `copy`.
    pub fn new(
        stages: Vec<Box<dyn Stage<T>>>,
        copy: Option<CopyRows<T>>,
        metrics: Arc<NodeMetrics>,
    ) -> Self {
        let outlets =
            stages.into_iter().map(|stage| Outlet { stage, waiting: Rows::default() }).collect();
        Self { outlets, copy, blocked: false, metrics }
    }

    /// Hands a batch to all consumers and leaves it empty.
    pub fn push(&mut self, rows: &mut Rows<T>) -> Res {
        self.metrics.rows_out.add(rows.len() as u64);
        if let Some((_, watermark)) = rows.marks.last() {
            self.metrics.watermark.set(*watermark);
        }
        if let Some((last, others)) = self.outlets.split_last_mut() {
            if let Some(copy) = self.copy {
                for outlet in others {
                    outlet.push(&mut copy(rows))?;
                }
            }
            last.push(rows)?;
        }
        rows.clear();
        self.blocked = self.outlets.iter().any(Outlet::blocked);
        Ok(())
    }

    /// Whether rows would have to wait.
    #[inline]
    pub fn blocked(&self) -> bool {
        self.blocked
    }

    /// A watermark for all consumers.
    pub fn watermark(&mut self, watermark: Ts) -> Res {
        self.metrics.watermark.set(watermark);
        for outlet in &mut self.outlets {
            if outlet.waiting_any() {
                outlet.waiting.mark(watermark);
            } else {
                outlet.stage.watermark(watermark)?;
            }
        }
        Ok(())
    }

    /// Idle or active again.
    pub fn idle(&mut self, idle: bool) -> Res {
        self.outlets.iter_mut().try_for_each(|o| o.stage.idle(idle))
    }

    /// A barrier for all consumers; the caller has seen that nothing is blocked.
    pub fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        self.outlets.iter_mut().try_for_each(|o| o.stage.barrier(barrier, parts))?;
        self.blocked = self.outlets.iter().any(Outlet::blocked);
        Ok(())
    }

    /// Hands on all that waits, whether there is room or not.
    pub fn force(&mut self) -> Res {
        for outlet in &mut self.outlets {
            outlet.stage.force()?;
            while outlet.waiting_any() {
                outlet.stage.push(&mut outlet.waiting)?;
                outlet.stage.force()?;
            }
        }
        self.blocked = false;
        Ok(())
    }

    /// Whether that holds of all consumers: see [`Stage::gives_way`].
    pub fn gives_way(&self) -> bool {
        self.outlets.iter().all(|o| o.stage.gives_way())
    }

    /// No more rows.
    pub fn end(&mut self) -> Res {
        self.outlets.iter_mut().try_for_each(|o| o.stage.end())
    }

    /// See [`Stage::flush`].
    pub fn flush(&mut self, all: bool) -> Res {
        for outlet in &mut self.outlets {
            outlet.stage.flush(all)?;
            outlet.retry()?;
        }
        self.blocked = self.outlets.iter().any(Outlet::blocked);
        Ok(())
    }
}

/// An operator's output: rows are gathered into batches for a [`Fanout`].
pub struct Emitter<T> {
    batch: Rows<T>,
    out: Fanout<T>,
}

impl<T> Emitter<T> {
    /// An emitter into `out`.
    pub fn new(out: Fanout<T>) -> Self {
        Self { batch: Rows::default(), out }
    }

    /// Emits a row.
    #[inline]
    pub fn emit(&mut self, ts: Ts, value: T) -> Res {
        self.batch.push(ts, value);
        if self.batch.len() >= BATCH_ROWS { self.deliver() } else { Ok(()) }
    }

    /// A watermark stands here.
    pub fn mark(&mut self, watermark: Ts) -> Res {
        if self.batch.is_empty() {
            self.out.watermark(watermark)
        } else {
            self.batch.mark(watermark);
            self.out.metrics.watermark.set(watermark);
            Ok(())
        }
    }

    /// Hands on what was gathered.
    #[inline(never)]
    pub fn deliver(&mut self) -> Res {
        if self.batch.is_empty() && self.batch.marks.is_empty() {
            return Ok(());
        }
        self.out.push(&mut self.batch)
    }

    /// Hands a whole batch on.
    pub fn forward(&mut self, rows: &mut Rows<T>) -> Res {
        self.deliver()?;
        self.out.push(rows)
    }

    /// Whether rows would have to wait.
    #[inline]
    pub fn blocked(&self) -> bool {
        self.out.blocked
    }

    /// See [`Stage::idle`].
    pub fn idle(&mut self, idle: bool) -> Res {
        self.deliver()?;
        self.out.idle(idle)
    }

    /// See [`Stage::barrier`].
    pub fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        self.out.barrier(barrier, parts)
    }

    /// See [`Fanout::force`].
    pub fn force(&mut self) -> Res {
        self.deliver()?;
        self.out.force()
    }

    /// See [`Stage::gives_way`].
    pub fn gives_way(&self) -> bool {
        self.out.gives_way()
    }

    /// No more rows.
    pub fn end(&mut self) -> Res {
        self.deliver()?;
        self.out.end()
    }

    /// See [`Stage::flush`].
    pub fn flush(&mut self, all: bool) -> Res {
        if self.out.blocked {
            // Else what was gathered would stay here although there is room again.
            self.out.flush(all)?;
        }
        if all && !self.out.blocked {
            self.deliver()?;
        }
        self.out.flush(all)
    }
}

/// A chain's end that gathers rows for the next fan-out: where a stream is shared.
impl<T> End<T> for Emitter<T> {
    #[inline]
    fn push(&mut self, ts: Ts, value: T) -> Res {
        self.emit(ts, value)
    }

    fn mark(&mut self, watermark: Ts) -> Res {
        Emitter::mark(self, watermark)
    }

    #[inline]
    fn blocked(&self) -> bool {
        self.out.blocked
    }

    fn batch_done(&mut self) -> Res {
        self.deliver()
    }

    fn idle(&mut self, idle: bool) -> Res {
        Emitter::idle(self, idle)
    }

    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        Emitter::barrier(self, barrier, parts)
    }

    fn end(&mut self) -> Res {
        Emitter::end(self)
    }

    fn flush(&mut self, all: bool) -> Res {
        Emitter::flush(self, all)
    }

    fn force(&mut self) -> Res {
        Emitter::force(self)
    }

    fn gives_way(&self) -> bool {
        Emitter::gives_way(self)
    }
}
