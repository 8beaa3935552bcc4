//! Event time at a gate: watermarks, idleness and ends of the channels, merged.

use super::{Event, Gate};
use crate::data::{AnyBatch, TS_MAX, Ts};

impl Gate {
    /// Lowest watermark of all channels but `except` that hold others back.
    fn minimum(&self, except: Option<usize>) -> Option<Ts> {
        self.inlets
            .iter()
            .enumerate()
            .filter(|(i, inlet)| Some(*i) != except && !inlet.idle && !inlet.ended)
            .map(|(_, inlet)| inlet.watermark)
            .min()
    }

    /// Channel marks become task marks: the minimum with the other channels.
    pub(super) fn rewrite_marks(&mut self, index: usize, batch: &mut dyn AnyBatch) {
        let input = self.inlets[index].input;
        let Some(marks) = (self.marks[input])(batch) else { return };
        if marks.is_empty() {
            return;
        }
        let others = self.minimum(Some(index)).unwrap_or(TS_MAX);
        let (mut own, mut merged) = (self.inlets[index].watermark, self.watermark);
        marks.retain_mut(|mark| {
            own = own.max(mark.1);
            let candidate = own.min(others);
            let advanced = candidate > merged || self.unconfirmed && candidate == merged;
            self.unconfirmed &= !advanced;
            if advanced {
                merged = candidate;
                mark.1 = candidate;
            }
            advanced
        });
        self.inlets[index].watermark = own;
        self.watermark = merged;
    }

    /// Recomputes watermark and idleness; queues what changed, to be popped from the back.
    pub(super) fn refresh(&mut self) {
        let all_ended = self.inlets.iter().all(|i| i.ended);
        let merged = match self.minimum(None) {
            Some(w) => Some(w),
            None if all_ended => self.inlets.iter().map(|i| i.watermark).min(),
            None => None,
        };
        let idle = merged.is_none();
        if idle != self.idle {
            self.idle = idle;
            self.queued.insert(0, Event::Idle(idle));
        }
        if let Some(w) = merged
            && (w > self.watermark || self.unconfirmed && w == self.watermark)
        {
            // Those behind this task hear again what it had told them.
            self.unconfirmed = false;
            self.watermark = w;
            self.queued.insert(0, Event::Watermark(w));
        }
    }

    pub(super) fn note_ends(&mut self) {
        for input in 0..self.inputs {
            if !self.ended_inputs[input]
                && self.inlets.iter().filter(|i| i.input == input).all(|i| i.ended)
            {
                self.ended_inputs[input] = true;
                self.queued.insert(0, Event::InputEnded(input));
            }
        }
        if !self.all_ended_told && self.ended() {
            self.all_ended_told = true;
            self.queued.insert(0, Event::Ended);
        }
    }
}
