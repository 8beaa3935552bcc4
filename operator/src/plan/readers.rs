//! Who still reads a savepoint that is to go: a job copies what it needs of it before its own
//! first checkpoint, so that its files are wanted until then.

use crate::observed::{Job, Millis, SavepointObject};
use millrace_crds::streamjob::StreamJobStatus;

/// A job that has run for so long is done with what it started from.
const LONGEST_MS: Millis = 600_000;

/// Whether a job is being restored from a savepoint of this namespace, or is to be.
pub fn reads(job: &Job, namespace: &str, object: &SavepointObject, now: Millis) -> bool {
    let Some(from) = job.spec.restore_from.as_ref().filter(|_| job.deleting.is_none()) else {
        return false;
    };
    let by_name = from
        .savepoint_ref
        .as_ref()
        .is_some_and(|named| named.name == object.name && job.id.namespace == namespace);
    let plain = |path: &str| path.trim_end_matches('/').to_owned();
    let path = object.status.path.as_deref().map(plain);
    let by_path = path.is_some() && from.path.as_deref().map(plain) == path;
    if !by_name && !by_path {
        return false;
    }
    // That it was told to is written down before it has read anything.
    job.status.restore_nonce.is_none_or(|done| done < from.nonce) || begins(&job.status, now)
}

/// It has not completed a checkpoint of the attempt that runs, as far as its status tells.
fn begins(status: &StreamJobStatus, now: Millis) -> bool {
    if matches!(status.state.as_deref(), Some("Suspended" | "Finished" | "Failed" | "Deleting")) {
        return false;
    }
    let runs = status.conditions.iter().find(|c| c.type_ == "Available" && c.status == "True");
    let Some(since) = runs.map(|runs| runs.last_transition_time.0.as_millisecond()) else {
        return true;
    };
    let last = status.last_checkpoint.as_ref().and_then(|last| last.completed_at.as_ref());
    now - since < LONGEST_MS && last.is_none_or(|last| last.0.as_millisecond() < since)
}
