//! Scripts, exhaustive interleavings of appends, and a random model of several
//! coordinators over one faulty store.

mod appends;
mod faulty;
mod model;
mod scripts;
mod slots;
mod world;
