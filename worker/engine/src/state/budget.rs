//! The memory of a process, divided: what tables may hold, and what is left for the
//! tier below them and for what is under way. Pure but for the counters, which all
//! threads share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Below this a process cannot work.
pub const LEAST: u64 = 64 << 20;

/// What a process takes however much memory it has: its code and RocksDB's (17 MiB), stacks,
/// and what RocksDB holds beside its cache, such as the files that it merges.
pub const FIXED: u64 = 32 << 20;

/// The shares of a process's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// All of it.
    pub total: u64,
    /// Hash tables.
    pub tables: u64,
    /// The tier's block cache and write buffers.
    pub tier: u64,
    /// Batches between subtasks, and output buffers.
    pub network: u64,
    /// Blocks of snapshots on their way to the store.
    pub uploads: u64,
}

impl Shares {
    /// Divides what of `total` is left beside [`FIXED`]: 35 % for tables, 20 % for the tier,
    /// 5 % for batches, 5 % for uploads. The rest is for allocators, which keep what was
    /// freed between what was not, and for batches that tables take in while they wait for a
    /// checkpoint (measured with rows of 200 bytes: half as much again as the tables).
    #[must_use]
    pub fn of(total: u64) -> Self {
        let part = |percent: u64| total.saturating_sub(FIXED) / 100 * percent;
        Self { total, tables: part(35), tier: part(20), network: part(5), uploads: part(5) }
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "{} MiB: tables {}, tier {}, batches {}, uploads {}, the rest uncounted",
            mib(self.total),
            mib(self.tables),
            mib(self.tier),
            mib(self.network),
            mib(self.uploads),
        )
    }
}

/// What the tables of a process may hold together.
#[derive(Debug, Default)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    warned: AtomicBool,
    /// Whether tables hold too much that only a checkpoint lets go.
    pressed: AtomicBool,
    /// Whether a checkpoint was asked for since the last one's end.
    asked: AtomicBool,
}

impl Budget {
    /// For tables that may hold `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, ..Self::default() })
    }

    /// What may be held.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is held.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more is held than may be.
    #[must_use]
    pub fn over(&self) -> bool {
        self.used() > self.limit
    }

    /// Whether so much more is held that the rest of the process's memory is at risk.
    #[must_use]
    pub fn far_over(&self) -> bool {
        self.used() > self.limit.saturating_add(self.limit / 16)
    }

    /// What blocks of snapshots on their way to the store may hold, in proportion to what
    /// [`Shares`] gives to tables.
    #[must_use]
    pub fn uploads(&self) -> u64 {
        self.limit / 7
    }

    /// A table holds too much, and nothing that may leave: a checkpoint is wanted, and
    /// until it is complete sources are held back.
    pub fn press(&self) {
        self.pressed.store(true, Ordering::Relaxed);
    }

    /// Whether sources are to be held back.
    #[must_use]
    pub fn pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// Whether a checkpoint is to be asked for; true once until one has ended.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.pressed() && !self.asked.swap(true, Ordering::Relaxed)
    }

    /// A checkpoint has ended. If it is complete, more may leave: sources go on, and
    /// are held back again if it does not suffice.
    pub fn checkpoint_ended(&self, complete: bool) {
        if complete {
            self.pressed.store(false, Ordering::Relaxed);
        }
        self.asked.store(false, Ordering::Relaxed);
    }

    /// Whether this is the first time that it is asked.
    pub fn first_warning(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }

    /// A holder that holds nothing yet.
    #[must_use]
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), held: 0 }
    }
}

/// What one table holds of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    held: u64,
}

impl Reservation {
    /// Takes `more` bytes if there are as many.
    #[must_use]
    pub fn take(&mut self, more: u64) -> bool {
        let limit = self.budget.limit;
        let fits = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        let used = &self.budget.used;
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if taken {
            self.held += more;
        }
        taken
    }

    /// Says what is held, whether there is as much or not.
    pub fn set(&mut self, held: u64) {
        let used = &self.budget.used;
        if held >= self.held {
            used.fetch_add(held - self.held, Ordering::Relaxed);
        } else {
            used.fetch_sub(self.held - held, Ordering::Relaxed);
        }
        self.held = held;
    }

    /// What is held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The budget it is of.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_never_exceeds_the_limit_and_comes_back() {
        let budget = Budget::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut mine = budget.reservation();
                    for _ in 0..1000 {
                        let _ = mine.take(7);
                        assert!(budget.used() <= 1000);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
        let mut forced = budget.reservation();
        forced.set(2000);
        assert!(budget.over());
        assert!(!budget.reservation().take(1));
        forced.set(10);
        assert!(!budget.over() && forced.held() == 10);
    }

    #[test]
    fn a_checkpoint_is_asked_for_once_until_it_has_ended() {
        let budget = Budget::new(1000);
        assert!(!budget.pressed() && !budget.asks());
        budget.press();
        assert!(budget.pressed() && budget.asks() && !budget.asks());
        // Given up: again.
        budget.checkpoint_ended(false);
        assert!(budget.pressed() && budget.asks());
        budget.checkpoint_ended(true);
        assert!(!budget.pressed() && !budget.asks());
        budget.press();
        assert!(budget.asks());
    }

    #[test]
    fn shares_leave_a_rest() {
        let shares = Shares::of(512 << 20);
        let counted = shares.tables + shares.tier + shares.network + shares.uploads;
        assert!(counted < (shares.total - FIXED) / 4 * 3);
        assert!(shares.to_string().starts_with("512 MiB: tables 167"), "{shares}");
    }
}
