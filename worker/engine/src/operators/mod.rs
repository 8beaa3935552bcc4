//! Operators behind an exchange, one to a file.

pub mod reduce;
pub mod window;
