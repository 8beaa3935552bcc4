//! From the start to the first claim: find the home, read the chain and the
//! manifests it names, check, claim. Nothing of the job is touched before.

use super::calls::Call;
use super::chain::Read;
use super::config::{Desired, RestoreChoice};
use super::effect::{Effect, Level, Outcome};
use super::event::{FoundManifest, StoreAnswer};
use super::preflight::{self, Pointed, Refusal};
use super::state::{Abandon, Purpose, Stage};
use super::step::Coordinator;
use crate::store::{Fault, StoreError};
use millrace_protocol::format::FormatError;
use millrace_protocol::head::{
    CheckpointRef, Ending, HEAD_FORMAT, HeadRecord, Nonce, Origin, Phase, RestartBudget, Version,
};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid};
use millrace_protocol::manifest::Manifest;
use std::sync::Arc;
use std::time::Duration;

const REREAD_AFTER: Duration = Duration::from_millis(200);

impl Coordinator {
    pub(super) fn nonce(&mut self) -> Nonce {
        Nonce::new(self.config.seed.1, self.random.u64(..))
    }

    /// The job's uid: final once an attempt is to be deployed.
    pub fn job(&self) -> &JobUid {
        self.chain.as_ref().map_or(&self.config.fresh_job, |chain| chain.home.job())
    }

    pub(super) fn start(&mut self) {
        if !matches!(self.stage, Stage::New) {
            return;
        }
        if let Err(refusal) = preflight::check_program(&self.config) {
            return self.refuse(refusal.to_string());
        }
        self.find_home();
    }

    /// Whether an error before the first claim is the user's to resolve.
    pub(super) fn is_hopeless(&self, error: &StoreError) -> bool {
        !self.won && matches!(error.fault, Fault::Denied | Fault::Full | Fault::Key)
    }

    /// An answer to a call for [`Purpose::Home`], [`Purpose::Read`] or [`Purpose::Load`].
    pub(super) fn read_answered(&mut self, call: Call<Purpose>, answer: StoreAnswer) {
        match (&mut self.stage, &call.purpose) {
            (Stage::Finding(find), Purpose::Home) => {
                let next = find.answered(answer);
                match self.follow(Purpose::Home, call.tries, next) {
                    Some(Ok(found)) => self.found_home(found),
                    Some(Err(error)) => self.refuse(error.to_string()),
                    None => {}
                }
            }
            (Stage::Reading(read), Purpose::Read) => {
                let next = read.answered(answer);
                match self.follow(Purpose::Read, call.tries, next) {
                    Some(Ok(found)) => {
                        if std::mem::take(&mut self.seeding) {
                            self.seed = found.head;
                            return self.found_head(None);
                        }
                        let block = self.chain.as_ref().map_or(1, |chain| chain.block);
                        self.lowest_block = found.oldest.0 / block;
                        self.found_head(found.head);
                    }
                    Some(Err(error)) => self.refuse(error.to_string()),
                    None => {}
                }
            }
            (Stage::Incarnating, Purpose::Incarnate) => {
                self.incarnated(call.call, call.tries, &answer);
            }
            (Stage::Deleting(_), Purpose::Empty) => self.emptied(call.call, call.tries, answer),
            (Stage::Silence(silence), Purpose::Silence(version)) => {
                let silence = *silence;
                self.looked(silence, *version, call.call, call.tries, &answer);
            }
            (Stage::Configuring, Purpose::GetConfig(config)) => {
                let config = config.clone();
                self.config_got(config, call.call, call.tries, answer);
            }
            (Stage::Loading(outstanding), Purpose::Load(at)) => match answer {
                StoreAnswer::Got(bytes) => {
                    let at = at.clone();
                    if outstanding.remove(&at.manifest) {
                        self.loaded(at, bytes.as_deref());
                    }
                }
                _ => self.again(call.purpose, call.call, call.tries),
            },
            _ => {}
        }
    }

    pub(super) fn read_chain(&mut self) {
        let Some(chain) = &self.chain else { return };
        let (read, call) = Read::begin(chain);
        self.stage = Stage::Reading(Box::new(read));
        self.call(Purpose::Read, call);
    }

    fn found_head(&mut self, head: Option<HeadRecord>) {
        self.manifests.clear();
        self.reach.clear();
        self.unreadable.clear();
        self.damage = None;
        self.external = None;
        if self.took_over_head(head.as_ref()) || head.is_none() && self.read_origin() {
            return;
        }
        if let Some(Phase::Moved) = head.as_ref().map(|head| head.phase)
            && !self.is_local()
        {
            // Whose it is now the incarnations say, or will.
            return self.reread();
        }
        self.head = head;
        if self.parked && !self.config.stays {
            let owner = self.head.as_ref().map(|head| head.owner.clone());
            return self.end(Outcome::Fenced(owner));
        }
        match self.silence_needed() {
            Some(time) => self.wait_for_silence(time),
            None => self.go_on_from_head(),
        }
    }

    /// What the head names is read: its configuration, then its manifests.
    pub(super) fn go_on_from_head(&mut self) {
        match self.config_to_read() {
            Some(config) => self.get_config(config),
            None => self.load_manifests(),
        }
    }

    pub(super) fn load_manifests(&mut self) {
        let head = self.head.take();
        let mut wanted: Vec<CheckpointRef> = Vec::new();
        for at in head.iter().chain(&self.seed).flat_map(HeadRecord::checkpoints) {
            if !wanted.iter().any(|known| known.manifest == at.manifest) {
                wanted.push(at.clone());
            }
        }
        self.head = head;
        self.stage = Stage::Loading(wanted.iter().map(|at| at.manifest.clone()).collect());
        if wanted.is_empty() {
            return self.loaded_all();
        }
        for at in wanted {
            let key = at.manifest.clone();
            self.call(Purpose::Load(at), super::effect::StoreCall::Get { key });
        }
    }

    fn loaded(&mut self, at: CheckpointRef, bytes: Option<&[u8]>) {
        let name = at.manifest.as_str();
        let manifest = match bytes {
            Some(bytes) => Manifest::decode_checked(name, bytes, &at.sha256),
            None => Err(FormatError::damaged(name, "it is missing")),
        };
        match manifest {
            Ok(manifest) => drop(self.manifests.insert(at.manifest, Arc::new(manifest))),
            Err(_) if self.suspect != self.head.as_ref().map(|head| head.version) => {
                // Perhaps a living owner has just dropped that checkpoint.
                self.suspect = self.head.as_ref().map(|head| head.version);
                return self.reread();
            }
            Err(error) => {
                let latest = self.begins_from().and_then(|head| head.latest.as_ref());
                let needed = latest.is_some_and(|latest| latest.manifest == at.manifest);
                if needed && self.from() == RestoreChoice::Latest {
                    if !matches!(error, FormatError::Damaged { .. }) {
                        return self.refuse(error.to_string());
                    }
                    // Whether there is a way back is known when all are read.
                    self.damage = Some(error.to_string());
                } else {
                    let level = if needed { Level::Error } else { Level::Warn };
                    let what = at.checkpoint;
                    let text = format!("checkpoint {what} is given up with its output: {error}");
                    self.note(level, text);
                }
                self.unreadable.insert(at.manifest);
            }
        }
        if matches!(&self.stage, Stage::Loading(outstanding) if outstanding.is_empty()) {
            self.loaded_all();
        }
    }

    /// Reads what lies outside the home, if the user or the head points there.
    fn loaded_all(&mut self) {
        if let Some(damage) = self.damage.take()
            && !self.goes_back(&damage)
        {
            return self.refuse(damage);
        }
        let origin = self.begins_from().and_then(|head| head.origin.clone());
        let path = match (&self.from(), origin) {
            (RestoreChoice::Path(path), _) => Some(path.clone()),
            (RestoreChoice::Latest, Some(origin)) => Some(origin.path),
            _ => None,
        };
        match path {
            _ if self.take_over.is_some() => self.decide(),
            Some(path) if self.external.is_none() => {
                self.stage = Stage::Pointing;
                self.out.push(Effect::ReadRestore { path });
            }
            _ => self.decide(),
        }
    }

    pub(super) fn restore_read(&mut self, _path: &str, result: Result<FoundManifest, String>) {
        if !matches!(self.stage, Stage::Pointing) {
            return;
        }
        match result {
            Ok(found) => {
                let origin = self.begins_from().and_then(|head| head.origin.as_ref());
                let by_head = self.from() == RestoreChoice::Latest;
                if let Some(origin) = origin.filter(|o| by_head && o.sha256 != found.sha256) {
                    let why = format!("{} has changed since the job began from it", origin.path);
                    return self.refuse(why);
                }
                self.external = Some(found);
                self.decide();
            }
            Err(error) => self.refuse(error),
        }
    }

    /// Everything is read: refuse, end, or claim.
    fn decide(&mut self) {
        if self.take_over.is_some() {
            return self.decide_take_over();
        }
        if self.config.begun && self.head.is_none() && self.config.desired != Desired::Deleted {
            return self.end(Outcome::StateMissing(Refusal::Missing.to_string()));
        }
        if self.config.outdated && self.head.is_none() && self.config.desired != Desired::Deleted {
            let why = "the configuration that this process found is for processes of another \
                       revision: it waits for its own";
            return self.await_turn(why.to_owned());
        }
        let phase = self.head.as_ref().map(|head| head.phase);
        let resumes = self.from() == RestoreChoice::Latest;
        match phase {
            Some(Phase::Deleted) if self.config.desired == Desired::Deleted => {
                return self.empty_home();
            }
            _ if self.config.desired == Desired::Deleted => {
                self.stage = Stage::Waiting(self.now);
                return;
            }
            Some(Phase::Finished) if resumes => return self.rest(Outcome::FinishedBefore),
            Some(Phase::Moved) => return self.refuse(Refusal::Gone("moved").to_string()),
            Some(Phase::Deleted) => return self.refuse(Refusal::Gone("deleted").to_string()),
            Some(Phase::Suspended | Phase::Failed | Phase::Finished) | None
                if self.config.desired == Desired::Suspended =>
            {
                return self.rest(Outcome::Suspended);
            }
            Some(Phase::Suspended | Phase::Failed) if !self.is_local() && !self.is_edited() => {
                let cause = self.head.as_ref().and_then(|head| head.cause.clone());
                return self.rest(match phase {
                    Some(Phase::Failed) => Outcome::Failed(cause.unwrap_or_default()),
                    _ => Outcome::Suspended,
                });
            }
            _ => {}
        }
        match self.check() {
            Ok(abandon) => {
                self.abandon = abandon;
                self.stage = Stage::Waiting(self.now);
            }
            Err(refusal) => self.refuse(refusal.to_string()),
        }
    }

    /// Checks what will be committed and restored. Answers where to go instead
    /// of `latest`.
    fn check(&self) -> Result<Option<Abandon>, Refusal> {
        let head = self.begins_from();
        let latest = head.and_then(|head| head.latest.as_ref());
        let latest_manifest = latest.and_then(|at| self.manifests.get(&at.manifest));
        if let (Some(at), Some(manifest)) = (latest, latest_manifest)
            && at.pending > 0
        {
            preflight::check_pending(&self.config, manifest)?;
        }
        let from = self.from();
        match &from {
            RestoreChoice::Latest => {
                // To where it goes back the program was compared with that already.
                let origin = self.external.as_ref().map(|found| &found.manifest);
                let origin = origin.filter(|_| latest.is_none());
                match latest_manifest.or(origin) {
                    Some(base) => preflight::check_base(&self.config, base).map(|()| None),
                    None => Ok(None),
                }
            }
            // Of a numbered wish it is recorded that it was obeyed.
            RestoreChoice::None => Ok((head.is_some() || !self.is_local()).then(Abandon::default)),
            RestoreChoice::Path(path) => match &self.external {
                Some(found) => self.abandon_for(path, found).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Where a start from what was found at `path` goes.
    pub(super) fn abandon_for(
        &self,
        path: &str,
        found: &FoundManifest,
    ) -> Result<Abandon, Refusal> {
        let head = self.head.as_ref();
        preflight::check_base(&self.config, &found.manifest)?;
        match preflight::pointed(self.job(), head, &found.manifest)? {
            Pointed::Own(at) => {
                preflight::check_pending(&self.config, &found.manifest)?;
                let latest = head.and_then(|head| head.checkpoints().nth(at)).cloned();
                Ok(Abandon { latest, origin: None })
            }
            Pointed::Savepoint => {
                let (path, sha256) = (path.to_owned(), found.sha256.clone());
                Ok(Abandon { latest: None, origin: Some(Origin { path, sha256 }) })
            }
        }
    }

    /// What the job goes on from: its head or, before it has one, what it took over.
    fn begins_from(&self) -> Option<&HeadRecord> {
        self.head.as_ref().or(self.seed.as_ref())
    }

    /// Appends a claim of the next attempt. Every job-wide restart is one.
    pub(super) fn claim(&mut self) {
        if self.take_over.is_none() {
            self.adopt_for_claim();
        }
        let mut record = self.next_record();
        if self.head.is_some() {
            self.gap_of_another(record.phase);
        }
        record.attempt = Attempt(record.attempt.0 + 1);
        if self.take_over.is_none() {
            record.config = self.config.config.clone();
        }
        record.restart = self.budget_to_claim(record.attempt);
        self.drop_unreadable(&mut record);
        let goes_on = self.config.desired == Desired::Running;
        record.phase = match record.phase {
            Phase::Stopping(Ending::Finished) if self.abandon.is_none() => record.phase,
            _ if self.config.desired == Desired::Deleted => Phase::Stopping(Ending::Suspended),
            Phase::Stopping(_) | Phase::Running if !goes_on => Phase::Stopping(Ending::Suspended),
            _ => Phase::Running,
        };
        self.stage = Stage::Claiming;
        #[cfg(test)]
        if self.mutated(super::state::Mutation::AbortBeforeClaim) {
            let keep = self.base_manifest().map(|m| m.pending.clone()).unwrap_or_default();
            self.abort_others(record.attempt, &keep);
        }
        self.append(super::state::For::Claim, record);
    }

    /// A copy of the head at the next version, this process's.
    pub(super) fn next_record(&mut self) -> HeadRecord {
        let nonce = self.nonce();
        let owner = self.config.owner.clone();
        let seed = self.seed.as_ref();
        match &self.head {
            Some(head) => HeadRecord {
                format: HEAD_FORMAT,
                version: head.version.next(),
                nonce,
                owner,
                cause: None,
                last_checkpoint: head.last_checkpoint.max(self.last_checkpoint),
                ..head.clone()
            },
            None => HeadRecord {
                format: HEAD_FORMAT,
                version: Version(1),
                nonce,
                job: self.job().clone(),
                attempt: Attempt(0),
                owner,
                phase: Phase::Running,
                cause: None,
                config: self.config.config.clone(),
                latest: seed.and_then(|seed| seed.latest.clone()),
                origin: seed.and_then(|seed| seed.origin.clone()),
                last_checkpoint: seed.map_or(CheckpointId(0), |seed| seed.last_checkpoint),
                retained: seed.map(|seed| seed.retained.clone()).unwrap_or_default(),
                pins: seed.map(|seed| seed.pins.clone()).unwrap_or_default(),
                restart: RestartBudget::default(),
                restore_nonce: 0,
            },
        }
    }

    /// What was read may be old: another process may have appended since.
    pub(super) fn reread(&mut self) {
        self.note(Level::Info, "reading the chain again");
        self.head = None;
        let pause = REREAD_AFTER.mul_f64(0.5 + self.random.f64());
        self.stage = Stage::Rereading(self.now + pause);
    }
}
