//! [`Keyed`]: the row that a user's [`State`] struct lives in, with its time to
//! live. Pure: `now` is an argument.

use super::fields::State;
use super::row::{Row, RowReader, RowShape};
use super::table::Change;
use crate::data::{Res, Ts};
use millrace_protocol::shape::ShapeError;

/// A row of user state.
///
/// An operator makes one call per record:
/// `table.update(hash, &key, Keyed::new, |row| { let state = row.open(now); ...; (answer, row.close(now)) })`.
#[derive(Debug)]
pub struct Keyed<S> {
    state: S,
    expires: Ts,
}

impl<S: State> Keyed<S> {
    /// An empty row.
    #[inline]
    pub fn new() -> Self {
        Self { state: S::default(), expires: Ts::MAX }
    }

    /// The state for a user's function; empty if it had expired at `now`.
    #[inline]
    pub fn open(&mut self, _now: Ts) -> &mut S {
        &mut self.state
    }

    /// After the user's function: what became of the row.
    #[inline]
    pub fn close(&mut self, _now: Ts) -> Change {
        Change::Changed
    }

    /// The state, unless it had expired at `now`.
    #[inline]
    pub fn view(&self, now: Ts) -> Option<&S> {
        (now < self.expires).then_some(&self.state)
    }
}

impl<S: State> Default for Keyed<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: State> Row for Keyed<S> {
    fn write(&self, _out: &mut Vec<u8>) -> Res {
        Err("skeleton".into())
    }

    fn read(_bytes: &mut &[u8], _reader: &RowReader) -> Res<Self> {
        Err("skeleton".into())
    }

    fn shape() -> Result<RowShape, ShapeError> {
        Ok(RowShape::Fields { expires: S::TTL.is_some(), fields: Vec::new() })
    }

    const EXPIRES: bool = S::TTL.is_some();

    #[inline]
    fn expired(&self, now: Ts) -> bool {
        Self::EXPIRES && self.expires <= now
    }
}
