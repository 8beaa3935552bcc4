//! Formats: how rows stand in bytes. Pure: a decoder is given bytes and an
//! encoder gives bytes; files, compression and splits are the caller's.

#[cfg(feature = "csv")]
mod csv;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "csv")]
mod record;

#[cfg(feature = "csv")]
pub use self::csv::{Csv, CsvDecoder, CsvEncoder};
#[cfg(feature = "json")]
pub use self::json::{JsonLines, JsonLinesDecoder, JsonLinesEncoder};

use millrace_engine::data::{Fun, Res};

/// A format that rows of type `T` can be read from.
pub trait Decode<T>: Fun {
    /// The state of reading one file.
    type Decoder: Decoder<T>;

    /// Makes the decoder of a file.
    fn decoder(&self) -> Self::Decoder;

    /// Whether every line break ends a row, so that a reader may start at any of
    /// them. If not, a file is read by one subtask.
    fn splittable(&self) -> bool;
}

/// Reads rows from the bytes of one file.
pub trait Decoder<T> {
    /// Whether the file begins with a header: then [`Decoder::header`] is called
    /// before the first [`Decoder::next`], whichever part of the file is read.
    fn has_header(&self) -> bool {
        false
    }

    /// Reads the header at the beginning of `input`: its length, or `None` if
    /// more bytes are needed. `end`: there are no more. An error fails the job.
    fn header(&mut self, input: &[u8], end: bool) -> Res<Option<usize>> {
        let _ = (input, end);
        Ok(Some(0))
    }

    /// Reads the row at the beginning of `input`, which is not empty. `end`:
    /// there is nothing after `input`.
    fn next(&mut self, input: &[u8], end: bool) -> Step<T>;
}

/// What stands at the beginning of a decoder's input. Lengths are in bytes, at
/// least 1, and include the line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// A row of this length.
    Row(usize, T),
    /// Nothing of interest: a blank line.
    Skip(usize),
    /// A row that cannot be understood; reading goes on after it.
    Bad(usize, String),
    /// The file as a whole does not fit the row type: the job fails.
    Misfit(String),
    /// The row does not end in `input`. Never answered at the end.
    More,
}

/// A format that rows of type `T` can be written in.
pub trait Encode<T>: Fun {
    /// The state of writing one file.
    type Encoder: Encoder<T>;

    /// Makes the encoder of a file.
    fn encoder(&self) -> Self::Encoder;

    /// The end of file names, without a dot: `csv`.
    fn extension(&self) -> &str;
}

/// Writes rows as the bytes of one file.
pub trait Encoder<T> {
    /// Takes a row; its bytes may stay inside until [`Encoder::drain`].
    fn encode(&mut self, row: &T) -> Res;

    /// Appends to `out` all bytes of the rows taken so far.
    fn drain(&mut self, out: &mut Vec<u8>) -> Res;
}
