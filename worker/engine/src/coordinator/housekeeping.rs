//! What an owner does beside: looks whether it was fenced, sweeps leftovers of
//! older attempts and of its own checkpoints that failed, truncates the chain, repeats calls.

use super::appending::DELETE_AT_ONCE;
use super::calls::Call;
use super::chain::Truncate;
use super::effect::{Level, StoreCall};
use super::event::StoreAnswer;
use super::state::{After, Purpose, Stage};
use super::step::Coordinator;
use millrace_protocol::head::Version;
use millrace_protocol::ids::Attempt;
use millrace_protocol::objects::{Object, ObjectKey};
use std::time::Duration;

const SWEEP_LATER: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Whether this coordinator owns the job, as far as it knows.
    fn owns(&self) -> bool {
        let given_up = matches!(self.stage, Stage::Ended(_) | Stage::Cancelling(After::Fenced));
        self.won && !given_up
    }

    pub(super) fn housekeeping(&mut self) {
        while let Some(call) = self.calls.take_due(self.now) {
            self.make(call);
        }
        if !self.owns() {
            return;
        }
        let Some((chain, head)) = self.chain.as_ref().zip(self.head.as_ref()) else { return };
        let next = head.version.next();
        if self.truncating.is_none()
            && Truncate::highest(chain, head.version).is_some_and(|b| b >= self.lowest_block)
        {
            let (truncate, call) = Truncate::begin(chain, self.lowest_block);
            self.truncating = Some(truncate);
            self.call(Purpose::Truncate, call);
        }
        let Some(chain) = &self.chain else { return };
        let (watched, data) = (chain.home.head(next), chain.home.data());
        if self.now >= self.watch_at && self.append.is_none() && !self.watching {
            self.watching = true;
            self.call(Purpose::Watch(next), StoreCall::Get { key: watched });
        }
        let runs = matches!(self.stage, Stage::Running);
        if let Some(attempt) = self.attempt().filter(|_| runs && self.now >= self.sweep_at) {
            self.sweep_at = self.now + self.config.sweep_every;
            let unfinished = StoreCall::ListUnfinished { prefix: data.clone() };
            self.call(Purpose::SweepUnfinished(attempt), unfinished);
            self.call(Purpose::SweepList(attempt), StoreCall::List { prefix: data });
        }
    }

    pub(super) fn housekeeping_due(&self) -> Option<Duration> {
        if !self.owns() {
            return None;
        }
        let watch = (!self.watching && self.append.is_none()).then_some(self.watch_at);
        let sweep = matches!(self.stage, Stage::Running).then_some(self.sweep_at);
        watch.into_iter().chain(sweep).min()
    }

    pub(super) fn housekeeping_answered(&mut self, call: Call<Purpose>, answer: StoreAnswer) {
        match call.purpose {
            Purpose::Watch(version) => self.watched(version, &answer),
            Purpose::SweepList(attempt) => self.sweep(attempt, answer),
            Purpose::SweepUnfinished(attempt) => self.discard(attempt, answer),
            Purpose::Truncate => {
                let Some(truncating) = &mut self.truncating else { return };
                let next = truncating.answered(&answer);
                if self.follow(Purpose::Truncate, call.tries, next).is_some() {
                    self.truncating = None;
                    self.lowest_block += 1;
                }
            }
            Purpose::Delete if matches!(answer, StoreAnswer::Error(_)) && self.owns() => {
                self.again(call.purpose, call.call, call.tries);
            }
            _ => {}
        }
    }

    fn watched(&mut self, version: Version, answer: &StoreAnswer) {
        self.watching = false;
        self.watch_at = self.now + self.config.watch_every;
        let current = self.head.as_ref().map(|head| head.version.next()) == Some(version);
        let theirs = matches!(answer, StoreAnswer::Got(Some(_)));
        if theirs && current && self.append.is_none() && self.owns() {
            self.fenced(&format!("entry {version} of the chain is another's"));
        }
    }

    /// Deletes what older attempts and checkpoints left and the head does not name.
    fn sweep(&mut self, attempt: Attempt, answer: StoreAnswer) {
        let StoreAnswer::Keys(keys) = answer else { return };
        if self.attempt() != Some(attempt) || !self.owns() {
            return;
        }
        if self.append.is_some() {
            // No delete while an append is uncertain.
            self.sweep_at = self.now + SWEEP_LATER;
            return;
        }
        let keys: Vec<ObjectKey> =
            keys.into_iter().filter(|key| self.is_leftover(key, attempt)).collect();
        if !keys.is_empty() {
            self.note(Level::Debug, format!("deleting {} leftovers", keys.len()));
            self.delete(&keys);
        }
    }

    /// Takes back what older attempts began and did not finish: they are frozen, so that
    /// nothing names it.
    fn discard(&mut self, attempt: Attempt, answer: StoreAnswer) {
        let StoreAnswer::Keys(mut keys) = answer else { return };
        if self.attempt() != Some(attempt) || !self.owns() {
            return;
        }
        keys.retain(|key| self.is_older(key, attempt));
        for keys in keys.chunks(DELETE_AT_ONCE) {
            self.call(Purpose::Delete, StoreCall::DiscardUnfinished { keys: keys.to_vec() });
        }
    }

    /// Whether it is of an attempt below this.
    fn is_older(&self, key: &ObjectKey, attempt: Attempt) -> bool {
        match self.chain.as_ref().and_then(|chain| chain.home.parse(key)) {
            Some(object @ (Object::Manifest(..) | Object::State(..))) => {
                object.attempt() < Some(attempt)
            }
            _ => false,
        }
    }

    /// Whether this attempt wrote it for a checkpoint below the last complete one: what of it
    /// the head does not name, no later one may name ([`Coordinator::acknowledged`]).
    pub(super) fn is_over(&self, object: &Object) -> bool {
        let Some(head) = self.head.as_ref().filter(|_| self.won) else { return false };
        let Some(latest) = head.latest.as_ref() else { return false };
        latest.attempt == head.attempt
            && object.attempt() == Some(head.attempt)
            && object.checkpoint().is_some_and(|of| of < latest.checkpoint)
    }

    fn is_leftover(&self, key: &ObjectKey, attempt: Attempt) -> bool {
        let object = self.chain.as_ref().and_then(|chain| chain.home.parse(key));
        let over = self.is_older(key, attempt) || object.as_ref().is_some_and(|o| self.is_over(o));
        #[cfg(test)]
        let over = over
            || self.mutated(super::state::Mutation::SweepOwnAttempt)
                && matches!(object, Some(Object::Manifest(..) | Object::State(..)));
        over && !self.reach.contains(key)
    }
}
