//! What flows: timestamps, batches of rows, and the error that user code returns.

use serde::{Serialize, de::DeserializeOwned};
use std::any::Any;

/// An error of user code or of a connector. The runtime adds operator, subtask and cause.
pub type Fail = Box<dyn std::error::Error + Send + Sync>;

/// What user code and connectors return.
pub type Res<T = ()> = Result<T, Fail>;

/// An error that only the user can mend: a file that is missing, a directory
/// that cannot be written. A connector returns it as its [`Fail`]; it is not
/// retried, and the program exits with 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UserError(pub String);

/// Event time in milliseconds since the Unix epoch, UTC.
pub type Ts = i64;

/// The timestamp of a row that has none, and the watermark before any.
pub const TS_MIN: Ts = i64::MIN;

/// The watermark after all rows of a bounded input.
pub const TS_MAX: Ts = i64::MAX;

/// A function or object of user code: one clone per subtask.
pub trait Fun: Clone + Send + 'static {}
impl<F: Clone + Send + 'static> Fun for F {}

/// A value that an edge or a state needs bytes of.
pub trait Data: Serialize + DeserializeOwned + Send + 'static {}
impl<T: Serialize + DeserializeOwned + Send + 'static> Data for T {}

/// A batch of rows in columns.
///
/// `ts` is always as long as `values`; `hash` too where the stream is keyed,
/// and empty where it is not. A mark `(n, w)` says that watermark `w` stands
/// before row `n`: marks are ordered, and one at `len()` stands after the last
/// row. Because marks ride between rows, which row is late does not depend on
/// where batches were cut.
#[derive(Debug, Clone)]
pub struct Rows<T> {
    /// Event time of each row, or [`TS_MIN`].
    pub ts: Vec<Ts>,
    /// Key hash of each row; empty if the stream is not keyed.
    pub hash: Vec<u64>,
    /// The rows.
    pub values: Vec<T>,
    /// Watermarks between rows, as (index of the row after, watermark).
    pub marks: Vec<(u32, Ts)>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { ts: Vec::new(), hash: Vec::new(), values: Vec::new(), marks: Vec::new() }
    }
}

impl<T> Rows<T> {
    /// Number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no row (there may be marks).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Appends a row of a stream that is not keyed.
    #[inline]
    pub fn push(&mut self, ts: Ts, value: T) {
        self.ts.push(ts);
        self.values.push(value);
    }

    /// Appends a row of a keyed stream.
    #[inline]
    pub fn push_keyed(&mut self, ts: Ts, hash: u64, value: T) {
        self.ts.push(ts);
        self.hash.push(hash);
        self.values.push(value);
    }

    /// Notes that `watermark` stands after the rows pushed so far.
    pub fn mark(&mut self, watermark: Ts) {
        put_mark(&mut self.marks, self.values.len(), watermark);
    }

    /// Drops the first `marks` marks and what belongs to the first `rows` rows, whose
    /// values the caller has taken already.
    pub fn forget_front(&mut self, rows: usize, marks: usize) {
        self.ts.drain(..rows);
        if !self.hash.is_empty() {
            self.hash.drain(..rows);
        }
        self.marks.drain(..marks);
        for mark in &mut self.marks {
            mark.0 -= rows as u32;
        }
    }

    /// Moves all rows and marks of `other` behind those of this batch.
    pub fn append(&mut self, other: &mut Self) {
        let shift = self.len() as u32;
        self.ts.append(&mut other.ts);
        self.hash.append(&mut other.hash);
        self.values.append(&mut other.values);
        for (at, watermark) in other.marks.drain(..) {
            match self.marks.last_mut() {
                Some(last) if last.0 == at + shift => last.1 = watermark,
                _ => self.marks.push((at + shift, watermark)),
            }
        }
    }

    /// Removes rows and marks, keeps the allocations.
    pub fn clear(&mut self) {
        self.ts.clear();
        self.hash.clear();
        self.values.clear();
        self.marks.clear();
    }
}

/// A batch on an exchange, row by row: (timestamp, key hash or 0, row), and marks as in
/// [`Rows`]. One length and one place to write to per row make scattering rows over many
/// destinations cheaper than three columns would.
#[derive(Debug, Clone)]
pub struct Packet<T> {
    /// The rows.
    pub rows: Vec<(Ts, u64, T)>,
    /// Watermarks between rows, as (index of the row after, watermark).
    pub marks: Vec<(u32, Ts)>,
}

impl<T> Default for Packet<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), marks: Vec::new() }
    }
}

impl<T> Packet<T> {
    /// Notes that `watermark` stands after the rows pushed so far.
    pub fn mark(&mut self, watermark: Ts) {
        put_mark(&mut self.marks, self.rows.len(), watermark);
    }

    /// Whether there is neither row nor mark.
    pub fn is_vacant(&self) -> bool {
        self.rows.is_empty() && self.marks.is_empty()
    }

    /// Removes rows and marks, keeps the allocations.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.marks.clear();
    }
}

impl<T: Send + 'static> AnyBatch for Packet<T> {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

fn put_mark(marks: &mut Vec<(u32, Ts)>, at: usize, watermark: Ts) {
    let at = at as u32;
    match marks.last_mut() {
        Some(last) if last.0 == at => last.1 = last.1.max(watermark),
        _ => marks.push((at, watermark)),
    }
}

/// A batch whose type is known at its two ends only.
pub trait AnyBatch: Any + Send {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// To ask for the type of the batch.
    fn as_any(&self) -> &dyn Any;
    /// For a downcast to the typed batch.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Send + 'static> AnyBatch for Rows<T> {
    fn rows(&self) -> usize {
        self.len()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
