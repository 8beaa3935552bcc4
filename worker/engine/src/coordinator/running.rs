//! Checkpoints of a running attempt: trigger, acknowledge, store, complete or
//! abort; one at a time.

use super::calls::Call;
use super::checkpoint::{InProgress, Part, Progress, Wanted};
use super::effect::{BarrierKind, Effect, Level, StoreCall};
use super::event::{Failure, PreparedCommit, SlotSnapshot, StoreAnswer};
use super::state::{Purpose, Stage, StopRequest};
use super::status::SavepointState;
use super::step::Coordinator;
use millrace_protocol::head::CheckpointRef;
use millrace_protocol::ids::{Attempt, CheckpointId, Slot};
use millrace_protocol::manifest::{CommitId, FileRef, PendingCommit, When, sha256_hex};
use std::sync::Arc;
use std::time::Duration;

/// So often a manifest is put before its checkpoint is aborted.
const MANIFEST_TRIES: u32 = 5;

/// So many answers of a slot are remembered, to know those that come twice.
const ANSWERS_KEPT: usize = 64;

impl Coordinator {
    /// One move of a running attempt; answers whether there was one. No append
    /// is under way.
    pub(super) fn run(&mut self) -> bool {
        if self.stop_wanted() == Some(StopRequest::Now) {
            self.drop_checkpoint();
            self.cancel_tasks();
            self.stage = Stage::Cancelling(super::state::After::Stop);
            return true;
        }
        if self.configure_due() {
            return true;
        }
        if let Some(checkpoint) = self.checkpoint.take() {
            return self.proceed(checkpoint);
        }
        if let Some((id, _)) = self.exported.first() {
            let id = id.clone();
            self.append_unpin(id);
            return true;
        }
        if self.restore_is_due() {
            self.abandon_run();
            return true;
        }
        let Some((kind, savepoint)) = self.next_barrier() else { return self.keep_alive() };
        self.trigger(kind, savepoint);
        true
    }

    fn proceed(&mut self, mut checkpoint: InProgress) -> bool {
        match checkpoint.progress {
            Progress::Stored(manifest, at) => {
                checkpoint.progress = Progress::Appending;
                self.append_completion(checkpoint, manifest, at);
                true
            }
            _ if self.now >= checkpoint.deadline => {
                let missing = usize::from(self.slots()) - checkpoint.parts.len();
                self.checkpoint = Some(checkpoint);
                self.abort(&format!("timed out; {missing} slots have not acknowledged"));
                true
            }
            _ => {
                self.checkpoint = Some(checkpoint);
                self.keep_alive()
            }
        }
    }

    /// Slots of the running attempt.
    fn slots(&self) -> u16 {
        self.running.as_ref().map_or(0, |running| running.program.slots())
    }

    /// What barrier is due, if any.
    fn next_barrier(&mut self) -> Option<(BarrierKind, Option<Wanted>)> {
        if let Some(StopRequest::Checkpoint(mode)) = self.stop_wanted() {
            return Some((BarrierKind::Stop(mode), None));
        }
        if self.run.input_ended {
            return Some((BarrierKind::Final, None));
        }
        if self.leaves() {
            return Some((BarrierKind::Rescale, None));
        }
        if !self.savepoints.is_empty() {
            return Some((BarrierKind::Savepoint, Some(self.savepoints.remove(0))));
        }
        let due = self.periodic_due().is_some_and(|due| self.now >= due);
        (due || self.checkpoint_wanted).then_some((BarrierKind::Periodic, None))
    }

    fn periodic_due(&self) -> Option<Duration> {
        let policy = &self.config.checkpoints;
        let due = self.run.last_trigger + policy.interval?;
        Some(due.max(self.run.last_end + policy.min_pause))
    }

    /// When a running attempt has something to do by itself.
    pub(super) fn run_due(&self) -> Option<Duration> {
        match &self.checkpoint {
            _ if self.append.is_some() => None,
            Some(checkpoint) => Some(checkpoint.deadline),
            None => self.periodic_due(),
        }
    }

    fn trigger(&mut self, kind: BarrierKind, savepoint: Option<Wanted>) {
        let Some(attempt) = self.attempt() else { return };
        let id = CheckpointId(self.last_checkpoint.0 + 1);
        self.last_checkpoint = id;
        self.run.last_trigger = self.now;
        self.checkpoint_wanted = false;
        if kind.is_last() && !self.run.sources_closed {
            self.run.sources_closed = true;
            self.gap_begins(if kind == BarrierKind::Rescale { "Rescale" } else { "Resume" });
        }
        if let Some(wanted) = &savepoint {
            self.savepoint_is(&wanted.id, SavepointState::Triggered);
        }
        self.checkpoint = Some(InProgress {
            id,
            kind,
            savepoint,
            triggered: self.now,
            deadline: self.now + self.config.checkpoints.timeout,
            parts: Default::default(),
            progress: Progress::Acknowledging,
        });
        let (checkpoint, base) = (id, self.run.base);
        // Others are for other programs or another number of workers, which should not have
        // to know of the rows between these.
        let unaligned_after =
            self.config.checkpoints.unaligned_after.filter(|_| kind == BarrierKind::Periodic);
        self.out.push(Effect::TriggerBarrier { attempt, checkpoint, base, kind, unaligned_after });
    }

    /// Takes over what a slot's sinks prepared; gives back what is open.
    fn take_prepared(
        &mut self,
        checkpoint: CheckpointId,
        prepared: Vec<PreparedCommit>,
    ) -> Vec<PendingCommit> {
        let Some(attempt) = self.attempt() else { return Vec::new() };
        let mut open = Vec::new();
        for prepared in prepared {
            let index = self.run.commits_received;
            self.run.commits_received += 1;
            let item = PendingCommit {
                id: CommitId { attempt, checkpoint, index },
                sink: prepared.sink,
                connector: prepared.connector,
                options: prepared.options,
                subtask: prepared.subtask,
                when: prepared.when,
                payload: prepared.payload,
                shape: prepared.shape,
            };
            match item.when {
                When::Ready => self.commits.prepared(item),
                When::OnRestore => open.push(item),
            }
        }
        open
    }

    /// Whether this is the slot's first answer to this checkpoint.
    fn is_news(&mut self, slot: Slot, checkpoint: CheckpointId) -> bool {
        if slot.0 >= self.slots() {
            return false;
        }
        let answered = self.run.answered.entry(slot).or_default();
        let forgotten = answered.len() == ANSWERS_KEPT && answered.first() > Some(&checkpoint);
        if forgotten || !answered.insert(checkpoint) {
            return false;
        }
        let last = answered.last().copied();
        if answered.len() > ANSWERS_KEPT {
            answered.pop_first();
        }
        if last > Some(checkpoint) {
            // Until the next checkpoint is complete, what it prepared is at risk.
            self.note(Level::Error, format!("slot {slot} answered checkpoint {checkpoint} late"));
        }
        true
    }

    pub(super) fn acknowledged(&mut self, checkpoint: CheckpointId, mut snapshot: SlotSnapshot) {
        let slot = snapshot.slot;
        if !self.is_news(slot, checkpoint) {
            return;
        }
        let prepared = std::mem::take(&mut snapshot.prepared);
        let open = self.take_prepared(checkpoint, prepared);
        let stranger =
            snapshot.files.iter().find(|file| !self.may_name(file)).map(|f| f.key.clone());
        let unknown = self.unknown_operator(&snapshot);
        let slots = self.slots();
        let Some(pending) = self.checkpoint.as_mut().filter(|c| c.id == checkpoint) else { return };
        if let Some(key) = stranger {
            return self.abort(&format!("slot {slot} names {key}, which may be gone"));
        }
        if let Some(uid) = unknown {
            return self.abort(&format!(
                "slot {slot} has state of operator {uid:?}, which the program does not have: \
                 no restore would find it. This is a mistake of the engine"
            ));
        }
        pending.parts.insert(slot, Part::new(snapshot, open));
        if pending.is_acknowledged(slots) {
            self.store_manifest();
        }
    }

    /// An operator that the slot answers for, and that the manifest has no place for.
    fn unknown_operator(&self, snapshot: &SlotSnapshot) -> Option<String> {
        let program = &self.running.as_ref()?.program;
        let mut unknown = snapshot.operators.iter().map(|of| &of.operator);
        let unknown = unknown.find(|uid| program.operator(uid).is_none())?;
        Some(unknown.as_str().to_owned())
    }

    /// Whether a file is certain to be there: named by the last won entry, or
    /// this attempt's own and too young to be swept.
    fn may_name(&self, file: &FileRef) -> bool {
        let object = self.chain.as_ref().and_then(|chain| chain.home.parse(&file.key));
        let own = object.filter(|object| !self.is_over(object)).and_then(|o| o.attempt());
        own.is_some() && own == self.attempt() || self.reach.contains(&file.key)
    }

    pub(super) fn declined(
        &mut self,
        checkpoint: CheckpointId,
        slot: Slot,
        reason: &str,
        prepared: Vec<PreparedCommit>,
    ) {
        if !self.is_news(slot, checkpoint) {
            return;
        }
        self.take_prepared(checkpoint, prepared);
        if self.checkpoint.as_ref().is_some_and(|c| c.id == checkpoint) {
            self.abort(&format!("slot {slot}: {reason}"));
        }
    }

    fn store_manifest(&mut self) {
        let (Some(chain), Some(attempt)) = (&self.chain, self.attempt()) else { return };
        let Some(program) = self.running.as_ref().map(|running| &running.program) else { return };
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let unconfirmed = self.commits.unconfirmed().cloned();
        #[cfg(test)]
        let id = checkpoint.id;
        #[cfg(test)]
        let dropped = self.mutation == Some(super::state::Mutation::NoCarryOver);
        #[cfg(test)]
        let unconfirmed = unconfirmed.filter(|item| !dropped || item.id.checkpoint == id);
        let unconfirmed = unconfirmed.collect();
        let home = &chain.home;
        let manifest =
            checkpoint.manifest(&self.config, program, home.job(), attempt, unconfirmed, self.now);
        let key = home.manifest(attempt, checkpoint.id);
        // What the one before listed and was not confirmed since is listed here too.
        let before = self.head.as_ref().and_then(|head| head.latest.as_ref());
        let before = before.map(|latest| latest.checkpoint);
        match manifest.encode() {
            Ok(bytes) => {
                let at = CheckpointRef {
                    attempt,
                    checkpoint: checkpoint.id,
                    manifest: key.clone(),
                    sha256: sha256_hex(&bytes),
                    pending: u32::try_from(manifest.pending.len()).unwrap_or(u32::MAX),
                    nothing_since: before.filter(|_| manifest.pending.is_empty()),
                };
                let purpose = Purpose::PutManifest(attempt, checkpoint.id);
                checkpoint.progress = Progress::Storing(Arc::new(manifest), at);
                self.call(purpose, StoreCall::PutIfAbsent { key, bytes: Arc::from(bytes) });
            }
            Err(error) => self.abort(&error.to_string()),
        }
    }

    pub(super) fn manifest_answered(
        &mut self,
        attempt: Attempt,
        id: CheckpointId,
        call: Call<Purpose>,
        answer: &StoreAnswer,
    ) {
        let current = self.attempt() == Some(attempt) && matches!(self.stage, Stage::Running);
        let Some(checkpoint) = self.checkpoint.as_mut().filter(|c| current && c.id == id) else {
            return;
        };
        match (answer, &checkpoint.progress) {
            // One attempt writes a name, and the same bytes: what exists is this.
            (StoreAnswer::Created | StoreAnswer::Exists, Progress::Storing(manifest, at)) => {
                checkpoint.progress = Progress::Stored(Arc::clone(manifest), at.clone());
            }
            (StoreAnswer::Error(error), _) if call.tries + 1 >= MANIFEST_TRIES => {
                let why = error.to_string();
                self.abort(&why);
            }
            _ => self.again(call.purpose, call.call, call.tries),
        }
    }

    /// Gives the pending checkpoint up. Nothing outside is aborted: what was
    /// prepared goes into the next one.
    fn abort(&mut self, why: &str) {
        self.note(Level::Warn, format!("checkpoint aborted: {why}"));
        let Some(checkpoint) = self.checkpoint.take() else { return };
        let failure = Failure::of_job(format!("checkpoint {} failed: {why}", checkpoint.id));
        self.out.push(Effect::Failed { checkpoint: Some(checkpoint.id), failure });
        let Some(attempt) = self.attempt() else { return };
        self.out.push(Effect::NotifyAborted { attempt, checkpoint: checkpoint.id });
        if let Some(wanted) = checkpoint.savepoint {
            self.savepoint_ended(wanted.id, Err(why.to_owned()));
        }
        self.run.last_end = self.now;
        self.run.failed_checkpoints += 1;
        if self.run.failed_checkpoints > self.config.checkpoints.tolerated_failures {
            self.fail(format!("{} checkpoints failed: {why}", self.run.failed_checkpoints));
        }
    }

    /// The pending checkpoint ends with its attempt; its savepoint is wanted still.
    pub(super) fn drop_checkpoint(&mut self) {
        if let Some(wanted) = self.checkpoint.take().and_then(|c| c.savepoint) {
            self.savepoint_is(&wanted.id, SavepointState::Waiting);
            self.savepoints.insert(0, wanted);
        }
    }
}
