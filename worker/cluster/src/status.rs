//! How the job is doing, as the control API says it. Pure.

use millrace_engine::coordinator::{
    self, CheckpointReport, JobState, SavepointState, SavepointStatus,
};
use millrace_engine::graph::NodeKind;
use millrace_engine::job;
use millrace_protocol::control as api;
use std::collections::BTreeMap;
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
        bytes: status.bytes,
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
        began_at_ms: gap.asked_at_ms,
        checkpoint_at_ms: gap.base_at_ms.unwrap_or(0),
        first_checkpoint_at_ms: gap.completed_at_ms.unwrap_or(0),
        replayed_ms: gap.replayed.map(millis),
    }
}

fn worker(status: &coordinator::WorkerStatus, addresses: &Addresses) -> api::Worker {
    let coordinator::WorkerId { ordinal, process } = status.worker.clone();
    api::Worker {
        ordinal: u32::from(ordinal),
        process: process.clone(),
        address: addresses.get(&(ordinal, process)).cloned().unwrap_or_default(),
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

/// Where processes listen, by ordinal and nonce.
type Addresses = BTreeMap<(u16, String), String>;

/// What to do, where the message does not say it.
fn remedy(state: &JobState) -> &'static str {
    match state {
        JobState::WaitingForWorkers { .. } => {
            "start the workers that are missing, or propose a lower parallelism"
        }
        JobState::Failed => {
            "mend the cause, then start the job again: it goes on from its latest checkpoint"
        }
        _ => "",
    }
}

/// What is known of a job's processes, apart from its coordinator.
#[derive(Debug, Default)]
pub struct Processes {
    /// The revision that they run.
    pub revision: String,
    /// Why workers could not be held.
    pub troubles: Vec<(u16, String)>,
    /// Where they listen, by ordinal and nonce.
    pub addresses: Addresses,
}

/// All of it.
pub fn of(seen: &coordinator::Status, job: &job::Status, processes: &Processes) -> api::Status {
    let Processes { revision, troubles, addresses } = processes;
    let of_kind = |kind| job.nodes.iter().filter(move |node| node.kind == Some(kind));
    let mut message = seen.message.clone();
    for (ordinal, why) in troubles {
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&format!("worker {ordinal}: {why}"));
    }
    let accepted = seen.accepted.as_ref();
    // Whoever replaced the program of a job that runs waits for its first checkpoint.
    let told = |report: &CheckpointReport| !report.found || seen.state != JobState::Running;
    let checkpoint = seen.last_checkpoint.filter(told).map(|report| api::CheckpointStatus {
        id: report.checkpoint.0,
        completed_at_ms: i64::try_from(report.at_ms).unwrap_or(i64::MAX),
        duration_ms: millis(report.took),
        bytes: report.bytes,
        state_bytes: report.state_bytes,
    });
    api::Status {
        job: seen.job.0.clone(),
        head_version: seen.head_version.map_or(0, |version| version.0),
        attempt: seen.attempt.map_or(0, |attempt| attempt.0),
        state: state(&seen.state).into(),
        reason: seen.reason.to_owned(),
        message,
        remedy: remedy(&seen.state).to_owned(),
        accepted_generation: accepted.map_or(0, |config| config.generation),
        accepted_revision: revision.clone(),
        running_generation: seen.running.unwrap_or(0),
        parallelism: seen.parallelism.map_or(0, u32::from),
        workers_wanted: u32::from(seen.workers_wanted),
        workers: seen.workers.iter().map(|of| worker(of, addresses)).collect(),
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
        restore_points: seen
            .restore_points
            .iter()
            .map(|(checkpoint, manifest)| api::RestorePoint {
                checkpoint: checkpoint.0,
                manifest: manifest.to_string(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_engine::coordinator::{WorkerId, WorkerStatus};
    use millrace_protocol::ids::{Attempt, CheckpointId, JobUid};
    use millrace_protocol::objects::ObjectKey;

    fn seen(state: JobState) -> coordinator::Status {
        let worker = WorkerId { ordinal: 1, process: "p".to_owned() };
        let exported = SavepointStatus {
            state: SavepointState::Complete("/backup/s1".to_owned()),
            at: Some((Attempt(2), CheckpointId(6))),
            bytes: 4321,
        };
        coordinator::Status {
            job: JobUid::from("job"),
            head_version: None,
            attempt: Some(Attempt(3)),
            incarnation: 1,
            state,
            reason: "",
            message: String::new(),
            accepted: None,
            running: None,
            proposed: None,
            parallelism: Some(2),
            workers_wanted: 2,
            workers: vec![WorkerStatus { worker, connected: true, slots: 1, in_use: Vec::new() }],
            placement: Vec::new(),
            triggered: Some(CheckpointId(7)),
            last_checkpoint: Some(CheckpointReport {
                checkpoint: CheckpointId(7),
                found: false,
                at_ms: 1_700_000_000_000,
                took: Duration::from_millis(250),
                bytes: 10,
                entries: 1,
                files: 3,
                state_bytes: 1000,
            }),
            failed_checkpoints: 0,
            restarts: 0,
            savepoints: BTreeMap::from([("s1".to_owned(), exported)]),
            gap: None,
            held: false,
            restore_nonce: 0,
            restore_points: vec![(CheckpointId(7), ObjectKey::parse("job/data/3/m-7").unwrap())],
        }
    }

    #[test]
    fn sizes_addresses_and_remedies_are_said() {
        let processes = Processes {
            revision: "r1".to_owned(),
            troubles: vec![(2, "no answer".to_owned())],
            addresses: BTreeMap::from([((1, "p".to_owned()), "10.0.0.7:7070".to_owned())]),
        };
        // Also where this process has taken no checkpoint yet.
        let said = of(&seen(JobState::Failed), &job::Status::default(), &processes);
        let last = said.last_checkpoint.unwrap();
        assert_eq!((last.id, last.bytes, last.state_bytes), (7, 10, 1000));
        assert_eq!(said.restore_points[0].manifest, "job/data/3/m-7");
        assert_eq!((last.completed_at_ms, last.duration_ms), (1_700_000_000_000, 250));
        let savepoint = &said.savepoints[0];
        assert_eq!((savepoint.bytes, savepoint.attempt, savepoint.checkpoint), (4321, 2, 6));
        assert_eq!(said.workers[0].address, "10.0.0.7:7070");
        assert_eq!(
            (said.message.as_str(), said.accepted_revision.as_str()),
            ("worker 2: no answer", "r1")
        );
        assert!(said.remedy.contains("mend the cause"), "{}", said.remedy);
        let mut running = seen(JobState::Running);
        let said = of(&running, &job::Status::default(), &Processes::default());
        assert_eq!(said.last_checkpoint.unwrap().id, 7);
        assert_eq!((said.remedy.as_str(), said.workers[0].address.as_str()), ("", ""));
        // One that another coordinator took says nothing of how this one is doing.
        running.last_checkpoint.as_mut().unwrap().found = true;
        let told = |seen: &coordinator::Status| {
            of(seen, &job::Status::default(), &Processes::default()).last_checkpoint.map(|c| c.id)
        };
        assert_eq!(told(&running), None);
        running.state = JobState::Suspended;
        assert_eq!(told(&running), Some(7));
    }
}
