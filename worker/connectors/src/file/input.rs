//! Opens a file for reading, through its compression.

use super::place::{Contents, Files};
use super::source::Error;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How a file's bytes are packed. Told by its first bytes, not by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Zip,
}

impl Packing {
    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Packing::Zip,
            _ => Packing::Plain,
        }
    }

    /// What the name promises.
    fn promised(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "gz" => Some(Packing::Gzip),
            "zst" => Some(Packing::Zstd),
            "zip" => Some(Packing::Zip),
            _ => None,
        }
    }

    /// Looks at a file; one that is named `.gz` and holds something else is an error.
    pub(super) fn detect(
        files: &dyn Files,
        path: &Path,
    ) -> Result<(Self, Box<dyn Contents>), Error> {
        let mut file = files.open(path)?;
        let mut magic = [0; 4];
        let mut len = 0;
        while len < magic.len() {
            match file.read(&mut magic[len..]).map_err(|e| Error::read(path, 0, e))? {
                0 => break,
                n => len += n,
            }
        }
        file.seek(SeekFrom::Start(0)).map_err(|e| Error::read(path, 0, e))?;
        let found = Self::of(&magic[..len]);
        match Self::promised(path) {
            Some(promised) if promised != found => {
                Err(Error::Packing { path: path.into(), promised: promised.name() })
            }
            _ => Ok((found, file)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Packing::Plain => "plain",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Zip => "zip",
        }
    }
}

/// A file's content from an offset on.
pub(super) struct Input {
    reader: Box<dyn Read>,
    /// Plain files can be read from anywhere.
    plain: bool,
}

impl Input {
    /// Opens a file at its beginning.
    pub(super) fn open(files: &dyn Files, path: &Path) -> Result<Self, Error> {
        let (packing, file) = Packing::detect(files, path)?;
        let reader: Box<dyn Read> = match packing {
            Packing::Plain => file,
            #[cfg(feature = "gzip")]
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(file))),
            #[cfg(feature = "zstd")]
            Packing::Zstd => Box::new(
                zstd::stream::read::Decoder::with_buffer(buffered(file))
                    .map_err(|e| Error::read(path, 0, e))?,
            ),
            #[cfg(feature = "zip")]
            Packing::Zip => {
                Box::new(super::zip::open(Stored(file)).map_err(|e| unpacking(path, 0, e))?)
            }
            #[allow(unreachable_patterns)]
            other => {
                return Err(Error::NotBuiltIn { path: path.into(), feature: other.name() });
            }
        };
        Ok(Self { reader, plain: packing == Packing::Plain })
    }

    /// Opens a file at an offset: by seeking, or by decompressing what is before.
    pub(super) fn open_at(files: &dyn Files, path: &Path, offset: u64) -> Result<Self, Error> {
        let mut input = Self::open(files, path)?;
        if offset == 0 {
            return Ok(input);
        }
        if input.plain {
            let read = |e| Error::read(path, offset, e);
            let mut file = files.open(path)?;
            if file.seek(SeekFrom::End(0)).map_err(read)? < offset {
                return Err(Error::Shrunk { path: path.into(), offset });
            }
            file.seek(SeekFrom::Start(offset)).map_err(read)?;
            input.reader = file;
        } else {
            let skipped = io::copy(&mut (&mut input.reader).take(offset), &mut io::sink());
            if skipped.map_err(|e| unpacking(path, offset, e))? < offset {
                return Err(Error::Shrunk { path: path.into(), offset });
            }
        }
        Ok(input)
    }

    /// What an error of reading it means.
    pub(super) fn failed(&self, path: &Path, offset: u64, source: io::Error) -> Error {
        if self.plain { Error::read(path, offset, source) } else { unpacking(path, offset, source) }
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(into) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

#[cfg(any(feature = "gzip", feature = "zstd"))]
fn buffered(file: Box<dyn Contents>) -> io::BufReader<Stored> {
    io::BufReader::with_capacity(128 * 1024, Stored(file))
}

/// What an error of unpacking a file means: that its bytes cannot be had just now, or that
/// they are not what they should be, which no repetition mends.
fn unpacking(path: &Path, offset: u64, source: io::Error) -> Error {
    match source.kind() {
        _ if source.get_ref().is_some_and(|e| e.is::<Unread>()) => {
            Error::read(path, offset, source)
        }
        io::ErrorKind::Unsupported => Error::Unpackable { path: path.into(), source },
        _ => Error::Damaged { path: path.into(), offset, source },
    }
}

/// The bytes of a packed file as they are stored. Errors of reading them are marked, since
/// what unpacks them passes them on among its own.
#[cfg_attr(not(any(feature = "gzip", feature = "zstd", feature = "zip")), allow(dead_code))]
pub(super) struct Stored(Box<dyn Contents>);

/// Stored bytes could not be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unread(io::Error);

impl Unread {
    fn mark(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self(error))
    }
}

impl Read for Stored {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(Unread::mark)
    }
}

impl Seek for Stored {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to).map_err(Unread::mark)
    }
}
