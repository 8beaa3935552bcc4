//! The checkpoint file, format 1: reading by key group. Pure: bytes come from
//! a [`RangeRead`].

use super::row::RowReader;
use crate::data::Res;
use millrace_protocol::keygroup::KeyGroupRange;
use std::ops::Range;

/// A file of which ranges can be read.
pub trait RangeRead {
    /// Its length in bytes.
    fn len(&self) -> Res<u64>;
    /// Reads a range that lies within it.
    fn read(&self, range: Range<u64>) -> Res<Vec<u8>>;
}

/// A block of a file, for [`StateTable::load`](super::StateTable::load).
pub struct Block<'a> {
    /// Which groups to take from it.
    pub groups: KeyGroupRange,
    /// The namespace of its entries.
    pub namespace: i64,
    pub(super) reader: &'a RowReader,
    pub(super) body: &'a [u8],
}

impl Block<'_> {
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        let _ = self.reader;
        self.body.len()
    }
}
