//! What an operator holds in memory that cannot leave: tables of others make room for it.

use crate::state::budget::{Budget, Fixed};
use std::sync::Arc;

/// Calls between two looks.
const LOOK: u32 = 16;

/// Says it to the budget now and then, if there is one.
pub(crate) struct Held {
    fixed: Option<Fixed>,
    calls: u32,
}

impl Held {
    pub fn new(budget: Option<&Arc<Budget>>) -> Self {
        Self { fixed: budget.map(Budget::fixed), calls: 0 }
    }

    /// To be called once per batch.
    #[inline]
    pub fn note(&mut self, bytes: impl FnOnce() -> usize) {
        let Some(fixed) = &mut self.fixed else { return };
        self.calls += 1;
        if self.calls >= LOOK {
            self.calls = 0;
            fixed.set(bytes() as u64);
        }
    }
}
