//! [`Keyed`]: the row that a user's [`State`] struct lives in, with its time to
//! live. Pure: `now` is an argument.

use super::fields::{Field, State, Ttl, TtlRefresh, Visit, VisitMut};
use super::row::{FieldKind, FieldShape, Plan, Row, RowReader, RowShape, decode};
use super::table::Change;
use crate::data::{Res, Ts};
use millrace_protocol::shape::{self, ShapeError};

/// A row of user state.
///
/// An operator makes one call per record:
/// `table.update(hash, &key, Keyed::new, |row| { let state = row.open(now); ...; (answer, row.close(now)) })`.
/// The time to live is that of the whole row: writing to any field renews it.
#[derive(Debug)]
pub struct Keyed<S> {
    state: S,
    /// [`Ts::MAX`] until the row is first written.
    expires: Ts,
}

impl<S: State> Keyed<S> {
    /// An empty row.
    #[inline]
    pub fn new() -> Self {
        let mut state = S::default();
        clean(&mut state);
        Self { state, expires: Ts::MAX }
    }

    /// A row of state that was read as part of another row.
    pub(crate) fn from_parts(state: S, expires: Ts) -> Self {
        Self { state, expires }
    }

    /// The state and when it expires.
    pub(crate) fn into_parts(self) -> (S, Ts) {
        (self.state, self.expires)
    }

    /// Whether no field holds anything.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let mut look = Look { dirty: false, empty: true };
        let _ = self.state.visit(&mut look);
        look.empty
    }

    /// The state as it stands, whether expired or not.
    pub(crate) fn state(&self) -> &S {
        &self.state
    }

    /// The state for a user's function; empty if it had expired at `now`.
    #[inline]
    pub fn open(&mut self, now: Ts) -> &mut S {
        if self.expired(now) {
            // Counts as written: what was there has to go from checkpoints.
            (self.state, self.expires) = (S::default(), Ts::MAX);
        }
        &mut self.state
    }

    /// After the user's function: what became of the row.
    #[inline]
    pub fn close(&mut self, now: Ts) -> Change {
        let mut look = Look { dirty: false, empty: true };
        let _ = self.state.visit(&mut look);
        if !look.dirty {
            return self.renew_on_read(now);
        }
        if look.empty {
            return Change::Removed;
        }
        clean(&mut self.state);
        if let Some(ttl) = S::TTL {
            self.expires = now.saturating_add(millis(ttl));
        }
        Change::Changed
    }

    /// Only after 1/16 of the time to live, lest every read be a write.
    #[inline]
    fn renew_on_read(&mut self, now: Ts) -> Change {
        match S::TTL {
            Some(ttl) if ttl.refresh == TtlRefresh::OnReadAndWrite && self.expires < Ts::MAX => {
                let renewed = now.saturating_add(millis(ttl));
                if renewed.saturating_sub(self.expires) <= millis(ttl) / 16 {
                    return Change::Kept;
                }
                self.expires = renewed;
                Change::Changed
            }
            _ => Change::Kept,
        }
    }

    /// The state, unless it had expired at `now`.
    #[inline]
    pub fn view(&self, now: Ts) -> Option<&S> {
        (!self.expired(now)).then_some(&self.state)
    }
}

fn millis(ttl: Ttl) -> Ts {
    Ts::try_from(ttl.after.as_millis()).unwrap_or(Ts::MAX)
}

impl<S: State> Default for Keyed<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: State> Row for Keyed<S> {
    fn write(&self, out: &mut Vec<u8>) -> Res {
        if Self::EXPIRES {
            out.extend_from_slice(&self.expires.to_le_bytes());
        }
        self.state.visit(&mut Write(out))
    }

    fn read(bytes: &mut &[u8], reader: &RowReader) -> Res<Self> {
        let mut state = S::default();
        clean(&mut state);
        let (expires, fields) = match &*reader.0 {
            Plan::Fields { expires, fields } => (*expires, Some(fields)),
            _ => (Self::EXPIRES, None),
        };
        let expires = match expires {
            true => {
                let (head, rest) = bytes.split_first_chunk().ok_or("no expiry")?;
                *bytes = rest;
                Ts::from_le_bytes(*head)
            }
            false => Ts::MAX,
        };
        match fields {
            None => state.visit_mut(&mut Read(bytes))?,
            Some(fields) => {
                for (old, fit) in fields {
                    let old_shape = (*fit == shape::Fit::ByName).then_some(old);
                    let mut one = ReadOne { bytes, old, old_shape, found: false };
                    state.visit_mut(&mut one)?;
                    if !one.found {
                        skip(bytes, old)?;
                    }
                }
            }
        }
        Ok(Self { state, expires })
    }

    fn shape() -> Result<RowShape, ShapeError> {
        let mut shapes = Shapes(Vec::new());
        // A visitor's error is its way to stop early.
        let _ = S::default().visit(&mut shapes);
        let fields = shapes.0.into_iter().collect::<Result<_, _>>()?;
        Ok(RowShape::Fields { expires: Self::EXPIRES, fields })
    }

    const EXPIRES: bool = S::TTL.is_some();

    #[inline]
    fn expires_at(&self) -> Ts {
        self.expires
    }

    fn heap_bytes(&self) -> usize {
        let mut heap = Heap(0);
        let _ = self.state.visit(&mut heap);
        heap.0
    }
}

#[inline]
fn clean<S: State>(state: &mut S) {
    let _ = state.visit_mut(&mut Clean);
}

struct Look {
    dirty: bool,
    empty: bool,
}

impl Visit for Look {
    #[inline]
    fn field<F: Field>(&mut self, _name: &'static str, field: &F) -> Res {
        self.dirty |= field.is_dirty();
        self.empty &= field.is_empty();
        Ok(())
    }
}

struct Clean;

impl VisitMut for Clean {
    #[inline]
    fn field<F: Field>(&mut self, _name: &'static str, field: &mut F) -> Res {
        field.clean();
        Ok(())
    }
}

struct Write<'a>(&'a mut Vec<u8>);

impl Visit for Write<'_> {
    fn field<F: Field>(&mut self, _name: &'static str, field: &F) -> Res {
        field.write(self.0)
    }
}

struct Read<'a, 'b>(&'a mut &'b [u8]);

impl VisitMut for Read<'_, '_> {
    fn field<F: Field>(&mut self, _name: &'static str, field: &mut F) -> Res {
        *field = F::read(self.0, None)?;
        Ok(())
    }
}

/// Reads one field that was written, if it is still there.
struct ReadOne<'a, 'b> {
    bytes: &'a mut &'b [u8],
    old: &'a FieldShape,
    old_shape: Option<&'a FieldShape>,
    found: bool,
}

impl VisitMut for ReadOne<'_, '_> {
    fn field<F: Field>(&mut self, name: &'static str, field: &mut F) -> Res {
        if name == self.old.name {
            *field = F::read(self.bytes, self.old_shape)?;
            self.found = true;
        }
        Ok(())
    }
}

/// Passes over a field that is no longer there.
fn skip(bytes: &mut &[u8], old: &FieldShape) -> Res {
    let elements: usize = decode(bytes)?; // A value's marker, 0 or 1, counts as one.
    for _ in 0..elements {
        if old.kind == FieldKind::Map {
            let length: usize = decode(bytes)?;
            bytes.split_off(..length).ok_or("a map key ends too early")?;
        }
        shape::skip(bytes, &old.value)?;
    }
    Ok(())
}

struct Shapes(Vec<Result<FieldShape, ShapeError>>);

impl Visit for Shapes {
    fn field<F: Field>(&mut self, name: &'static str, _field: &F) -> Res {
        self.0.push(F::shape(name));
        Ok(())
    }
}

struct Heap(usize);

impl Visit for Heap {
    fn field<F: Field>(&mut self, _name: &'static str, field: &F) -> Res {
        self.0 += field.heap_bytes();
        Ok(())
    }
}
