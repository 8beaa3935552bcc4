//! From a won claim to running tasks: commit what the base lists, only then
//! abort what earlier attempts left, then deploy.

use super::commits::BatchEnd;
use super::effect::{Base, CheckpointReport, Effect, FilesIn, Level};
use super::event::{Failure, Hindrance};
use super::state::{After, For, Others, Run, Running, Stage, Tasks};
use super::step::Coordinator;
use millrace_protocol::head::{HeadRecord, Phase};
use millrace_protocol::ids::Attempt;
use millrace_protocol::manifest::{Manifest, PendingCommit};
use std::sync::Arc;
use std::time::Duration;

/// So many batches of commits fail in a row before the attempt does.
const COMMIT_TRIES: u32 = 8;

const LEFTOVERS: &str = "cannot remove what earlier attempts staged";

impl Coordinator {
    /// The manifest of the head's `latest`.
    pub(super) fn base_manifest(&self) -> Option<&Arc<Manifest>> {
        let latest = self.head.as_ref()?.latest.as_ref()?;
        self.manifests.get(&latest.manifest)
    }

    /// What the head's `latest` holds that may not be committed yet. Commits are
    /// idempotent, so what was confirmed since may be among it.
    pub(super) fn base_to_commit(&self) -> Vec<PendingCommit> {
        let latest = self.head.as_ref().and_then(|head| head.latest.as_ref());
        match (latest, self.base_manifest()) {
            (Some(at), Some(manifest)) if at.pending > 0 => manifest.pending.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn claimed(&mut self) {
        let Some(head) = &self.head else { return };
        self.last_checkpoint = self.last_checkpoint.max(head.last_checkpoint);
        self.run = Run::default();
        self.checkpoint = None;
        self.sweep_at = self.now;
        for pin in head.pins.clone() {
            self.savepoint_pinned(&pin);
        }
        self.seek_savepoints();
        let items = self.base_to_commit();
        self.commits.restore(items);
        self.report_latest();
        self.stage = match self.doomed.take() {
            Some(why) => {
                self.note(Level::Error, format!("{why}; giving up"));
                Stage::Cancelling(After::Fail(why))
            }
            None => Stage::Recovering(Others::ToAbort),
        };
    }

    /// What the head's `latest` is like: as its manifest says, if another coordinator took it.
    pub(super) fn report_latest(&mut self) {
        let Some(manifest) = self.base_manifest() else {
            self.last_report = None;
            return;
        };
        if self.last_report.is_none_or(|report| report.checkpoint != manifest.checkpoint) {
            self.last_report = Some(CheckpointReport {
                checkpoint: manifest.checkpoint,
                found: true,
                at_ms: manifest.created_at_ms,
                took: Duration::ZERO,
                bytes: manifest.written_bytes(),
                entries: 0,
                files: manifest.files.len(),
                state_bytes: manifest.state_bytes(),
            });
        }
    }

    /// One move towards running tasks; answers whether there was one.
    pub(super) fn recover(&mut self, others: Others) -> bool {
        if !self.commits.is_idle() {
            return self.keep_alive();
        }
        let Some(head) = &self.head else { return false };
        let attempt = head.attempt;
        if self.take_over.is_some() {
            self.append_moved();
            return true;
        }
        if let Phase::Stopping(ending) = head.phase {
            self.stage = Stage::Closing(ending);
            return true;
        }
        if self.stops_without_tasks() {
            self.append_stopping();
            return true;
        }
        if self.hold.is_some() {
            self.stage = Stage::Held;
            return true;
        }
        if let Some(abandon) = self.abandon.clone() {
            let mut record = self.next_record();
            let keep = self.config.checkpoints.retained.max(1) as usize;
            let older = std::mem::replace(&mut record.latest, abandon.latest);
            record.origin = abandon.origin;
            let nonce = self.config.restore.as_ref().map_or(0, |(nonce, _)| *nonce);
            record.restore_nonce = record.restore_nonce.max(nonce);
            record.retained.splice(0..0, older);
            let latest = record.latest.clone();
            record.retained.retain(|at| Some(at) != latest.as_ref());
            record.retained.truncate(keep);
            self.append(For::Abandon, record);
            return true;
        }
        match others {
            Others::ToAbort => {
                let keep = self.base_manifest().map(|m| m.pending.clone()).unwrap_or_default();
                self.stage = Stage::Recovering(self.abort_others(attempt, &keep));
            }
            Others::Aborting => return self.keep_alive(),
            Others::Aborted => {
                if self.configure_due() {
                    return true;
                }
                let Ok(placement) = self.place() else { return self.keep_alive() };
                let base = self.base();
                self.run.base = base
                    .as_ref()
                    .filter(|base| base.files == FilesIn::Home)
                    .map(|base| base.manifest.checkpoint);
                let from = match &base {
                    None => "nothing".to_owned(),
                    Some(Base { manifest, files: FilesIn::Home }) => {
                        format!("checkpoint {}", manifest.checkpoint)
                    }
                    Some(Base { files: FilesIn::Savepoint(path), .. }) => {
                        format!("savepoint {path}")
                    }
                };
                self.note(Level::Info, format!("attempt {attempt} starts from {from}"));
                self.tasks = Tasks::Some(attempt);
                self.stage = Stage::Deploying;
                self.placement = placement.clone();
                self.deployed = true;
                if let Some(gap) = &mut self.gap {
                    gap.placed.get_or_insert(self.now);
                    let home = base.as_ref().filter(|base| base.files == FilesIn::Home);
                    gap.base_at_ms = home.map(|base| base.manifest.created_at_ms);
                }
                let program = Arc::new(self.config.program.clone());
                let generation = self.config.config.generation;
                self.running = Some(Running { generation, program: Arc::clone(&program) });
                self.out.push(Effect::Deploy { attempt, base, program, placement });
            }
        }
        true
    }

    /// Asks for leftovers to be aborted, except `keep`.
    pub(super) fn abort_others(&mut self, attempt: Attempt, keep: &[PendingCommit]) -> Others {
        let kept = |uid| keep.iter().filter(|item| item.sink == uid).cloned().collect();
        let sinks: Vec<_> = self
            .config
            .program
            .sinks()
            .map(|sink| (sink.uid.clone(), kept(sink.uid.clone())))
            .collect();
        if sinks.is_empty() {
            return Others::Aborted;
        }
        self.aborting = Some(attempt);
        self.out.push(Effect::AbortOthers { attempt, sinks });
        Others::Aborting
    }

    pub(super) fn others_aborted(&mut self, attempt: Attempt, result: Result<(), Hindrance>) {
        if self.aborting == Some(attempt) {
            self.aborting = None;
        }
        let current = self.attempt() == Some(attempt);
        if !current || !matches!(self.stage, Stage::Recovering(Others::Aborting)) {
            return;
        }
        match result {
            Ok(()) => self.stage = Stage::Recovering(Others::Aborted),
            Err(Hindrance::Passing(why)) => self.fail(format!("{LEFTOVERS}: {why}")),
            Err(Hindrance::Users(why)) => {
                self.refuse_attempt(&Failure::of_job(format!("{LEFTOVERS}: {why}")));
            }
        }
    }

    fn base(&self) -> Option<Base> {
        let origin = self.head.as_ref().and_then(|head| head.origin.as_ref());
        match (self.base_manifest(), origin, &self.external) {
            (Some(manifest), ..) => {
                Some(Base { manifest: Arc::clone(manifest), files: FilesIn::Home })
            }
            (None, Some(origin), Some(found)) => Some(Base {
                manifest: Arc::clone(&found.manifest),
                files: FilesIn::Savepoint(origin.path.clone()),
            }),
            _ => None,
        }
    }

    pub(super) fn deployed(&mut self) {
        if matches!(self.stage, Stage::Deploying) {
            self.run.since = self.now;
            self.run.last_trigger = self.now;
            self.run.last_end = self.now;
            if let Some(gap) = &mut self.gap {
                gap.deployed.get_or_insert(self.now);
            }
            self.stage = Stage::Running;
        }
    }

    pub(super) fn commit_due(&mut self) {
        if !self.won || matches!(self.stage, Stage::Ended(_)) {
            return;
        }
        if let Some((batch, items)) = self.commits.next_batch(self.now) {
            self.out.push(Effect::Commit(batch, items));
        }
    }

    pub(super) fn committed(&mut self, end: BatchEnd) {
        for (sink, reason) in end.lost {
            let text = format!("output of sink {sink} is lost, it cannot be committed: {reason}");
            self.note(Level::Error, text);
        }
        let runs = matches!(self.stage, Stage::Recovering(_) | Stage::Deploying | Stage::Running);
        if let Some(reason) = end.refused.as_ref().filter(|_| runs) {
            return self
                .refuse_attempt(&Failure::of_job(format!("output cannot be committed: {reason}")));
        }
        let Some(reason) = end.failed.or(end.refused) else { return };
        self.note(Level::Warn, format!("a commit failed and is tried again: {reason}"));
        if end.failures >= COMMIT_TRIES && runs {
            self.fail(format!("output cannot be committed: {reason}"));
        }
    }

    /// Exports pinned checkpoints whose output is committed.
    pub(super) fn export_due(&mut self) {
        if !self.won || matches!(self.stage, Stage::Ended(_) | Stage::Claiming) {
            return;
        }
        if matches!(self.stage, Stage::Cancelling(After::Fenced)) {
            return;
        }
        let pins = self.head.as_ref().map(|head: &HeadRecord| head.pins.clone());
        for pin in pins.unwrap_or_default() {
            let known = self.exporting.contains_key(&pin.savepoint)
                || self.exported.iter().any(|(id, _)| *id == pin.savepoint);
            let Some(manifest) = self.manifests.get(&pin.at.manifest) else { continue };
            if known || self.commits.holds_any_of(manifest) {
                continue;
            }
            let manifest = Arc::clone(manifest);
            self.exporting.insert(pin.savepoint.clone(), pin.target.clone());
            let (id, target) = (pin.savepoint, pin.target);
            self.out.push(Effect::ExportSavepoint { id, target, manifest });
        }
    }
}
