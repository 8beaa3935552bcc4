//! A sink's writer as a stage.

use crate::connector::{Sink, Writer};
use crate::data::{Fail, Res, Rows, Ts};
use crate::runtime::BATCH_ROWS;
use crate::runtime::emit::End;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::snapshot::{Barrier, PreparedBytes, SnapshotParts};
use millrace_protocol::ids::Uid;
use millrace_protocol::manifest::ShapeBytes;
use std::sync::Arc;

/// The end of a chain at a sink.
pub struct SinkEnd<T, S: Sink<T>> {
    uid: Uid,
    writer: S::Writer,
    batch: Rows<T>,
    /// Of its committables.
    shape: ShapeBytes,
    metrics: Arc<NodeMetrics>,
    blocked: bool,
}

impl<T, S: Sink<T>> SinkEnd<T, S> {
    /// Writes through `writer`, whose committables have a shape.
    pub fn new(uid: Uid, writer: S::Writer, shape: ShapeBytes, metrics: Arc<NodeMetrics>) -> Self {
        Self { uid, writer, batch: Rows::default(), shape, metrics, blocked: false }
    }

    fn write(&mut self) -> Res {
        self.blocked = !self.writer.has_room();
        if self.blocked { Ok(()) } else { self.write_now() }
    }

    fn write_now(&mut self) -> Res {
        if !self.batch.is_empty() {
            self.metrics.rows_in.add(self.batch.len() as u64);
            self.writer.write(&mut self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }
}

impl<T: 'static, S: Sink<T>> End<T> for SinkEnd<T, S> {
    #[inline]
    fn push(&mut self, ts: Ts, value: T) -> Res {
        self.batch.push(ts, value);
        if self.batch.len() >= BATCH_ROWS { self.write() } else { Ok(()) }
    }

    fn mark(&mut self, watermark: Ts) -> Res {
        self.metrics.watermark.set(watermark);
        Ok(())
    }

    #[inline]
    fn blocked(&self) -> bool {
        self.blocked
    }

    fn batch_done(&mut self) -> Res {
        if self.batch.is_empty() {
            self.blocked = false;
            return Ok(());
        }
        self.write()
    }

    fn idle(&mut self, _idle: bool) -> Res {
        Ok(())
    }

    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        // Rows before the barrier belong to it, whether the writer would rather wait or not.
        self.write_now()?;
        let pending = self.writer.prepare(barrier.kind.is_last())?;
        let shape = self.shape.clone();
        parts.prepare.push((
            self.uid.clone(),
            Box::new(move || {
                let prepared = pending()?;
                let bytes = |list: &[S::Commit]| -> Res<Vec<Vec<u8>>> {
                    list.iter().map(|c| postcard::to_stdvec(c).map_err(Fail::from)).collect()
                };
                Ok(PreparedBytes {
                    commit: bytes(&prepared.commit)?,
                    open: bytes(&prepared.open)?,
                    shape,
                })
            }),
        ));
        Ok(())
    }

    fn end(&mut self) -> Res {
        self.batch_done()
    }

    fn flush(&mut self, _all: bool) -> Res {
        self.batch_done()
    }

    fn force(&mut self) -> Res {
        self.blocked = false;
        self.write_now()
    }
}
