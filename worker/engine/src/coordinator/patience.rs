//! How much of the restart policy's patience is left when an attempt is claimed.

use super::restart::Decision;
use super::step::Coordinator;
use millrace_protocol::head::{HeadRecord, Phase, RestartBudget};
use millrace_protocol::ids::Attempt;
use std::time::Duration;

impl Coordinator {
    /// How often the job has been restarted, this claim of an attempt included if it is one
    /// after the death of another coordinator.
    pub(super) fn budget_to_claim(&mut self, attempt: Attempt) -> RestartBudget {
        self.doomed = None;
        let Some(head) = self.head.as_ref().filter(|_| self.take_over.is_none()) else {
            return self.restarts.budget(self.now);
        };
        if head.config.program != self.config.config.program {
            return RestartBudget::default();
        }
        if self.won || self.is_own(head) {
            return self.restarts.budget(self.now);
        }
        if head.phase != Phase::Running {
            // Whoever starts it again gives it new patience.
            return RestartBudget { used: 0, ..head.restart };
        }
        let restart = RestartBudget { total: head.restart.total + 1, ..head.restart };
        if !self.failed_at_once(head) {
            return restart;
        }
        let (pod, before) = (head.owner.pod.clone(), head.restart);
        self.restarts.set_budget(before, self.now);
        let random = self.random.f64();
        // How long it took to start this process counts as the pause.
        if let Decision::GiveUp = self.restarts.failed(self.now, Duration::ZERO, random) {
            self.doomed = Some(format!(
                "the process that led the job (in {pod}) died before attempt {} completed a \
                 checkpoint, and the restart policy allows no other: see what it wrote last",
                attempt.0.saturating_sub(1)
            ));
            return restart;
        }
        self.restarts.budget(self.now)
    }

    /// Whether the death of the head's author was a failure of its attempt: one that has
    /// completed a checkpoint is not to blame when its coordinator is evicted or its machine
    /// lost, while whatever kills each attempt before that would do so for ever. Who starts a
    /// process by hand, or edits the job, wants it to run.
    fn failed_at_once(&self, head: &HeadRecord) -> bool {
        let progress = head.latest.as_ref().is_some_and(|latest| latest.attempt == head.attempt);
        !progress && !self.is_local() && !self.is_edited()
    }

    /// Whether this process wrote that record: a process that is started again in the same
    /// place may have the same owner.
    fn is_own(&self, head: &HeadRecord) -> bool {
        head.nonce.0.starts_with(&format!("{:016x}", self.config.seed.1))
    }
}
