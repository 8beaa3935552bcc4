//! Millrace: stateful stream processing that belongs to Kubernetes.
//!
//! This is the one crate a program depends on. A program is a function that builds a
//! dataflow from an [`Env`](prelude::Env) and its own options, given to [`main`]; it gets
//! the command line described in [`cli`].
//!
//! ```no_run
//! use millrace::prelude::*;
//! use std::time::Duration;
//!
//! #[derive(clap::Args, Clone)]
//! struct Options {
//!     /// Rows to count.
//!     #[arg(long, default_value_t = 1_000_000)]
//!     rows: u64,
//! }
//!
//! fn build(env: &Env, options: &Options) -> Res {
//!     let rows = Generator::new(|i| (i % 10, i as i64)).count(options.rows);
//!     env.source("rows", rows, Watermarks::monotonous(|row: &(u64, i64)| row.1))
//!         .key_by(|row| row.0)
//!         .window(TumblingWindows::of(Duration::from_secs(60)))
//!         .aggregate("counts", Count, |key, window, n| (*key, window.start, n))
//!         .sink("print", Print::debug());
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     millrace::main(build)
//! }
//! ```

pub mod cli;

pub use cli::main;
pub use millrace_connectors as connectors;
pub use millrace_engine as engine;
pub use millrace_engine::testing;
pub use millrace_protocol as protocol;

/// Derives `Key` and `State`.
pub use millrace_derive::{Key, State};

/// The README's and the guides' snippets, run as tests.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/checkpoints.md")]
    struct Checkpoints;
    #[doc = include_str!("../../docs/connectors.md")]
    struct Connectors;
    #[doc = include_str!("../../docs/datastream.md")]
    struct DataStream;
    #[doc = include_str!("../../docs/process-functions.md")]
    struct ProcessFunctions;
    #[doc = include_str!("../../docs/testing.md")]
    struct Testing;
    #[doc = include_str!("../../docs/workers.md")]
    struct Workers;
}

/// What derived code names.
#[doc(hidden)]
pub mod __private {
    pub use millrace_engine::state::*;
    pub use millrace_protocol::key::*;
}

/// What programs use.
pub mod prelude {
    pub use clap;
    pub use millrace_connectors::file::{Compression, FileSink, FileSource, Rolling};
    pub use millrace_connectors::{Blackhole, Collected, Collection, Generator, Print};
    pub use millrace_derive::{Key, State};
    #[cfg(feature = "async")]
    pub use millrace_engine::api::async_io::{AsyncOptions, AsyncOrder, AsyncRetry};
    pub use millrace_engine::api::broadcast::{
        BroadcastCx, BroadcastMap, BroadcastProcess, BroadcastStream, KeyedBroadcast, ProcessCx,
    };
    pub use millrace_engine::api::connect::KeyedCoProcess;
    pub use millrace_engine::api::env::Env;
    pub use millrace_engine::api::keyed::KeyedStream;
    pub use millrace_engine::api::plain::{AnyList, ListSnapshot, ListTag, Process, RestoredLists};
    pub use millrace_engine::api::process::{Cx, KeyedProcess, Timer};
    pub use millrace_engine::api::stream::DataStream;
    pub use millrace_engine::api::tags::{AnyTag, OutputTag};
    pub use millrace_engine::api::window::*;
    pub use millrace_engine::data::{Data, Res, TS_MAX, TS_MIN, Ts, UserError};
    pub use millrace_engine::state::{
        AggregatingState, Aggregator, ListState, MapState, Reducer, ReducingState, State, Value,
    };
    pub use millrace_engine::time::Watermarks;
    pub use millrace_protocol::key::Key;
}
