//! Operators behind an exchange, one to a file.

pub(crate) mod process;
pub mod reduce;
pub mod window;
