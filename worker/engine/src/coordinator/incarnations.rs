//! Lives of a job's name: another's home is taken over, and a job's data is deleted.
//!
//! A take-over claims the other's chain, which fences whoever ran it, commits what its
//! latest checkpoint holds, ends the chain with `Moved`, and only then puts the next
//! incarnation. The new chain begins from the old one's latest checkpoint, whose files
//! stay where they are.

use super::chain::{Chain, Read};
use super::config::{Desired, Existing};
use super::effect::{Level, Outcome, StoreCall};
use super::event::StoreAnswer;
use super::home::{FindHome, Found, INCARNATION_FORMAT};
use super::preflight::{self, Refusal};
use super::state::{For, Purpose, Stage};
use super::step::Coordinator;
use millrace_protocol::head::{HeadRecord, Incarnation, Phase};
use millrace_protocol::ids::JobUid;
use millrace_protocol::objects::{self, Home, ObjectKey};
use std::sync::Arc;

/// Keys per delete call.
const DELETE_AT_ONCE: usize = 500;

/// Another's home on its way to being this job's.
#[derive(Debug, Clone)]
pub(super) struct TakeOver {
    /// Whose it is.
    from: Incarnation,
    /// The incarnation to put.
    next: u64,
}

impl Coordinator {
    fn incarnation_record(&mut self, origin: Option<String>, deleted: bool) -> Incarnation {
        let nonce = self.nonce();
        Incarnation {
            format: INCARNATION_FORMAT,
            job: if deleted { self.job().clone() } else { self.config.fresh_job.clone() },
            cluster: self.config.cluster.clone(),
            origin,
            deleted,
            nonce,
        }
    }

    pub(super) fn find_home(&mut self) {
        (self.take_over, self.chain, self.head, self.won) = (None, None, None, false);
        let fresh = self.incarnation_record(None, false);
        let missing = self.config.begun && self.config.desired != Desired::Deleted;
        match FindHome::begin(&fresh, self.config.existing == Existing::Same, missing) {
            Ok((find, call)) => {
                self.stage = Stage::Finding(find);
                self.call(Purpose::Home, call);
            }
            Err(error) => self.refuse(error.to_string()),
        }
    }

    pub(super) fn found_home(&mut self, found: Found) {
        match found {
            Found::Mine { number, incarnation } => {
                self.incarnation = number;
                self.origin = incarnation.origin.map(JobUid);
                self.go_to(&incarnation.job);
            }
            // To refuse it, it is read all the same: how old it is helps to decide.
            Found::Other { number, incarnation } => {
                let job = incarnation.job.clone();
                if !self.refuses_others() {
                    self.note(Level::Info, format!("taking over from job {job}"));
                }
                self.take_over = Some(TakeOver { from: incarnation, next: number + 1 });
                self.go_to(&job);
            }
            Found::Missing => self.end(Outcome::StateMissing(Refusal::Missing.to_string())),
            Found::Superseded { by } if by.deleted => self.end(Outcome::Deleted),
            Found::Superseded { by } => {
                let place = if by.cluster.is_empty() { "" } else { " in cluster " };
                self.end(Outcome::Superseded(format!("job {}{place}{}", by.job, by.cluster)));
            }
        }
    }

    /// Whether another's state is none that this job may take over.
    fn refuses_others(&self) -> bool {
        matches!(self.config.existing, Existing::Same | Existing::Refuse)
    }

    /// Another's state, as far as it could be read.
    fn refuse_other(&mut self, from: Incarnation) {
        let newest_ms = self.base_manifest().map(|manifest| manifest.created_at_ms);
        let Incarnation { job, cluster, .. } = from;
        let refusal = Refusal::Earlier { job, cluster, newest_ms };
        self.end(Outcome::EarlierState(refusal.to_string()));
    }

    fn go_to(&mut self, job: &JobUid) {
        match self.chain_of(job) {
            Ok(chain) => {
                self.chain = Some(chain);
                self.read_chain();
            }
            Err(error) => self.refuse(error.to_string()),
        }
    }

    fn chain_of(&self, job: &JobUid) -> Result<Chain, objects::BadKey> {
        Ok(Chain {
            home: Home::new(job)?,
            block: self.config.block.max(1),
            #[cfg(test)]
            skip_floor: self.mutated(super::state::Mutation::NoFloorCheck),
        })
    }

    /// There is no entry yet: reads what the job begins from, if it took that over.
    /// Answers whether it does.
    pub(super) fn read_origin(&mut self) -> bool {
        let Some(origin) = self.origin.take() else { return false };
        match self.chain_of(&origin) {
            Ok(chain) => {
                let (read, call) = Read::begin(&chain);
                self.stage = Stage::Reading(Box::new(read));
                self.seeding = true;
                self.call(Purpose::Read, call);
            }
            Err(error) => self.refuse(error.to_string()),
        }
        true
    }

    /// The head of the home that is being taken over was read. Answers whether that is
    /// what this coordinator is at.
    pub(super) fn took_over_head(&mut self, head: Option<&HeadRecord>) -> bool {
        if self.take_over.is_none() {
            return false;
        }
        match head.map(|head| head.phase) {
            None | Some(Phase::Moved | Phase::Deleted) if self.refuses_others() => {
                self.decide_take_over();
            }
            // It never began, or this was done before.
            None | Some(Phase::Moved | Phase::Deleted) => self.put_incarnation(),
            Some(_) => {
                self.head = head.cloned();
                self.load_manifests();
            }
        }
        true
    }

    /// All of the other's state that matters was read.
    pub(super) fn decide_take_over(&mut self) {
        if self.refuses_others()
            && let Some(TakeOver { from, .. }) = self.take_over.take()
        {
            return self.refuse_other(from);
        }
        match self.check_take_over() {
            Ok(()) => self.stage = Stage::Waiting(self.now),
            Err(refusal) => self.refuse(refusal.to_string()),
        }
    }

    /// What the other's latest checkpoint holds was read: can it be committed, and gone
    /// on from?
    fn check_take_over(&self) -> Result<(), Refusal> {
        let Some(manifest) = self.base_manifest() else { return Ok(()) };
        preflight::check_pending(&self.config, manifest)?;
        match self.config.existing {
            Existing::Resume => preflight::check_base(&self.config, manifest),
            _ => Ok(()),
        }
    }

    pub(super) fn append_moved(&mut self) {
        let mut record = self.next_record();
        record.phase = Phase::Moved;
        record.cause = Some(format!("went on as job {}", self.config.fresh_job));
        if let Some(latest) = &mut record.latest {
            latest.pending = 0;
        }
        self.append(For::Moved, record);
    }

    pub(super) fn put_incarnation(&mut self) {
        let Some(TakeOver { from, next }) = self.take_over.clone() else { return };
        let resumes = self.config.existing == Existing::Resume;
        let record = self.incarnation_record(resumes.then_some(from.job.0), false);
        self.won = false;
        self.stage = Stage::Incarnating;
        self.put(Purpose::Incarnate, next, &record);
    }

    fn put(&mut self, purpose: Purpose, number: u64, record: &Incarnation) {
        match serde_json::to_vec(record) {
            Ok(bytes) => {
                let (key, bytes) = (objects::incarnation(number), Arc::from(bytes));
                self.call(purpose, StoreCall::PutIfAbsent { key, bytes });
            }
            Err(error) => self.refuse(error.to_string()),
        }
    }

    pub(super) fn incarnated(&mut self, call: StoreCall, tries: u32, answer: &StoreAnswer) {
        match answer {
            // Whose it is now, this process's too if an answer was lost, is read anew.
            StoreAnswer::Created | StoreAnswer::Exists => self.find_home(),
            _ => self.again(Purpose::Incarnate, call, tries),
        }
    }

    /// The entry that says `Deleted` is won: the data goes, then a tombstone comes.
    pub(super) fn empty_home(&mut self) {
        let Some(chain) = &self.chain else { return };
        let prefix = chain.home.data();
        self.stage = Stage::Deleting(Vec::new());
        self.call(Purpose::Empty, StoreCall::ListUnfinished { prefix });
    }

    fn list_data(&mut self) {
        let Some(chain) = &self.chain else { return };
        let prefix = chain.home.data();
        self.call(Purpose::Empty, StoreCall::List { prefix });
    }

    pub(super) fn emptied(&mut self, call: StoreCall, tries: u32, answer: StoreAnswer) {
        let Stage::Deleting(left) = &mut self.stage else { return };
        match (&call, &answer) {
            (StoreCall::ListUnfinished { .. }, StoreAnswer::Keys(keys)) if !keys.is_empty() => {
                let discard = StoreCall::DiscardUnfinished { keys: keys.clone() };
                return self.call(Purpose::Empty, discard);
            }
            (StoreCall::ListUnfinished { .. }, StoreAnswer::Error(error)) => {
                let why = format!("what was not finished stays in the storage: {error}");
                self.note(Level::Warn, why);
                return self.list_data();
            }
            (StoreCall::ListUnfinished { .. }, _)
            | (StoreCall::DiscardUnfinished { .. }, StoreAnswer::Deleted) => {
                return self.list_data();
            }
            _ => {}
        }
        match answer {
            StoreAnswer::Keys(keys) => *left = keys,
            StoreAnswer::Deleted => {}
            StoreAnswer::Created | StoreAnswer::Exists => return self.rest(Outcome::Deleted),
            _ => return self.again(Purpose::Empty, call, tries),
        }
        let rest = left.split_off(left.len().saturating_sub(DELETE_AT_ONCE));
        let keys: Vec<ObjectKey> = rest;
        if keys.is_empty() {
            let record = self.incarnation_record(None, true);
            return self.put(Purpose::Empty, self.incarnation + 1, &record);
        }
        self.call(Purpose::Empty, StoreCall::Delete { keys });
    }
}
