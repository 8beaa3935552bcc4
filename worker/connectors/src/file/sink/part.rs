//! One part: encoder, compression, file.

use super::{Compression, Error, FileCommit};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
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
    path: PathBuf,
    out: Packer,
    /// Encoded and not packed yet.
    bytes: Vec<u8>,
    undrained: u32,
    /// Whether rows came since the last seal.
    dirty: bool,
}

impl<E> Part<E> {
    pub(super) fn create(
        path: PathBuf,
        commit: FileCommit,
        counter: u64,
        compression: Compression,
        encoder: E,
        now: Instant,
    ) -> Result<Self, Error> {
        // Never one that is there: names are unique, so it would be another's.
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| Error::write(&path, e))?;
        let out = Packer { file, len: 0, stream: Stream::new(compression) };
        Ok(Self {
            encoder,
            commit,
            opened: now,
            counter,
            path,
            out,
            bytes: Vec::new(),
            undrained: 0,
            dirty: false,
        })
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
        self.out.write(&self.bytes).map_err(|e| Error::write(&self.path, e))?;
        self.bytes.clear();
        Ok(())
    }

    /// Hands everything to the file system, such that the file could end here. A
    /// handle for making it last, unless nothing has come since the last time.
    pub(super) fn seal(
        &mut self,
        drain: impl FnOnce(&mut E, &mut Vec<u8>) -> Result<(), super::Fail>,
    ) -> Result<Option<Sealed>, super::Fail> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(None);
        }
        self.undrained = 0;
        drain(&mut self.encoder, &mut self.bytes)?;
        self.pack().map_err(Error::into_fail)?;
        let finished = self.out.finish().and_then(|()| self.out.file.try_clone());
        let file = finished.map_err(|e| Error::write(&self.path, e).into_fail())?;
        self.commit.len = self.out.len;
        Ok(Some(Sealed { file, path: self.path.clone() }))
    }
}

/// What a part held at some moment, yet to be made durable.
pub(super) struct Sealed {
    file: File,
    path: PathBuf,
}

impl Sealed {
    pub(super) fn sync(self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| Error::write(&self.path, e))
    }
}

/// Compresses into a file. A packed stream ends at every seal and another one
/// begins after it: readers of gzip and zstd take them as one.
struct Packer {
    file: File,
    /// Length of the file.
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
                self.file.write_all(bytes)?;
                self.len += bytes.len() as u64;
            }
            #[cfg(feature = "gzip")]
            Stream::Gzip(stream) => {
                let stream = stream.get_or_insert_with(|| {
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default())
                });
                stream.write_all(bytes)?;
                append(&mut self.file, stream.get_mut(), &mut self.len)?;
            }
            #[cfg(feature = "zstd")]
            Stream::Zstd(stream) => {
                let stream = match stream {
                    Some(stream) => stream,
                    none => none.insert(zstd::stream::write::Encoder::new(Vec::new(), 0)?),
                };
                stream.write_all(bytes)?;
                append(&mut self.file, stream.get_mut(), &mut self.len)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Plain => Ok(()),
            #[cfg(feature = "gzip")]
            Stream::Gzip(stream) => match stream.take() {
                Some(stream) => append(&mut self.file, &mut stream.finish()?, &mut self.len),
                None => Ok(()),
            },
            #[cfg(feature = "zstd")]
            Stream::Zstd(stream) => match stream.take() {
                Some(stream) => append(&mut self.file, &mut stream.finish()?, &mut self.len),
                None => Ok(()),
            },
        }
    }
}

#[cfg(any(feature = "gzip", feature = "zstd"))]
fn append(file: &mut File, packed: &mut Vec<u8>, len: &mut u64) -> std::io::Result<()> {
    file.write_all(packed)?;
    *len += packed.len() as u64;
    packed.clear();
    Ok(())
}
