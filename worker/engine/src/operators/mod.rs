//! Operators behind an exchange, one to a file.

pub(crate) mod interval_join;
pub(crate) mod process;
pub mod reduce;
pub(crate) mod rolling;
pub mod window;
