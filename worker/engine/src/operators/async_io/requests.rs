//! Runs futures on a tokio runtime in a thread of its own, and wakes the task with their
//! answers. Not pure: threads and timers.

use crate::api::async_io::AsyncOptions;
use crate::data::{Fail, Fun, Res};
use crate::runtime::channel::TaskWaker;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::runtime::{Builder, Handle as RuntimeHandle, Runtime};
use tokio::task::AbortHandle;

/// What became of a request.
pub(crate) enum Answer<U> {
    /// It ended, after its repetitions.
    Result(Res<U>),
    /// It took too long.
    TimedOut,
    /// It panicked.
    Lost,
}

/// Stops a request when dropped.
pub(crate) struct Handle(AbortHandle);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The requests of one subtask.
pub(crate) trait Running<T, U> {
    /// Begins a request.
    fn submit(&mut self, id: u64, row: T) -> Handle;
    /// Whether answers have come.
    fn has_answers(&self) -> bool;
    /// Takes the answers that have come.
    fn answers(&mut self) -> Vec<(u64, Answer<U>)>;
}

/// The runtime, shared by all subtasks of an operator in this process, and made when the
/// first of them starts.
#[derive(Clone, Default)]
struct SharedRuntime(Arc<OnceLock<Runtime>>);

impl SharedRuntime {
    fn get(&self) -> Res<&Runtime> {
        if let Some(runtime) = self.0.get() {
            return Ok(runtime);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("millrace-async")
            .enable_all()
            .build()
            .map_err(|e| Fail::from(format!("could not start the thread for requests: {e}")))?;
        Ok(self.0.get_or_init(|| runtime))
    }
}

/// What requests are made of.
pub(crate) struct Requests<F> {
    options: AsyncOptions,
    f: F,
    runtime: SharedRuntime,
}

impl<F: Fun + Sync> Requests<F> {
    pub fn new(options: AsyncOptions, f: F) -> Self {
        Self { options, f, runtime: SharedRuntime::default() }
    }

    /// For one subtask, which `waker` wakes.
    pub fn start<T, U, Fut>(&self, waker: TaskWaker) -> Res<Box<dyn Running<T, U>>>
    where
        T: Clone + Send + 'static,
        U: Send + 'static,
        F: Fn(T) -> Fut,
        Fut: Future<Output = Res<U>> + Send + 'static,
    {
        Ok(Box::new(Subtask {
            options: self.options,
            f: Arc::new(self.f.clone()),
            runtime: self.runtime.get()?.handle().clone(),
            mailbox: Arc::new(Mailbox {
                answers: Mutex::default(),
                any: AtomicBool::new(false),
                waker,
            }),
            _request: PhantomData,
        }))
    }
}

struct Mailbox<U> {
    answers: Mutex<Vec<(u64, Answer<U>)>>,
    any: AtomicBool,
    waker: TaskWaker,
}

impl<U> Mailbox<U> {
    fn put(&self, id: u64, answer: Answer<U>) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push((id, answer));
        self.any.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Answers even if the request panics (or is stopped, when nobody listens any more).
struct Reply<U> {
    id: u64,
    to: Arc<Mailbox<U>>,
    given: bool,
}

impl<U> Reply<U> {
    fn give(mut self, answer: Answer<U>) {
        self.given = true;
        self.to.put(self.id, answer);
    }
}

impl<U> Drop for Reply<U> {
    fn drop(&mut self) {
        if !self.given {
            self.to.put(self.id, Answer::Lost);
        }
    }
}

struct Subtask<F, U, Fut> {
    options: AsyncOptions,
    f: Arc<F>,
    runtime: RuntimeHandle,
    mailbox: Arc<Mailbox<U>>,
    _request: PhantomData<fn() -> Fut>,
}

impl<T, U, F, Fut> Running<T, U> for Subtask<F, U, Fut>
where
    T: Clone + Send + 'static,
    U: Send + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Res<U>> + Send + 'static,
{
    fn submit(&mut self, id: u64, row: T) -> Handle {
        let reply = Reply { id, to: Arc::clone(&self.mailbox), given: false };
        let (f, options) = (Arc::clone(&self.f), self.options);
        let request = async move {
            let tries = repeated(f.as_ref(), row, options);
            match tokio::time::timeout(options.timeout, tries).await {
                Ok(result) => reply.give(Answer::Result(result)),
                Err(_) => reply.give(Answer::TimedOut),
            }
        };
        Handle(self.runtime.spawn(request).abort_handle())
    }

    fn has_answers(&self) -> bool {
        self.mailbox.any.load(Ordering::Acquire)
    }

    fn answers(&mut self) -> Vec<(u64, Answer<U>)> {
        if !self.mailbox.any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut answers = self.mailbox.answers.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *answers)
    }
}

/// A request with its repetitions.
async fn repeated<T: Clone, U, Fut: Future<Output = Res<U>>>(
    f: &impl Fn(T) -> Fut,
    row: T,
    options: AsyncOptions,
) -> Res<U> {
    let mut backoff = options.retry.backoff;
    for _ in 1..options.retry.attempts {
        if let Ok(result) = f(row.clone()).await {
            return Ok(result);
        }
        tokio::time::sleep(backoff).await;
        backoff = backoff.saturating_mul(2);
    }
    f(row).await
}
