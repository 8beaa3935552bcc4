//! Rows that a barrier overtakes on their way out of this process, and the room that there is
//! for all that it overtakes.

use super::SlotSnapshots;
use crate::runtime::source::wall_clock;

impl SlotSnapshots {
    /// Bytes of rows that there is room for in the checkpoint under way.
    pub fn room(&self) -> usize {
        let taken = self.current.as_ref().map_or(0, |c| c.in_flight.bytes());
        self.to.most_in_flight.saturating_sub(taken)
    }

    /// Lets the barrier overtake what waits in this process for leave to be sent.
    pub(super) fn overtake(&mut self) {
        let mut room = self.room();
        let Some(current) = &mut self.current else { return };
        if !current.barrier.may_overtake(wall_clock()) {
            return;
        }
        let checkpoint = current.barrier.checkpoint;
        for (channel, tries) in self.outgoing.iter().zip(&mut current.tries) {
            if channel.announced().is_none_or(|b| b.checkpoint != checkpoint) {
                continue;
            }
            let rows = channel.rows_before(checkpoint);
            if !tries.again(checkpoint, rows) {
                continue;
            }
            match channel.put_in_front(checkpoint, room) {
                Ok(overtaken) => {
                    room = room.saturating_sub(overtaken.bytes());
                    current.in_flight.append(overtaken);
                }
                Err(why) => {
                    if tries.failed(checkpoint, rows) {
                        let slot = self.to.slot;
                        tracing::info!(%checkpoint, %slot, rows, %why, "a barrier waits for rows");
                    }
                }
            }
        }
    }

    /// Whether the barrier is among rows that wait for leave to be sent, and may yet
    /// overtake them.
    pub(super) fn waits_for_leave(&self) -> bool {
        let Some(current) = &self.current else { return false };
        let checkpoint = current.barrier.checkpoint;
        self.outgoing.iter().any(|c| c.announced().is_some_and(|b| b.checkpoint == checkpoint))
    }
}
