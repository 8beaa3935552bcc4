//! Operators that run a user's function with state, timers and side outputs.
//!
//! - [`timers`], [`row`]: timers and state of a key; [`core`]: what keyed functions share.
//! - [`keyed`]: one keyed input; [`connect`]: two; [`broadcast`]: with a broadcast input
//!   beside it, and [`shared`] state; [`function`]: one input without a key.

pub(crate) mod broadcast;
pub(crate) mod connect;
pub(crate) mod core;
pub(crate) mod function;
pub(crate) mod keyed;
pub(crate) mod plain;
pub(crate) mod row;
pub(crate) mod shared;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
