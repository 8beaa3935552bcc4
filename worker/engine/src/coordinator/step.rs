//! The coordinator's state, and which part of it answers which event.

use super::calls::{Call, Calls};
use super::chain::{Chain, Next, Truncate};
use super::checkpoint::{InProgress, Wanted};
use super::commits::Commits;
use super::config::Config;
use super::effect::{CheckpointReport, Effect, Level, Note, Outcome, StoreCall};
use super::event::{Event, Failure, FoundManifest, StoreAnswer, Ticket};
use super::incarnations::TakeOver;
use super::restart::Restarts;
#[cfg(test)]
use super::state::Mutation;
use super::state::{
    Abandon, After, Appending, Purpose, Restoring, Run, Running, Stage, StopRequest, Tasks,
};
use super::status::{Gap, SavepointStatus};
use super::workers::{Proposal, WorkerId, Workers};
use millrace_protocol::head::{ConfigRef, HeadRecord, Version};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid};
use millrace_protocol::manifest::Manifest;
use millrace_protocol::objects::ObjectKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Coordinates one job in one process.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) config: Config,
    pub(super) random: fastrand::Rng,
    pub(super) now: Duration,
    pub(super) out: Vec<Effect>,
    pub(super) calls: Calls<Purpose>,
    pub(super) stage: Stage,
    pub(super) chain: Option<Chain>,
    /// The last entry won or, before the first claim is, the last one read.
    pub(super) head: Option<HeadRecord>,
    /// Whether `head` is this coordinator's own.
    pub(super) won: bool,
    /// The manifests that `head` names.
    pub(super) manifests: BTreeMap<ObjectKey, Arc<Manifest>>,
    /// What `head` keeps alive.
    pub(super) reach: BTreeSet<ObjectKey>,
    /// Checkpoints of the head that cannot be read, or not restored from.
    pub(super) unreadable: BTreeSet<ObjectKey>,
    /// Why the head's `latest` is one of them.
    pub(super) damage: Option<String>,
    /// The head version at which something was missing: if it is still the
    /// newest when read again, it is missing indeed.
    pub(super) suspect: Option<Version>,
    pub(super) external: Option<FoundManifest>,
    pub(super) abandon: Option<Abandon>,
    pub(super) append: Option<Appending>,
    pub(super) commits: Commits,
    pub(super) checkpoint: Option<InProgress>,
    pub(super) last_checkpoint: CheckpointId,
    pub(super) run: Run,
    pub(super) tasks: Tasks,
    /// Whose leftovers-removal is under way. The next attempt does not begin
    /// before it has ended: it must not meet that attempt's staged output.
    pub(super) aborting: Option<Attempt>,
    pub(super) restarts: Restarts,
    /// Why there will be no other attempt, once the claim is won.
    pub(super) doomed: Option<String>,
    pub(super) stop: Option<StopRequest>,
    pub(super) savepoints: Vec<Wanted>,
    /// Savepoints that are wanted and may be there already.
    pub(super) sought: Vec<Wanted>,
    /// Savepoints being exported, and where to.
    pub(super) exporting: BTreeMap<String, String>,
    /// Exports that ended and are to be unpinned.
    pub(super) exported: Vec<(String, Result<String, String>)>,
    pub(super) truncating: Option<Truncate>,
    /// The lowest block that may still hold versions.
    pub(super) lowest_block: u64,
    pub(super) watching: bool,
    pub(super) watch_at: Duration,
    pub(super) sweep_at: Duration,
    /// Processes that are connected.
    pub(super) workers: Workers,
    /// By slot: where the tasks are.
    pub(super) placement: Vec<WorkerId>,
    /// What the tasks were started with.
    pub(super) running: Option<Running>,
    /// What the job should be and is not yet.
    pub(super) proposal: Option<Box<Proposal>>,
    pub(super) restoring: Restoring,
    /// The last proposal that was found to be impossible, and why.
    pub(super) invalid: Option<(ConfigRef, String)>,
    /// Whether `config` counts although a higher generation was accepted.
    pub(super) overrides: bool,
    /// Hashes of the bodies that are stored, or being stored.
    pub(super) stored: BTreeSet<String>,
    pub(super) storing: BTreeSet<String>,
    /// No tasks until then, unless it is moved on or released.
    pub(super) hold: Option<Duration>,
    /// Whether a checkpoint is wanted at once.
    pub(super) checkpoint_wanted: bool,
    /// Whether another process owned the job when this one looked last.
    pub(super) parked: bool,
    /// When the last entry was won.
    pub(super) appended_at: Duration,
    pub(super) incarnation: u64,
    /// Whose home is being taken over.
    pub(super) take_over: Option<TakeOver>,
    /// Whose checkpoint the job begins from, while its own chain has no entry.
    pub(super) origin: Option<JobUid>,
    /// Whether that one's chain is being read.
    pub(super) seeding: bool,
    /// That one's last entry.
    pub(super) seed: Option<HeadRecord>,
    /// Whether this process has deployed an attempt.
    pub(super) deployed: bool,
    pub(super) gap: Option<Gap>,
    pub(super) last_report: Option<CheckpointReport>,
    pub(super) savepoint_status: BTreeMap<String, SavepointStatus>,
    /// Of these, those that are complete or failed, in that order.
    pub(super) ended_savepoints: VecDeque<String>,
    timer: Option<Duration>,
    #[cfg(test)]
    pub(crate) mutation: Option<Mutation>,
}

impl Coordinator {
    /// A coordinator that waits for [`Event::Start`].
    pub fn new(config: Config) -> Self {
        let random = fastrand::Rng::with_seed(config.seed.0);
        let restarts = Restarts::new(config.restart.clone());
        Self {
            config,
            random,
            now: Duration::ZERO,
            out: Vec::new(),
            calls: Calls::new(),
            stage: Stage::New,
            chain: None,
            head: None,
            won: false,
            manifests: BTreeMap::new(),
            reach: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            damage: None,
            suspect: None,
            external: None,
            abandon: None,
            append: None,
            commits: Commits::default(),
            checkpoint: None,
            last_checkpoint: CheckpointId(0),
            run: Run::default(),
            tasks: Tasks::None,
            aborting: None,
            restarts,
            doomed: None,
            stop: None,
            savepoints: Vec::new(),
            sought: Vec::new(),
            exporting: BTreeMap::new(),
            exported: Vec::new(),
            truncating: None,
            lowest_block: 0,
            watching: false,
            watch_at: Duration::ZERO,
            sweep_at: Duration::ZERO,
            workers: Workers::default(),
            placement: Vec::new(),
            running: None,
            proposal: None,
            restoring: Restoring::No,
            invalid: None,
            overrides: false,
            stored: BTreeSet::new(),
            storing: BTreeSet::new(),
            hold: None,
            checkpoint_wanted: false,
            parked: false,
            appended_at: Duration::ZERO,
            incarnation: 0,
            take_over: None,
            origin: None,
            seeding: false,
            seed: None,
            deployed: false,
            gap: None,
            last_report: None,
            savepoint_status: BTreeMap::new(),
            ended_savepoints: VecDeque::new(),
            timer: None,
            #[cfg(test)]
            mutation: None,
        }
    }

    /// Takes an event at a moment (monotonic, from any zero, never backwards)
    /// and answers with what is to be done, in order.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        self.now = self.now.max(now);
        if !matches!(self.stage, Stage::Ended(_)) {
            self.take(event);
            while self.advance() {}
            self.housekeeping();
            self.set_timer();
        }
        std::mem::take(&mut self.out)
    }

    /// The job's head record, for status: the last entry won, or the last read.
    pub fn head(&self) -> Option<&HeadRecord> {
        self.head.as_ref()
    }

    /// The attempt, once a claim is won.
    pub fn attempt(&self) -> Option<Attempt> {
        self.head.as_ref().filter(|_| self.won).map(|head| head.attempt)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Start => self.start(),
            Event::StoreAnswered { ticket, answer } => self.store_answered(ticket, answer),
            Event::RestoreRead { path, result } => match self.stage {
                Stage::Pointing => self.restore_read(&path, result),
                _ => self.proposed_restore_read(&path, result),
            },
            Event::WorkerJoined { worker, slots } => {
                if let Some(older) = self.workers.joined(worker, slots) {
                    self.worker_gone(&older, "another process took its place");
                }
            }
            Event::WorkerLost { worker, cause } => {
                if self.workers.lost(&worker) {
                    self.worker_gone(&worker, &cause);
                }
            }
            Event::Propose { proposal } => self.propose(proposal),
            Event::ConfigRead { config, result } => self.config_read(&config, result),
            Event::HoldStop { hold } => self.hold = Some(self.now.saturating_add(hold)),
            Event::ReleaseStop => self.hold = None,
            Event::RequestCheckpoint => self.checkpoint_wanted = true,
            Event::OthersAborted { attempt, result } => self.others_aborted(attempt, result),
            Event::TasksDeployed { attempt } if self.is_current(attempt) => self.deployed(),
            Event::Acknowledge { attempt, checkpoint, snapshot } if self.is_current(attempt) => {
                self.acknowledged(checkpoint, snapshot);
            }
            Event::Declined { attempt, checkpoint, slot, reason, prepared }
                if self.is_current(attempt) =>
            {
                self.declined(checkpoint, slot, &reason, prepared);
            }
            Event::TaskFailed { attempt, failure } if self.is_current(attempt) => {
                self.fail_attempt(&failure);
            }
            Event::TaskRefused { attempt, failure } if self.is_current(attempt) => {
                self.refuse_attempt(&failure);
            }
            Event::BaseDamaged { attempt, failure } if self.is_current(attempt) => {
                self.base_damaged(&failure);
            }
            Event::InputEnded { attempt } if self.is_current(attempt) => {
                self.run.input_ended = true;
            }
            Event::CommitEnded { batch, outcomes } => {
                if let Some(end) = self.commits.ended(batch, outcomes, self.now) {
                    self.committed(end);
                }
            }
            Event::SlotsJoined { attempt } => {
                if self.tasks == Tasks::Cancelled(attempt) {
                    self.tasks_gone();
                    self.tasks = Tasks::None;
                }
            }
            Event::RequestSavepoint { id, target } => {
                self.want_savepoint(Wanted { id, target, listed: false });
            }
            Event::WantSavepoints { wanted } => self.want_savepoints(wanted),
            Event::SavepointFound { id, result } => self.savepoint_found(&id, result),
            Event::SavepointExported { id, result } => {
                if let Some(target) = self.exporting.remove(&id) {
                    self.savepoint_exported(id, &target, result);
                }
            }
            Event::RequestStop { mode } => {
                if !matches!(self.stage, Stage::Idle(_)) {
                    self.stop = self.stop.or(Some(StopRequest::Checkpoint(mode)));
                }
            }
            Event::Cancel => {
                if !matches!(self.stage, Stage::Idle(_)) {
                    self.stop = Some(StopRequest::Now);
                }
            }
            // Set it again if it came too early.
            Event::Tick => self.timer = None,
            Event::TasksDeployed { .. }
            | Event::Acknowledge { .. }
            | Event::Declined { .. }
            | Event::TaskFailed { .. }
            | Event::TaskRefused { .. }
            | Event::BaseDamaged { .. }
            | Event::InputEnded { .. } => {}
        }
    }

    /// Whether `attempt` is the one that this coordinator runs.
    fn is_current(&self, attempt: Attempt) -> bool {
        self.attempt() == Some(attempt) && !matches!(self.tasks, Tasks::Cancelled(_))
    }

    fn store_answered(&mut self, ticket: Ticket, answer: StoreAnswer) {
        let Some(call) = self.calls.answered(ticket) else { return };
        if let StoreAnswer::Error(error) = &answer {
            if self.is_hopeless(error) {
                return self.refuse(error.to_string());
            }
            if call.tries == 0 || (call.tries + 1).is_power_of_two() {
                let text = format!("{error}; try {} follows", call.tries + 2);
                self.note(Level::Warn, text);
            }
        }
        match call.purpose {
            Purpose::Home
            | Purpose::Read
            | Purpose::Load(_)
            | Purpose::GetConfig(_)
            | Purpose::Silence(_)
            | Purpose::Incarnate
            | Purpose::Empty => self.read_answered(call, answer),
            Purpose::PutConfig(hash) => {
                self.config_stored(&hash, call.call, call.tries, &answer);
            }
            Purpose::Append => self.append_answered(call, &answer),
            Purpose::PutManifest(attempt, checkpoint) => {
                self.manifest_answered(attempt, checkpoint, call, &answer);
            }
            _ => self.housekeeping_answered(call, answer),
        }
    }

    /// Does what the state allows by itself. Answers whether there was anything.
    fn advance(&mut self) -> bool {
        if self.hold.is_some_and(|until| self.now >= until) {
            self.hold = None;
        }
        self.prepare_configs();
        self.commit_due();
        self.export_due();
        if self.append.is_some() {
            return false;
        }
        match &self.stage {
            Stage::Rereading(until) if self.now >= *until => self.find_home(),
            Stage::Silence(_) => return self.look_for_silence(),
            Stage::Recovering(others) => {
                let others = *others;
                return self.recover(others);
            }
            Stage::Running => return self.run(),
            Stage::Deploying if self.hold.is_some() => {
                self.gap_begins("Rescale");
                self.cancel_tasks();
                self.stage = Stage::Cancelling(After::Rescale);
            }
            Stage::Deploying if self.stops_without_tasks() => {
                self.cancel_tasks();
                self.stage = Stage::Cancelling(After::Stop);
            }
            Stage::Cancelling(after) if self.tasks == Tasks::None => {
                let after = after.clone();
                self.cancelled(after);
            }
            Stage::Waiting(_) | Stage::Held if self.won && self.stops_without_tasks() => {
                self.append_stopping();
            }
            Stage::Waiting(until) if self.now >= *until || self.hold.is_some() => {
                return self.waited();
            }
            Stage::Held if self.hold.is_none() => self.stage = Stage::Waiting(self.now),
            Stage::Idle(_) => return self.idle(),
            Stage::Closing(ending) => {
                let ending = *ending;
                return self.close(ending) || self.append.is_none() && self.keep_alive();
            }
            Stage::Closed(outcome) if self.tasks == Tasks::None => {
                let outcome = outcome.clone();
                self.rest(outcome);
            }
            Stage::New
            | Stage::Finding(_)
            | Stage::Reading(_)
            | Stage::Loading(_)
            | Stage::Pointing
            | Stage::Rereading(_)
                if self.stop.is_some_and(|stop| !stop.drains()) && !self.config.stays =>
            {
                // Nothing was touched. A drain is for what the job has done before.
                self.end(Outcome::Suspended);
            }
            _ => return self.keep_alive(),
        }
        true
    }

    /// Makes a store call for the first time.
    pub(super) fn call(&mut self, purpose: Purpose, call: StoreCall) {
        self.make(Call { purpose, call, tries: 0 });
    }

    pub(super) fn make(&mut self, call: Call<Purpose>) {
        let store_call = call.call.clone();
        let ticket = self.calls.made(call);
        self.out.push(Effect::Store(ticket, store_call));
    }

    /// Makes `call` again after a pause.
    pub(super) fn again(&mut self, purpose: Purpose, call: StoreCall, tries: u32) {
        let call = Call { purpose, call, tries: tries.saturating_add(1) };
        let random = self.random.f64();
        self.calls.wait(call, self.now, random);
    }

    /// Does what a machine wants; gives back its result when it is done.
    pub(super) fn follow<T>(&mut self, purpose: Purpose, tries: u32, next: Next<T>) -> Option<T> {
        match next {
            Next::Call(call) => self.call(purpose, call),
            Next::Again(call) => self.again(purpose, call, tries),
            Next::Done(result) => return Some(result),
        }
        None
    }

    pub(super) fn note(&mut self, level: Level, text: impl Into<String>) {
        let (attempt, checkpoint) = (self.attempt(), self.checkpoint.as_ref().map(|c| c.id));
        self.out.push(Effect::Log(Note { level, attempt, checkpoint, text: text.into() }));
    }

    /// The last effect. Nothing is answered from here on.
    pub(super) fn end(&mut self, outcome: Outcome) {
        self.give_up_savepoints("the job has stopped");
        self.stage = Stage::Ended(outcome.clone());
        self.out.push(Effect::Ended(outcome));
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.end(Outcome::Refused(why));
    }

    fn set_timer(&mut self) {
        if matches!(self.stage, Stage::Ended(_)) {
            return;
        }
        let stage = match self.stage {
            Stage::Rereading(until) => Some(until),
            Stage::Silence(silence) => silence.look_at,
            Stage::Waiting(until) if self.now < until => Some(until),
            Stage::Running => self.run_due(),
            _ => None,
        };
        let due = [
            stage,
            self.hold,
            self.keep_alive_due(),
            self.calls.due(),
            self.commits.due(),
            self.housekeeping_due(),
        ];
        let due = due.into_iter().flatten().min();
        if due != self.timer {
            self.timer = due;
            self.out.extend(due.map(Effect::SetTimer));
        }
    }

    #[cfg(test)]
    pub(super) fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// An attempt's failure that no task is to blame for.
    pub(super) fn fail(&mut self, cause: impl Into<String>) {
        let failure = Failure::of_job(cause.into());
        self.out.push(Effect::Failed { checkpoint: None, failure: failure.clone() });
        self.fail_attempt(&failure);
    }
}
