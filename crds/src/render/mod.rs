//! What Kubernetes runs for a job: its children, as JSON.
//!
//! # What a program in a pod may rely on
//! The entrypoint of the image gets these arguments:
//! - in a worker (container `worker`): `worker --index N --config FILE --live FILE`. N is
//!   the pod's ordinal; the files are [`REVISION_FILE`] and [`LIVE_FILE`]. The second one
//!   changes in place (the kubelet takes up to a minute; changes are also pushed).
//! - in a check pod: `check --config FILE --live FILE`: build the dataflow, probe the
//!   store, compare with the newest checkpoint, start nothing. Exit 0 = passed.
//! - in a store pod: `store delete | savepoint | delete-savepoint | probe-savepoint`, then
//!   `--config FILE --` and what that verb is about: `ID TARGET`, `PATH`. Exit 0 = done.
//!   `delete` leaves nothing but the tombstone.
//!
//! The program's own arguments stand in the revision. Ports: control 7070 (pod 0),
//! exchange 7071, metrics 7072. `GET /ready` on the metrics port answers 200 while the
//! process runs its share of the attempt. Environment: `MILLRACE_POD_UID`, `_POD_NAME`,
//! `_POD_IP`, `_NAMESPACE`, `_SERVICE` (the headless Service: a pod is
//! `<pod>.<service>.<namespace>.svc`), `_TOKEN_FILE`, `_MEMORY_LIMIT` (bytes). Local state in [`STATE_DIR`], scratch in `/tmp`; the rest of the
//! file system is read-only. Before it exits, every process writes
//! `{"code", "message", "remedy"}` to `/dev/termination-log`, a check or store pod its
//! result beside these. Exit 2: the user must change something; exit 1: try again.

mod children;
pub mod overlay;
mod pods;
mod template;

pub use crate::config::{LIVE_FILE, REVISION_FILE, STATE_DIR};
pub use children::{
    Commit, Owner, RenderError, disruption_budget, labels, live_config, revision_config, secret,
    service, service_account, stateful_set,
};
pub use pods::{StoreWork, check_pod, store_pod};
pub use template::{pod_template, service_account_name};
