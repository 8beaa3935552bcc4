//! The DataStream API: what a program is written with.
//!
//! A program's build function adds sources to an [`env::Env`], transforms
//! [`stream::DataStream`]s, and ends them in sinks. Stateless steps are closures and
//! become one loop ([`pipe`]); steps with state sit behind [`keyed`] streams.

#[cfg(feature = "async")]
pub mod async_io;
pub mod broadcast;
pub mod connect;
pub mod env;
pub mod interval_join;
pub mod join;
pub mod keyed;
pub mod pipe;
pub mod plain;
pub mod process;
pub mod rolling;
pub mod stream;
pub mod tags;
pub mod window;
