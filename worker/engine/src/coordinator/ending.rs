//! Failures, restarts, stops and the end.

use super::effect::{Effect, Level, Outcome, StopMode};
use super::event::Failure;
use super::restart::Decision;
use super::state::{After, For, Stage, StopRequest, Tasks};
use super::step::Coordinator;
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
        if let Some(wanted) = self.checkpoint.take().and_then(|c| c.savepoint) {
            self.savepoints.insert(0, wanted);
        }
        self.cancel_tasks();
        self.stage = Stage::Cancelling(after);
    }

    /// Whether a stop that was asked for needs no tasks.
    pub(super) fn stops_without_tasks(&self) -> bool {
        matches!(self.stop, Some(StopRequest::Now | StopRequest::Checkpoint(StopMode::Suspend)))
    }

    /// The tasks are gone, and no append is under way.
    pub(super) fn cancelled(&mut self, after: After) {
        match after {
            After::Restart(_) if self.stops_without_tasks() => self.append_stopping(),
            After::Restart(delay) => self.stage = Stage::Waiting(self.now + delay),
            After::Stop => self.append_stopping(),
            After::Fenced => self.end(Outcome::Fenced),
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
        let mut record = self.next_record();
        record.phase = Phase::Stopping(Ending::Suspended);
        self.append(For::Stopping, record);
    }

    /// One move towards the end: commit all, finish exports, append the last
    /// entry. Answers whether there was a move.
    pub(super) fn close(&mut self, ending: Ending) -> bool {
        for wanted in std::mem::take(&mut self.savepoints) {
            self.savepoint_ended(wanted.id, Err("the job is stopping".to_owned()));
        }
        if !self.commits.is_idle() {
            return false;
        }
        if let Some((id, _)) = self.exported.first() {
            let id = id.clone();
            self.append_unpin(id);
            return true;
        }
        if self.head.as_ref().is_some_and(|head| !head.pins.is_empty()) {
            return false;
        }
        let mut record = self.next_record();
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
