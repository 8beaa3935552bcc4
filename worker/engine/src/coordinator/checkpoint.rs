//! A checkpoint between trigger and completion. Pure.

use super::config::{Config, ProgramSpec};
use super::effect::BarrierKind;
use super::event::{SlotSnapshot, SnapshotStats, SubtaskState};
use millrace_protocol::head::CheckpointRef;
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid, Slot};
use millrace_protocol::manifest::{
    FileRef, ListState, Manifest, ManifestKind, OperatorState, PendingCommit,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A savepoint that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: String,
    pub(super) target: String,
    /// Whether it is forgotten when a list of all that are wanted does not name it.
    pub(super) listed: bool,
}

/// How far a checkpoint has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// Slots are still to answer.
    Acknowledging,
    /// The manifest is being put.
    Storing(Arc<Manifest>, CheckpointRef),
    /// The manifest is there; the head is to name it.
    Stored(Arc<Manifest>, CheckpointRef),
    /// The append is under way: from here on it cannot be aborted.
    Appending,
}

/// What one slot acknowledged.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) files: Vec<FileRef>,
    pub(super) operators: Vec<SubtaskState>,
    /// Committables that count only if the job is restored from this checkpoint.
    pub(super) open: Vec<PendingCommit>,
    pub(super) stats: SnapshotStats,
}

/// The one checkpoint that is pending.
#[derive(Debug)]
pub(super) struct InProgress {
    pub(super) id: CheckpointId,
    pub(super) kind: BarrierKind,
    pub(super) savepoint: Option<Wanted>,
    pub(super) triggered: Duration,
    pub(super) deadline: Duration,
    pub(super) parts: BTreeMap<Slot, Part>,
    pub(super) progress: Progress,
}

impl Part {
    pub(super) fn new(snapshot: SlotSnapshot, open: Vec<PendingCommit>) -> Self {
        let SlotSnapshot { files, operators, stats, .. } = snapshot;
        Self { files, operators, open, stats }
    }
}

impl InProgress {
    /// Whether every slot has acknowledged.
    pub(super) fn is_acknowledged(&self, slots: u16) -> bool {
        self.parts.len() == usize::from(slots)
    }

    /// What it cost.
    pub(super) fn stats(&self) -> SnapshotStats {
        self.parts.values().fold(SnapshotStats::default(), |sum, part| SnapshotStats {
            bytes: sum.bytes + part.stats.bytes,
            entries: sum.entries + part.stats.entries,
        })
    }

    /// The manifest. `unconfirmed`: every committable not known as committed,
    /// those that earlier checkpoints prepared too.
    pub(super) fn manifest(
        &self,
        config: &Config,
        program: &ProgramSpec,
        job: &JobUid,
        attempt: Attempt,
        unconfirmed: Vec<PendingCommit>,
        now: Duration,
    ) -> Manifest {
        let mut pending = unconfirmed;
        pending.extend(self.parts.values().flat_map(|part| part.open.iter().cloned()));
        Manifest {
            job: job.clone(),
            kind: ManifestKind::Checkpoint,
            attempt,
            checkpoint: self.id,
            created_at_ms: config.at_ms(now),
            max_parallelism: program.max_parallelism,
            hash_version: program.hash_version,
            fingerprint: program.fingerprint.clone(),
            operators: self.operators(program),
            files: self.parts.values().flat_map(|part| part.files.iter().cloned()).collect(),
            pending,
        }
    }

    fn operators(&self, program: &ProgramSpec) -> Vec<OperatorState> {
        let mut subtasks: BTreeMap<_, Vec<&SubtaskState>> = BTreeMap::new();
        for subtask in self.parts.values().flat_map(|part| &part.operators) {
            subtasks.entry(&subtask.operator).or_default().push(subtask);
        }
        let operator = |spec: &super::config::OperatorSpec| {
            let mut of = subtasks.remove(&spec.uid).unwrap_or_default();
            of.sort_by_key(|subtask| subtask.subtask);
            OperatorState {
                uid: spec.uid.clone(),
                name: spec.name.clone(),
                kind: spec.kind.clone(),
                parallelism: spec.parallelism,
                keyed: spec.keyed.clone(),
                watermarks: of.iter().flat_map(|s| &s.watermarks).copied().collect(),
                ended: of.iter().filter(|s| s.ended).map(|s| s.subtask).collect(),
                lists: merge(of),
            }
        };
        program.operators.iter().map(operator).collect()
    }
}

/// The list states of an operator, from those of its subtasks in order.
fn merge(subtasks: Vec<&SubtaskState>) -> Vec<ListState> {
    let mut merged: Vec<ListState> = Vec::new();
    for list in subtasks.into_iter().flat_map(|subtask| &subtask.lists) {
        match merged.iter_mut().find(|known| known.name == list.name) {
            Some(known) => known.parts.extend(list.parts.iter().cloned()),
            None => merged.push(list.clone()),
        }
    }
    merged
}
