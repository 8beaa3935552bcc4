//! What a coordinator shows of itself.

use super::effect::{CheckpointReport, Outcome};
use super::state::{After, Others, Stage};
use super::step::Coordinator;
use super::workers::WorkerId;
use millrace_protocol::head::{ConfigRef, Owner, Version};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid, Slot};
use millrace_protocol::objects::ObjectKey;
use std::collections::BTreeMap;
use std::time::Duration;

/// So many savepoints are shown that have ended, the newest; whoever asked has looked by then.
const SHOWN: usize = 100;

/// What the job is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Reads what there is, claims, recovers.
    Starting,
    /// There are too few slots on the ordinals that may be used.
    WaitingForWorkers {
        /// Slots that are there.
        there: u32,
        /// Slots that are needed.
        needed: u32,
    },
    /// All tasks run.
    Running,
    /// Stopping tasks, or waiting, before another attempt.
    Restarting,
    /// Coming to its end.
    Stopping,
    /// Stopped by [`super::Event::HoldStop`]: everything is committed, there are no tasks.
    Held,
    /// Stopped; the end is recorded.
    Suspended,
    /// Finished; the end is recorded.
    Finished,
    /// Gave up under its restart policy; the end is recorded.
    Failed,
    /// Another job owns the home.
    Superseded,
    /// Another process owns the job.
    Parked(Option<Owner>),
    /// The user must change something.
    Refused,
}

/// How far a savepoint has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SavepointState {
    /// It is wanted.
    Waiting,
    /// Its checkpoint is being taken.
    Triggered,
    /// Its checkpoint is complete and pinned.
    Exporting,
    /// It is there.
    Complete(String),
    /// It cannot be had.
    Failed(String),
}

impl SavepointState {
    fn has_ended(&self) -> bool {
        matches!(self, Self::Complete(_) | Self::Failed(_))
    }
}

/// A savepoint that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavepointStatus {
    /// How far it has come.
    pub state: SavepointState,
    /// The checkpoint that it is made of, once that is complete.
    pub at: Option<(Attempt, CheckpointId)>,
    /// Bytes that it takes where it was exported to, once it is there.
    pub bytes: u64,
}

/// A process and its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// The process.
    pub worker: WorkerId,
    /// Whether it is connected.
    pub connected: bool,
    /// Slots that it offers.
    pub slots: u16,
    /// Those that the attempt uses.
    pub in_use: Vec<Slot>,
}

/// Where time went between one attempt and the next: moments of the coordinator's clock, and
/// of wall clocks, for the attempt before may have been another process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// `Restart`, `Rescale`, `Resume`; `Takeover`: of a job that another process ran, so that
    /// nobody knows when that attempt ended.
    pub cause: &'static str,
    /// A stop was asked for, the attempt failed, or another process's job was claimed.
    pub asked: Duration,
    /// The same by the wall clock, milliseconds since 1970.
    pub asked_at_ms: u64,
    /// Its tasks were gone.
    pub stopped: Option<Duration>,
    /// The next attempt's workers were there, and it was being deployed.
    pub placed: Option<Duration>,
    /// The next attempt's tasks ran.
    pub deployed: Option<Duration>,
    /// When the checkpoint that was gone on from was written, by the wall clock of who took it.
    pub base_at_ms: Option<u64>,
    /// What was read for at most so long before the end is read again; none: not known, for
    /// this process did not see that checkpoint being taken.
    pub replayed: Option<Duration>,
    /// When the first checkpoint afterwards was complete, by the wall clock.
    pub completed_at_ms: Option<u64>,
}

/// What a coordinator shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The job.
    pub job: JobUid,
    /// The head record's version that was won or read last.
    pub head_version: Option<Version>,
    /// That record's attempt.
    pub attempt: Option<Attempt>,
    /// Which life of the job's name this is.
    pub incarnation: u64,
    /// What the job is doing.
    pub state: JobState,
    /// Stable, CamelCase; empty if there is none.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The configuration that was accepted.
    pub accepted: Option<ConfigRef>,
    /// Generation that the running attempt was started with.
    pub running: Option<u64>,
    /// Generation of a proposal that is not accepted yet.
    pub proposed: Option<u64>,
    /// Slots of the running attempt.
    pub parallelism: Option<u16>,
    /// As the accepted configuration says.
    pub workers_wanted: u16,
    /// All processes that are connected, or that the running attempt was placed on.
    pub workers: Vec<WorkerStatus>,
    /// By slot: where the attempt runs; empty if none does.
    pub placement: Vec<WorkerId>,
    /// The highest number of a checkpoint that was triggered; none: that is not read yet.
    pub triggered: Option<CheckpointId>,
    /// The last complete checkpoint.
    pub last_checkpoint: Option<CheckpointReport>,
    /// Checkpoints that failed in a row.
    pub failed_checkpoints: u32,
    /// Restarts after failures, since this program first ran.
    pub restarts: u64,
    /// By id: those that were asked for or found pinned.
    pub savepoints: BTreeMap<String, SavepointStatus>,
    /// The last gap.
    pub gap: Option<Gap>,
    /// Whether the job is stopped by [`super::Event::HoldStop`], and everything is committed.
    pub held: bool,
    /// The restore nonce that was obeyed last.
    pub restore_nonce: u64,
    /// Complete checkpoints that are kept, and their manifests, newest first.
    pub restore_points: Vec<(CheckpointId, ObjectKey)>,
}

impl Coordinator {
    /// What there is to be shown.
    pub fn status(&self) -> Status {
        let head = self.head.as_ref();
        let state = self.job_state();
        let (reason, message) = self.reason(&state);
        let running = self.running.as_ref();
        Status {
            job: self.job().clone(),
            head_version: head.map(|head| head.version),
            attempt: head.map(|head| head.attempt),
            incarnation: self.incarnation,
            held: state == JobState::Held,
            state,
            reason,
            message,
            accepted: head.map(|head| head.config.clone()),
            running: running.map(|running| running.generation),
            proposed: self.proposal.as_ref().map(|proposal| proposal.config.generation),
            parallelism: running.map(|running| running.program.slots()),
            workers_wanted: self.config.workers,
            workers: self.worker_status(),
            placement: self.placement.clone(),
            triggered: head.map(|head| head.last_checkpoint.max(self.last_checkpoint)),
            last_checkpoint: self.last_report,
            failed_checkpoints: self.run.failed_checkpoints,
            restarts: self.restarts.total(),
            savepoints: self.savepoint_status.clone(),
            gap: self.gap.clone(),
            restore_nonce: head.map_or(0, |head| head.restore_nonce),
            restore_points: head
                .into_iter()
                .flat_map(|head| head.latest.iter().chain(&head.retained))
                .map(|at| (at.checkpoint, at.manifest.clone()))
                .collect(),
        }
    }

    fn job_state(&self) -> JobState {
        let parked =
            self.head.as_ref().filter(|_| !self.won && self.parked).map(|h| h.owner.clone());
        match &self.stage {
            Stage::Silence(_) => JobState::Parked(self.head.as_ref().map(|h| h.owner.clone())),
            Stage::New
            | Stage::Finding(_)
            | Stage::Reading(_)
            | Stage::Configuring
            | Stage::Incarnating
            | Stage::Loading(_)
            | Stage::Pointing
            | Stage::Rereading(_) => match parked {
                Some(owner) => JobState::Parked(Some(owner)),
                None => JobState::Starting,
            },
            Stage::Recovering(Others::Aborted) => match self.place() {
                Err(few) => JobState::WaitingForWorkers { there: few.there, needed: few.needed },
                Ok(_) => JobState::Starting,
            },
            Stage::Claiming | Stage::Recovering(_) | Stage::Deploying if !self.deployed => {
                JobState::Starting
            }
            Stage::Waiting(_) if !self.won => JobState::Starting,
            Stage::Claiming | Stage::Recovering(_) | Stage::Deploying => JobState::Restarting,
            Stage::Running => JobState::Running,
            Stage::Held if self.commits.is_idle() => JobState::Held,
            Stage::Cancelling(After::Restart(_) | After::Rescale)
            | Stage::Waiting(_)
            | Stage::Held => JobState::Restarting,
            Stage::Cancelling(After::Fenced) => JobState::Parked(None),
            Stage::Deleting(_) | Stage::Cancelling(_) | Stage::Closing(_) | Stage::Closed(_) => {
                JobState::Stopping
            }
            Stage::Idle(outcome) | Stage::Ended(outcome) => match outcome {
                Outcome::Finished | Outcome::FinishedBefore => JobState::Finished,
                Outcome::Suspended => JobState::Suspended,
                Outcome::Failed(_) => JobState::Failed,
                Outcome::Refused(_) | Outcome::EarlierState(_) | Outcome::StateMissing(_) => {
                    JobState::Refused
                }
                Outcome::Fenced(owner) => JobState::Parked(owner.clone()),
                Outcome::Superseded(_) | Outcome::Deleted => JobState::Superseded,
            },
        }
    }

    fn reason(&self, state: &JobState) -> (&'static str, String) {
        match (state, &self.stage) {
            (JobState::WaitingForWorkers { there, needed }, _) => {
                ("WaitingForWorkers", format!("{there} of {needed} slots are there"))
            }
            (JobState::Parked(Some(owner)), _) => {
                let at = if owner.address.is_empty() { "" } else { " at " };
                ("OwnedByAnother", format!("owned by {}{at}{}", owner.pod, owner.address))
            }
            (JobState::Parked(None), _) => ("OwnedByAnother", "owned by another".to_owned()),
            (_, Stage::Idle(outcome) | Stage::Ended(outcome)) => match outcome {
                Outcome::Failed(why) => ("Failed", why.clone()),
                Outcome::Refused(why) if self.config.outdated => ("Outdated", why.clone()),
                Outcome::Refused(why) => ("Refused", why.clone()),
                Outcome::EarlierState(why) => ("EarlierStateFound", why.clone()),
                Outcome::StateMissing(why) => ("StateMissing", why.clone()),
                Outcome::Superseded(by) => ("TakenOver", by.clone()),
                Outcome::Deleted => ("Deleted", "the job's data is deleted".to_owned()),
                _ => ("", String::new()),
            },
            _ => match &self.proposal {
                Some(proposal) => ("ProposalPending", self.why_pending(proposal)),
                None => ("", String::new()),
            },
        }
    }

    fn worker_status(&self) -> Vec<WorkerStatus> {
        let in_use = |worker: &WorkerId| {
            let slots = (0..).map(Slot).zip(&self.placement);
            slots.filter(|(_, at)| *at == worker).map(|(slot, _)| slot).collect()
        };
        let status = |(worker, slots): (WorkerId, u16)| {
            let in_use = in_use(&worker);
            WorkerStatus { worker, connected: true, slots, in_use }
        };
        let mut workers: Vec<_> = self.workers.iter().map(status).collect();
        for worker in &self.placement {
            if !workers.iter().any(|known| known.worker == *worker) {
                let in_use: Vec<_> = in_use(worker);
                let slots = u16::try_from(in_use.len()).unwrap_or(u16::MAX);
                let worker = worker.clone();
                workers.push(WorkerStatus { worker, connected: false, slots, in_use });
            }
        }
        workers
    }

    pub(super) fn savepoint_is(&mut self, id: &str, state: SavepointState) {
        let known = self.savepoint_status.get(id);
        let (at, bytes) = known.map_or((None, 0), |status| (status.at, status.bytes));
        if state.has_ended() {
            self.ended_savepoints.retain(|ended| ended != id);
            self.ended_savepoints.push_back(id.to_owned());
        }
        self.savepoint_status.insert(id.to_owned(), SavepointStatus { state, at, bytes });
        while self.ended_savepoints.len() > SHOWN {
            let Some(oldest) = self.ended_savepoints.pop_front() else { break };
            // One that failed may have been asked for again.
            if self.savepoint_status.get(&oldest).is_some_and(|of| of.state.has_ended()) {
                self.savepoint_status.remove(&oldest);
            }
        }
    }
}
