//! Names of everything that belongs to a job in a cluster, in one place.

/// The API group.
pub const GROUP: &str = "millrace.dev";
/// The field manager of everything the controller applies.
pub const FIELD_MANAGER: &str = "millrace";
/// Label: uid of the StreamJob.
pub const LABEL_JOB_UID: &str = "millrace.dev/job-uid";
/// Label: name of the StreamJob.
pub const LABEL_JOB: &str = "millrace.dev/job";
/// Label: hash of the revision.
pub const LABEL_REVISION: &str = "millrace.dev/revision";
/// Label: worker, check or store.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Annotation on a revision: version of the controller that rendered it.
pub const ANNOTATION_RENDERED_BY: &str = "millrace.dev/rendered-by";
/// Annotation on a revision: `spec.restartNonce` it was rendered with.
pub const ANNOTATION_NONCE: &str = "millrace.dev/restart-nonce";
/// Annotation on a StatefulSet: newest checkpoint when its template was committed.
pub const ANNOTATION_COMMITTED_AFTER: &str = "millrace.dev/committed-after-checkpoint";
/// Annotation on a StatefulSet: when its template was committed, in milliseconds.
pub const ANNOTATION_COMMITTED_AT: &str = "millrace.dev/committed-at";
/// Label on Savepoints that were made by the clock: uid of their StreamJob.
pub const LABEL_SCHEDULED_FOR: &str = "millrace.dev/scheduled-for";
/// Annotation on a StreamJob: plan and check an upgrade, and stop there.
pub const ANNOTATION_CHECK_ONLY: &str = "millrace.dev/check-only";
/// Annotation on a Savepoint: where it is, also for who restores a backup.
pub const ANNOTATION_PATH: &str = "millrace.dev/savepoint-path";
/// Finalizer of objects whose data goes with them.
pub const FINALIZER: &str = "millrace.dev/data";
/// Component of the pods that run the job.
pub const WORKER: &str = "worker";
/// Component of the pod that tries a new revision.
pub const CHECK: &str = "check";
/// Component of the pod that works on the store of a job that does not run.
pub const STORE: &str = "store";
/// Port of the control API, served by pod 0.
pub const PORT_CONTROL: u16 = 7070;
/// Port of the exchange between workers.
pub const PORT_EXCHANGE: u16 = 7071;
/// Port of metrics and readiness.
pub const PORT_METRICS: u16 = 7072;

/// The StatefulSet, the Service, the Secret, the ServiceAccount and the
/// PodDisruptionBudget of a job.
pub fn main(job: &str) -> String {
    format!("{job}-millrace")
}

/// The Secret with the token of the control API. The controller may create Secrets but
/// not read them, so that a name that is taken must be known to be ours by the name alone.
pub fn token_secret(job: &str, uid: &str) -> String {
    let digits: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("{job}-millrace-{digits}")
}

/// The ConfigMap of a revision.
pub fn revision(job: &str, hash: &str) -> String {
    format!("{job}-millrace-{hash}")
}

/// The ConfigMap of the live part.
pub fn live(job: &str) -> String {
    format!("{job}-millrace-live")
}

/// The pod that tries a revision.
pub fn check_pod(job: &str, hash: &str) -> String {
    format!("{job}-millrace-check-{hash}")
}

/// The pod that works on the store; `what` is short and says for what.
pub fn store_pod(job: &str, what: &str) -> String {
    format!("{job}-millrace-store-{what}")
}

/// A worker's pod.
pub fn worker_pod(job: &str, ordinal: u32) -> String {
    format!("{job}-millrace-{ordinal}")
}

/// The ordinal of a worker's pod.
pub fn ordinal(job: &str, pod: &str) -> Option<u32> {
    pod.strip_prefix(job)?.strip_prefix("-millrace-")?.parse().ok()
}

/// Where the coordinator of a job is asked.
pub fn control_host(job: &str, namespace: &str) -> String {
    format!("{}.{}.{namespace}.svc", worker_pod(job, 0), main(job))
}

/// Selects the worker pods of a job.
pub fn selector(uid: &str) -> String {
    format!("{LABEL_JOB_UID}={uid},{LABEL_COMPONENT}={WORKER}")
}
