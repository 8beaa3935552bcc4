//! Scripts, exhaustive interleavings of appends, and a random model of several
//! coordinators over one faulty store.

mod appends;
mod faulty;
mod gaps;
mod model;
mod older;
mod proposals;
mod restarts;
mod savepoints;
mod scripts;
mod slots;
mod takeover;
mod workers;
mod world;
