//! The memory of a process, divided: what tables may hold, and what is left for the
//! tier below them and for what is under way. Pure but for the counters, which all
//! threads share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Below this a process cannot work.
pub const LEAST: u64 = 64 << 20;

/// What a process takes however much memory it has: its code (with RocksDB's 17 MiB), stacks,
/// and what merges of the tier's files hold.
pub const FIXED: u64 = 32 << 20;

/// The shares of a process's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// All of it.
    pub total: u64,
    /// Hash tables.
    pub tables: u64,
    /// What the tier holds to write and to find entries.
    pub tier: u64,
    /// Rows from other workers that wait for tasks here. What waits between subtasks of this
    /// process, and on its way out of it, is bounded by number: it counts with the rest.
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
    /// The tables' share.
    share: u64,
    /// What of it they may hold now.
    limit: AtomicU64,
    used: AtomicU64,
    /// What operators hold beside tables, or in tables that do not give way.
    fixed: AtomicU64,
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
        Arc::new(Self { share: limit, limit: limit.into(), ..Self::default() })
    }

    /// What may be held now: less by what cannot leave, but not less than a quarter of the
    /// share for that.
    #[must_use]
    pub fn limit(&self) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        let left = limit.saturating_sub(self.fixed.load(Ordering::Relaxed));
        left.max(limit.min(self.share / 4))
    }

    /// The process has `resident` bytes of the `total` that it may take, whatever they are
    /// of: the nearer to all of them, the less may tables hold.
    pub fn resident(&self, resident: u64, total: u64) {
        self.limit.store(allowed(self.share, resident, total), Ordering::Relaxed);
    }

    /// What is held.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more is held than may be.
    #[must_use]
    pub fn over(&self) -> bool {
        self.used() > self.limit()
    }

    /// Whether so much more is held that the rest of the process's memory is at risk.
    #[must_use]
    pub fn far_over(&self) -> bool {
        let limit = self.limit();
        self.used() > limit.saturating_add(limit / 16)
    }

    /// What blocks of snapshots on their way to the store may hold, in proportion to what
    /// [`Shares`] gives to tables.
    #[must_use]
    pub fn uploads(&self) -> u64 {
        self.share / 7
    }

    /// The same for rows from other workers that wait for tasks here.
    #[must_use]
    pub fn network(&self) -> u64 {
        self.share / 7
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

    /// A holder of what cannot leave, which holds nothing yet.
    #[must_use]
    pub fn fixed(self: &Arc<Self>) -> Fixed {
        Fixed { budget: Arc::clone(self), held: 0 }
    }

    /// A holder that holds nothing yet.
    #[must_use]
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), held: 0 }
    }
}

/// What tables whose share is `share` may hold: all of it while an eighth of `total` is not
/// resident, a quarter of it when all but a 32nd is, and in between in proportion. Counters
/// know what tables hold, and nobody what allocators keep beside it.
fn allowed(share: u64, resident: u64, total: u64) -> u64 {
    let (near, at) = (total - total / 8, total - total / 32);
    let least = share / 4;
    if resident <= near {
        return share;
    }
    let left = u128::from(at.saturating_sub(resident)) * u128::from(share - least);
    let left = left / u128::from((at - near).max(1));
    least + u64::try_from(left).unwrap_or(0)
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
        let limit = self.budget.limit();
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
        replace(&self.budget.used, self.held, held);
        self.held = held;
    }

    /// What is held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The budget it is of.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

/// What one operator holds that cannot leave; given back when dropped.
#[derive(Debug)]
pub struct Fixed {
    budget: Arc<Budget>,
    held: u64,
}

impl Fixed {
    /// Says what is held.
    pub fn set(&mut self, held: u64) {
        replace(&self.budget.fixed, self.held, held);
        self.held = held;
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts `now` in place of `before`.
fn replace(counter: &AtomicU64, before: u64, now: u64) {
    if now >= before {
        counter.fetch_add(now - before, Ordering::Relaxed);
    } else {
        counter.fetch_sub(before - now, Ordering::Relaxed);
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
    fn tables_hold_less_the_nearer_the_process_comes_to_its_limit() {
        let total = 3200;
        let at = |resident| allowed(1000, resident, total);
        assert_eq!(
            [at(0), at(2800), at(3100), at(3200), at(u64::MAX)],
            [1000, 1000, 250, 250, 250]
        );
        assert_eq!(at(2950), 625);
        assert!((0..total).all(|resident| at(resident + 1) <= at(resident)));
        // Of no memory at all.
        assert_eq!((allowed(0, 1, 0), allowed(8, 1, 0)), (0, 2));
        let budget = Budget::new(1000);
        let mut held = budget.reservation();
        assert!(held.take(900));
        budget.resident(3100, total);
        assert!(budget.over() && budget.far_over() && !held.take(1));
        budget.resident(0, total);
        assert!(!budget.over() && held.take(100));
    }

    #[test]
    fn tables_give_way_to_what_cannot_leave_down_to_a_quarter() {
        let budget = Budget::new(1000);
        let (mut held, mut fixed) = (budget.reservation(), budget.fixed());
        assert!(held.take(700));
        fixed.set(300);
        assert!(!budget.over() && !held.take(1));
        fixed.set(400);
        assert!(budget.over() && budget.limit() == 600);
        fixed.set(5000);
        assert_eq!(budget.limit(), 250);
        budget.resident(3200, 3200);
        assert_eq!(budget.limit(), 250);
        drop(fixed);
        budget.resident(0, 3200);
        assert_eq!(budget.limit(), 1000);
    }

    #[test]
    fn shares_leave_a_rest() {
        let shares = Shares::of(512 << 20);
        let counted = shares.tables + shares.tier + shares.network + shares.uploads;
        assert!(counted < (shares.total - FIXED) / 4 * 3);
        assert!(shares.to_string().starts_with("512 MiB: tables 167"), "{shares}");
        // What is kept back of a budget is what is shown.
        let budget = Budget::new(shares.tables);
        assert_eq!((budget.uploads(), budget.network()), (shares.uploads, shares.network));
    }
}
