//! Reads splits of files, one after the other.

use super::{Config, Error, FileSplit, OnError};
use crate::file::input::Input;
use crate::file::place::Files;
use crate::format::{Decode, Decoder, Step};
use millrace_engine::connector::{Lane, Next, Reader, SourceCx, SourceOut};
use millrace_engine::data::Res;
use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const READ_BYTES: usize = 256 << 10;
/// Of a bad row at most this much is kept.
const MAX_RAW_BYTES: usize = 64 << 10;

/// Reads the splits assigned to one subtask, in the order of assignment.
pub struct FileReader<T, F: Decode<T>> {
    config: Config<F>,
    files: Arc<dyn Files>,
    cx: SourceCx,
    /// The first one is `open`, if any is.
    splits: VecDeque<(Lane, FileSplit)>,
    open: Option<Open<F::Decoder>>,
}

/// The split being read.
struct Open<D> {
    path: PathBuf,
    input: Input,
    decoder: D,
    /// `buffer[at..filled]` is read and not decoded; `at` lies at `offset` in the file.
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    offset: u64,
    /// The input has been read to its end.
    ended: bool,
}

impl<T, F: Decode<T>> FileReader<T, F> {
    pub(super) fn new(config: Config<F>, files: Arc<dyn Files>, cx: SourceCx) -> Self {
        Self { config, files, cx, splits: VecDeque::new(), open: None }
    }

    /// Opens the split at its position.
    fn open(
        config: &Config<F>,
        files: &dyn Files,
        split: &FileSplit,
    ) -> Result<Open<F::Decoder>, Error> {
        let path = Path::new(&split.path);
        let mut decoder = config.format.decoder();
        let mut open = None;
        let mut body = 0;
        if decoder.has_header() {
            let mut head = Open::at(path, Input::open(files, path)?, 0);
            body = head.header::<T, _>(&mut decoder, config.max_row_bytes)?;
            open = Some(head);
        }
        // In the middle of a file the first row begins after a line break: the
        // one before `start` may end just there.
        let first = split.offset == split.start && split.start > body;
        let from = if first { split.start - 1 } else { split.offset.max(body) };
        let mut open = match open {
            Some(open) if open.offset == from => open,
            _ => Open::at(path, Input::open_at(files, path, from)?, from),
        };
        if first {
            open.skip_line()?;
        }
        Ok(open.with(decoder))
    }
}

impl Open<()> {
    fn at(path: &Path, input: Input, offset: u64) -> Self {
        let buffer = vec![0; READ_BYTES];
        let path = path.to_path_buf();
        Open { path, input, decoder: (), buffer, at: 0, filled: 0, offset, ended: false }
    }

    fn with<D>(self, decoder: D) -> Open<D> {
        let Open { path, input, decoder: (), buffer, at, filled, offset, ended } = self;
        Open { path, input, decoder, buffer, at, filled, offset, ended }
    }

    /// Reads the header; gives its length.
    fn header<T, D: Decoder<T>>(&mut self, decoder: &mut D, max: usize) -> Result<u64, Error> {
        let misfit = |path: &Path, reason: String| Error::Misfit { path: path.into(), reason };
        loop {
            let found = decoder.header(&self.buffer[..self.filled], self.ended);
            match found.map_err(|e| misfit(&self.path, e.to_string()))? {
                Some(len) => {
                    self.consume(len);
                    return Ok(self.offset);
                }
                None if self.filled > max => {
                    return Err(misfit(
                        &self.path,
                        format!("the header is longer than {max} bytes"),
                    ));
                }
                None => self.fill()?,
            }
        }
    }
}

impl<D> Open<D> {
    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
        self.offset += bytes as u64;
    }

    /// Reads more behind what is not decoded yet.
    fn fill(&mut self) -> Result<(), Error> {
        self.buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = self.input.read(&mut self.buffer[self.filled..]);
        let end = self.offset + self.filled as u64;
        let n = read.map_err(|e| self.input.failed(&self.path, end, e))?;
        self.filled += n;
        self.ended |= n == 0;
        Ok(())
    }

    /// Goes on after the next line break, or to the end of the file.
    fn skip_line(&mut self) -> Result<(), Error> {
        loop {
            let rest = &self.buffer[self.at..self.filled];
            if let Some(n) = memchr::memchr(b'\n', rest) {
                self.consume(n + 1);
                return Ok(());
            }
            let len = rest.len();
            self.consume(len);
            if self.ended {
                return Ok(());
            }
            self.fill()?;
        }
    }
}

impl<D> Open<D> {
    /// Emits rows until `out` is full or the split ends, which is answered by true.
    #[inline]
    fn read<T>(
        &mut self,
        lane: Lane,
        split: &mut FileSplit,
        out: &mut SourceOut<'_, T>,
        max_row_bytes: usize,
        mut bad: impl FnMut(&Path, u64, String, &[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error>
    where
        D: Decoder<T>,
    {
        let end = split.end.unwrap_or(u64::MAX);
        while !out.is_full() {
            if self.offset >= end {
                return Ok(true);
            }
            let rest = &self.buffer[self.at..self.filled];
            if rest.is_empty() {
                if self.ended {
                    return Ok(true);
                }
                self.fill()?;
                continue;
            }
            match self.decoder.next(rest, self.ended) {
                Step::Row(len, row) => {
                    out.emit(lane, row);
                    split.rows += 1;
                    self.consume(len);
                }
                Step::Skip(len) => self.consume(len),
                Step::Bad(len, why) => {
                    bad(&self.path, self.offset, why, &rest[..len])?;
                    self.consume(len);
                }
                Step::Misfit(reason) => {
                    return Err(Error::Misfit { path: self.path.clone(), reason });
                }
                Step::More if rest.len() > max_row_bytes => {
                    let why = format!("the row is longer than {max_row_bytes} bytes");
                    bad(&self.path, self.offset, why, rest)?;
                    self.skip_line()?;
                }
                Step::More => self.fill()?,
            }
        }
        Ok(false)
    }
}

impl<T: Send + 'static, F: Decode<T>> Reader<T, FileSplit> for FileReader<T, F> {
    fn assign(&mut self, lane: Lane, split: FileSplit) -> Res {
        self.splits.push_back((lane, split));
        Ok(())
    }

    fn poll(&mut self, out: &mut SourceOut<'_, T>) -> Res<Next> {
        while let Some((lane, split)) = self.splits.front_mut() {
            let lane = *lane;
            if out.is_full() {
                return Ok(Next::More);
            }
            let open = match &mut self.open {
                Some(open) => open,
                none => none.insert(
                    Self::open(&self.config, self.files.as_ref(), split)
                        .map_err(Error::into_fail)?,
                ),
            };
            let (cx, on_error) = (&self.cx, self.config.on_error);
            let ended = open
                .read(lane, split, out, self.config.max_row_bytes, |path, offset, reason, raw| {
                    let raw = &raw[..raw.len().min(MAX_RAW_BYTES)];
                    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
                    if on_error == OnError::Fail {
                        let raw = String::from_utf8_lossy(raw).into_owned();
                        return Err(Error::BadRow { path: path.into(), offset, reason, raw });
                    }
                    cx.dead_letters.put(&cx.uid, &path.to_string_lossy(), offset, &reason, raw);
                    Ok(())
                })
                .map_err(Error::into_fail)?;
            split.offset = open.offset;
            if !ended {
                return Ok(Next::More);
            }
            self.open = None;
            self.splits.pop_front();
            out.finish(lane);
        }
        Ok(Next::Wait)
    }

    fn positions(&mut self) -> Res<Vec<(Lane, FileSplit)>> {
        Ok(self.splits.iter().cloned().collect())
    }
}
