//! CSV as in RFC 4180, read without a copy where no quote stands.
//!
//! A line without a quote is split where it lies. A row with quotes is unescaped
//! into a scratch buffer. Only the columns that the row type names are handed to
//! serde, so a wide file costs a narrow row type little.

use super::record::{Plan, Record};
use super::{Decode, Decoder, Encode, Encoder, Step};
use millrace_engine::data::{Res, UserError};
use serde::{Serialize, de::DeserializeOwned};
use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;

/// CSV with a header, by which columns find the fields of the row type.
///
/// Reading: fields are separated by the delimiter and may be quoted with `"`
/// (doubled inside); rows end with `\n` or `\r\n`; blank lines are skipped. A
/// column that the row type does not name is ignored; an empty field is `None`
/// for an `Option`. A row with another number of fields than the header is bad,
/// as is one whose fields do not parse, and goes to the dead letters. A header
/// that lacks a column the row type needs fails the job.
///
/// Writing: a header in every file, fields quoted where necessary, `None` as an
/// empty field, floating point numbers in their shortest form that reads back
/// the same, with at least one decimal (`16.0`).
#[derive(Debug, Clone)]
pub struct Csv {
    delimiter: u8,
    header: Header,
    nulls: Vec<String>,
    splittable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Named,
    Skipped,
    None,
}

impl Default for Csv {
    fn default() -> Self {
        Self::new()
    }
}

impl Csv {
    /// Comma-separated, with a header.
    pub fn new() -> Self {
        Self { delimiter: b',', header: Header::Named, nulls: Vec::new(), splittable: false }
    }

    /// The byte between fields, `,` by default.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// There is no header, and none is written: fields are matched by position,
    /// for tuples and for structs.
    pub fn no_header(mut self) -> Self {
        self.header = Header::None;
        self
    }

    /// There is a header, but fields are matched by position.
    pub fn positional(mut self) -> Self {
        self.header = Header::Skipped;
        self
    }

    /// Reading: this text means `None` too (`NA`, `\N`). May be given repeatedly.
    pub fn null(mut self, text: impl Into<String>) -> Self {
        self.nulls.push(text.into());
        self
    }

    /// Whether a file may be read by several subtasks, each from a line break on.
    ///
    /// Off by default, for a quoted field may hold line breaks, and no one who
    /// starts in the middle of a file can tell those from the ends of rows. Turn
    /// it on for files that have none inside quotes. Compressed files are never
    /// split.
    pub fn splittable(mut self, splittable: bool) -> Self {
        self.splittable = splittable;
        self
    }
}

impl<T: DeserializeOwned + Send + 'static> Decode<T> for Csv {
    type Decoder = CsvDecoder<T>;

    fn decoder(&self) -> Self::Decoder {
        CsvDecoder {
            csv: self.clone(),
            names: Vec::new(),
            width: None,
            fields: Vec::new(),
            scratch: Vec::new(),
            plan: Plan::default(),
            rows: PhantomData,
        }
    }

    fn splittable(&self) -> bool {
        self.splittable
    }
}

/// Reads CSV.
#[derive(Debug)]
pub struct CsvDecoder<T> {
    csv: Csv,
    /// The columns; empty if fields are matched by position.
    names: Vec<String>,
    /// Fields of every row: those of the header, or of the first row.
    width: Option<usize>,
    /// Where the fields of the present row lie, in the input or in `scratch`.
    fields: Vec<(u32, u32)>,
    scratch: Vec<u8>,
    plan: Plan,
    rows: PhantomData<fn() -> T>,
}

/// Finds any of three bytes in eight at a time, as in "Bit Twiddling Hacks",
/// "Determine if a word has a zero byte", in the form that has no false hits.
#[derive(Clone, Copy)]
struct Stops([u64; 3]);

impl Stops {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;

    #[inline]
    fn new(bytes: [u8; 3]) -> Self {
        Self(bytes.map(|byte| u64::from_ne_bytes([byte; 8])))
    }

    /// The top bit of each byte that is one of the three, the first byte lowest.
    #[inline]
    fn find(self, word: &[u8]) -> u64 {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        self.0.iter().fold(0, |found, pattern| {
            let differ = word ^ pattern;
            found | !(((differ & Self::LOW) + Self::LOW) | differ | Self::LOW)
        })
    }
}

/// A row that was split into fields.
enum Fields {
    /// They lie in the input; the row has this length.
    Plain(usize),
    /// They lie in the scratch buffer.
    Unescaped(usize),
    Blank(usize),
    Bad(usize, &'static str),
    More,
}

impl<T: DeserializeOwned> Decoder<T> for CsvDecoder<T> {
    fn has_header(&self) -> bool {
        self.csv.header != Header::None
    }

    fn header(&mut self, input: &[u8], end: bool) -> Res<Option<usize>> {
        // Excel begins files with a byte order mark.
        let mut at = if input.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        loop {
            if at == input.len() {
                return Ok(end.then_some(at));
            }
            let row = &input[at..];
            let (bytes, len): (&[u8], usize) = match self.split(row, end) {
                Fields::More => return Ok(None),
                Fields::Blank(len) => {
                    at += len;
                    continue;
                }
                Fields::Bad(_, why) => return Err(UserError(format!("CSV header: {why}")).into()),
                Fields::Plain(len) => (row, len),
                Fields::Unescaped(len) => (&self.scratch, len),
            };
            self.width = Some(self.fields.len());
            if self.csv.header == Header::Named {
                self.names = self
                    .fields
                    .iter()
                    .map(|&(from, to)| {
                        String::from_utf8_lossy(&bytes[from as usize..to as usize]).into_owned()
                    })
                    .collect();
            }
            return Ok(Some(at + len));
        }
    }

    #[inline]
    fn next(&mut self, input: &[u8], end: bool) -> Step<T> {
        let (len, unescaped) = match self.split(input, end) {
            Fields::Plain(len) => (len, false),
            Fields::Unescaped(len) => (len, true),
            Fields::Blank(len) => return Step::Skip(len),
            Fields::Bad(len, why) => return Step::Bad(len, why.to_owned()),
            Fields::More => return Step::More,
        };
        let width = *self.width.get_or_insert(self.fields.len());
        if self.fields.len() != width {
            let found = self.fields.len();
            return Step::Bad(len, format!("{found} fields where {width} are expected"));
        }
        let bytes = if unescaped { &self.scratch } else { input };
        let record = Record {
            bytes,
            fields: &self.fields,
            names: &self.names,
            nulls: &self.csv.nulls,
            plan: &mut self.plan,
        };
        match T::deserialize(record) {
            Ok(row) => Step::Row(len, row),
            Err(e) if e.missing_column => {
                Step::Misfit(format!("{e}; the columns are {}", self.names.join(", ")))
            }
            Err(e) => Step::Bad(len, e.to_string()),
        }
    }
}

impl<T> CsvDecoder<T> {
    /// Finds the fields of the row at the beginning of `input`.
    #[inline]
    fn split(&mut self, input: &[u8], end: bool) -> Fields {
        self.fields.clear();
        let delimiter = self.csv.delimiter;
        let mut from = 0;
        let mut stop = None;
        let stops = Stops::new([delimiter, b'\n', b'"']);
        let words = input.chunks_exact(8);
        let tail = words.remainder();
        'scan: {
            for (word, base) in words.zip((0..).step_by(8)) {
                let mut found = stops.find(word);
                while found != 0 {
                    let at = base + (found.trailing_zeros() / 8) as usize;
                    if input[at] != delimiter {
                        stop = Some(at);
                        break 'scan;
                    }
                    self.fields.push((from, at as u32));
                    from = at as u32 + 1;
                    found &= found - 1;
                }
            }
            for (&byte, at) in tail.iter().zip(input.len() - tail.len()..) {
                if byte == delimiter {
                    self.fields.push((from, at as u32));
                    from = at as u32 + 1;
                } else if byte == b'\n' || byte == b'"' {
                    stop = Some(at);
                    break 'scan;
                }
            }
        }
        let (mut to, len) = match stop {
            Some(at) if input[at] == b'\n' => (at, at + 1),
            Some(_) => return self.split_quoted(input, end),
            None if end => (input.len(), input.len()),
            None => return Fields::More,
        };
        if to > from as usize && input[to - 1] == b'\r' {
            to -= 1;
        }
        if to == 0 {
            return Fields::Blank(len);
        }
        self.fields.push((from, to as u32));
        Fields::Plain(len)
    }

    /// The same for a row that holds a quote: unescapes it into `scratch`.
    #[cold]
    fn split_quoted(&mut self, input: &[u8], end: bool) -> Fields {
        let delimiter = self.csv.delimiter;
        self.fields.clear();
        self.scratch.clear();
        let mut at = 0;
        loop {
            // At the beginning of a field.
            let from = self.scratch.len() as u32;
            if input.get(at) == Some(&b'"') {
                at += 1;
                loop {
                    let Some(n) = memchr::memchr(b'"', &input[at..]) else {
                        return self.unclosed(input, end);
                    };
                    self.scratch.extend_from_slice(&input[at..at + n]);
                    at += n + 1;
                    if input.get(at) != Some(&b'"') {
                        // Whether a quote ends the field shows in the byte after it.
                        if at == input.len() && !end {
                            return Fields::More;
                        }
                        break;
                    }
                    self.scratch.push(b'"');
                    at += 1;
                }
            }
            // The field, or what follows its closing quote, as it stands.
            let n = memchr::memchr2(delimiter, b'\n', &input[at..]);
            let Some(n) = n.or(end.then_some(input.len() - at)) else {
                return Fields::More;
            };
            self.scratch.extend_from_slice(&input[at..at + n]);
            at += n;
            if input.get(at) == Some(&delimiter) {
                self.fields.push((from, self.scratch.len() as u32));
                at += 1;
                continue;
            }
            if n > 0 && input[at - 1] == b'\r' {
                self.scratch.pop();
            }
            self.fields.push((from, self.scratch.len() as u32));
            return Fields::Unescaped((at + 1).min(input.len()));
        }
    }

    /// A quote that is still open. At the end of the file that is an error, and
    /// only its line is given up: what follows may be sound.
    fn unclosed(&self, input: &[u8], end: bool) -> Fields {
        if !end {
            return Fields::More;
        }
        let line = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        Fields::Bad(line, "a quote is opened and never closed")
    }
}

/// Writes CSV.
pub struct CsvEncoder {
    writer: csv::Writer<Shared>,
    bytes: Shared,
}

/// What the CSV writer has written: it only lends its own output for reading.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: Serialize> Encode<T> for Csv {
    type Encoder = CsvEncoder;

    fn encoder(&self) -> Self::Encoder {
        let bytes = Shared::default();
        let writer = csv::WriterBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(self.header != Header::None)
            .buffer_capacity(64 * 1024)
            .from_writer(bytes.clone());
        CsvEncoder { writer, bytes }
    }

    fn extension(&self) -> &str {
        "csv"
    }
}

impl<T: Serialize> Encoder<T> for CsvEncoder {
    fn encode(&mut self, row: &T) -> Res {
        Ok(self.writer.serialize(row)?)
    }

    fn drain(&mut self, out: &mut Vec<u8>) -> Res {
        self.writer.flush()?;
        out.append(&mut self.bytes.0.borrow_mut());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
