//! Failures, restarts, stops and the end.

use super::config::Desired;
use super::effect::{Effect, Level, Outcome, StopMode};
use super::event::Failure;
use super::restart::Decision;
use super::state::{After, For, Stage, StopRequest, Tasks};
use super::status::Gap;
use super::step::Coordinator;
use super::workers::WorkerId;
use millrace_protocol::head::{Ending, Phase};
use std::time::Duration;

impl Coordinator {
    /// Asks for the tasks to be stopped, if there may be any.
    pub(super) fn cancel_tasks(&mut self) {
        if let Tasks::Some(attempt) = self.tasks {
            self.tasks = Tasks::Cancelled(attempt);
            self.out.push(Effect::CancelTasks { attempt });
        }
    }

    /// The attempt is lost: stop all of it; restart or give up as the policy says.
    pub(super) fn fail_attempt(&mut self, failure: &Failure) {
        if !matches!(self.stage, Stage::Recovering(_) | Stage::Deploying | Stage::Running) {
            return;
        }
        let healthy = match self.stage {
            Stage::Running => self.now.saturating_sub(self.run.since),
            _ => Duration::ZERO,
        };
        let random = self.random.f64();
        let after = match self.restarts.failed(self.now, healthy, random) {
            Decision::Restart(delay) => {
                let text = format!("{failure}; restarting in {delay:?}");
                self.note(Level::Warn, text);
                After::Restart(delay)
            }
            Decision::GiveUp => {
                self.note(Level::Error, format!("{failure}; giving up"));
                After::Fail(failure.to_string())
            }
        };
        self.drop_checkpoint();
        self.gap_begins("Restart");
        self.replays_since_report();
        self.cancel_tasks();
        self.stage = Stage::Cancelling(after);
    }

    /// The attempt is lost, and another would be too: only the user can mend it.
    pub(super) fn refuse_attempt(&mut self, failure: &Failure) {
        if !matches!(self.stage, Stage::Recovering(_) | Stage::Deploying | Stage::Running) {
            return;
        }
        self.note(Level::Error, format!("{failure}; trying again would not help"));
        self.drop_checkpoint();
        self.cancel_tasks();
        self.stage = Stage::Cancelling(After::Fail(failure.to_string()));
    }

    /// A process is gone; if tasks ran in it, the attempt is lost.
    pub(super) fn worker_gone(&mut self, worker: &WorkerId, cause: &str) {
        if self.placement.contains(worker) && matches!(self.tasks, Tasks::Some(_)) {
            self.fail_attempt(&Failure::of_job(format!("{worker} is lost: {cause}")));
        } else {
            self.note(Level::Info, format!("{worker} is gone: {cause}"));
        }
    }

    /// All of the attempt's tasks are gone.
    pub(super) fn tasks_gone(&mut self) {
        self.placement.clear();
        self.running = None;
        if let Some(gap) = &mut self.gap {
            gap.stopped.get_or_insert(self.now);
        }
    }

    pub(super) fn gap_begins(&mut self, cause: &'static str) {
        self.gap = Some(Gap {
            cause,
            asked: self.now,
            asked_at_ms: self.config.at_ms(self.now),
            stopped: None,
            placed: None,
            deployed: None,
            base_at_ms: None,
            replayed: None,
            completed_at_ms: None,
        });
    }

    /// The attempt failed: what was read since the barrier of the newest checkpoint is read
    /// again, if this process took that.
    fn replays_since_report(&mut self) {
        let Some(report) = self.last_report.filter(|report| !report.found) else { return };
        let age = self.config.at_ms(self.now).saturating_sub(report.at_ms);
        if let Some(gap) = &mut self.gap {
            gap.replayed = Some(Duration::from_millis(age) + report.took);
        }
    }

    /// A claim of a job that has run, by a process that has not run it: `phase` as found.
    pub(super) fn gap_of_another(&mut self, phase: Phase) {
        if self.deployed {
            return;
        }
        self.gap_without_tasks(match phase {
            Phase::Suspended | Phase::Failed | Phase::Finished => "Resume",
            _ => "Takeover",
        });
    }

    fn gap_without_tasks(&mut self, cause: &'static str) {
        self.gap_begins(cause);
        if let Some(gap) = &mut self.gap {
            gap.stopped = Some(gap.asked);
        }
    }

    /// How the job is to stop, if it is.
    pub(super) fn stop_wanted(&self) -> Option<StopRequest> {
        match self.config.desired {
            Desired::Running => self.stop,
            Desired::Suspended => self.stop.or(Some(StopRequest::Checkpoint(StopMode::Suspend))),
            Desired::Deleted => Some(StopRequest::Now),
        }
    }

    /// The job has come to an end: the process goes, or stays.
    pub(super) fn rest(&mut self, outcome: Outcome) {
        if !self.config.stays || outcome == Outcome::Deleted {
            return self.end(outcome);
        }
        self.stop = None;
        self.hold = None;
        self.stage = Stage::Idle(outcome);
    }

    /// One move of a job at an end; answers whether there was one.
    pub(super) fn idle(&mut self) -> bool {
        if let Some(proposal) = &self.proposal
            && self.wakes(proposal)
        {
            self.note(Level::Info, "the job goes on");
            self.gap_without_tasks("Resume");
            self.won = false;
            self.read_chain();
            return true;
        }
        self.configure_due() || self.savepoints_of_latest()
    }

    /// Whether a stop that was asked for needs no tasks.
    pub(super) fn stops_without_tasks(&self) -> bool {
        matches!(
            self.stop_wanted(),
            Some(StopRequest::Now | StopRequest::Checkpoint(StopMode::Suspend))
        )
    }

    /// The tasks are gone, and no append is under way.
    pub(super) fn cancelled(&mut self, after: After) {
        match after {
            After::Restart(_) | After::Rescale if self.stops_without_tasks() => {
                self.append_stopping();
            }
            After::Rescale => self.stage = Stage::Waiting(self.now),
            After::Restart(delay) => self.stage = Stage::Waiting(self.now + delay),
            After::Stop => self.append_stopping(),
            After::Fenced => self.park(),
            After::Fail(cause) => {
                let mut record = self.next_record();
                record.phase = Phase::Failed;
                record.cause = Some(cause.chars().take(1000).collect());
                self.append(For::Fail(cause), record);
            }
        }
    }

    /// Stops with the latest checkpoint as it is; there are no tasks.
    pub(super) fn append_stopping(&mut self) {
        let why = match (self.stop, self.config.desired) {
            (Some(StopRequest::Now), _) => "it was cancelled",
            (Some(_), _) => "it was asked to stop",
            (None, Desired::Deleted) => "it is to be deleted",
            (None, _) => "it is to be suspended",
        };
        self.note(Level::Info, format!("the job stops where it is: {why}"));
        let mut record = self.next_record();
        record.phase = Phase::Stopping(Ending::Suspended);
        self.append(For::Stopping, record);
    }

    /// One move towards the end: commit all, finish exports, append the last
    /// entry. Answers whether there was a move.
    pub(super) fn close(&mut self, ending: Ending) -> bool {
        if !self.commits.is_idle() {
            return false;
        }
        if self.savepoints_of_latest() {
            return true;
        }
        let pinned = self.head.as_ref().is_some_and(|head| !head.pins.is_empty());
        if pinned || !self.sought.is_empty() {
            return false;
        }
        let mut record = self.next_record();
        if self.config.desired == Desired::Deleted {
            record.phase = Phase::Deleted;
            (record.latest, record.origin) = (None, None);
            record.retained.clear();
            self.cancel_tasks();
            self.append(For::Delete, record);
            return true;
        }
        record.phase = match ending {
            Ending::Suspended => Phase::Suspended,
            Ending::Finished => Phase::Finished,
        };
        if let Some(latest) = &mut record.latest {
            latest.pending = 0;
        }
        self.append(For::Close(ending), record);
        true
    }
}
