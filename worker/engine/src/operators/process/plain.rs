//! What a function without a key finds beside its row.

use crate::api::tags::OutputTag;
use crate::data::{Fail, Res, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::side::Sides;

/// The clocks and outputs of a function without a key.
pub struct ProcessCx<'a, O> {
    pub(crate) timestamp: Ts,
    pub(crate) watermark: Ts,
    pub(crate) now: Ts,
    pub(crate) out: &'a mut Emitter<O>,
    pub(crate) sides: &'a mut Sides,
    pub(crate) failed: Option<Fail>,
}

impl<'a, O> ProcessCx<'a, O> {
    pub(crate) fn new(
        timestamp: Ts,
        clocks: Clocks,
        out: &'a mut Emitter<O>,
        sides: &'a mut Sides,
    ) -> Self {
        let Clocks { watermark, now } = clocks;
        Self { timestamp, watermark, now, out, sides, failed: None }
    }

    /// Event time of the row in milliseconds, or [`crate::data::TS_MIN`] if it has none.
    pub fn timestamp(&self) -> Ts {
        self.timestamp
    }

    /// The operator's watermark in milliseconds.
    pub fn watermark(&self) -> Ts {
        self.watermark
    }

    /// The clock, in milliseconds since the epoch. It is read once per batch.
    pub fn processing_time(&self) -> Ts {
        self.now
    }

    /// Emits a row with the timestamp of the call's row.
    pub fn emit(&mut self, row: O) {
        self.emit_at(self.timestamp, row);
    }

    /// Emits a row with another timestamp, in milliseconds.
    pub fn emit_at(&mut self, timestamp: Ts, row: O) {
        if let Err(error) = self.out.emit(timestamp, row) {
            self.failed.get_or_insert(error);
        }
    }

    /// Emits a row to a side output, which the function must have declared.
    pub fn side<U: Send + 'static>(&mut self, tag: &OutputTag<U>, row: U) {
        if let Err(error) = self.sides.emit(tag.name(), self.timestamp, row) {
            self.failed.get_or_insert(error);
        }
    }

    /// The call's outcome: the function's, unless emitting failed.
    pub(crate) fn finish(self, result: Res) -> Res {
        result.and(self.failed.map_or(Ok(()), Err))
    }
}

/// How far event time and processing time have come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    pub watermark: Ts,
    pub now: Ts,
}

impl Clocks {
    pub const START: Self = Self { watermark: Ts::MIN, now: 0 };
}
