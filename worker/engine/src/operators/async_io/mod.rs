//! Requests for rows, made in another thread: [`requests`] makes them, [`queue`] keeps
//! rows, results and watermarks in order, and the operator here joins the two.

mod queue;
mod requests;

pub(crate) use requests::Requests;

use crate::api::async_io::AsyncOptions;
use crate::api::plain::ListTag;
use crate::data::{AnyBatch, Data, Fail, Fun, Res, TS_MIN, Ts};
use crate::operators::process::function::Lists;
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, Operator, drive, marks_of};
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use queue::{Next, Queue};
use requests::{Answer, Running};

/// The list state of rows whose result was not emitted.
pub(crate) fn in_flight<T: Data>() -> ListTag<(Ts, T)> {
    ListTag::even("in flight")
}

/// The operator.
pub(crate) struct AsyncMap<T, U, H> {
    capacity: usize,
    queue: Queue<T, U>,
    requests: Box<dyn Running<T, U>>,
    lists: Lists,
    on_timeout: H,
}

impl<T: Data + Clone, U: Send + 'static, H: FnMut(T) -> Res<U> + Fun> AsyncMap<T, U, H> {
    pub fn new(
        options: AsyncOptions,
        requests: Box<dyn Running<T, U>>,
        lists: Lists,
        on_timeout: H,
    ) -> Self {
        let queue = Queue::new(options.order);
        Self { capacity: options.capacity.max(1), queue, requests, lists, on_timeout }
    }

    fn submit(&mut self, ts: Ts, row: T) {
        let id = self.queue.add(ts, row.clone());
        let handle = self.requests.submit(id, row);
        self.queue.attach(id, handle);
    }

    /// Takes answers in, and emits what may be emitted. Blocked if the output is.
    fn settle(&mut self, out: &mut Emitter<U>) -> Res<Flow> {
        for (id, answer) in self.requests.answers() {
            let result = match answer {
                Answer::Result(result) => result?,
                Answer::TimedOut => match self.queue.input(id) {
                    Some(row) => (self.on_timeout)(row.clone())?,
                    None => continue,
                },
                Answer::Lost => return Err(Fail::from("a request panicked; see the log")),
            };
            self.queue.answer(id, result);
        }
        while !out.blocked() {
            match self.queue.next() {
                Some(Next::Row(ts, row)) => out.emit(ts, row)?,
                Some(Next::Watermark(watermark)) => out.mark(watermark)?,
                None => return Ok(Flow::Done),
            }
        }
        Ok(Flow::Blocked)
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<U>) -> Res {
        loop {
            if self.settle(out)? == Flow::Blocked || self.queue.len() >= self.capacity {
                return Ok(());
            }
            let Some((ts, _, row)) = rows.next() else { return Ok(()) };
            self.submit(ts, row);
        }
    }
}

impl<T: Data + Clone, U: Send + 'static, H: FnMut(T) -> Res<U> + Fun> Operator
    for AsyncMap<T, U, H>
{
    type Out = U;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<T>]
    }

    fn batch(&mut self, _: usize, batch: &mut dyn AnyBatch, out: &mut Emitter<U>) -> Res<Flow> {
        drive(self, batch, out, Self::rows, |op, w, out| op.watermark(w, out))
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<U>) -> Res<Flow> {
        if watermark == TS_MIN || self.queue.is_empty() {
            out.mark(watermark)?;
        } else {
            self.queue.watermark(watermark);
        }
        Ok(Flow::Done)
    }

    /// Called when there are answers, whatever the time.
    fn processing_time(&mut self, _: Ts, out: &mut Emitter<U>) -> Res<Flow> {
        self.settle(out)
    }

    fn next_processing_time(&self) -> Option<Ts> {
        (self.requests.has_answers() || self.queue.is_ready()).then_some(TS_MIN)
    }

    fn barrier(&mut self, _: &Barrier, parts: &mut SnapshotParts) -> Res {
        let Self { lists, queue, .. } = self;
        lists.barrier(parts, |snapshot| {
            queue.inputs().try_for_each(|row| snapshot.add(&in_flight::<T>(), row))
        })
    }

    fn restored(&mut self, time: EventTime) -> Res {
        let mut rows = Vec::new();
        self.lists.restored(|lists| {
            rows = lists.get(&in_flight::<T>())?;
            Ok(())
        })?;
        for (ts, row) in rows {
            self.submit(ts, row);
        }
        if !self.queue.is_empty() && time.watermark() != TS_MIN {
            // What stood behind them, or between.
            self.queue.watermark(time.watermark());
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Emitter<U>) -> Res<Flow> {
        let flow = self.settle(out)?;
        Ok(if self.queue.is_empty() { flow } else { Flow::Blocked })
    }
}
