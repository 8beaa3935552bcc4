//! State that stays in memory from an attempt to the next: see [`crate::state::kept`].
//!
//! A rescale stops an attempt behind a checkpoint, and the next one starts from it. What a
//! process then owns of what it owned before, it need not read again, provided that it
//! starts from that very checkpoint: of the same number, taken by the same attempt, and
//! complete, which is what being a base means.

use crate::coordinator::FilesIn;
use crate::job::order::BaseOrder;
use crate::runtime::slot::KeptSlot;
use crate::state::Kept;
use crate::state::kept::take;
use millrace_protocol::ids::{Attempt, CheckpointId, Uid};
use millrace_protocol::keygroup::KeyGroupRange;
use std::collections::BTreeMap;

/// What the slots of a process left in memory.
#[derive(Default)]
pub struct InMemory {
    /// Which attempt's checkpoint it is of.
    of: Option<(Attempt, CheckpointId)>,
    states: BTreeMap<(Uid, String), Vec<Box<dyn Kept>>>,
}

impl InMemory {
    /// Of all slots; those that left nothing do not matter.
    pub fn of(slots: impl IntoIterator<Item = KeptSlot>) -> Self {
        let mut kept = Self::default();
        for slot in slots {
            let of = (slot.attempt, slot.checkpoint);
            if *kept.of.get_or_insert(of) != of {
                // Never so: slots of an attempt stop behind the same barrier.
                continue;
            }
            for (uid, state, rows) in slot.states {
                kept.states.entry((uid, state.to_owned())).or_default().push(rows);
            }
        }
        kept
    }

    /// Whether it is of the checkpoint that an attempt starts from.
    pub fn is_of(&self, base: &BaseOrder) -> bool {
        let of = (base.manifest.attempt, base.manifest.checkpoint);
        base.files == FilesIn::Home && self.of == Some(of)
    }

    /// Splits off all but what is of `owned`: (operator, key groups).
    #[must_use]
    pub fn split_off_rest(&mut self, owned: &[(Uid, KeyGroupRange)]) -> Self {
        let mut rest = Self { of: self.of, states: std::mem::take(&mut self.states) };
        for ((uid, state), pieces) in &mut rest.states {
            let mine = owned.iter().filter(|(of, _)| of == uid);
            let mine: Vec<_> = mine.flat_map(|(_, range)| take(pieces, *range)).collect();
            self.states.insert((uid.clone(), state.clone()), mine);
        }
        rest
    }

    /// Takes what there is of a state for some key groups.
    pub fn take(&mut self, uid: &Uid, state: &str, range: KeyGroupRange) -> Vec<Box<dyn Kept>> {
        let pieces = self.states.get_mut(&(uid.clone(), state.to_owned()));
        pieces.map(|pieces| take(pieces, range)).unwrap_or_default()
    }
}
