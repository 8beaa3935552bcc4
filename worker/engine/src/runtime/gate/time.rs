//! Event time at a gate: watermarks, idleness and ends of the channels, merged.

use super::{Event, Gate, Inlet};
use crate::data::{AnyBatch, TS_MAX, Ts};

impl Gate {
    /// Lowest watermark of all channels but `except` that hold others back. One that has
    /// nothing more to say does not, whether its end has come already or not.
    fn minimum(&self, except: Option<usize>) -> Option<Ts> {
        self.others(except)
            .filter(|inlet| !inlet.idle && !inlet.is_over())
            .map(|inlet| inlet.watermark)
            .min()
    }

    /// Whether a channel but `except` is idle: the others may go on without it, but as it may
    /// have rows again, event time is not at its end.
    fn waits(&self, except: Option<usize>) -> bool {
        self.others(except).any(|inlet| inlet.idle && !inlet.is_over())
    }

    fn others(&self, except: Option<usize>) -> impl Iterator<Item = &Inlet> {
        self.inlets.iter().enumerate().filter(move |(i, _)| Some(*i) != except).map(|(_, i)| i)
    }

    /// Channel marks become task marks: the minimum with the other channels.
    pub(super) fn rewrite_marks(&mut self, index: usize, batch: &mut dyn AnyBatch) {
        let input = self.inlets[index].input;
        let Some(marks) = (self.marks[input])(batch) else { return };
        if marks.is_empty() {
            return;
        }
        let others = self.minimum(Some(index)).unwrap_or(TS_MAX);
        let waits = self.waits(Some(index));
        let (mut own, mut merged) = (self.inlets[index].watermark, self.watermark);
        marks.retain_mut(|mark| {
            own = own.max(mark.1);
            let candidate = own.min(others);
            let advanced = (candidate > merged || self.unconfirmed && candidate == merged)
                && !(candidate == TS_MAX && waits);
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
        let merged = match self.minimum(None) {
            Some(w) => Some(w),
            None if self.waits(None) => None,
            // The ends of all are here, or about to come.
            None if self.ended() => self.inlets.iter().map(|i| i.watermark).min(),
            None => Some(TS_MAX),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Packet;
    use crate::runtime::channel::{Channel, Element, TaskWaker};
    use crate::runtime::operator::marks_of;
    use crate::runtime::signal::Signal;
    use std::sync::Arc;

    fn gate(channels: usize) -> (Vec<Arc<Channel>>, Gate) {
        let waker = TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 };
        let channels: Vec<_> =
            (0..channels).map(|_| Arc::new(Channel::new(waker.clone(), waker.clone()))).collect();
        let inlets = channels.iter().map(|channel| (0, Arc::clone(channel))).collect();
        (channels, Gate::new(inlets, vec![marks_of::<u64>]))
    }

    /// Watermarks that are given out, marks among them, until there is nothing to do.
    fn watermarks(gate: &mut Gate) -> Vec<Ts> {
        let mut found = Vec::new();
        while let Some(event) = gate.poll() {
            match event {
                Event::Watermark(w) => found.push(w),
                Event::Batch { input, mut batch, .. } => {
                    found.extend(gate.marks(input, batch.as_mut()).iter().map(|mark| mark.1));
                }
                _ => {}
            }
        }
        found
    }

    /// A reader that has not yet got a split is idle; another that gets none says its last
    /// watermark and, a moment later, its end. Nobody may take that moment for the end of time.
    #[test]
    fn time_does_not_end_while_a_channel_is_idle() {
        for as_mark in [false, true] {
            let (channels, mut gate) = gate(3);
            channels[0].send_control(Element::Idle(true));
            channels[1].send_control(Element::Idle(true));
            let send = |channel: &Channel, row: u64, mark: Ts| {
                let packet = Packet { rows: vec![(row as i64, row, row)], marks: vec![(1, mark)] };
                assert!(channel.try_send(Box::new(packet)).is_ok());
            };
            match as_mark {
                true => send(&channels[2], 1, TS_MAX),
                false => channels[2].send_control(Element::Watermark(TS_MAX)),
            }
            assert!(!watermarks(&mut gate).contains(&TS_MAX), "one may still have rows");
            assert_ne!(gate.watermark(), TS_MAX);
            channels[2].send_control(Element::End);
            assert!(!watermarks(&mut gate).contains(&TS_MAX));
            send(&channels[0], 7, 5);
            assert_eq!(watermarks(&mut gate), [5], "as rows come, so does time");
            channels[0].send_control(Element::Watermark(TS_MAX));
            assert!(watermarks(&mut gate).is_empty(), "another one is idle still");
            channels[1].send_control(Element::Watermark(TS_MAX));
            assert_eq!(watermarks(&mut gate), [TS_MAX]);
        }
    }
}
