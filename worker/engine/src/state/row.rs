//! What a table's row must be able to do, and [`Plain`], the row that is one value.
//! Pure.

use crate::data::{Data, Res, Ts};
use millrace_protocol::shape::{self, Fit, Incompatible, Shape, ShapeError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A row of a table: what is stored under a key.
pub trait Row: Sized + Send + 'static {
    /// Appends the row's bytes: self-delimiting.
    fn write(&self, out: &mut Vec<u8>) -> Res;

    /// Reads a row off the front of `bytes`, which were written with the shape
    /// that `reader` was made for.
    fn read(bytes: &mut &[u8], reader: &RowReader) -> Res<Self>;

    /// The shape of the bytes that [`Row::write`] gives.
    fn shape() -> Result<RowShape, ShapeError>;

    /// Whether rows of this type ever expire.
    const EXPIRES: bool = false;

    /// The time from which the row is past its time to live, if nobody touches it before.
    #[inline]
    fn expires_at(&self) -> Ts {
        Ts::MAX
    }

    /// Whether the row is past its time to live; such rows are swept.
    #[inline]
    fn expired(&self, now: Ts) -> bool {
        Self::EXPIRES && self.expires_at() <= now
    }

    /// Whether an operator has to look at the row after a restore, for it waits for a time.
    #[inline]
    fn waits(&self) -> bool {
        false
    }

    /// Whether a row has more to it than what checkpoints hold: then the tier holds
    /// what [`Row::write_beside`] gives, at most 255 bytes.
    const BESIDE: bool = false;

    /// Appends what checkpoints do not hold.
    fn write_beside(&self, _out: &mut Vec<u8>) {}

    /// Takes over what [`Row::write_beside`] gave, all of `bytes`.
    fn read_beside(&mut self, _bytes: &[u8]) -> Res {
        Ok(())
    }

    /// Approximate bytes that the row holds outside itself.
    #[inline]
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// The shape of a row, as it stands in checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowShape {
    /// One value.
    Plain(Shape),
    /// Named state fields, each with its own encoding.
    Fields {
        /// Whether an expiry stands before the fields.
        expires: bool,
        /// The fields in the order they are written.
        fields: Vec<FieldShape>,
    },
}

/// The shape of one state field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldShape {
    /// The field's name.
    pub name: String,
    /// What kind of state it is.
    pub kind: FieldKind,
    /// The shape of its value, element or accumulator.
    pub value: Shape,
    /// The shape of its keys, if it is a map.
    pub key: Option<Shape>,
}

/// The kinds of state a field can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldKind {
    /// At most one value.
    Value,
    /// Elements in order.
    List,
    /// Values by key.
    Map,
}

/// How to read rows of a file: made once per file and state.
#[derive(Debug, Clone)]
pub struct RowReader(pub(crate) Arc<Plan>);

#[derive(Debug)]
pub(crate) enum Plan {
    /// The bytes have the program's own shape.
    Same,
    /// One value, read by field name.
    Plain(Shape),
    /// State fields; per field written, how to read it.
    Fields { expires: bool, fields: Vec<(FieldShape, Fit)> },
}

impl RowReader {
    /// Reads rows that this very program wrote.
    pub fn same() -> Self {
        Self(Arc::new(Plan::Same))
    }

    /// Reads rows of shape `old` in a program whose shape is `new`.
    pub fn new(old: &RowShape, new: &RowShape) -> Result<Self, Incompatible> {
        let plan = match (old, new) {
            (RowShape::Plain(o), RowShape::Plain(n)) => match shape::compatible(o, n)? {
                Fit::Fast => Plan::Same,
                Fit::ByName => Plan::Plain(o.clone()),
            },
            (
                RowShape::Fields { expires: oe, fields: of },
                RowShape::Fields { expires: ne, fields: nf },
            ) => fields_plan(*oe, of, *ne, nf)?,
            (RowShape::Plain(o), RowShape::Fields { .. }) => {
                return Err(Incompatible::new("", &o.to_string(), "a row of state fields"));
            }
            (RowShape::Fields { .. }, RowShape::Plain(n)) => {
                return Err(Incompatible::new("", "a row of state fields", &n.to_string()));
            }
        };
        Ok(Self(Arc::new(plan)))
    }
}

fn fields_plan(
    old_expires: bool,
    old: &[FieldShape],
    new_expires: bool,
    new: &[FieldShape],
) -> Result<Plan, Incompatible> {
    let mut same = old_expires == new_expires && old.len() == new.len();
    let mut fields = Vec::with_capacity(old.len());
    for (i, o) in old.iter().enumerate() {
        let Some((at, n)) = new.iter().enumerate().find(|(_, n)| n.name == o.name) else {
            // A removed field: skipped by its old shape.
            same = false;
            fields.push((o.clone(), Fit::ByName));
            continue;
        };
        if n.kind != o.kind {
            let kind = |k: FieldKind| format!("{k:?} state");
            return Err(Incompatible::new(&o.name, &kind(o.kind), &kind(n.kind)));
        }
        if let (Some(ok), Some(nk)) = (&o.key, &n.key)
            && shape::compatible(ok, nk) != Ok(Fit::Fast)
        {
            let path = format!("{} (map key)", o.name);
            return Err(Incompatible::new(&path, &ok.to_string(), &nk.to_string()));
        }
        let fit = shape::compatible(&o.value, &n.value).map_err(|e| e.under(&o.name))?;
        same &= at == i && fit == Fit::Fast;
        fields.push((o.clone(), fit));
    }
    if same { Ok(Plan::Same) } else { Ok(Plan::Fields { expires: old_expires, fields }) }
}

/// A row that is one value, encoded with postcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plain<T>(pub T);

impl<T: Data> Row for Plain<T> {
    #[inline]
    fn write(&self, out: &mut Vec<u8>) -> Res {
        encode(&self.0, out)
    }

    fn read(bytes: &mut &[u8], reader: &RowReader) -> Res<Self> {
        match &*reader.0 {
            Plan::Plain(old) => Ok(Self(shape::read_by_name(bytes, old)?)),
            _ => Ok(Self(decode(bytes)?)),
        }
    }

    fn shape() -> Result<RowShape, ShapeError> {
        Ok(RowShape::Plain(shape::trace::<T>()?))
    }

    fn heap_bytes(&self) -> usize {
        heap_of(&self.0)
    }
}

/// About the bytes that a value holds outside itself: those of its encoding, and what an
/// allocation costs, if it has anything to drop.
pub(crate) fn heap_of<T: Serialize>(value: &T) -> usize {
    const ALLOCATION: usize = 16;
    if !std::mem::needs_drop::<T>() {
        return 0;
    }
    let mut bytes = Vec::new();
    // What cannot be encoded is told when it is written.
    encode(value, &mut bytes).map_or(0, |()| bytes.len() + ALLOCATION)
}

/// Appends a value's postcard bytes.
#[inline]
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Res {
    postcard::serialize_with_flavor(value, Append(out))?;
    Ok(())
}

/// Reads a value off the front of `bytes`.
#[inline]
pub(crate) fn decode<T: serde::de::DeserializeOwned>(bytes: &mut &[u8]) -> Res<T> {
    let (value, rest) = postcard::take_from_bytes(bytes)?;
    *bytes = rest;
    Ok(value)
}

/// Postcard's output, appended to a vector that stays the caller's.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // Numbers are a byte or few, for which a call to copy is dear; eight at once are one
        // store.
        if bytes.len() > 10 {
            self.0.extend_from_slice(bytes);
            return Ok(());
        }
        self.0.reserve(10);
        let rest = match bytes.split_first_chunk::<8>() {
            Some((eight, rest)) => {
                self.0.extend_from_slice(eight);
                rest
            }
            None => bytes,
        };
        rest.iter().for_each(|byte| self.0.push(*byte));
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
