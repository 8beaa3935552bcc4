//! The rows of the reconcile, each a test by its number and name.

mod fixture;
mod gaps;
mod hostile;
mod reasons;
mod running;
mod savepoints;
mod starting;
mod stopping;
mod upgrading;
