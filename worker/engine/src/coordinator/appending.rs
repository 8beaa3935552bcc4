//! Appends to the chain, one at a time, and what a won entry brings about.

use super::calls::Call;
use super::chain::{Append, Verdict};
use super::checkpoint::InProgress;
use super::effect::{BarrierKind, CheckpointReport, Effect, Level, Outcome, StopMode, StoreCall};
use super::event::StoreAnswer;
use super::state::{After, Appending, For, Others, Purpose, Restoring, Stage};
use super::status::{SavepointState, SavepointStatus};
use super::step::Coordinator;
use crate::store::Fault;
use millrace_protocol::head::{CheckpointRef, Ending, HeadRecord, Phase, Pin};
use millrace_protocol::manifest::Manifest;
use millrace_protocol::objects::ObjectKey;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Keys per delete call: bounds how long one takes.
pub(super) const DELETE_AT_ONCE: usize = 500;

/// So often an append is repeated that only the user could help.
const APPEND_TRIES: u32 = 8;

/// Whether to stop repeating an append. A running attempt goes on without
/// checkpoints, and an outage is waited for; a full disk with no attempt left
/// to run is not.
fn is_in_vain(purpose: &For, fault: Fault) -> bool {
    match purpose {
        For::Complete(..) | For::Unpin(_) | For::Pin | For::Configure(_) | For::KeepAlive => false,
        For::Fail(_) => true,
        _ => matches!(fault, Fault::Denied | Fault::Full),
    }
}

impl Coordinator {
    /// Begins to append; there is no other append under way.
    pub(super) fn append(&mut self, purpose: For, record: HeadRecord) {
        let Some(chain) = &self.chain else { return };
        match Append::begin(chain, &record) {
            Ok((append, call)) => {
                #[cfg(test)]
                if self.mutated(super::state::Mutation::DeleteWhileUnknown) {
                    let after = match &purpose {
                        For::Complete(_, manifest) => self.reach_of(&record, Some(manifest)),
                        _ => self.reach_of(&record, None),
                    };
                    self.delete_unreachable(&after);
                }
                self.append = Some(Appending { append, record, purpose });
                self.call(Purpose::Append, call);
            }
            // The record has outgrown its bound; the chain is as it was.
            Err(error) => {
                self.cancel_tasks();
                self.end(Outcome::Failed(error.to_string()));
            }
        }
    }

    pub(super) fn append_answered(&mut self, call: Call<Purpose>, answer: &StoreAnswer) {
        if let (StoreAnswer::Error(error), Some(appending)) = (answer, &self.append)
            && call.tries >= APPEND_TRIES
            && is_in_vain(&appending.purpose, error.fault)
        {
            // As good as a crash here, which is safe at any moment.
            let why = match &appending.purpose {
                For::Fail(cause) => format!("{cause}; moreover, {error}"),
                _ => error.to_string(),
            };
            self.cancel_tasks();
            return self.end(Outcome::Failed(why));
        }
        let Some(appending) = &mut self.append else { return };
        let next = appending.append.answered(answer);
        let Some(verdict) = self.follow(Purpose::Append, call.tries, next) else { return };
        let Some(Appending { record, purpose, .. }) = self.append.take() else { return };
        match verdict {
            Verdict::Won => self.append_won(record, purpose),
            Verdict::Lost => self.append_lost(record, purpose),
        }
    }

    fn append_lost(&mut self, record: HeadRecord, purpose: For) {
        #[cfg(test)]
        if self.mutated(super::state::Mutation::ClaimDoesNotFreeze)
            && matches!(purpose, For::Complete(..))
        {
            let version = record.version.next();
            return self.append(purpose, HeadRecord { version, ..record });
        }
        match purpose {
            For::Claim if !self.won => self.reread(),
            _ => self.fenced(&format!("entry {} of the chain is another's", record.version)),
        }
    }

    fn append_won(&mut self, record: HeadRecord, purpose: For) {
        if let For::Complete(checkpoint, manifest) = &purpose {
            let key = self.chain.as_ref().map(|c| c.home.manifest(record.attempt, checkpoint.id));
            self.manifests.extend(key.map(|key| (key, Arc::clone(manifest))));
        }
        let reach = self.reach_of(&record, None);
        if self.won {
            self.delete_unreachable(&reach);
        }
        let named: BTreeSet<_> = record.checkpoints().map(|at| at.manifest.clone()).collect();
        self.manifests.retain(|key, _| named.contains(key));
        self.reach = reach;
        if self.proposal.as_ref().is_some_and(|proposal| proposal.config == record.config) {
            self.proposal = None;
            self.restoring = Restoring::No;
        }
        if matches!(purpose, For::Claim) {
            self.restarts.set_budget(record.restart, self.now);
        }
        self.head = Some(record);
        self.won = true;
        self.seed = None;
        self.parked = false;
        self.appended_at = self.now;
        self.after(purpose);
    }

    fn after(&mut self, purpose: For) {
        match purpose {
            For::Claim => self.claimed(),
            For::Abandon => {
                self.abandon = None;
                // An older checkpoint's open committables were superseded long ago.
                let items = self.base_to_commit();
                let ready = |item: &millrace_protocol::manifest::PendingCommit| {
                    item.when == millrace_protocol::manifest::When::Ready
                };
                self.commits.restore(items.into_iter().filter(ready));
                self.report_latest();
                self.stage = Stage::Recovering(Others::ToAbort);
            }
            For::Complete(checkpoint, manifest) => self.completed(*checkpoint, &manifest),
            For::Unpin(id) => {
                let at = self.exported.iter().position(|(exported, _)| *exported == id);
                if let Some((id, result)) = at.map(|at| self.exported.remove(at)) {
                    self.savepoint_ended(id, result);
                }
            }
            For::Pin => {
                let head = self.head.iter();
                let pins: Vec<_> = head.flat_map(|head| &head.pins).cloned().collect();
                for pin in pins {
                    self.savepoint_pinned(&pin);
                }
            }
            For::Configure(proposal) => self.configured(*proposal),
            For::KeepAlive => {}
            For::Moved => self.put_incarnation(),
            For::Delete => self.empty_home(),
            For::Stopping => {
                let items = self.base_to_commit();
                self.commits.restore(items);
                self.stage = Stage::Closing(Ending::Suspended);
            }
            For::Close(ending) => {
                self.stage = Stage::Closed(match ending {
                    Ending::Suspended => Outcome::Suspended,
                    Ending::Finished => Outcome::Finished,
                });
                self.cancel_tasks();
            }
            For::Fail(cause) => self.rest(Outcome::Failed(cause)),
        }
    }

    /// Everything that `record` keeps alive. `new`: a manifest that it names
    /// and that is not among the known ones.
    pub(super) fn reach_of(
        &self,
        record: &HeadRecord,
        new: Option<&Arc<Manifest>>,
    ) -> BTreeSet<ObjectKey> {
        let manifests = record.checkpoints().filter_map(|at| self.manifests.get(&at.manifest));
        let files = manifests.chain(new).flat_map(|manifest| &manifest.files);
        let mut reach: BTreeSet<_> = files.map(|file| file.key.clone()).collect();
        reach.extend(record.checkpoints().map(|at| at.manifest.clone()));
        reach
    }

    /// Deletes what was reachable and is not in `after`.
    fn delete_unreachable(&mut self, after: &BTreeSet<ObjectKey>) {
        let keys: Vec<_> = self.reach.difference(after).cloned().collect();
        self.delete(&keys);
    }

    pub(super) fn delete(&mut self, keys: &[ObjectKey]) {
        for keys in keys.chunks(DELETE_AT_ONCE) {
            self.call(Purpose::Delete, StoreCall::Delete { keys: keys.to_vec() });
        }
    }

    /// Appends the completion of the stored checkpoint.
    pub(super) fn append_completion(
        &mut self,
        checkpoint: InProgress,
        manifest: Arc<Manifest>,
        at: CheckpointRef,
    ) {
        let mut record = self.next_record();
        let keep = self.config.checkpoints.retained.max(1) as usize - 1;
        let older = record.latest.replace(at.clone());
        record.retained.splice(0..0, older);
        record.retained.truncate(keep);
        record.origin = None;
        record.last_checkpoint = record.last_checkpoint.max(checkpoint.id);
        record.restart = self.restarts.budget(self.now);
        if let Some(wanted) = &checkpoint.savepoint {
            let (savepoint, target) = (wanted.id.clone(), wanted.target.clone());
            record.pins.push(Pin { savepoint, at, target });
        }
        match checkpoint.kind {
            // Unless that was taken back meanwhile: then another attempt goes on.
            BarrierKind::Stop(StopMode::Suspend) if self.stop_wanted().is_none() => {}
            BarrierKind::Stop(StopMode::Suspend) => {
                record.phase = Phase::Stopping(Ending::Suspended);
            }
            BarrierKind::Stop(StopMode::Drain) | BarrierKind::Final => {
                record.phase = Phase::Stopping(Ending::Finished);
            }
            BarrierKind::Periodic | BarrierKind::Savepoint | BarrierKind::Rescale => {}
        }
        self.append(For::Complete(Box::new(checkpoint), manifest), record);
    }

    fn completed(&mut self, checkpoint: InProgress, manifest: &Arc<Manifest>) {
        self.commits.list(manifest);
        let stats = checkpoint.stats();
        let report = CheckpointReport {
            checkpoint: checkpoint.id,
            found: false,
            at_ms: self.config.at_ms(self.now),
            took: self.now.saturating_sub(checkpoint.triggered),
            bytes: stats.bytes,
            entries: stats.entries,
            files: manifest.files.len(),
            state_bytes: manifest.state_bytes(),
        };
        self.last_report = Some(report);
        if let Some(gap) = &mut self.gap {
            if gap.deployed.is_some() {
                gap.completed_at_ms.get_or_insert(report.at_ms);
            } else if checkpoint.kind.is_last() {
                // Its sources were closed by its barrier.
                gap.replayed = Some(Duration::ZERO);
            }
        }
        self.out.push(Effect::Report(report));
        let head = self.head.iter().flat_map(|head| &head.pins);
        let pinned = head.filter(|pin| pin.at.checkpoint == checkpoint.id).cloned();
        for pin in pinned.collect::<Vec<_>>() {
            self.savepoint_pinned(&pin);
        }
        if let (Stage::Running, Some(attempt)) = (&self.stage, self.attempt()) {
            self.out.push(Effect::NotifyComplete { attempt, checkpoint: checkpoint.id });
        }
        self.checkpoint = None;
        if self.run.failed_checkpoints > 0 {
            // What those before it left is not needed any more.
            self.sweep_at = self.now;
        }
        self.run.failed_checkpoints = 0;
        self.run.last_end = self.now;
        self.run.base = Some(checkpoint.id);
        if let Some(Phase::Stopping(ending)) = self.head.as_ref().map(|head| head.phase) {
            // Also if a task failed meanwhile: all it had to do is done.
            self.stage = Stage::Closing(ending);
        } else if checkpoint.kind.is_last() && matches!(self.stage, Stage::Running) {
            self.cancel_tasks();
            self.stage = Stage::Cancelling(After::Rescale);
        }
    }

    pub(super) fn savepoint_pinned(&mut self, pin: &Pin) {
        let (state, at) = (SavepointState::Exporting, Some((pin.at.attempt, pin.at.checkpoint)));
        self.savepoint_status
            .insert(pin.savepoint.clone(), SavepointStatus { state, at, bytes: 0 });
    }

    /// Shows others that the owner lives; answers whether an entry is appended for it.
    pub(super) fn keep_alive(&mut self) -> bool {
        if self.keep_alive_due().is_none_or(|due| self.now < due) {
            return false;
        }
        let cause = self.head.as_ref().and_then(|head| head.cause.clone());
        let mut record = self.next_record();
        record.cause = cause;
        self.append(For::KeepAlive, record);
        true
    }

    pub(super) fn keep_alive_due(&self) -> Option<Duration> {
        let rests = matches!(self.stage, Stage::Idle(_) | Stage::Ended(_) | Stage::Closed(_));
        let fenced = matches!(self.stage, Stage::Cancelling(After::Fenced));
        let owns = self.won && !rests && !fenced && self.append.is_none();
        self.config.keepalive.filter(|_| owns).map(|every| self.appended_at + every)
    }

    /// Another process owns the job. Tasks stop; nothing is deleted, aborted or
    /// committed.
    pub(super) fn fenced(&mut self, why: &str) {
        self.note(Level::Warn, format!("fenced: {why}"));
        self.checkpoint = None;
        self.commits.restore([]);
        self.calls.forget(|_| true);
        self.storing.clear();
        self.cancel_tasks();
        self.stage = Stage::Cancelling(After::Fenced);
    }
}
