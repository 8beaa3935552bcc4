//! The state of an interval join: each side's rows in order of time. Pure.

use crate::data::{Data, Res, Ts};
use crate::state::row::{FieldKind, FieldShape, decode, encode};
use crate::state::{Field, State, Visit, VisitMut};
use millrace_protocol::shape::{self, ShapeError};
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Rows in order of time, and of arrival where that is equal.
pub struct Sorted<T> {
    rows: VecDeque<(Ts, T)>,
    dirty: bool,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { rows: VecDeque::new(), dirty: true }
    }
}

impl<T: Data> Sorted<T> {
    /// Time of the first row.
    pub(crate) fn first(&self) -> Option<Ts> {
        self.rows.front().map(|(ts, _)| *ts)
    }

    pub(crate) fn insert(&mut self, ts: Ts, row: T) {
        self.dirty = true;
        // Mostly at the end.
        match self.rows.back() {
            Some((last, _)) if *last > ts => {
                let at = self.rows.partition_point(|(t, _)| *t <= ts);
                self.rows.insert(at, (ts, row));
            }
            _ => self.rows.push_back((ts, row)),
        }
    }

    pub(crate) fn range(&self, times: RangeInclusive<Ts>) -> impl Iterator<Item = &(Ts, T)> {
        let from = self.rows.partition_point(|(ts, _)| ts < times.start());
        self.rows.range(from..).take_while(move |(ts, _)| ts <= times.end())
    }

    /// Drops rows from the front.
    pub(crate) fn drop_while(&mut self, gone: impl Fn(Ts) -> bool) {
        let count = self.rows.partition_point(|(ts, _)| gone(*ts));
        if count > 0 {
            self.dirty = true;
            self.rows.drain(..count);
        }
    }
}

impl<T: Data> Field for Sorted<T> {
    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn is_dirty(&self) -> bool {
        self.dirty
    }

    fn clean(&mut self) {
        self.dirty = false;
    }

    fn write(&self, out: &mut Vec<u8>) -> Res {
        encode(&self.rows.len(), out)?;
        self.rows.iter().try_for_each(|row| encode(row, out))
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        let mut rows = VecDeque::new();
        for _ in 0..decode::<usize>(bytes)? {
            rows.push_back(match old {
                None => decode(bytes)?,
                Some(old) => shape::read_by_name(bytes, &old.value)?,
            });
        }
        Ok(Self { rows, dirty: false })
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        let value = shape::trace::<(Ts, T)>()?;
        Ok(FieldShape { name: name.to_owned(), kind: FieldKind::List, value, key: None })
    }

    fn heap_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<(Ts, T)>()
    }
}

/// A key's rows that still wait for partners.
pub struct Buffers<A, B> {
    pub(crate) left: Sorted<A>,
    pub(crate) right: Sorted<B>,
}

impl<A, B> Default for Buffers<A, B> {
    fn default() -> Self {
        Self { left: Sorted::default(), right: Sorted::default() }
    }
}

impl<A: Data, B: Data> State for Buffers<A, B> {
    fn visit<V: Visit>(&self, visitor: &mut V) -> Res {
        visitor.field("left", &self.left)?;
        visitor.field("right", &self.right)
    }

    fn visit_mut<V: VisitMut>(&mut self, visitor: &mut V) -> Res {
        visitor.field("left", &mut self.left)?;
        visitor.field("right", &mut self.right)
    }
}
