//! A job on many workers.
//!
//! Every process of a job is a *worker*: it offers slots and serves [`hold`]'s `Attach`, the
//! stream through which a coordinator gives it orders. The process with ordinal 0 also holds
//! the coordinator: it serves `Register`, by which workers say that they are there, dials
//! them ([`links`]), and drives the job's shell. It also serves the [`control`] API.
//!
//! All these connections, and the control API's, are protected by the job's one key
//! ([`dial`], [`token`]).
//!
//! Nothing here decides anything about the job: that is `millrace_engine::coordinator`. A
//! link that is lost or late is told to it as a lost worker.

pub mod control;
mod dial;
pub mod hold;
pub mod http;
pub mod links;
pub mod process;
pub mod status;
pub mod token;

/// Generated: the streams between coordinator and workers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod wire {
    tonic::include_proto!("millrace.cluster.v1");

    /// For the reflection service.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("cluster");
}

use std::time::Duration;

/// How links are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Both sides say something at least so often.
    pub every: Duration,
    /// Silence that long means that the other is lost.
    pub timeout: Duration,
}

impl Heartbeat {
    /// Silence for `timeout` means that the other is lost.
    pub fn within(timeout: Duration) -> Self {
        Self { every: Self::default().every.min(timeout / 4), timeout }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { every: Duration::from_millis(500), timeout: Duration::from_secs(10) }
    }
}

/// Frames larger than this are refused on both sides: an order holds a whole manifest.
pub(crate) const MAX_MESSAGE: usize = 256 << 20;
