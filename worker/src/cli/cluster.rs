//! Jobs of several processes: `worker`, one of them; `run --workers N`, which starts them on
//! this machine and watches over them; `rescale`, which changes how many there are.
//!
//! What such a job should be stands in files beside its storage, as it stands in mounted
//! files in a cluster: `revision.json` and `live.json` (see `millrace_protocol::config`),
//! and the token that the processes share. The process that leads the job looks at
//! `live.json` and adopts what is newer; the watcher starts and ends processes after it.

pub mod files;
pub mod rescale;
pub mod supervise;
pub mod worker;
