//! What the job should be, and becomes: proposals are checked, stored, and adopted by
//! the append that names them.
//!
//! An edit that changes nothing about where subtasks run is adopted at once. Any other
//! one waits for enough slots; then a stop checkpoint ends the running attempt, and the
//! claim of the next adopts it. Where no attempt runs, the next claim adopts it.

use super::config::Desired;
use super::effect::{Effect, Level, StoreCall};
use super::event::{FoundManifest, StoreAnswer};
use super::preflight;
use super::state::{Abandon, After, For, Others, Purpose, Restoring, Stage};
use super::step::Coordinator;
use super::workers::{Proposal, TooFew, Verdict, WorkerId};
use millrace_protocol::head::{ConfigRef, Phase};
use std::sync::Arc;

impl Coordinator {
    /// Whether the process was started with a command line, whose values count.
    pub(super) fn is_local(&self) -> bool {
        self.config.config.hash.is_empty()
    }

    /// Where the attempt's slots would run.
    pub(super) fn place(&self) -> Result<Vec<WorkerId>, TooFew> {
        self.workers.place(self.config.program.slots(), self.config.workers)
    }

    fn place_proposed(&self, proposal: &Proposal) -> Result<Vec<WorkerId>, TooFew> {
        self.workers.place(proposal.program.slots(), proposal.workers)
    }

    /// Answers a proposal.
    pub(super) fn propose(&mut self, proposal: Box<Proposal>) {
        let generation = proposal.config.generation;
        let verdict = self.judge(proposal);
        self.out.push(Effect::ProposalAnswered { generation, verdict });
    }

    fn judge(&mut self, proposal: Box<Proposal>) -> Verdict {
        if proposal.config.program != self.config.config.program {
            return Verdict::Invalid("it is for another program: new processes run that".into());
        }
        let accepted = self.head.as_ref().map(|head| head.config.clone());
        if accepted.as_ref() == Some(&proposal.config) {
            if proposal.overrides {
                self.withdraw();
            }
            return Verdict::Accepted;
        }
        let lower = |than: &ConfigRef| {
            proposal.config.generation < than.generation
                || proposal.config.generation == than.generation
                    && proposal.config.program == than.program
        };
        if let Some(accepted) = accepted.as_ref().filter(|a| lower(a) && !proposal.overrides) {
            return Verdict::Stale(accepted.generation);
        }
        if let Some((config, why)) = self.invalid.as_ref()
            && *config == proposal.config
        {
            return Verdict::Invalid(why.clone());
        }
        if let Err(refusal) = preflight::check_proposal(&proposal) {
            return Verdict::Invalid(refusal.to_string());
        }
        match &self.proposal {
            Some(pending) if pending.config == proposal.config => {}
            Some(pending) if lower(&pending.config) && !proposal.overrides => {
                let newer = pending.config.generation;
                return Verdict::Pending(format!("generation {newer} was proposed since"));
            }
            _ => {
                self.withdraw();
                self.proposal = Some(proposal.clone());
            }
        }
        Verdict::Pending(self.why_pending(&proposal))
    }

    fn withdraw(&mut self) {
        self.proposal = None;
        self.restoring = Restoring::No;
        self.invalid = None;
    }

    /// What a proposal waits for.
    pub(super) fn why_pending(&self, proposal: &Proposal) -> String {
        if !self.won {
            return "the job is being read".to_owned();
        }
        if !self.stored.contains(&proposal.config.hash) {
            return "it is being stored".to_owned();
        }
        match (&self.stage, self.place_proposed(proposal)) {
            (Stage::Idle(_), _) => "the job does not run".to_owned(),
            (Stage::Running, Err(few)) => {
                let needed = proposal.program.slots();
                format!("parallelism {needed} waits for workers: {few}; the job runs on")
            }
            (Stage::Running, Ok(_)) => "the running attempt is being stopped".to_owned(),
            _ => "the next attempt adopts it".to_owned(),
        }
    }

    /// Stores the bodies that are about to be named, and reads what a proposal wants to
    /// be restored from.
    pub(super) fn prepare_configs(&mut self) {
        if self.chain.is_none() || matches!(self.stage, Stage::Ended(_)) {
            return;
        }
        let claims = matches!(self.stage, Stage::Waiting(_)) && !self.is_local();
        let claims = claims && self.take_over.is_none();
        let own = claims.then(|| (self.config.config.hash.clone(), Arc::clone(&self.config.body)));
        let proposed = self.proposal.as_ref().filter(|_| self.won);
        let proposed = proposed.map(|p| (p.config.hash.clone(), Arc::clone(&p.body)));
        for (hash, bytes) in own.into_iter().chain(proposed) {
            self.store_config(&hash, bytes);
        }
        let Some((proposal, head)) = self.proposal.as_ref().zip(self.head.as_ref()) else { return };
        let new = proposal.restore.as_ref().filter(|(nonce, _)| *nonce > head.restore_nonce);
        let (true, Some((_, path)), Restoring::No) = (self.won, new, &self.restoring) else {
            return;
        };
        match path.clone() {
            Some(path) => {
                self.restoring = Restoring::Reading(path.clone());
                self.out.push(Effect::ReadRestore { path });
            }
            None => self.restoring = Restoring::Ready(Abandon::default(), None),
        }
    }

    fn store_config(&mut self, hash: &str, bytes: Arc<[u8]>) {
        if self.stored.contains(hash) || !self.storing.insert(hash.to_owned()) {
            return;
        }
        let Some(chain) = &self.chain else { return };
        match chain.home.config(hash) {
            Ok(key) => {
                let purpose = Purpose::PutConfig(hash.to_owned());
                self.call(purpose, StoreCall::PutIfAbsent { key, bytes });
            }
            Err(error) => self.refuse(error.to_string()),
        }
    }

    pub(super) fn config_stored(
        &mut self,
        hash: &str,
        call: StoreCall,
        tries: u32,
        answer: &StoreAnswer,
    ) {
        match answer {
            // Named by its hash: what exists is this.
            StoreAnswer::Created | StoreAnswer::Exists => {
                self.storing.remove(hash);
                self.stored.insert(hash.to_owned());
            }
            _ => self.again(Purpose::PutConfig(hash.to_owned()), call, tries),
        }
    }

    /// What the proposal wants to be restored from was read.
    pub(super) fn proposed_restore_read(
        &mut self,
        path: &str,
        result: Result<FoundManifest, String>,
    ) {
        if !matches!(&self.restoring, Restoring::Reading(reading) if reading == path) {
            return;
        }
        let checked = result.and_then(|found| {
            let abandon = self.abandon_for(path, &found).map_err(|refusal| refusal.to_string())?;
            Ok((abandon, found))
        });
        match checked {
            Ok((abandon, found)) => self.restoring = Restoring::Ready(abandon, Some(found)),
            Err(why) => {
                self.note(Level::Warn, format!("the proposal cannot be adopted: {why}"));
                let config = self.proposal.take().map(|proposal| proposal.config);
                self.restoring = Restoring::No;
                self.invalid = config.map(|config| (config, why));
            }
        }
    }

    /// Whether the proposal's body is stored and its restore point was checked.
    fn is_prepared(&self, proposal: &Proposal) -> bool {
        let nonce = self.head.as_ref().map_or(0, |head| head.restore_nonce);
        let restores = proposal.restore.as_ref().is_some_and(|(new, _)| *new > nonce);
        let checked = !restores || matches!(self.restoring, Restoring::Ready(..));
        self.stored.contains(&proposal.config.hash) && checked
    }

    /// Whether subtasks run where they do, also with the proposal.
    fn keeps_layout(&self, proposal: &Proposal) -> bool {
        proposal.workers == self.config.workers && proposal.program == self.config.program
    }

    /// A proposal that is adopted by an entry of its own: it moves no subtask.
    pub(super) fn configure_due(&mut self) -> bool {
        let Some(proposal) = self.proposal.as_ref().filter(|p| self.is_prepared(p)) else {
            return false;
        };
        if !matches!(self.restoring, Restoring::No) {
            return false;
        }
        let suspends = proposal.desired != Desired::Running;
        let adopts = match &self.stage {
            Stage::Running => suspends || self.keeps_layout(proposal),
            Stage::Recovering(Others::Aborted) => self.may_run(proposal),
            Stage::Idle(_) => self.won && !self.wakes(proposal),
            _ => false,
        };
        if !adopts {
            return false;
        }
        let Some(proposal) = self.proposal.take() else { return false };
        let cause = self.head.as_ref().and_then(|head| head.cause.clone());
        let mut record = self.next_record();
        record.cause = cause;
        record.config = proposal.config.clone();
        self.append(For::Configure(proposal), record);
        true
    }

    /// Whether the running attempt must end for the proposal.
    pub(super) fn proposal_needs_stop(&self) -> bool {
        self.proposal.as_ref().is_some_and(|proposal| {
            self.is_prepared(proposal)
                && proposal.desired == Desired::Running
                && !self.keeps_layout(proposal)
                && self.place_proposed(proposal).is_ok()
        })
    }

    /// Whether the running attempt's further progress is not wanted: another restore
    /// point is.
    pub(super) fn restore_is_due(&self) -> bool {
        let Some(proposal) = &self.proposal else { return false };
        self.is_prepared(proposal)
            && proposal.desired == Desired::Running
            && matches!(self.restoring, Restoring::Ready(..))
            && self.place_proposed(proposal).is_ok()
    }

    /// Whether a job that has come to its end goes on for this proposal.
    pub(super) fn wakes(&self, proposal: &Proposal) -> bool {
        let Some(head) = &self.head else { return proposal.desired == Desired::Running };
        let restores = proposal.restore.as_ref().is_some_and(|(new, _)| *new > head.restore_nonce);
        let runs = proposal.desired == Desired::Running;
        if proposal.desired == Desired::Deleted {
            return true;
        }
        match head.phase {
            Phase::Finished => runs && restores,
            _ => runs,
        }
    }

    /// Whether the proposal may count where no tasks run: not if only the accepted
    /// configuration has slots enough.
    fn may_run(&self, proposal: &Proposal) -> bool {
        let suspends = proposal.desired != Desired::Running;
        suspends || self.place_proposed(proposal).is_ok() || self.place().is_err()
    }

    /// The next claim's configuration: the newest proposal, unless only the accepted one
    /// has slots enough.
    pub(super) fn adopt_for_claim(&mut self) {
        let prepared = self.proposal.as_ref().filter(|proposal| self.is_prepared(proposal));
        if !prepared.is_some_and(|proposal| self.may_run(proposal)) {
            return;
        }
        let Some(proposal) = self.proposal.take() else { return };
        self.adopt(*proposal);
        if let Restoring::Ready(abandon, found) = std::mem::take(&mut self.restoring) {
            self.abandon = Some(abandon);
            self.external = found.or(self.external.take());
        }
    }

    /// The proposal's values count from here on.
    pub(super) fn adopt(&mut self, proposal: Proposal) {
        let Proposal { config, body, program, workers, .. } = proposal;
        let Proposal { desired, checkpoints, restart, restore, overrides, .. } = proposal;
        self.restarts.set_policy(restart.clone());
        let this = &mut self.config;
        (this.config, this.body, this.program, this.workers) = (config, body, program, workers);
        (this.desired, this.checkpoints, this.restart) = (desired, checkpoints, restart);
        this.restore = restore;
        this.outdated = false;
        self.overrides = overrides;
    }

    /// The entry that names the proposal is won.
    pub(super) fn configured(&mut self, proposal: Proposal) {
        let generation = proposal.config.generation;
        self.adopt(proposal);
        self.overrides = false;
        self.note(Level::Info, format!("generation {generation} is accepted"));
    }

    /// Whether the running attempt is to end with a stop checkpoint, from which another
    /// goes on.
    pub(super) fn leaves(&self) -> bool {
        self.run.sources_closed || self.hold.is_some() || self.proposal_needs_stop()
    }

    /// No tasks, no append: held, or the next claim.
    pub(super) fn waited(&mut self) -> bool {
        if self.hold.is_some() && self.won && self.take_over.is_none() {
            self.stage = Stage::Held;
            return true;
        }
        let stored = self.is_local()
            || self.take_over.is_some()
            || self.stored.contains(&self.config.config.hash);
        if self.aborting.is_some() || !stored {
            return false;
        }
        self.claim();
        true
    }

    /// The tasks end without a checkpoint: what follows goes on from elsewhere.
    pub(super) fn abandon_run(&mut self) {
        self.drop_checkpoint();
        self.gap_begins("Resume");
        self.cancel_tasks();
        self.stage = Stage::Cancelling(After::Rescale);
    }
}
