//! The state types that live in a row: [`Value`] and [`ListState`] (others in
//! [`gather`](super::gather), [`map`](super::map)); and [`State`], a struct of them. Pure.

use super::row::{FieldKind, FieldShape, decode, encode, heap_of};
use crate::data::{Data, Res};
use millrace_protocol::shape::{self, ShapeError};
use std::time::Duration;

/// How long state lives that nobody writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl {
    /// The time to live.
    pub after: Duration,
    /// What renews it.
    pub refresh: TtlRefresh,
}

/// What renews a time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlRefresh {
    /// Writes only.
    OnWrite,
    /// Any access; one that only reads renews no more often than every 1/16 of it.
    OnReadAndWrite,
}

/// A struct whose fields are state: one row per key. Derive it.
pub trait State: Default + Send + 'static {
    /// The time to live of the whole row, if it has one.
    const TTL: Option<Ttl> = None;

    /// Shows every field, in order.
    fn visit<V: Visit>(&self, visitor: &mut V) -> Res;

    /// Shows every field, in order, to be changed.
    fn visit_mut<V: VisitMut>(&mut self, visitor: &mut V) -> Res;
}

/// Sees each field of a [`State`].
pub trait Visit {
    /// The next field.
    fn field<F: Field>(&mut self, name: &'static str, field: &F) -> Res;
}

/// Sees each field of a [`State`], and may change it.
pub trait VisitMut {
    /// The next field.
    fn field<F: Field>(&mut self, name: &'static str, field: &mut F) -> Res;
}

/// A state type that can be a field of a [`State`].
pub trait Field: Default + Send + 'static {
    /// Whether it holds nothing; a row of empty fields is removed.
    fn is_empty(&self) -> bool;

    /// Whether it was written to since the last [`Field::clean`].
    fn is_dirty(&self) -> bool;

    /// Forgets that it was written to.
    fn clean(&mut self);

    /// Appends its bytes.
    fn write(&self, out: &mut Vec<u8>) -> Res;

    /// Reads what [`Field::write`] wrote with the shape `old` (`None`: this one).
    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self>;

    /// The shape of its bytes.
    fn shape(name: &str) -> Result<FieldShape, ShapeError>;

    /// Approximate bytes that it holds outside itself.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// State that holds at most one value.
#[derive(Debug)]
pub struct Value<T>(Cell<T>);

/// A value, or none, and whether that was written: 16 bytes for a `u64`.
#[derive(Debug)]
enum Cell<T> {
    Full(T, bool),
    Void(bool),
}

impl<T> Default for Value<T> {
    /// Empty, and counted as written: so that assigning it is a change.
    fn default() -> Self {
        Self(Cell::Void(true))
    }
}

impl<T: Data> Value<T> {
    /// The value, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        match &self.0 {
            Cell::Full(v, _) => Some(v),
            Cell::Void(_) => None,
        }
    }

    /// Sets the value.
    #[inline]
    pub fn set(&mut self, value: T) {
        self.0 = Cell::Full(value, true);
    }

    /// Removes the value.
    #[inline]
    pub fn clear(&mut self) {
        self.take();
    }

    /// Removes the value and gives it.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        let dirty = self.is_dirty() || self.get().is_some();
        match std::mem::replace(&mut self.0, Cell::Void(dirty)) {
            Cell::Full(v, _) => Some(v),
            Cell::Void(_) => None,
        }
    }

    /// The value to be changed, set to `value` if there is none.
    #[inline]
    pub fn or_insert(&mut self, value: T) -> &mut T {
        self.or_insert_with(|| value)
    }

    /// The value to be changed, made if there is none.
    #[inline]
    pub fn or_insert_with(&mut self, make: impl FnOnce() -> T) -> &mut T {
        if let Cell::Void(_) = self.0 {
            self.0 = Cell::Full(make(), true);
        }
        match &mut self.0 {
            Cell::Full(v, dirty) => {
                *dirty = true;
                v
            }
            Cell::Void(_) => unreachable!("it has just been filled"),
        }
    }

    /// The value to be changed, if there is one; counts as written.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        match &mut self.0 {
            Cell::Full(v, dirty) => {
                *dirty = true;
                Some(v)
            }
            Cell::Void(_) => None,
        }
    }
}

impl<T: Data> Field for Value<T> {
    #[inline]
    fn is_empty(&self) -> bool {
        matches!(self.0, Cell::Void(_))
    }

    fn heap_bytes(&self) -> usize {
        self.get().map_or(0, heap_of)
    }

    #[inline]
    fn is_dirty(&self) -> bool {
        matches!(self.0, Cell::Full(_, true) | Cell::Void(true))
    }

    #[inline]
    fn clean(&mut self) {
        match &mut self.0 {
            Cell::Full(_, dirty) | Cell::Void(dirty) => *dirty = false,
        }
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>) -> Res {
        encode(&self.get(), out)
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        let Some(old) = old else {
            let value: Option<T> = decode(bytes)?;
            return Ok(Self(value.map_or(Cell::Void(false), |v| Cell::Full(v, false))));
        };
        match bytes.split_off_first() {
            Some(0) => Ok(Self(Cell::Void(false))),
            Some(1) => Ok(Self(Cell::Full(shape::read_by_name(bytes, &old.value)?, false))),
            _ => Err("neither a value nor none".into()),
        }
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        let value = shape::trace::<T>()?;
        Ok(FieldShape { name: name.to_owned(), kind: FieldKind::Value, value, key: None })
    }
}

/// State that holds elements in order.
#[derive(Debug)]
pub struct ListState<T> {
    items: Vec<T>,
    dirty: bool,
}

impl<T> Default for ListState<T> {
    /// Empty, and counted as written: so that assigning it is a change.
    fn default() -> Self {
        Self { items: Vec::new(), dirty: true }
    }
}

impl<T: Data> ListState<T> {
    /// The elements.
    #[inline]
    pub fn get(&self) -> &[T] {
        &self.items
    }

    /// Appends an element.
    #[inline]
    pub fn add(&mut self, item: T) {
        self.dirty = true;
        self.items.push(item);
    }

    /// Replaces all elements.
    pub fn set(&mut self, items: Vec<T>) {
        *self = Self { items, dirty: true };
    }

    /// Removes all elements.
    pub fn clear(&mut self) {
        self.dirty |= !self.items.is_empty();
        self.items = Vec::new();
    }

    /// The elements, to be changed; counts as written.
    pub fn get_mut(&mut self) -> &mut Vec<T> {
        self.dirty = true;
        &mut self.items
    }
}

impl<T: Data> Field for ListState<T> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    #[inline]
    fn is_dirty(&self) -> bool {
        self.dirty
    }

    #[inline]
    fn clean(&mut self) {
        self.dirty = false;
    }

    fn write(&self, out: &mut Vec<u8>) -> Res {
        encode(&self.items, out)
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        let items = match old {
            None => decode(bytes)?,
            Some(old) => {
                let mut items = Vec::new();
                for _ in 0..decode::<usize>(bytes)? {
                    items.push(shape::read_by_name(bytes, &old.value)?);
                }
                items
            }
        };
        Ok(Self { items, dirty: false })
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        let value = shape::trace::<T>()?;
        Ok(FieldShape { name: name.to_owned(), kind: FieldKind::List, value, key: None })
    }

    fn heap_bytes(&self) -> usize {
        self.items.capacity() * size_of::<T>()
    }
}
