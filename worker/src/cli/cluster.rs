//! Jobs of several processes: `worker`, one of them; `run --workers N`, which starts them on
//! this machine and watches over them; `rescale`, which changes how many there are.
//!
//! What such a job should be stands in files beside its storage, as it stands in mounted
//! files in a cluster: `revision.json` and `live.json` (see `millrace_protocol::config`),
//! and the token that the processes share. The process that leads the job looks at
//! `live.json` and adopts what is newer; the watcher starts and ends processes after it.

//!
//! `check` and `store` are what short pods do for the operator: try a program before
//! anything stops, and work on the storage of a job that does not run.

pub mod check;
pub mod files;
pub mod last_words;
pub mod pod;
pub mod rescale;
pub mod store;
pub mod supervise;
pub mod worker;
