//! The resources that users write, and their pure translation.
//!
//! `streamjob` and `savepoint` are the types, from which `crd` generates the custom
//! resource definitions; `revision` names what needs new processes; `config` says what
//! workers are told; `render` says what Kubernetes runs. Nothing here talks to anyone.

// Columns of `kubectl get` share types, which the lint takes for a slip.
#![allow(clippy::duplicated_attributes)]

pub mod config;
pub mod crd;
pub mod duration;
pub mod names;
pub mod podtemplate;
pub mod render;
pub mod revision;
pub mod savepoint;
pub mod storage;
pub mod streamjob;
pub mod tuning;

pub use duration::DurationText;
pub use savepoint::{Savepoint, SavepointSpec, SavepointStatus};
pub use streamjob::{StreamJob, StreamJobSpec, StreamJobStatus};
