//! Operators behind an exchange, one to a file.

pub(crate) mod cogroup;
pub mod reduce;
pub mod window;
