//! What an operator behind an exchange implements, and how batches are driven through it.

use crate::api::keyed::KeySelector;
use crate::data::{AnyBatch, Fail, Packet, Res, Rows, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::side::Sides;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use crate::state::{Row, StateTable, Table};
use millrace_protocol::key::Key;

/// Whether a call came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// All done.
    Done,
    /// The output is full: call again, with the same argument, when it is not.
    Blocked,
}

/// Rows whose state is begun to be loaded before the first of them is worked on.
pub const LOOK_AHEAD: usize = 32;

/// Rows of a batch up to the next watermark, to be taken one by one.
pub struct Cursor<'a, 'b, T> {
    rows: &'a mut std::vec::Drain<'b, (Ts, u64, T)>,
    left: usize,
}

impl<T> Cursor<'_, '_, T> {
    /// Number of rows left.
    #[inline]
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next rows, at most `n`, without taking them: to look ahead.
    #[inline]
    pub fn peek(&self, n: usize) -> &[(Ts, u64, T)] {
        let rows = self.rows.as_slice();
        &rows[..n.min(self.left).min(rows.len())]
    }
}

/// Yields (timestamp, key hash or 0, row).
impl<T> Iterator for Cursor<'_, '_, T> {
    type Item = (Ts, u64, T);

    #[inline]
    fn next(&mut self) -> Option<(Ts, u64, T)> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.rows.next()
    }
}

/// Brings back from the tier what the rows at hand need of a table, all at once.
#[inline]
pub fn fetch_ahead<T, S: KeySelector<T>, R: Row>(
    table: &mut Table<S::Key, R>,
    selector: &S,
    rows: &Cursor<'_, '_, T>,
) -> Res {
    if !table.spills() {
        return Ok(());
    }
    for rows in rows.peek(usize::MAX).chunks(LOOK_AHEAD) {
        std::hint::black_box(table.warm(rows.iter().map(|row| row.1)));
        for (_, hash, row) in rows {
            selector.with(row, |key| table.want(*hash, key));
        }
    }
    table.fetch()
}

/// Begins to load what the next rows need of a table while those before them are worked on:
/// see [`Table::warm`].
#[derive(Default)]
pub struct LookAhead(usize);

impl LookAhead {
    /// To be called each time before a row is taken off `rows`.
    #[inline(always)]
    pub fn step<T, K: Key, R: Row>(&mut self, table: &Table<K, R>, rows: &Cursor<'_, '_, T>) {
        if self.0 == 0 {
            let ahead = rows.peek(LOOK_AHEAD);
            self.0 = ahead.len();
            std::hint::black_box(table.warm(ahead.iter().map(|row| row.1)));
        }
        self.0 = self.0.saturating_sub(1);
    }
}

/// An operator with one or more inputs of known types.
///
/// Calls that emit are resumable: an operator looks at [`Emitter::blocked`] after each
/// row, timer or firing, and returns when it is.
pub trait Operator: 'static {
    /// What it emits.
    type Out: Send + 'static;

    /// How to find the marks of each input's batches; its length is the number of inputs.
    fn inputs() -> Vec<Marks>
    where
        Self: Sized;

    /// Takes a batch of an input: see [`drive`].
    fn batch(
        &mut self,
        input: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<Self::Out>,
    ) -> Res<Flow>;

    /// The watermark advanced: fires what is due, then passes it on.
    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<Self::Out>) -> Res<Flow> {
        out.mark(watermark)?;
        Ok(Flow::Done)
    }

    /// Processing time reached what [`Operator::next_processing_time`] said.
    fn processing_time(&mut self, _now: Ts, _out: &mut Emitter<Self::Out>) -> Res<Flow> {
        Ok(Flow::Done)
    }

    /// When to call [`Operator::processing_time`], in milliseconds since the epoch.
    fn next_processing_time(&self) -> Option<Ts> {
        None
    }

    /// The clock, told before other calls; only operators that use processing time look at it.
    fn set_now(&mut self, _now: Ts) {}

    /// A barrier: puts small state into `parts`. The slot sees to the tables.
    fn barrier(&mut self, _barrier: &Barrier, _parts: &mut SnapshotParts) -> Res {
        Ok(())
    }

    /// The keyed tables with their state's name, always in the same order.
    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        Vec::new()
    }

    /// Tables are loaded (or empty, at a fresh start), and event time had come as far as
    /// `time` says. What is derived from them (timers) is rebuilt here.
    fn restored(&mut self, _time: EventTime) -> Res {
        Ok(())
    }

    /// An input has ended.
    fn input_ended(&mut self, _input: usize, _out: &mut Emitter<Self::Out>) -> Res<Flow> {
        Ok(Flow::Done)
    }

    /// All inputs have ended; what is still held is emitted.
    fn end(&mut self, _out: &mut Emitter<Self::Out>) -> Res<Flow> {
        Ok(Flow::Done)
    }

    /// Whether, between two rows of a batch, all that it was given and all that it has to
    /// emit is in its state: else no snapshot can be taken there.
    fn is_settled(&self) -> bool {
        true
    }

    /// Side outputs' turn to hand on what waits; see [`crate::runtime::emit::Stage`].
    fn sides(&mut self) -> Option<&mut Sides> {
        None
    }
}

/// Drives a batch through `rows` (called for the rows between two watermarks) and
/// `mark`. What is left when the output is full stays in `batch`.
pub fn drive<T: Send + 'static, O: ?Sized, Out>(
    operator: &mut O,
    batch: &mut dyn AnyBatch,
    out: &mut Emitter<Out>,
    mut rows: impl FnMut(&mut O, &mut Cursor<'_, '_, T>, &mut Emitter<Out>) -> Res,
    mut mark: impl FnMut(&mut O, Ts, &mut Emitter<Out>) -> Res<Flow>,
) -> Res<Flow> {
    let any = batch.as_any_mut();
    if let Some(packet) = any.downcast_mut::<Packet<T>>() {
        return drive_packet(operator, packet, out, &mut rows, &mut mark);
    }
    let Some(batch) = any.downcast_mut::<Rows<T>>() else {
        return Err(Fail::from(format!(
            "a batch of another type than {} arrived",
            std::any::type_name::<T>()
        )));
    };
    // Columns, from a harness: driven as a packet, and what is left becomes columns again.
    let keyed = !batch.hash.is_empty();
    let mut hashes = std::mem::take(&mut batch.hash).into_iter();
    let stamped = batch.ts.drain(..).zip(batch.values.drain(..));
    let mut packet = Packet {
        rows: stamped.map(|(ts, row)| (ts, hashes.next().unwrap_or(0), row)).collect(),
        marks: std::mem::take(&mut batch.marks),
    };
    let flow = drive_packet(operator, &mut packet, out, &mut rows, &mut mark)?;
    for (ts, hash, row) in packet.rows {
        batch.push(ts, row);
        if keyed {
            batch.hash.push(hash);
        }
    }
    batch.marks = packet.marks;
    Ok(flow)
}

fn drive_packet<T: Send + 'static, O: ?Sized, Out>(
    operator: &mut O,
    packet: &mut Packet<T>,
    out: &mut Emitter<Out>,
    rows: &mut impl FnMut(&mut O, &mut Cursor<'_, '_, T>, &mut Emitter<Out>) -> Res,
    mark: &mut impl FnMut(&mut O, Ts, &mut Emitter<Out>) -> Res<Flow>,
) -> Res<Flow> {
    let total = packet.rows.len();
    let (mut at, mut marks_done) = (0, 0);
    let mut values = packet.rows.drain(..);
    let mut flow = Flow::Done;
    loop {
        let stop = packet.marks.get(marks_done).map_or(total, |m| (m.0 as usize).min(total));
        if at < stop {
            let mut cursor = Cursor { rows: &mut values, left: stop - at };
            rows(operator, &mut cursor, out)?;
            at = stop - cursor.left;
            if at < stop {
                flow = Flow::Blocked;
                break;
            }
        }
        match packet.marks.get(marks_done) {
            Some(m) => {
                if mark(operator, m.1, out)? == Flow::Blocked {
                    flow = Flow::Blocked;
                    break;
                }
            }
            None => break,
        }
        marks_done += 1;
    }
    if flow == Flow::Done {
        drop(values);
        packet.clear();
    } else {
        let rest: Vec<(Ts, u64, T)> = values.collect();
        packet.rows = rest;
        packet.marks.drain(..marks_done);
        packet.marks.iter_mut().for_each(|m| m.0 -= at as u32);
    }
    Ok(flow)
}

/// Finds the marks of a batch of `T`.
pub fn marks_of<T: Send + 'static>(batch: &mut dyn AnyBatch) -> Option<&mut Vec<(u32, Ts)>> {
    let any = batch.as_any_mut();
    if any.is::<Packet<T>>() {
        return any.downcast_mut::<Packet<T>>().map(|packet| &mut packet.marks);
    }
    any.downcast_mut::<Rows<T>>().map(|rows| &mut rows.marks)
}
