//! Batches as bytes: what a frame between two workers holds.
//!
//! Both ends run the same program, which registration has checked, so there is no schema
//! on the wire: fixed-width little-endian columns, and rows in the positional form of
//! [`mod@write`]. Who reads does not trust the bytes: nothing here panics, and no length is
//! believed beyond what the payload can hold.
//!
//! ```text
//! rows: u32, marks: u32, hashes: u8, values..., ts: [i64], hash: [u64], marks: [(u32, i64)]
//! ```
//!
//! Pure.

pub mod read;
mod shared;
pub mod write;

use crate::data::{AnyBatch, Packet, Rows, Ts};
use crate::state::RowShape;
use crate::state::delta::StateSchema;
use crate::state::value::shape_of;
use millrace_protocol::manifest::ShapeBytes;
use read::Reader;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
pub use shared::Shared;
use std::marker::PhantomData;
use std::sync::Arc;
use thiserror::Error;
use write::Writer;

/// Why bytes are not a batch, or a batch cannot be bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The bytes end within a value.
    #[error("the bytes end within a value")]
    Short,
    /// There are bytes behind the last value.
    #[error("{0} bytes are left over")]
    Rest(usize),
    /// A length or an index that cannot be.
    #[error("{what} of {found} where at most {limit} can be")]
    Beyond {
        /// What is too large.
        what: &'static str,
        /// How large.
        found: u64,
        /// What there can be.
        limit: u64,
    },
    /// A tag that stands for nothing.
    #[error("{0} is no {1}")]
    Tag(u32, &'static str),
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    Utf8,
    /// Values within values, too deep.
    #[error("values are nested deeper than {0}")]
    Depth(u32),
    /// The type asks the bytes what they are (`serde(flatten)`, `serde(untagged)`).
    #[error(
        "the row's type is read by names (serde(flatten), serde(untagged) or a generic value), \
         which rows between workers cannot be: write its fields out"
    )]
    SelfDescribing,
    /// A batch of another type than the edge's.
    #[error("a batch that is not of {0}")]
    Type(&'static str),
    /// What the type's own code says.
    #[error("{0}")]
    Custom(String),
}

impl serde::ser::Error for CodecError {
    fn custom<T: std::fmt::Display>(what: T) -> Self {
        Self::Custom(what.to_string())
    }
}

impl serde::de::Error for CodecError {
    fn custom<T: std::fmt::Display>(what: T) -> Self {
        Self::Custom(what.to_string())
    }
}

/// What encoding gives.
pub type Coded<T = ()> = Result<T, CodecError>;

/// Turns the batches of an edge into bytes and back.
pub trait Codec: Send + Sync {
    /// Appends rows from `from` on, until there are no more or `out` has grown by `limit`
    /// bytes; at least one. Answers the first row that is not written.
    fn encode(
        &self,
        batch: &dyn AnyBatch,
        from: usize,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Coded<usize>;

    /// Reads a batch, into an emptied one if there is one that fits.
    fn decode(&self, bytes: &[u8], recycled: Option<Box<dyn AnyBatch>>)
    -> Coded<Box<dyn AnyBatch>>;

    /// Empties a batch whose rows are written, for its sender to fill again.
    fn clear(&self, batch: &mut dyn AnyBatch);

    /// The traced shape of the rows; empty if their type cannot be traced.
    fn shape(&self) -> ShapeBytes;

    /// Takes the marks out of a batch, and the rows whose key hash is not to be kept.
    fn strip(&self, batch: &mut dyn AnyBatch, keep: &mut dyn FnMut(u64) -> bool);
}

/// Rows and marks that a batch consists of, whatever its layout.
trait Columns: AnyBatch + Default {
    type Value: Serialize + DeserializeOwned + Send + 'static;

    fn row(&self, index: usize) -> Option<(Ts, u64, &Self::Value)>;
    fn has_hashes(&self) -> bool;
    fn marks(&self) -> &[(u32, Ts)];
    fn put_mark(&mut self, at: u32, watermark: Ts);
    fn push(&mut self, ts: Ts, hash: u64, hashed: bool, value: Self::Value);
    fn empty(&mut self);
    fn make_room(&mut self, rows: usize);
    fn strip(&mut self, keep: &mut dyn FnMut(u64) -> bool);
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Columns for Packet<T> {
    type Value = T;

    #[inline]
    fn row(&self, index: usize) -> Option<(Ts, u64, &T)> {
        self.rows.get(index).map(|(ts, hash, value)| (*ts, *hash, value))
    }

    fn has_hashes(&self) -> bool {
        true
    }

    fn marks(&self) -> &[(u32, Ts)] {
        &self.marks
    }

    fn put_mark(&mut self, at: u32, watermark: Ts) {
        self.marks.push((at, watermark));
    }

    #[inline]
    fn push(&mut self, ts: Ts, hash: u64, _: bool, value: T) {
        self.rows.push((ts, hash, value));
    }

    fn empty(&mut self) {
        self.clear();
    }

    fn make_room(&mut self, rows: usize) {
        self.rows.reserve(rows);
    }

    fn strip(&mut self, keep: &mut dyn FnMut(u64) -> bool) {
        self.rows.retain(|(_, hash, _)| keep(*hash));
        self.marks.clear();
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Columns for Rows<T> {
    type Value = T;

    #[inline]
    fn row(&self, index: usize) -> Option<(Ts, u64, &T)> {
        let hash = self.hash.get(index).copied().unwrap_or(0);
        Some((*self.ts.get(index)?, hash, self.values.get(index)?))
    }

    fn has_hashes(&self) -> bool {
        !self.hash.is_empty()
    }

    fn marks(&self) -> &[(u32, Ts)] {
        &self.marks
    }

    fn put_mark(&mut self, at: u32, watermark: Ts) {
        self.marks.push((at, watermark));
    }

    #[inline]
    fn push(&mut self, ts: Ts, hash: u64, hashed: bool, value: T) {
        if hashed {
            self.push_keyed(ts, hash, value);
        } else {
            Rows::push(self, ts, value);
        }
    }

    fn empty(&mut self) {
        self.clear();
    }

    fn make_room(&mut self, rows: usize) {
        self.ts.reserve(rows);
        self.values.reserve(rows);
    }

    fn strip(&mut self, keep: &mut dyn FnMut(u64) -> bool) {
        let hashed = !self.hash.is_empty();
        let mut hashes = std::mem::take(&mut self.hash).into_iter();
        let stamped = std::mem::take(&mut self.ts).into_iter();
        let values = std::mem::take(&mut self.values).into_iter();
        self.marks.clear();
        for (ts, value) in stamped.zip(values) {
            let hash = hashes.next().unwrap_or(0);
            if keep(hash) {
                Columns::push(self, ts, hash, hashed, value);
            }
        }
    }
}

/// Rows, marks and the flag for hashes.
const HEAD: usize = 9;
/// Room for rows that is made without having seen them.
const TRUST: usize = 4096;

fn encode<B: Columns>(
    batch: &dyn AnyBatch,
    from: usize,
    limit: usize,
    out: &mut Vec<u8>,
) -> Coded<usize> {
    let Some(batch) = batch.as_any().downcast_ref::<B>() else {
        return match batch.as_any().downcast_ref::<Shared<B::Value>>() {
            Some(shared) => shared.encode(from, limit, out),
            None => Err(CodecError::Type(std::any::type_name::<B>())),
        };
    };
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    let total = batch.rows();
    let hashed = batch.has_hashes();
    let apart = if hashed { 16 } else { 8 };
    let mut to = from;
    let mut writer = Writer::new(out);
    while let Some((_, _, value)) = batch.row(to) {
        value.serialize(&mut writer)?;
        to += 1;
        if writer.len() - begin + (to - from) * apart >= limit {
            break;
        }
    }
    let rows = from..to;
    out.reserve(rows.len() * apart);
    for index in rows.clone() {
        if let Some((ts, _, _)) = batch.row(index) {
            out.extend_from_slice(&ts.to_le_bytes());
        }
    }
    if hashed {
        for index in rows.clone() {
            if let Some((_, hash, _)) = batch.row(index) {
                out.extend_from_slice(&hash.to_le_bytes());
            }
        }
    }
    let last = to >= total;
    let mut marks = 0u32;
    for (at, watermark) in batch.marks() {
        // A mark stands before its row; those behind the last row go with it.
        let row = *at as usize;
        if row >= from && (row < to || last) {
            out.extend_from_slice(&((row - from) as u32).to_le_bytes());
            out.extend_from_slice(&watermark.to_le_bytes());
            marks += 1;
        }
    }
    if let Some(head) = out.get_mut(begin..begin + HEAD) {
        head[..4].copy_from_slice(&(rows.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&marks.to_le_bytes());
        head[8] = u8::from(hashed);
    }
    Ok(to)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 8]> + '_ {
    bytes.chunks_exact(8).map(|word| {
        let mut array = [0; 8];
        array.copy_from_slice(word);
        array
    })
}

fn decode<B: Columns>(
    bytes: &[u8],
    recycled: Option<Box<dyn AnyBatch>>,
) -> Coded<Box<dyn AnyBatch>> {
    let mut reader = Reader::new(bytes);
    let (rows, marks) = (reader.u32()? as usize, reader.u32()? as usize);
    let hashed = match reader.u8()? {
        0 => false,
        1 => true,
        other => return Err(CodecError::Tag(u32::from(other), "flag")),
    };
    let columns = if hashed { 2 } else { 1 };
    // Neither product overflows: both factors began as 32 bits.
    let fixed = rows as u64 * 8 * columns + marks as u64 * 12;
    let left = reader.left() as u64;
    if fixed > left {
        return Err(CodecError::Beyond { what: "columns", found: fixed, limit: left });
    }
    let values = (left - fixed) as usize;
    if rows > values {
        // Every value takes a byte at least.
        let (found, limit) = (rows as u64, values as u64);
        return Err(CodecError::Beyond { what: "number of rows", found, limit });
    }
    let body = &bytes[HEAD..];
    let (values, rest) = body.split_at_checked(values).ok_or(CodecError::Short)?;
    let (ts, rest) = rest.split_at_checked(rows * 8).ok_or(CodecError::Short)?;
    let (hash, mark_bytes) =
        rest.split_at_checked(if hashed { rows * 8 } else { 0 }).ok_or(CodecError::Short)?;
    let mut batch = match recycled {
        Some(batch) if batch.as_any().is::<B>() => batch,
        _ => Box::new(B::default()),
    };
    let Some(into) = batch.as_any_mut().downcast_mut::<B>() else {
        return Err(CodecError::Type(std::any::type_name::<B>()));
    };
    into.empty();
    into.make_room(rows.min(TRUST));
    let mut reader = Reader::new(values);
    let hashes = words(hash).map(u64::from_le_bytes).chain(std::iter::repeat(0));
    for (ts, hash) in words(ts).map(i64::from_le_bytes).zip(hashes) {
        let value = B::Value::deserialize(&mut reader)?;
        into.push(ts, hash, hashed, value);
    }
    if reader.left() != 0 {
        return Err(CodecError::Rest(reader.left()));
    }
    let mut reader = Reader::new(mark_bytes);
    let mut before = 0;
    for _ in 0..marks {
        let (at, watermark) = (reader.u32()?, reader.u64()? as i64);
        if at < before || at as usize > rows {
            let (found, limit) = (u64::from(at), rows as u64);
            return Err(CodecError::Beyond { what: "place of a watermark", found, limit });
        }
        before = at;
        into.put_mark(at, watermark);
    }
    Ok(batch)
}

/// For edges that carry [`Packet`]s of one type.
pub struct Packets<T>(PhantomData<fn(T)>);

/// For edges that carry [`Rows`]: splits.
pub struct Columnar<T>(PhantomData<fn(T)>);

/// For edges that carry two types: rows, and packets of what they were folded into.
pub struct Either<U> {
    first: Arc<dyn Codec>,
    second: PhantomData<fn(U)>,
}

impl<U> Either<U> {
    /// With the rows' codec.
    #[must_use]
    pub fn new(first: Arc<dyn Codec>) -> Self {
        Self { first, second: PhantomData }
    }
}

macro_rules! codec_of {
    ($name:ident, $batch:ident) => {
        impl<T> $name<T> {
            /// The codec.
            #[must_use]
            pub fn new() -> Self {
                Self(PhantomData)
            }
        }

        impl<T> Default for $name<T> {
            fn default() -> Self {
                Self::new()
            }
        }

        impl<T: Serialize + DeserializeOwned + Send + 'static> Codec for $name<T> {
            fn encode(
                &self,
                batch: &dyn AnyBatch,
                from: usize,
                limit: usize,
                out: &mut Vec<u8>,
            ) -> Coded<usize> {
                encode::<$batch<T>>(batch, from, limit, out)
            }

            fn decode(
                &self,
                bytes: &[u8],
                recycled: Option<Box<dyn AnyBatch>>,
            ) -> Coded<Box<dyn AnyBatch>> {
                decode::<$batch<T>>(bytes, recycled)
            }

            fn clear(&self, batch: &mut dyn AnyBatch) {
                let batch = batch.as_any_mut();
                if let Some(batch) = batch.downcast_mut::<$batch<T>>() {
                    batch.clear();
                } else if let Some(shared) = batch.downcast_mut::<Shared<T>>() {
                    shared.let_go();
                }
            }

            fn shape(&self) -> ShapeBytes {
                shape_of::<T>().unwrap_or_default()
            }

            fn strip(&self, batch: &mut dyn AnyBatch, keep: &mut dyn FnMut(u64) -> bool) {
                if let Some(batch) = batch.as_any_mut().downcast_mut::<$batch<T>>() {
                    Columns::strip(batch, keep);
                }
            }
        }
    };
}

codec_of!(Packets, Packet);
codec_of!(Columnar, Rows);

impl<U: Serialize + DeserializeOwned + Send + 'static> Codec for Either<U> {
    fn encode(
        &self,
        batch: &dyn AnyBatch,
        from: usize,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Coded<usize> {
        let second = batch.as_any().is::<Packet<U>>();
        out.push(u8::from(second));
        if second {
            encode::<Packet<U>>(batch, from, limit, out)
        } else {
            self.first.encode(batch, from, limit, out)
        }
    }

    fn decode(
        &self,
        bytes: &[u8],
        recycled: Option<Box<dyn AnyBatch>>,
    ) -> Coded<Box<dyn AnyBatch>> {
        match bytes.split_first() {
            Some((0, rest)) => self.first.decode(rest, recycled),
            Some((1, rest)) => decode::<Packet<U>>(rest, recycled),
            Some((other, _)) => Err(CodecError::Tag(u32::from(*other), "kind of batch")),
            None => Err(CodecError::Short),
        }
    }

    fn clear(&self, batch: &mut dyn AnyBatch) {
        match batch.as_any_mut().downcast_mut::<Packet<U>>() {
            Some(batch) => batch.clear(),
            None => self.first.clear(batch),
        }
    }

    /// Both, the rows' in the place of the key.
    fn shape(&self) -> ShapeBytes {
        let schema = |bytes: &ShapeBytes| serde_json::from_slice::<StateSchema>(&bytes.0).ok();
        let second = shape_of::<U>().unwrap_or_default();
        match (schema(&self.first.shape()), schema(&second)) {
            (Some(StateSchema { row: RowShape::Plain(first), .. }), Some(second)) => {
                let both = StateSchema { key: first, ..second };
                ShapeBytes(serde_json::to_vec(&both).unwrap_or_default())
            }
            _ => ShapeBytes::default(),
        }
    }

    fn strip(&self, batch: &mut dyn AnyBatch, keep: &mut dyn FnMut(u64) -> bool) {
        match batch.as_any_mut().downcast_mut::<Packet<U>>() {
            Some(batch) => Columns::strip(batch, keep),
            None => self.first.strip(batch, keep),
        }
    }
}
