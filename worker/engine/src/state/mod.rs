//! Keyed state: tables, what lives in their rows, snapshots, and checkpoint files.
//!
//! Rooms, from the bottom up:
//! - [`row`]: what a table's row must be able to do; [`fields`], [`gather`], [`map`]
//!   and [`keyed`] are the user-facing state types that make one up.
//! - [`table`]: the hash table that is the write buffer (and, in the memory
//!   backend, the state); [`panes`]: one table for each namespace; `ordered`: rows in
//!   one order.
//! - [`delta`]: the file format; [`reader`]: reading it by key group.
//! - [`snapshot`]: the seam that checkpoints know; [`restore`]: files to
//!   tables; [`fold`]: which key groups to write whole; [`kept`]: what a rescale leaves
//!   in memory.
//! - [`tier`]: where entries go that memory has no room for; [`budget`]: how much
//!   room there is.
//! - [`value`]: what is kept outside tables.
//!
//! Everything here is pure: no IO (bytes go to a callback and come from a
//! [`reader::RangeRead`]), no clock (`now` is an argument), no threads.

pub mod budget;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod delta;
mod drain;
pub mod fields;
mod fire;
pub mod fold;
pub mod gather;
mod grow;
pub mod kept;
pub mod keyed;
pub mod map;
mod ordered;
pub mod panes;
pub mod reader;
pub mod restore;
pub mod row;
mod segment;
pub mod snapshot;
mod spill;
pub mod table;
#[cfg(test)]
mod tests;
pub mod tier;
pub mod value;

pub use delta::DeltaWriter;
pub use fields::{Field, ListState, State, Ttl, TtlRefresh, Value, Visit, VisitMut};
pub use gather::{AggregatingState, Aggregator, Reducer, ReducingState};
pub use kept::Kept;
pub use keyed::Keyed;
pub use map::MapState;
pub use ordered::Ordered;
pub use panes::PaneTables;
pub use row::{Plain, Row, RowReader, RowShape};
pub use snapshot::{Sizes, SnapshotSpec, StateTable};
pub use table::{Change, Table};
