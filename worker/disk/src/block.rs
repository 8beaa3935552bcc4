//! A block of a run: entries in order of their keys, and where each begins.

use crate::order::Entry;

/// After a block's entries: their number and a checksum.
const TAIL: usize = 2 + 4;

pub(crate) fn write_length(mut length: u64, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn read_length(bytes: &mut &[u8]) -> Option<u64> {
    let (mut length, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(length);
        }
        shift += 7;
    }
}

/// Where a key begins, where its value begins and, if it has one, ends.
pub(crate) type Bounds = (usize, usize, Option<usize>);

pub(crate) fn entry_at(bytes: &[u8], (key, value, end): Bounds) -> Option<Entry<'_>> {
    let value_bytes = match end {
        Some(end) => Some(bytes.get(value..end)?),
        None => None,
    };
    Some(Entry { key: bytes.get(key..value)?, value: value_bytes })
}

/// A block whose checksum holds.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a>(&'a [u8]);

impl<'a> Block<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn len(self) -> usize {
        let at = self.0.len().saturating_sub(TAIL);
        let count = self.0.get(at..at + 2).and_then(|n| n.first_chunk());
        count.map_or(0, |n| u16::from_le_bytes(*n).into())
    }

    fn begin(self, at: usize, len: usize) -> Option<usize> {
        let begins = self.0.len().checked_sub(TAIL + 2 * len)?;
        let begin = self.0.get(begins + 2 * at..)?.first_chunk()?;
        Some(u16::from_le_bytes(*begin).into())
    }

    /// Of an entry: where its key begins, where its value begins and, if it has one, ends.
    pub fn bounds(self, at: usize, len: usize) -> Option<Bounds> {
        let mut bytes = self.0.get(self.begin(at, len)?..)?;
        let key_len = usize::try_from(read_length(&mut bytes)?).ok()?;
        let value_len = usize::try_from(read_length(&mut bytes)?).ok()?;
        let key = self.0.len() - bytes.len();
        let value = key.checked_add(key_len)?;
        let end = match value_len.checked_sub(1) {
            Some(len) => Some(value.checked_add(len)?),
            None => None,
        };
        (end.unwrap_or(value) <= self.0.len()).then_some((key, value, end))
    }

    fn entry_of(self, at: usize, len: usize) -> Option<Entry<'a>> {
        entry_at(self.0, self.bounds(at, len)?)
    }

    /// What the run has of a key: its value, or that it is gone.
    pub fn find(self, key: &[u8]) -> Option<Option<&'a [u8]>> {
        let len = self.len();
        let (mut low, mut high) = (0, len);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry_of(middle, len)?;
            match entry.key.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(entry.value),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}
