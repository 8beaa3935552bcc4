//! The side pool: threads for work that blocks (files, uploads, commits, discovery).
//!
//! Threads are made on demand and end after a while without work, so an idle job
//! holds none of them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Job = (&'static str, Box<dyn FnOnce() + Send>);

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    running: usize,
}

struct Shared {
    inner: Mutex<Inner>,
    work: Condvar,
    quiet: Condvar,
}

/// A pool of threads for blocking work.
pub struct Pool {
    shared: Arc<Shared>,
    limit: usize,
}

const KEEP: Duration = Duration::from_secs(2);

fn lock(shared: &Shared) -> MutexGuard<'_, Inner> {
    shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of at most `limit` threads.
    pub fn new(limit: usize) -> Self {
        let shared = Shared {
            inner: Mutex::new(Inner::default()),
            work: Condvar::new(),
            quiet: Condvar::new(),
        };
        Self { shared: Arc::new(shared), limit: limit.max(1) }
    }

    /// Runs `job` on a thread of the pool. Panics are logged; a job that must report
    /// does so through what it captured (a dropped sender tells of its panic).
    pub fn spawn(&self, lane: &'static str, job: impl FnOnce() + Send + 'static) {
        let mut inner = lock(&self.shared);
        inner.jobs.push_back((lane, Box::new(job)));
        if inner.idle >= inner.jobs.len() || inner.threads >= self.limit {
            drop(inner);
            self.shared.work.notify_one();
            return;
        }
        inner.threads += 1;
        drop(inner);
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new()
            .name("millrace-side".to_owned())
            .stack_size(1 << 20)
            .spawn(move || work(&shared));
        if let Err(error) = spawned {
            let mut inner = lock(&self.shared);
            inner.threads -= 1;
            tracing::error!(%error, "could not start a side thread");
            if inner.threads == 0
                && let Some((lane, job)) = inner.jobs.pop_front()
            {
                drop(inner);
                run(lane, job);
            }
        }
    }

    /// Waits until nothing runs or waits in the pool.
    pub fn wait_quiet(&self) {
        let mut inner = lock(&self.shared);
        while inner.running > 0 || !inner.jobs.is_empty() {
            inner = self.shared.quiet.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn run(lane: &'static str, job: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        tracing::error!(lane, "a side job panicked");
    }
}

fn work(shared: &Shared) {
    let mut inner = lock(shared);
    loop {
        if let Some((lane, job)) = inner.jobs.pop_front() {
            inner.running += 1;
            drop(inner);
            run(lane, job);
            inner = lock(shared);
            inner.running -= 1;
            if inner.running == 0 && inner.jobs.is_empty() {
                shared.quiet.notify_all();
            }
            continue;
        }
        inner.idle += 1;
        let (next, timeout) =
            shared.work.wait_timeout(inner, KEEP).unwrap_or_else(PoisonError::into_inner);
        inner = next;
        inner.idle -= 1;
        if timeout.timed_out() && inner.jobs.is_empty() {
            inner.threads -= 1;
            return;
        }
    }
}
