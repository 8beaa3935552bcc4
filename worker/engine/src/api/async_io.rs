//! Requests to the outside for every row, many at a time.

use crate::api::keyed::add_operator_with_id;
use crate::api::pipe::{Head, Pipe};
use crate::api::plain::declare_lists;
use crate::api::stream::{DataStream, OperatorSpec};
use crate::data::{Data, Fail, Fun, Res};
use crate::operators::async_io::{AsyncMap, Requests, in_flight};
use crate::operators::process::function::Lists;
use std::future::Future;
use std::time::Duration;

/// In which order results are emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncOrder {
    /// As the rows came in: a slow request holds up those behind it.
    Ordered,
    /// As they are ready. No result overtakes a watermark, nor a watermark a result, so
    /// that event time stays what it was.
    Unordered,
}

/// How a request that fails is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsyncRetry {
    /// How often it is tried in all; at least 1.
    pub attempts: u32,
    /// Wait before the second try; it doubles with each further one.
    pub backoff: Duration,
}

/// How requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsyncOptions {
    /// The order of results.
    pub order: AsyncOrder,
    /// How long a row's request may take, with all its repetitions.
    pub timeout: Duration,
    /// How many rows a subtask has at a time from which no result was emitted yet; at
    /// least 1. When there are as many, its input waits.
    pub capacity: usize,
    /// What happens to a request that fails.
    pub retry: AsyncRetry,
}

impl AsyncOptions {
    fn new(order: AsyncOrder) -> Self {
        let retry = AsyncRetry { attempts: 1, backoff: Duration::from_millis(100) };
        Self { order, timeout: Duration::from_secs(60), capacity: 100, retry }
    }

    /// Results in the order of rows; 60 s, 100 rows per subtask, no repetition.
    pub fn ordered() -> Self {
        Self::new(AsyncOrder::Ordered)
    }

    /// Results as they are ready; else as [`AsyncOptions::ordered`].
    pub fn unordered() -> Self {
        Self::new(AsyncOrder::Unordered)
    }

    /// Sets [`AsyncOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`AsyncOptions::capacity`].
    #[must_use]
    pub fn capacity(mut self, rows: usize) -> Self {
        self.capacity = rows;
        self
    }

    /// Sets [`AsyncOptions::retry`].
    #[must_use]
    pub fn retry(mut self, attempts: u32, backoff: Duration) -> Self {
        self.retry = AsyncRetry { attempts, backoff };
        self
    }
}

impl<T: Data + Clone, P: Pipe<Out = T>> DataStream<T, P> {
    /// Makes a request for every row: `f`'s future runs on a tokio runtime beside the
    /// slots, which never wait for it.
    ///
    /// Rows without an emitted result are state: a checkpoint holds them, and after a
    /// restore their requests are made again (so `f` should bear being called twice for
    /// a row). A request that fails for the last time, panics, or takes longer than the
    /// timeout fails the attempt. `uid` identifies the state.
    pub fn async_map<U, F, Fut>(self, uid: &str, options: AsyncOptions, f: F) -> DataStream<U>
    where
        U: Send + 'static,
        F: Fn(T) -> Fut + Fun + Sync,
        Fut: Future<Output = Res<U>> + Send + 'static,
    {
        let took = options.timeout;
        self.async_map_or(uid, options, f, move |_| {
            Err(Fail::from(format!("a request has not been answered in {took:?}")))
        })
    }

    /// As [`DataStream::async_map`]; `on_timeout` answers for rows whose request takes
    /// longer than the timeout.
    pub fn async_map_or<U, F, Fut>(
        self,
        uid: &str,
        options: AsyncOptions,
        f: F,
        on_timeout: impl FnMut(T) -> Res<U> + Fun,
    ) -> DataStream<U>
    where
        U: Send + 'static,
        F: Fn(T) -> Fut + Fun + Sync,
        Fut: Future<Output = Res<U>> + Send + 'static,
    {
        let env = self.env.clone();
        let lists = [in_flight::<T>().any()];
        let requests = Requests::new(options, f);
        let spec = OperatorSpec::new("async map", Some(uid), Vec::new());
        let (node, output) = add_operator_with_id(&env, spec, move |cx, node| {
            let lists = Lists::restore(cx, node, &lists)?;
            let requests = requests.start(cx.waker.clone())?;
            Ok(AsyncMap::new(options, requests, lists, on_timeout.clone()))
        });
        declare_lists(&env, node, &lists);
        self.forward_to(node, 0);
        DataStream::new(env, output, Head::new())
    }
}
