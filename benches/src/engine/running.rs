//! A job that is looked at while it runs, and cancelled when enough was seen.

use super::{PARALLELISM, options};
use anyhow::{Result, anyhow, bail};
use millrace::prelude::*;
use millrace_engine::coordinator::Outcome;
use millrace_engine::graph::SpillTo;
use millrace_engine::job::{self, Handle, JobError, Status};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// No bench waits longer than this for what a job should reach.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A job on a thread of its own; its end is an error.
pub struct Running {
    handle: Handle,
    thread: Option<JoinHandle<Result<Outcome, JobError>>>,
    _storage: TempDir,
}

impl Running {
    /// Starts it, with a checkpoint at every `interval` to a directory.
    pub fn start(env: Env, interval: Option<Duration>) -> Result<Self> {
        Self::start_with(env, interval, None)
    }

    /// As [`Running::start`], with somewhere for state to go.
    pub fn start_with(
        env: Env,
        interval: Option<Duration>,
        spill: Option<SpillTo>,
    ) -> Result<Self> {
        let storage = tempfile::tempdir()?;
        let mut options = options(storage.path(), PARALLELISM);
        options.checkpoints.interval = interval;
        options.spill = spill;
        let handle = Handle::new(env.into_graph());
        let of_thread = handle.clone();
        let thread = std::thread::Builder::new()
            .name("bench-job".to_owned())
            .spawn(move || job::run(&of_thread, options))?;
        Ok(Self { handle, thread: Some(thread), _storage: storage })
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.handle.status()
    }

    /// Lets it run until `enough` says so, which is asked every few milliseconds.
    pub fn until(&mut self, mut enough: impl FnMut(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !enough(self) {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err(self.join());
            }
            if begun.elapsed() > PATIENCE {
                bail!("the job did not get there in {PATIENCE:?}: {:?}", self.status());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Lets it run for so long.
    pub fn wait(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        self.until(|_| begun.elapsed() >= time)
    }

    fn join(&mut self) -> anyhow::Error {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error.into(),
            ended => anyhow!("the job ended by itself: {ended:?}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.cancel();
        if let Some(thread) = self.thread.take() {
            // It was cancelled: whatever it ended as is no news.
            let _ = thread.join();
        }
    }
}
