//! The newest checkpoint cannot be restored from: when the job goes back to an older one by
//! itself. Only where nothing was committed in between, for that output would come twice;
//! else the user has to say so.

use super::effect::Level;
use super::event::Failure;
use super::preflight;
use super::state::{After, Stage};
use super::step::Coordinator;
use millrace_protocol::head::{CheckpointRef, HeadRecord};
use millrace_protocol::manifest::Manifest;
use std::time::Duration;

impl Coordinator {
    /// The newest checkpoint before the head's `latest` that can be read, and since which
    /// nothing was to be committed.
    fn older(&self) -> Option<&CheckpointRef> {
        let head = self.head.as_ref().filter(|_| self.take_over.is_none())?;
        let mut at = head.latest.as_ref()?;
        loop {
            let before = at.nothing_since?;
            at = head.checkpoints().find(|older| older.checkpoint == before)?;
            let readable = !self.unreadable.contains(&at.manifest);
            if let Some(manifest) = self.manifests.get(&at.manifest).filter(|_| readable) {
                return self.fits(manifest).then_some(at);
            }
        }
    }

    fn fits(&self, manifest: &Manifest) -> bool {
        preflight::check_base(&self.config, manifest).is_ok()
            && preflight::check_pending(&self.config, manifest).is_ok()
    }

    /// Whether there is a way back from a `latest` that is unreadable for this reason.
    pub(super) fn goes_back(&mut self, damage: &str) -> bool {
        let Some(older) = self.older().map(|at| at.checkpoint) else { return false };
        let text = format!(
            "{damage}. Since checkpoint {older} nothing was committed: the job goes back to it"
        );
        self.note(Level::Error, text);
        true
    }

    /// What the attempt was to start from is damaged. It goes back, or fails: another try
    /// would not help.
    pub(super) fn base_damaged(&mut self, failure: &Failure) {
        if !matches!(self.stage, Stage::Recovering(_) | Stage::Deploying | Stage::Running) {
            return;
        }
        let latest = self.head.as_ref().and_then(|head| head.latest.as_ref());
        self.unreadable.extend(latest.map(|at| at.manifest.clone()));
        if !self.goes_back(&failure.to_string()) {
            self.unreadable.clear();
            return self.refuse_attempt(failure);
        }
        self.drop_checkpoint();
        self.gap_begins("Restart");
        self.cancel_tasks();
        self.stage = Stage::Cancelling(After::Restart(Duration::ZERO));
    }

    /// What cannot be read goes from the record of a claim: the attempt begins with what
    /// that says, whoever claims next.
    pub(super) fn drop_unreadable(&mut self, record: &mut HeadRecord) {
        let gone = |at: &CheckpointRef| self.unreadable.contains(&at.manifest);
        if record.latest.as_ref().is_some_and(gone) {
            // Whoever wants to start from elsewhere has said where.
            record.latest = self.older().filter(|_| self.abandon.is_none()).cloned();
        }
        record.retained.retain(|at| !gone(at) && Some(at) != record.latest.as_ref());
        // The export of one whose files are damaged fails, and says so.
        record.pins.retain(|pin| !gone(&pin.at) || self.manifests.contains_key(&pin.at.manifest));
        self.unreadable.clear();
    }
}
