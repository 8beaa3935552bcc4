//! Committables on their way from a slot to being confirmed. Pure.
//!
//! A committable is *listed* once a complete checkpoint names it; from then on
//! it may be committed. Until it is confirmed every manifest names it.

use super::event::{Batch, CommitOutcome, Hindrance};
use millrace_protocol::ids::Uid;
use millrace_protocol::manifest::{CommitId, Manifest, PendingCommit};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug)]
struct Item {
    commit: PendingCommit,
    listed: bool,
}

/// All committables that are not confirmed.
#[derive(Debug, Default)]
pub(super) struct Commits {
    items: BTreeMap<CommitId, Item>,
    in_flight: Option<Batch>,
    next_batch: u64,
    failures: u32,
    not_before: Duration,
}

/// What a batch's end means.
#[derive(Debug, Default)]
pub(super) struct BatchEnd {
    /// Output that is lost: sink and reason.
    pub(super) lost: Vec<(Uid, String)>,
    /// Why something must be tried again.
    pub(super) failed: Option<String>,
    /// Why trying again would not help.
    pub(super) refused: Option<String>,
    /// How many batches in a row had failures.
    pub(super) failures: u32,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Commits {
    /// Forgets all that is known, and takes what a complete checkpoint lists.
    pub(super) fn restore(&mut self, items: impl IntoIterator<Item = PendingCommit>) {
        let listed = |commit: PendingCommit| (commit.id, Item { commit, listed: true });
        self.items = items.into_iter().map(listed).collect();
        self.failures = 0;
        self.not_before = Duration::ZERO;
    }

    /// A slot handed this over.
    pub(super) fn prepared(&mut self, commit: PendingCommit) {
        self.items.insert(commit.id, Item { commit, listed: false });
    }

    /// The next manifest's committables.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &PendingCommit> {
        self.items.values().map(|item| &item.commit)
    }

    /// The checkpoint is complete: what it lists may be committed.
    pub(super) fn list(&mut self, manifest: &Manifest) {
        for pending in &manifest.pending {
            if let Some(item) = self.items.get_mut(&pending.id) {
                item.listed = true;
            }
        }
    }

    /// Whether everything listed is confirmed.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.items.values().any(|item| item.listed)
    }

    /// Whether something that `manifest` lists is not confirmed.
    pub(super) fn holds_any_of(&self, manifest: &Manifest) -> bool {
        manifest.pending.iter().any(|pending| self.items.contains_key(&pending.id))
    }

    /// What to commit now.
    pub(super) fn next_batch(&mut self, now: Duration) -> Option<(Batch, Vec<PendingCommit>)> {
        if self.in_flight.is_some() || now < self.not_before {
            return None;
        }
        let listed = self.items.values().filter(|item| item.listed);
        let items: Vec<_> = listed.map(|item| item.commit.clone()).collect();
        if items.is_empty() {
            return None;
        }
        let batch = Batch(self.next_batch);
        self.next_batch += 1;
        self.in_flight = Some(batch);
        Some((batch, items))
    }

    /// When [`Commits::next_batch`] should be asked again, if nothing else happens.
    pub(super) fn due(&self) -> Option<Duration> {
        let waiting = self.in_flight.is_none() && self.items.values().any(|item| item.listed);
        waiting.then_some(self.not_before)
    }

    /// A batch ended. `None`: not the one in flight.
    pub(super) fn ended(
        &mut self,
        batch: Batch,
        outcomes: Vec<(CommitId, CommitOutcome)>,
        now: Duration,
    ) -> Option<BatchEnd> {
        if self.in_flight != Some(batch) {
            return None;
        }
        self.in_flight = None;
        let mut end = BatchEnd::default();
        let mut answered = BTreeSet::new();
        for (id, outcome) in outcomes {
            answered.insert(id);
            match outcome {
                CommitOutcome::Done => drop(self.items.remove(&id)),
                CommitOutcome::Lost(reason) => {
                    if let Some(item) = self.items.remove(&id) {
                        end.lost.push((item.commit.sink, reason));
                    }
                }
                CommitOutcome::Failed(Hindrance::Passing(reason)) => end.failed = Some(reason),
                CommitOutcome::Failed(Hindrance::Users(reason)) => end.refused = Some(reason),
            }
        }
        if end.failed.is_some() || end.refused.is_some() {
            self.failures += 1;
            let pause = FIRST_PAUSE * 2_u32.pow(self.failures.min(10));
            self.not_before = now + pause.min(LONGEST_PAUSE);
        } else {
            self.failures = 0;
        }
        end.failures = self.failures;
        Some(end)
    }
}
