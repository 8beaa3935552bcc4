//! What lies below panes: one tier for all of them, so that a new pane costs nothing there.
//!
//! The namespace stands first in the tier's keys, so what is dead is what is below a key:
//! the tier is told, and lets it go when it likes. So it must never be looked at again: a
//! pane made anew below [`PaneTables::dead_before`] has no tier and stays in memory, and one
//! that a draining snapshot is still to write is waited for.

use super::PaneTables;
use crate::data::Res;
use crate::state::budget::Budget;
use crate::state::row::Row;
use crate::state::spill::{Prefix, Spill, hold_back};
use crate::state::table::Table;
use crate::state::tier::Tier;
use millrace_protocol::key::Key;
use std::rc::Rc;
use std::sync::Arc;

/// The tier of all panes.
pub(super) struct Below {
    tier: Rc<dyn Tier>,
    budget: Arc<Budget>,
    /// The tier was told that what is below this namespace is dead.
    forgotten: i64,
}

impl<K: Key, R: Row> PaneTables<K, R> {
    /// Gives the panes a tier, while there are none: see [`Table::spill_to`], which says
    /// when keys have to be wanted and fetched.
    pub fn spill_to(&mut self, tier: Box<dyn Tier>, budget: &Arc<Budget>) {
        // Of an attempt that has ended.
        budget.checkpoint_ended(true);
        let (tier, budget) = (Rc::from(tier), Arc::clone(budget));
        self.below = Some(Below { tier, budget, forgotten: i64::MIN });
    }

    /// Whether there is a tier.
    #[inline]
    pub fn has_tier(&self) -> bool {
        self.below.is_some()
    }

    /// Whether entries may be in the tier: else there is no need to want and fetch.
    #[inline]
    pub fn spills(&self) -> bool {
        self.below.is_some() && self.panes.iter().any(|(_, table)| table.spills())
    }

    /// Brings wanted rows of all panes from the tier.
    pub fn fetch(&mut self) -> Res {
        self.panes.iter_mut().try_for_each(|(_, table)| table.fetch())
    }

    /// A new pane's table is put above the tier.
    pub(super) fn put_above(&self, namespace: i64, table: &mut Table<K, R>) {
        if let Some(Below { tier, budget, .. }) = &self.below
            && namespace >= self.dead_before
        {
            let (tier, prefix) = (Rc::clone(tier), Prefix::of(namespace));
            table.spill = Some(Box::new(Spill::new(tier, prefix, budget.reservation())));
        }
    }

    /// Tells the tier what is dead.
    pub(super) fn forget(&mut self) -> Res {
        let Some(below) = &mut self.below else { return Ok(()) };
        let first = self.panes.iter().find(|(_, table)| table.has_tier());
        let until = first.map_or(self.dead_before, |(ns, _)| self.dead_before.min(*ns));
        if until <= below.forgotten {
            return Ok(());
        }
        below.forgotten = until;
        below.tier.forget(Prefix::of(until).bytes())
    }

    /// Lets entries leave if there is no room for them: see [`Table::tend`]. First of the
    /// pane that is written to and of one in turn, then of all.
    pub(super) fn tend_below(&mut self) {
        let Some(budget) = self.below.as_ref().map(|below| Arc::clone(&below.budget)) else {
            return;
        };
        for at in [self.last, self.tended] {
            if let Some((_, table)) = self.panes.get_mut(at) {
                table.keep_within();
            }
        }
        if !budget.far_over() {
            return;
        }
        for (_, table) in &mut self.panes {
            if table.has_tier() && table.relieve(false) {
                return;
            }
        }
        if budget.far_over() {
            hold_back(&budget);
        }
    }

    /// A checkpoint has ended.
    pub(super) fn checkpoint_ended(&self, complete: bool) {
        if let Some(below) = &self.below {
            below.budget.checkpoint_ended(complete);
        }
    }
}
