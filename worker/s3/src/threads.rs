//! The two threads on which requests to S3 run, shared by all stores of a process and
//! gone with the last of them.

use std::future::Future;
use std::io;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::runtime::{Builder, Runtime};

const THREADS: usize = 2;

static SHARED: Mutex<Weak<Threads>> = Mutex::new(Weak::new());

/// A small tokio runtime beside the engine's threads.
#[derive(Debug)]
pub(crate) struct Threads {
    runtime: Option<Runtime>,
}

impl Threads {
    /// Those of this process; started if there are none.
    pub(crate) fn shared() -> io::Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(threads) = shared.upgrade() {
            return Ok(threads);
        }
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).thread_name("millrace-s3").enable_all();
        let threads = Arc::new(Self { runtime: Some(builder.build()?) });
        *shared = Arc::downgrade(&threads);
        Ok(threads)
    }

    /// Starts `work`; what it gives can be waited for. A disconnected channel means that
    /// it panicked.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Receiver<T> {
        let (tell, told) = mpsc::sync_channel(1);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                // Nobody waits any more: the caller gave up.
                let _ = tell.send(work.await);
            });
        }
        told
    }

    /// Runs `work` and waits for it, also from within another runtime. `None`: it panicked.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.start(work).recv().ok()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // May happen within another runtime, where nothing may be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
