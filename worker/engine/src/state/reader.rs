//! The checkpoint file, format 1: reading by key group. Pure: bytes come from
//! a [`RangeRead`]. See [`delta`](super::delta) for the format.

use super::delta::{BlockIndex, FORMAT, Footer, HEADER, MAGIC, Section, TRAILER};
use super::row::RowReader;
use crate::data::{Fail, Res};
use millrace_protocol::key::HASH_VERSION;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};
use std::ops::Range;
use thiserror::Error;

/// A file of which ranges can be read.
pub trait RangeRead {
    /// Its length in bytes.
    fn len(&self) -> Res<u64>;
    /// Reads a range that lies within it.
    fn read(&self, range: Range<u64>) -> Res<Vec<u8>>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> Res<bool> {
        Ok(self.len()? == 0)
    }
    /// These ranges are read next, in this order: who has a long way may begin now.
    fn expect(&self, ranges: &[Range<u64>]) {
        let _ = ranges;
    }
    /// Of a copy: what to read instead where it is damaged.
    fn original(&self) -> Option<&dyn RangeRead> {
        None
    }
}

impl RangeRead for Vec<u8> {
    fn len(&self) -> Res<u64> {
        Ok(Vec::len(self) as u64)
    }

    fn read(&self, range: Range<u64>) -> Res<Vec<u8>> {
        let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
        Ok(self.get(start..end).ok_or("range beyond the end")?.to_vec())
    }
}

/// What is wrong with a checkpoint file. Its place is part of the message; the
/// cure is the same for all damage: the bytes must come from somewhere else.
#[derive(Debug, Error)]
pub enum FileError {
    /// The store failed.
    #[error("{file}: cannot be read: {cause}")]
    Io {
        /// The file.
        file: String,
        /// The store's error.
        #[source]
        cause: Fail,
    },
    /// No trailer at the end.
    #[error(
        "{file}: no state file, or truncated ({bytes} bytes, without the mark that ends one). \
         Restore the file from a copy, or resume from another checkpoint or savepoint"
    )]
    Truncated {
        /// The file.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// Written by a newer program.
    #[error(
        "{file}: has format {found}, and this program reads up to {FORMAT}. \
         Run the program version that wrote it, or a newer one"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its format version.
        found: u32,
    },
    /// A job with another number of groups, or another key hash.
    #[error("{file}: was written with {what} {found}, and this job has {expected}. {cure}")]
    Foreign {
        /// The file.
        file: String,
        /// What differs.
        what: &'static str,
        /// In the file.
        found: u32,
        /// In this job.
        expected: u32,
        /// What to do.
        cure: &'static str,
    },
    /// Bytes that are not what was written.
    #[error(
        "{file}: {section} is corrupt: {what}. \
         Restore the file from a copy, or resume from another checkpoint or savepoint"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// Footer, or operator and state.
        section: String,
        /// How it shows.
        what: String,
    },
}

/// A checkpoint file, opened.
pub struct DeltaReader {
    name: String,
    data: Box<dyn RangeRead>,
    footer: Footer,
    footer_crc32: u32,
    /// Where the blocks end.
    end: u64,
}

/// Read at once from the end, in the hope that it holds the footer.
const TAIL: u64 = 64 * 1024;
/// Blocks are read together up to this many bytes.
const READ: u64 = 4 * 1024 * 1024;

impl DeltaReader {
    /// Says that these bytes will be opened next.
    pub fn expect_open(data: &dyn RangeRead) {
        if let Ok(bytes) = data.len() {
            let tail = bytes.saturating_sub(TAIL)..bytes;
            data.expect(std::slice::from_ref(&tail));
        }
    }

    /// Opens a file; `name` is how errors call it.
    pub fn open(name: &str, data: Box<dyn RangeRead>) -> Result<Self, FileError> {
        let file = name.to_owned();
        let io = |cause| FileError::Io { file: file.clone(), cause };
        let bytes = data.len().map_err(io)?;
        let truncated = || FileError::Truncated { file: file.clone(), bytes };
        let corrupt = |what: &str| FileError::Corrupt {
            file: file.clone(),
            section: "the footer".to_owned(),
            what: what.to_owned(),
        };
        let mut tail = data.read(bytes.saturating_sub(TAIL)..bytes).map_err(io)?;
        let rest = tail.strip_suffix(&MAGIC).ok_or_else(truncated)?;
        let (rest, version) = split_u32(rest).ok_or_else(truncated)?;
        if version > FORMAT {
            return Err(FileError::Newer { file, found: version });
        }
        if version == 0 {
            return Err(corrupt("format version 0"));
        }
        let (rest, crc) = split_u32(rest).ok_or_else(truncated)?;
        let (_, length) = split_u32(rest).ok_or_else(truncated)?;
        let whole = u64::from(length) + TRAILER as u64;
        let end = bytes.checked_sub(whole).ok_or_else(|| corrupt("longer than the file"))?;
        if whole > tail.len() as u64 {
            tail = data.read(end..bytes).map_err(io)?;
        }
        let start = tail.len().saturating_sub(whole as usize);
        let footer = tail.get(start..tail.len() - TRAILER).ok_or_else(|| corrupt("short read"))?;
        if crc32fast::hash(footer) != crc {
            return Err(corrupt("its checksum does not match"));
        }
        let footer: Footer =
            postcard::from_bytes(footer).map_err(|e| corrupt(&format!("not readable ({e})")))?;
        if footer.hash_version != HASH_VERSION {
            return Err(FileError::Foreign {
                file,
                what: "key hash version",
                found: footer.hash_version,
                expected: HASH_VERSION,
                cure: "Run a program of a version that has that hash",
            });
        }
        Ok(Self { name: file, data, footer, footer_crc32: crc, end })
    }

    /// How errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the file holds.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Refuses a file of a job with another number of key groups.
    pub fn check_groups(&self, max: MaxParallelism) -> Result<(), FileError> {
        if self.footer.max_parallelism == max {
            return Ok(());
        }
        Err(FileError::Foreign {
            file: self.name.clone(),
            what: "max parallelism",
            found: u32::from(self.footer.max_parallelism.get()),
            expected: u32::from(max.get()),
            cure: "Set the job's max parallelism to that; it is fixed for the life of its state",
        })
    }

    /// Refuses a sound file that is not the one that a checkpoint names.
    pub fn check_footer(&self, crc32: u32) -> Result<(), FileError> {
        if self.footer_crc32 == crc32 {
            return Ok(());
        }
        Err(FileError::Corrupt {
            file: self.name.clone(),
            section: "the footer".to_owned(),
            what: "it is another file than the one that the checkpoint names".to_owned(),
        })
    }

    /// The section of a state, if the file has one, with its index.
    pub fn section(&self, operator: &str, state: &str) -> Option<(u16, &Section)> {
        let sections = self.footer.sections.iter();
        let found =
            sections.enumerate().find(|(_, s)| s.operator.as_str() == operator && s.state == state);
        found.and_then(|(i, s)| Some((u16::try_from(i).ok()?, s)))
    }

    /// Calls `each` with the blocks of a section that `wanted` picks, in order,
    /// with their bodies. Reads no other bytes.
    pub fn blocks(
        &self,
        (index, section): (u16, &Section),
        wanted: impl Fn(&BlockIndex) -> bool,
        mut each: impl FnMut(&BlockIndex, &[u8]) -> Res,
    ) -> Res {
        for (run, blocks) in runs(section, wanted) {
            if run.end > self.end {
                return Err(self.corrupt(section, "a block beyond the end".to_owned()).into());
            }
            let mut bytes = self.bytes(run.clone())?;
            for block in blocks {
                let start = (block.offset - run.start) as usize;
                let span = start..start + block.bytes as usize;
                let body = match bytes.get(span.clone()).and_then(|b| checked(index, block, b)) {
                    Some(body) => Some(body),
                    None => match self.data.original() {
                        Some(original) => {
                            self.warn("the checksum of a block does not match");
                            bytes = original.read(run.clone()).map_err(|cause| self.io(cause))?;
                            bytes.get(span).and_then(|b| checked(index, block, b))
                        }
                        None => None,
                    },
                };
                let body = body.ok_or_else(|| {
                    self.corrupt(section, format!("the block at {}", block.offset))
                })?;
                each(block, body)?;
            }
        }
        Ok(())
    }

    /// Says that [`DeltaReader::blocks`] will be asked for these next.
    pub fn expect(&self, section: &Section, wanted: impl Fn(&BlockIndex) -> bool) {
        let runs: Vec<_> = runs(section, wanted).into_iter().map(|(run, _)| run).collect();
        self.data.expect(&runs);
    }

    /// Bytes of the file, of the original if the copy does not give them.
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>, FileError> {
        match (self.data.read(range.clone()), self.data.original()) {
            (Err(cause), Some(original)) => {
                self.warn(&cause.to_string());
                original.read(range)
            }
            (bytes, _) => bytes,
        }
        .map_err(|cause| self.io(cause))
    }

    fn io(&self, cause: Fail) -> FileError {
        FileError::Io { file: self.name.clone(), cause }
    }

    fn warn(&self, why: &str) {
        tracing::warn!(file = self.name, why, "a copy is damaged: the original is read");
    }

    pub(super) fn corrupt(&self, section: &Section, what: String) -> FileError {
        let section = format!("operator {} state {}", section.operator, section.state);
        FileError::Corrupt { file: self.name.clone(), section, what }
    }
}

/// The blocks that `wanted` picks, those that lie side by side read together.
fn runs(
    section: &Section,
    wanted: impl Fn(&BlockIndex) -> bool,
) -> Vec<(Range<u64>, Vec<&BlockIndex>)> {
    let mut runs: Vec<(Range<u64>, Vec<&BlockIndex>)> = Vec::new();
    for block in section.blocks.iter().filter(|block| wanted(block)) {
        let end = block.offset.saturating_add(u64::from(block.bytes));
        match runs.last_mut() {
            Some((run, blocks)) if run.end == block.offset && run.end - run.start < READ => {
                run.end = end;
                blocks.push(block);
            }
            _ => runs.push((block.offset..end, vec![block])),
        }
    }
    runs
}

fn split_u32(bytes: &[u8]) -> Option<(&[u8], u32)> {
    let (rest, word) = bytes.split_last_chunk::<4>()?;
    Some((rest, u32::from_le_bytes(*word)))
}

/// The block without its checksum, if that matches, and so does the header.
fn checked<'a>(section: u16, index: &BlockIndex, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (body, crc) = split_u32(bytes)?;
    let same = crc == index.crc && crc == crc32fast::hash(body);
    let head = Header::read(body)?;
    (same
        && head.section == section
        && (head.first, head.last) == (index.first, index.last)
        && head.namespace == index.namespace
        && (head.entries, head.dead) == (index.entries, index.dead))
        .then_some(body)
}

/// A block's header.
struct Header {
    section: u16,
    first: u16,
    last: u16,
    namespace: i64,
    entries: u32,
    dead: u32,
    /// Bytes of dead keys, keys, rows.
    columns: [usize; 3],
}

impl Header {
    fn read(body: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?));
        Some(Self {
            section: half(0)?,
            first: half(2)?,
            last: half(4)?,
            namespace: i64::from_le_bytes(*body.get(8..)?.first_chunk()?),
            entries: word(16)?,
            dead: word(20)?,
            columns: [word(24)? as usize, word(28)? as usize, word(32)? as usize],
        })
    }
}

/// A block of a file, for [`StateTable::load`](super::StateTable::load).
pub struct Block<'a> {
    pub(super) namespace: i64,
    pub(super) entries: u32,
    pub(super) dead: u32,
    /// Lowest and highest group in it.
    pub(super) groups: (u16, u16),
    pub(super) dead_keys: &'a [u8],
    pub(super) keys: &'a [u8],
    pub(super) rows: &'a [u8],
    pub(super) reader: &'a RowReader,
    /// Which of its groups to take.
    pub(super) take: &'a dyn Fn(KeyGroup) -> bool,
}

impl<'a> Block<'a> {
    pub(super) fn new(
        body: &'a [u8],
        reader: &'a RowReader,
        take: &'a dyn Fn(KeyGroup) -> bool,
    ) -> Option<Self> {
        let head = Header::read(body)?;
        let (dead_keys, rest) = body.get(HEADER..)?.split_at_checked(head.columns[0])?;
        let (keys, rows) = rest.split_at_checked(head.columns[1])?;
        (rows.len() == head.columns[2]).then_some(Self {
            namespace: head.namespace,
            entries: head.entries,
            dead: head.dead,
            groups: (head.first, head.last),
            dead_keys,
            keys,
            rows,
            reader,
            take,
        })
    }

    /// The namespace of its entries.
    pub fn namespace(&self) -> i64 {
        self.namespace
    }
}

/// Whether a block may hold groups of a range.
pub fn overlaps(block: &BlockIndex, range: KeyGroupRange) -> bool {
    block.first < range.end && range.start <= block.last
}
