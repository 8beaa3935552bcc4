//! What every Millrace process agrees on. Pure: no IO, no clock, no threads.

pub mod config;
#[cfg(feature = "control")]
pub mod control;
pub mod format;
pub mod head;
pub mod ids;
pub mod key;
pub mod keygroup;
pub mod manifest;
pub mod objects;
#[cfg(feature = "control")]
pub mod pinned;
pub mod shape;
