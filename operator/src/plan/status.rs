//! The status: facts copied from the coordinator, and the conditions of a verdict.

use super::Draft;
use crate::observed::Millis;
use crate::reasons::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use millrace_crds::names;
use millrace_crds::streamjob::{LastCheckpoint, LastFailure};
use millrace_protocol::control::State;

/// What a pass concluded about a job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// For people.
    pub state: &'static str,
    /// The spec of this generation is in effect.
    pub ready: bool,
    /// Why.
    pub reason: Reason,
    /// In words of the moment.
    pub what: String,
    /// Something is under way.
    pub reconciling: bool,
    /// Someone must act.
    pub stalled: bool,
}

impl Verdict {
    pub fn new(state: &'static str, reason: Reason, what: &str) -> Self {
        Self {
            state,
            ready: false,
            reason,
            what: what.to_owned(),
            reconciling: true,
            stalled: reason.entry().stalled,
        }
    }
    pub fn pending(reason: Reason, what: &str) -> Self {
        Self::new("Pending", reason, what)
    }
    pub fn upgrading(reason: Reason, what: &str) -> Self {
        Self::new("Upgrading", reason, what)
    }
    pub fn ready(state: &'static str, reason: Reason) -> Self {
        Self { ready: true, reconciling: false, ..Self::new(state, reason, "") }
    }
    pub fn stalled(reason: Reason, what: &str) -> Self {
        Self { reconciling: false, stalled: true, ..Self::new("Pending", reason, what) }
    }
    /// The old revision runs on, so that the state is what it does.
    pub fn refused(reason: Reason, what: &str) -> Self {
        Self { reconciling: false, stalled: true, ..Self::new("Running", reason, what) }
    }
    pub fn checked(plan: &str) -> Self {
        Self { reconciling: false, ..Self::new("Running", Reason::CheckPassed, plan) }
    }
}

pub(crate) fn time(at: Millis) -> Time {
    Time(Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH))
}

impl Draft<'_> {
    pub(super) fn conclude(&mut self, verdict: Verdict) {
        let before = self.reason_of("Ready");
        let was_ready = self.status_of("Ready") == Some("True");
        let message = verdict.reason.tell(&verdict.what);
        let running = self.o.state() == Some(State::Running);
        self.status.observed_generation = Some(self.o.job.generation);
        let downward = matches!(verdict.state, "Running") && !running;
        self.status.state = Some(if downward { "Restarting" } else { verdict.state }.to_owned());
        self.facts();
        self.condition("Ready", text(verdict.ready), verdict.reason, &message);
        if running {
            self.condition("Available", "True", Reason::Running, "");
        } else {
            let unknown = verdict.reason == Reason::CoordinatorUnreachable;
            let status = if unknown { "Unknown" } else { "False" };
            self.condition("Available", status, Reason::NotRunning, &message);
        }
        self.checkpoint_health();
        self.present("Reconciling", verdict.reconciling, verdict.reason, &message);
        self.present("Stalled", verdict.stalled, verdict.reason, &message);
        // One event for each new reason, told apart by what stands in the status.
        if before != Some(verdict.reason) && !(verdict.ready && was_ready) {
            let warning = verdict.stalled || message.contains(": ");
            let reason = verdict.reason.name();
            self.events.push(super::Event { warning, reason, message, standing: None });
        }
    }

    fn facts(&mut self) {
        let o = self.o;
        self.status.selector = Some(names::selector(&o.job.id.uid));
        self.status.workers = i32::try_from(o.workers().count()).ok();
        if let Some(set) = &o.set
            && let Some(revision) = o.revisions.get(&set.revision)
        {
            self.status.image = Some(revision.image.clone());
            let by = revision.rendered_by.clone();
            self.remember(|known| known.rendered_by = by);
        }
        self.pod_failure();
        let Some(answer) = o.answer() else { return };
        let signed = |number: u64| i64::try_from(number).ok();
        let before = self.status.attempt;
        self.status.attempt = signed(answer.attempt);
        self.status.incarnation = signed(answer.incarnation);
        self.status.restore_nonce = signed(answer.restore_nonce);
        let running = answer.state() == State::Running;
        if running {
            self.status.parallelism = i32::try_from(answer.parallelism).ok();
        }
        // The attempt may have been written already while it did not run yet.
        let ran = self.status_of("Available") == Some("True") && before == self.status.attempt;
        if let (true, Some(gap)) = (running, &answer.last_gap) {
            self.gap(gap, !ran);
        }
        self.status.restarts = signed(answer.restarts);
        self.refresh_checkpoint();
        if let Some(failure) = answer.failures.last() {
            let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
            self.status.last_failure = Some(LastFailure {
                time: Some(time(failure.at_ms)),
                attempt: signed(failure.attempt),
                worker: some(&failure.worker)
                    .and_then(|ordinal| ordinal.parse().ok())
                    .map(|ordinal| names::worker_pod(&o.job.id.name, ordinal)),
                operator: some(&failure.operator),
                message: Some(clip(&failure.message)),
            });
        }
    }

    /// With other changes, by itself at most every five minutes, or not at all.
    fn refresh_checkpoint(&mut self) {
        let Some(last) = self.o.answer().and_then(|answer| answer.last_checkpoint) else { return };
        let stored = self.status.last_checkpoint.as_ref().and_then(|c| c.completed_at.clone());
        let age = stored.map(|at| last.completed_at_ms - at.0.as_millisecond());
        let other = self.status != self.o.job.status;
        if other || age.is_none_or(|age| self.o.us.refreshes && age >= 300_000) {
            self.status.last_checkpoint = Some(LastCheckpoint {
                id: i64::try_from(last.id).unwrap_or(i64::MAX),
                completed_at: Some(time(last.completed_at_ms)),
                duration: Some(format!("{}ms", last.duration_ms)),
                size_bytes: i64::try_from(last.state_bytes).ok(),
            });
        }
    }

    fn checkpoint_health(&mut self) {
        let Some(answer) = self.o.answer() else { return };
        if answer.failed_checkpoints > 0 {
            let reason = Reason::CheckpointsFail;
            self.condition("CheckpointHealthy", "False", reason, &reason.tell(""));
        } else if answer.last_checkpoint.is_some() {
            self.condition("CheckpointHealthy", "True", Reason::CheckpointsComplete, "");
        } else if self.status_of("CheckpointHealthy").is_none() {
            self.condition("CheckpointHealthy", "Unknown", Reason::NoCheckpointYet, "");
        }
    }

    /// What a process wrote as it ended outlives its pod.
    fn pod_failure(&mut self) {
        let newest = self
            .o
            .workers()
            .filter_map(|pod| Some((pod, super::pods::end(pod)?)))
            .filter(|(_, end)| end.code != 0)
            .max_by_key(|(_, end)| end.at);
        let Some((pod, end)) = newest else { return };
        let known = self.status.last_failure.as_ref().and_then(|f| f.time.as_ref());
        if known.is_some_and(|known| known.0.as_millisecond() >= end.at / 1000 * 1000) {
            return;
        }
        let mut message = super::pods::told(&end.message).0;
        if end.reason == "OOMKilled" {
            let limit = self.o.job.spec.memory_limit();
            message = format!(
                "out of memory: more than the limit of {limit}, within which a process has its \
                 budget. Raise spec.resources.limits.memory. {message}"
            );
        }
        if message.is_empty() {
            message = format!("exit code {} ({})", end.code, end.reason);
        }
        self.status.last_failure = Some(LastFailure {
            time: Some(time(end.at)),
            attempt: self.status.attempt,
            worker: Some(pod.name.clone()),
            operator: None,
            message: Some(clip(&message)),
        });
    }

    pub(super) fn condition(&mut self, kind: &str, status: &str, reason: Reason, message: &str) {
        let generation = Some(self.o.job.generation);
        let now = time(self.now);
        let new = Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.name().to_owned(),
            message: message.chars().take(4_096).collect(),
            observed_generation: generation,
            last_transition_time: now,
        };
        match self.status.conditions.iter_mut().find(|old| old.type_ == kind) {
            Some(old) => {
                // Reconciling is our stop watch: each of its reasons begins anew.
                let same =
                    old.status == new.status && (kind != "Reconciling" || old.reason == new.reason);
                let since = old.last_transition_time.clone();
                *old = new;
                if same {
                    old.last_transition_time = since;
                }
            }
            None => self.status.conditions.push(new),
        }
    }

    fn present(&mut self, kind: &str, yes: bool, reason: Reason, message: &str) {
        if yes {
            self.condition(kind, "True", reason, message);
        } else {
            self.status.conditions.retain(|condition| condition.type_ != kind);
        }
    }

    pub(super) fn upgrade_condition(&mut self, status: &str, reason: Reason, what: &str) {
        self.condition("UpgradeSucceeded", status, reason, &reason.tell(what));
    }

    fn stored(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.type_ == kind)
    }

    fn reason_of(&self, kind: &str) -> Option<Reason> {
        self.stored(kind).and_then(|condition| Reason::parse(&condition.reason))
    }

    pub(super) fn status_of(&self, kind: &str) -> Option<&str> {
        self.stored(kind).map(|condition| condition.status.as_str())
    }

    /// What was told of it, if this is why the job stalls.
    pub(super) fn stalled_by(&self, reason: Reason) -> Option<String> {
        let condition = self.stored("Stalled").filter(|c| c.reason == reason.name())?;
        Some(reason.untell(&condition.message))
    }

    pub(super) fn upgrade_reason(&self) -> Option<Reason> {
        self.reason_of("UpgradeSucceeded")
            .filter(|_| self.status_of("UpgradeSucceeded") == Some("False"))
    }

    pub(super) fn upgrade_message(&self) -> String {
        self.stored("UpgradeSucceeded").map(|c| c.message.clone()).unwrap_or_default()
    }

    pub(super) fn reconciling_reason(&self) -> Option<Reason> {
        self.reason_of("Reconciling")
    }

    /// What was told of it, if this is what we are at.
    pub(super) fn reconciling_words(&self, reason: Reason) -> Option<String> {
        let condition = self.stored("Reconciling").filter(|c| c.reason == reason.name())?;
        Some(reason.untell(&condition.message))
    }

    /// For how long we have been at this.
    pub(super) fn reconciling_since(&self, reason: Reason) -> Millis {
        match self.stored("Reconciling") {
            Some(condition) if condition.reason == reason.name() => {
                self.now - condition.last_transition_time.0.as_millisecond()
            }
            _ => 0,
        }
    }

    /// The job ended, and nobody asked for more.
    pub(super) fn complete(&self) -> bool {
        let nonce = self.o.job.spec.restart_nonce.unwrap_or(0);
        let same = self.o.set.as_ref().and_then(|set| self.o.revisions.get(&set.revision));
        let wanted = self.o.job.spec.restore_from.as_ref().map(|from| from.nonce);
        let restored =
            wanted.is_none_or(|nonce| nonce <= self.o.job.status.restore_nonce.unwrap_or(0));
        self.status_of("Complete") == Some("True")
            && same.is_none_or(|revision| revision.nonce == nonce)
            && restored
    }

    pub(super) fn set_complete(&mut self, yes: bool) {
        self.present("Complete", yes, Reason::Finished, "");
    }
}

fn text(yes: bool) -> &'static str {
    if yes { "True" } else { "False" }
}

fn clip(text: &str) -> String {
    text.chars().take(1_000).collect()
}
