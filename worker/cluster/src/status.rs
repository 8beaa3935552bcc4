//! How the job is doing, as the control API says it. Pure.

use millrace_engine::coordinator::{self, JobState, SavepointState, SavepointStatus};
use millrace_engine::graph::NodeKind;
use millrace_engine::job;
use millrace_protocol::control as api;
use std::time::Duration;

/// Longest message of a failure, in characters.
const LONGEST: usize = 1000;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the job is doing.
pub fn state(state: &JobState) -> api::State {
    match state {
        JobState::Starting => api::State::Starting,
        JobState::WaitingForWorkers { .. } => api::State::WaitingForWorkers,
        JobState::Running => api::State::Running,
        JobState::Restarting => api::State::Restarting,
        JobState::Stopping => api::State::Stopping,
        JobState::Held => api::State::Held,
        JobState::Suspended => api::State::Suspended,
        JobState::Finished => api::State::Finished,
        JobState::Failed => api::State::Failed,
        JobState::Superseded => api::State::Superseded,
        JobState::Parked(_) => api::State::Parked,
        JobState::Refused => api::State::Refused,
    }
}

/// What the job is doing, for people.
pub fn words(status: &coordinator::Status) -> String {
    if status.message.is_empty() {
        format!("the job is {:?}", state(&status.state)).to_lowercase()
    } else {
        status.message.clone()
    }
}

/// A savepoint that was asked for.
pub fn savepoint(id: &str, status: &SavepointStatus) -> api::Savepoint {
    let (state, path, message) = match &status.state {
        SavepointState::Waiting => (api::SavepointState::Waiting, "", ""),
        SavepointState::Triggered => (api::SavepointState::Triggered, "", ""),
        SavepointState::Exporting => (api::SavepointState::Exporting, "", ""),
        SavepointState::Complete(path) => (api::SavepointState::Complete, path.as_str(), ""),
        SavepointState::Failed(why) => (api::SavepointState::SavepointFailed, "", why.as_str()),
    };
    api::Savepoint {
        id: id.to_owned(),
        path: path.to_owned(),
        state: state.into(),
        message: message.to_owned(),
        bytes: 0,
        attempt: status.at.map_or(0, |(attempt, _)| attempt.0),
        checkpoint: status.at.map_or(0, |(_, checkpoint)| checkpoint.0),
    }
}

fn gap(gap: &coordinator::Gap) -> api::Gap {
    let between = |from: Option<Duration>, to: Option<Duration>| match (from, to) {
        (Some(from), Some(to)) => millis(to.saturating_sub(from)),
        _ => 0,
    };
    api::Gap {
        cause: gap.cause.to_owned(),
        total_ms: between(Some(gap.asked), gap.deployed),
        stop_ms: between(Some(gap.asked), gap.stopped),
        workers_ms: between(gap.stopped, gap.placed),
        restore_ms: between(gap.placed, gap.deployed),
    }
}

fn worker(status: &coordinator::WorkerStatus) -> api::Worker {
    api::Worker {
        ordinal: u32::from(status.worker.ordinal),
        process: status.worker.process.clone(),
        address: String::new(),
        connected: status.connected,
        slots: u32::from(status.slots),
        slots_in_use: status.in_use.iter().map(|slot| u32::from(slot.0)).collect(),
    }
}

fn failure(note: &job::FailureNote) -> api::Failure {
    api::Failure {
        at_ms: note.at_ms,
        attempt: note.attempt.map_or(0, |attempt| attempt.0),
        worker: note.worker.map_or(String::new(), |worker| worker.to_string()),
        operator: note.operator.clone().unwrap_or_default(),
        message: note.message.chars().take(LONGEST).collect(),
    }
}

/// All of it. `troubles`: why workers could not be held.
pub fn of(
    seen: &coordinator::Status,
    job: &job::Status,
    revision: &str,
    troubles: &[(u16, String)],
) -> api::Status {
    let of_kind = |kind| job.nodes.iter().filter(move |node| node.kind == Some(kind));
    let mut message = seen.message.clone();
    for (ordinal, why) in troubles {
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&format!("worker {ordinal}: {why}"));
    }
    let accepted = seen.accepted.as_ref();
    let checkpoint = job.checkpoint.as_ref().map(|(report, at)| api::CheckpointStatus {
        id: report.checkpoint.0,
        completed_at_ms: job.at_ms - i64::try_from(at.elapsed().as_millis()).unwrap_or(0),
        duration_ms: millis(report.took),
        bytes: report.bytes,
        state_bytes: 0,
    });
    api::Status {
        job: seen.job.0.clone(),
        head_version: seen.head_version.map_or(0, |version| version.0),
        attempt: seen.attempt.map_or(0, |attempt| attempt.0),
        state: state(&seen.state).into(),
        reason: seen.reason.to_owned(),
        message,
        remedy: String::new(),
        accepted_generation: accepted.map_or(0, |config| config.generation),
        accepted_revision: revision.to_owned(),
        running_generation: seen.running.unwrap_or(0),
        parallelism: seen.parallelism.map_or(0, u32::from),
        workers_wanted: u32::from(seen.workers_wanted),
        workers: seen.workers.iter().map(worker).collect(),
        last_checkpoint: checkpoint,
        failed_checkpoints: u64::from(seen.failed_checkpoints),
        restarts: seen.restarts,
        failures: job.failures.iter().map(failure).collect(),
        savepoints: seen.savepoints.iter().map(|(id, of)| savepoint(id, of)).collect(),
        incarnation: seen.incarnation,
        restore_nonce: seen.restore_nonce,
        last_gap: seen.gap.as_ref().map(gap),
        records_in: of_kind(NodeKind::Source).map(|node| node.rows_out).sum(),
        records_out: of_kind(NodeKind::Sink).map(|node| node.rows_in).sum(),
        watermark_ms: of_kind(NodeKind::Sink)
            .filter_map(|node| node.watermark)
            .min()
            .unwrap_or(i64::MIN),
        state_bytes: job.nodes.iter().map(|node| node.state_bytes).sum(),
    }
}
