//! Savepoints whose job is not there, and registered ones, which have none.

use super::Event;
use super::savepoints::{condition, stalled, timeout};
use crate::observed::{Millis, SavepointObject};
use crate::plan::status::time;
use crate::reasons::Reason;
use millrace_crds::savepoint::SavepointStatus;
use millrace_crds::streamjob::DeletionPolicy;

/// What to do about a savepoint without a job.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// To write if it differs from what is stored.
    pub status: SavepointStatus,
    /// Put our finalizer on, or take it off.
    pub finalizer: Option<bool>,
    /// For people.
    pub event: Option<Event>,
    /// Look again after this many milliseconds; none: when it changes.
    pub requeue_ms: Option<u64>,
}

/// Decides.
pub fn orphan(object: &SavepointObject, now: Millis) -> Orphan {
    let mut status = object.status.clone();
    let mut requeue_ms = None;
    status.observed_generation = Some(object.generation);
    status.id = Some(object.uid.clone());
    if let Some(existing) = &object.spec.existing {
        status.path = Some(existing.path.clone());
        if status.conditions.is_empty() {
            condition(&mut status, object.generation, now, false, Reason::Registered, "");
        }
    } else if status.completed_at.is_none() && !stalled(&status) {
        let over = object.created.saturating_add(timeout(object));
        if let Some(path) = &object.annotated_path {
            status.path = Some(path.clone());
            status.completed_at = Some(time(object.created));
            condition(&mut status, object.generation, now, true, Reason::Adopted, "");
        } else if now > over {
            condition(&mut status, object.generation, now, false, Reason::TimedOut, "");
        } else {
            condition(&mut status, object.generation, now, false, Reason::JobNotFound, "");
            requeue_ms = u64::try_from(over - now).ok().map(|left| left + 1_000);
        }
    }
    let deletes = object.spec.deletion_policy == DeletionPolicy::Delete;
    // While it is there: so that its end can be seen, and what is left be told of.
    let wanted = deletes && object.deleting.is_none();
    let finalizer = (wanted != object.finalizer && (object.deleting.is_none() || object.finalizer))
        .then_some(wanted);
    let left = object.deleting.is_some() && object.finalizer && deletes;
    let there = status.completed_at.is_some() || object.spec.existing.is_some();
    let path = status.path.clone().filter(|_| left && there);
    let event = path.map(|path| Event {
        warning: true,
        reason: Reason::DataLeftBehind.name(),
        message: Reason::DataLeftBehind.tell(&format!(
            "Data is left at {path}: no job is left whose program and credentials could delete it."
        )),
        standing: None,
    });
    Orphan { status, finalizer, event, requeue_ms }
}
