//! One part: encoder, compression, bytes.

use super::place::{Body, Seal};
use super::{Compression, Error, FileCommit};
#[cfg(any(feature = "gzip", feature = "zstd"))]
use std::io::Write;
use std::time::Instant;

/// Bytes are packed and written in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// How many rows an encoder takes before its bytes are counted.
const ROWS_A_DRAIN: u32 = 256;

/// A part that is being written.
pub(super) struct Part<E> {
    pub(super) encoder: E,
    pub(super) commit: FileCommit,
    pub(super) opened: Instant,
    /// Which of the subtask's parts it is.
    pub(super) counter: u64,
    out: Packer,
    /// Encoded and not packed yet.
    bytes: Vec<u8>,
    undrained: u32,
    /// Whether rows came since the last seal.
    dirty: bool,
}

impl<E> Part<E> {
    pub(super) fn new(
        body: Box<dyn Body>,
        commit: FileCommit,
        counter: u64,
        compression: Compression,
        encoder: E,
        now: Instant,
    ) -> Self {
        let out = Packer { body, len: 0, stream: Stream::new(compression) };
        Self {
            encoder,
            commit,
            opened: now,
            counter,
            out,
            bytes: Vec::new(),
            undrained: 0,
            dirty: false,
        }
    }

    /// Notes that the encoder took a row; `drain` is called now and then.
    #[inline]
    pub(super) fn took_row(
        &mut self,
        drain: impl FnOnce(&mut E, &mut Vec<u8>) -> Result<(), super::Fail>,
    ) -> Result<(), super::Fail> {
        self.dirty = true;
        self.undrained += 1;
        if self.undrained == ROWS_A_DRAIN {
            self.undrained = 0;
            drain(&mut self.encoder, &mut self.bytes)?;
            if self.bytes.len() >= PIECE_BYTES {
                self.pack().map_err(Error::into_fail)?;
            }
        }
        Ok(())
    }

    /// Roughly how large the file is.
    #[inline]
    pub(super) fn len(&self) -> u64 {
        self.out.len + self.bytes.len() as u64
    }

    fn pack(&mut self) -> Result<(), Error> {
        self.out.write(&self.bytes).map_err(|e| self.failed(e))?;
        self.bytes.clear();
        Ok(())
    }

    /// Hands everything to the body, such that the part could end here; what is left to do.
    pub(super) fn seal(
        &mut self,
        drain: impl FnOnce(&mut E, &mut Vec<u8>) -> Result<(), super::Fail>,
    ) -> Result<Option<Seal>, super::Fail> {
        let changed = std::mem::take(&mut self.dirty);
        if changed {
            self.undrained = 0;
            drain(&mut self.encoder, &mut self.bytes)?;
            self.pack().map_err(Error::into_fail)?;
            self.out.finish().map_err(|e| self.failed(e).into_fail())?;
            self.commit.len = self.out.len;
        }
        self.out.body.seal(changed).map_err(|e| self.failed(e).into_fail())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::write(self.out.body.path(), error)
    }

    /// Whether more should come now.
    pub(super) fn has_room(&mut self) -> bool {
        self.out.body.has_room()
    }

    /// Whether little more can come.
    pub(super) fn is_full(&self) -> bool {
        self.out.body.is_full()
    }

    /// Bytes of it in memory, roughly.
    pub(super) fn held(&self) -> usize {
        self.out.body.held()
    }
}

/// Compresses. A packed stream ends at every seal and another one
/// begins after it: readers of gzip and zstd take them as one.
struct Packer {
    body: Box<dyn Body>,
    /// Of the body.
    len: u64,
    stream: Stream,
}

enum Stream {
    Plain,
    #[cfg(feature = "gzip")]
    Gzip(Option<flate2::write::GzEncoder<Vec<u8>>>),
    #[cfg(feature = "zstd")]
    Zstd(Option<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl Stream {
    fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Stream::Plain,
            #[cfg(feature = "gzip")]
            Compression::Gzip => Stream::Gzip(None),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Stream::Zstd(None),
        }
    }
}

impl Packer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Plain => {
                self.body.write_all(bytes)?;
                self.len += bytes.len() as u64;
            }
            #[cfg(feature = "gzip")]
            Stream::Gzip(stream) => {
                let stream = stream.get_or_insert_with(|| {
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default())
                });
                stream.write_all(bytes)?;
                append(self.body.as_mut(), stream.get_mut(), &mut self.len)?;
            }
            #[cfg(feature = "zstd")]
            Stream::Zstd(stream) => {
                let stream = match stream {
                    Some(stream) => stream,
                    none => none.insert(zstd::stream::write::Encoder::new(Vec::new(), 0)?),
                };
                stream.write_all(bytes)?;
                append(self.body.as_mut(), stream.get_mut(), &mut self.len)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Plain => Ok(()),
            #[cfg(feature = "gzip")]
            Stream::Gzip(stream) => match stream.take() {
                Some(stream) => append(self.body.as_mut(), &mut stream.finish()?, &mut self.len),
                None => Ok(()),
            },
            #[cfg(feature = "zstd")]
            Stream::Zstd(stream) => match stream.take() {
                Some(stream) => append(self.body.as_mut(), &mut stream.finish()?, &mut self.len),
                None => Ok(()),
            },
        }
    }
}

#[cfg(any(feature = "gzip", feature = "zstd"))]
fn append(body: &mut dyn Body, packed: &mut Vec<u8>, len: &mut u64) -> std::io::Result<()> {
    body.write_all(packed)?;
    *len += packed.len() as u64;
    packed.clear();
    Ok(())
}
