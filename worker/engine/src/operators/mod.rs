//! Operators behind an exchange, one to a file.

#[cfg(feature = "async")]
pub(crate) mod async_io;
pub(crate) mod cogroup;
mod due;
pub(crate) mod interval_join;
pub(crate) mod process;
pub mod reduce;
pub(crate) mod rolling;
pub mod window;
