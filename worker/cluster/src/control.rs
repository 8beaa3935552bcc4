//! The control API, served by the process that leads the job.
//!
//! Each verb is a look at the coordinator or an event for it; what is waited for is looked
//! for again and again, so that a call which is given up costs nothing.

use crate::links::Links;
use crate::status::{self, Processes};
use millrace_engine::coordinator::{self, Event, JobState, StopMode, Verdict};
use millrace_engine::job::Handle;
use millrace_protocol::config::{Live, Revision};
use millrace_protocol::control as api;
use millrace_protocol::control::control_server;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::{Request, Response, Status};

/// How often an end that is waited for is looked for.
const POLL: Duration = Duration::from_millis(20);

/// How long a call waits for an end before it answers how far things are.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest hold of a stop that may be asked for.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// The service.
#[derive(Clone)]
pub struct Control {
    handle: Handle,
    links: Links,
    /// Hash of the revision that this process was started with; none: it has none.
    revision: Option<String>,
}

impl Control {
    /// Of the job that `handle` steers, by processes started with this revision.
    pub fn new(handle: Handle, links: Links, revision: Option<String>) -> Self {
        Self { handle, links, revision }
    }

    async fn look(&self) -> Result<coordinator::Status, Status> {
        let (answer, status) = oneshot::channel();
        self.handle.look(move |status| drop(answer.send(status)));
        let gone = |_| Status::unavailable("the job has ended in this process");
        status.await.map_err(gone)
    }

    /// Looks until `done` or the patience is over.
    async fn until(
        &self,
        done: impl Fn(&coordinator::Status) -> bool,
    ) -> Result<coordinator::Status, Status> {
        let begun = Instant::now();
        loop {
            let status = self.look().await?;
            if done(&status) || begun.elapsed() > PATIENCE {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }

    fn is_over(status: &coordinator::Status) -> bool {
        matches!(
            status.state,
            JobState::Suspended
                | JobState::Finished
                | JobState::Failed
                | JobState::Superseded
                | JobState::Refused
        )
    }

    fn savepoints(status: &coordinator::Status) -> Vec<api::Savepoint> {
        status.savepoints.iter().map(|(id, savepoint)| status::savepoint(id, savepoint)).collect()
    }
}

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn get_status(
        &self,
        _: Request<api::StatusRequest>,
    ) -> Result<Response<api::Status>, Status> {
        let seen = self.look().await?;
        let processes = Processes {
            revision: self.revision.clone().unwrap_or_default(),
            troubles: self.links.troubles(seen.workers_wanted),
            addresses: self.links.addresses(),
        };
        Ok(Response::new(status::of(&seen, &self.handle.status(), &processes)))
    }

    async fn propose(
        &self,
        request: Request<api::Proposal>,
    ) -> Result<Response<api::ProposalAnswer>, Status> {
        use api::proposal_answer::Verdict as Answer;
        let api::Proposal { live, revision, r#override } = request.into_inner();
        let answer = |verdict: Answer, accepted: u64, message: String| {
            let verdict = verdict.into();
            Ok(Response::new(api::ProposalAnswer {
                verdict,
                accepted_generation: accepted,
                message,
            }))
        };
        let live = match Live::decode("the proposed live part", &live) {
            Ok(live) => live,
            Err(error) => return answer(Answer::Invalid, 0, error.to_string()),
        };
        if !revision.is_empty()
            && let Err(error) = Revision::decode("the proposed revision", &revision)
        {
            return answer(Answer::Invalid, 0, error.to_string());
        }
        let accepted = self.look().await?.accepted.map_or(0, |config| config.generation);
        if self.revision.as_ref().is_some_and(|own| *own != live.revision) {
            let why = format!(
                "these processes run revision {}; {} needs processes of its own",
                self.revision.as_deref().unwrap_or_default(),
                live.revision
            );
            return answer(Answer::OtherRevision, accepted, why);
        }
        let generation = live.generation;
        let (tell, told) = oneshot::channel();
        self.handle.propose(live, r#override, move |verdict| drop(tell.send(verdict)));
        let gone = |_| Status::unavailable("the job has ended in this process");
        match told.await.map_err(gone)? {
            Verdict::Accepted => answer(Answer::Accepted, generation, String::new()),
            Verdict::Pending(why) => answer(Answer::Pending, accepted, why),
            Verdict::Stale(known) => {
                let why = format!("generation {known} was accepted before");
                answer(Answer::Stale, known, why)
            }
            Verdict::Invalid(why) => answer(Answer::Invalid, accepted, why),
        }
    }

    async fn want_savepoints(
        &self,
        request: Request<api::WantedSavepoints>,
    ) -> Result<Response<api::Savepoints>, Status> {
        let wanted = request.into_inner().wanted.into_iter();
        let wanted: Vec<_> =
            wanted.map(|api::WantedSavepoint { id, target }| (id, target)).collect();
        if wanted.iter().any(|(id, target)| id.is_empty() || target.is_empty()) {
            return Err(Status::invalid_argument("a savepoint needs an id and a target"));
        }
        self.handle.event(Event::WantSavepoints { wanted });
        let savepoints = Self::savepoints(&self.look().await?);
        Ok(Response::new(api::Savepoints { savepoints }))
    }

    async fn hold_stop(
        &self,
        request: Request<api::HoldStopRequest>,
    ) -> Result<Response<api::HoldStopAnswer>, Status> {
        let hold = Duration::from_millis(request.into_inner().hold_ms).min(LONGEST_HOLD);
        self.handle.event(Event::HoldStop { hold });
        let seen = self.look().await?;
        let checkpoint = seen.last_checkpoint.map_or(0, |report| report.checkpoint.0);
        let message = if seen.held { String::new() } else { status::words(&seen) };
        Ok(Response::new(api::HoldStopAnswer { held: seen.held, checkpoint, message }))
    }

    async fn release_stop(
        &self,
        _: Request<api::ReleaseStopRequest>,
    ) -> Result<Response<api::ReleaseStopAnswer>, Status> {
        self.handle.event(Event::ReleaseStop);
        Ok(Response::new(api::ReleaseStopAnswer {}))
    }

    async fn stop(
        &self,
        request: Request<api::StopRequest>,
    ) -> Result<Response<api::StopAnswer>, Status> {
        let drain = request.into_inner().drain;
        tracing::info!(drain, "told to stop over the control API");
        self.handle.stop(if drain { StopMode::Drain } else { StopMode::Suspend });
        let seen = self.until(Self::is_over).await?;
        Ok(Response::new(api::StopAnswer { state: status::state(&seen.state).into() }))
    }

    async fn cancel(
        &self,
        _: Request<api::CancelRequest>,
    ) -> Result<Response<api::CancelAnswer>, Status> {
        tracing::info!("told to cancel over the control API");
        self.handle.cancel();
        let seen = self.until(Self::is_over).await?;
        Ok(Response::new(api::CancelAnswer { state: status::state(&seen.state).into() }))
    }

    async fn checkpoint(
        &self,
        _: Request<api::CheckpointRequest>,
    ) -> Result<Response<api::CheckpointAnswer>, Status> {
        // One whose barrier is under way already may lack what the caller has done since.
        let known = |status: &coordinator::Status| status.triggered.is_some();
        let seen = self.until(|status| known(status) || Self::is_over(status)).await?;
        let before = seen.triggered;
        self.handle.event(Event::RequestCheckpoint);
        let newer = |status: &coordinator::Status| {
            let complete = status.last_checkpoint.map(|report| report.checkpoint);
            complete.filter(|complete| before.is_some_and(|before| *complete > before))
        };
        let seen = self.until(|status| newer(status).is_some() || Self::is_over(status)).await?;
        if let Some(checkpoint) = newer(&seen) {
            return Ok(Response::new(api::CheckpointAnswer { checkpoint: checkpoint.0 }));
        }
        let why = format!("no checkpoint was completed: {}", status::words(&seen));
        Err(Status::unavailable(why))
    }
}
