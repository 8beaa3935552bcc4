//! Reads files: a file, or all files of a directory, once or as they appear.
//!
//! **Files.** A directory is read with its subdirectories, in the order of names;
//! names that begin with `.` or `_` are left out. A file may be plain or packed
//! by gzip, zstd or zip (of a single file); its first bytes tell. Its content must
//! not change: files are for appending whole.
//!
//! **S3** (feature `s3`). `s3://bucket/prefix` is read like a directory, and
//! `s3://bucket/key` like a file, by ranges; the server's settings may follow as in
//! `?endpoint=https://…&region=…`. An object appears whole, so
//! [`Arrival::Renamed`] fits.
//!
//! **Splits.** A plain file is cut every [`FileSource::split_bytes`] if its format
//! says that every line break ends a row ([`Csv::splittable`](crate::format::Csv::splittable),
//! JSON lines always); a row belongs to the split that its first byte lies in.
//! Every other file is one split. Within a reader, splits are read one after
//! the other, in the order of assignment.
//!
//! **Position.** The offset of the next row in the file's content, decompressed,
//! and how many rows were read. A restored reader seeks there; in a packed file
//! it decompresses what is before.
//!
//! **Bad rows** are put to the dead letters with the file, the offset of the row
//! in its (decompressed) content, the reason and the row; see [`OnError`]. A packed
//! file that is damaged or cut off fails the job as [`UserError`]: trying again would
//! meet the same bytes. Bytes that cannot be had just now fail the attempt only.

mod discover;
mod reader;

pub use reader::FileReader;

use super::place::{self, Files};
#[cfg(feature = "csv")]
use crate::format::Csv;
use crate::format::Decode;
#[cfg(feature = "json")]
use crate::format::JsonLines;
use discover::Discovery;
use millrace_engine::connector::{Source, SourceCx, Split};
use millrace_engine::data::{Fail, Res, UserError};
use serde::{Deserialize, Serialize};
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What to do with a row that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// Put it to the dead letters and go on.
    #[default]
    DeadLetter,
    /// Fail the job, as [`UserError`]: the row would be met again.
    Fail,
}

/// When a file that has appeared in a watched directory is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrival {
    /// Once its size and modification time were the same in two looks, one
    /// period apart. A writer that pauses longer than that is misread.
    #[default]
    Settled,
    /// At once: whoever puts files there writes them elsewhere (or under a name
    /// that begins with `.` or `_`) and renames them in.
    Renamed,
}

/// A source of the rows of files. See the [module](self) for what it reads and how.
///
/// ```
/// use millrace_connectors::file::FileSource;
/// use std::time::Duration;
///
/// #[derive(serde::Deserialize)]
/// struct Flight {
///     origin: String,
///     dep_delay: Option<i32>,
/// }
///
/// let once = FileSource::<Flight, _>::csv("flights.csv.gz");
/// let for_ever = FileSource::<Flight, _>::json_lines("incoming/").watch(Duration::from_secs(5));
/// ```
pub struct FileSource<T, F> {
    config: Config<F>,
    discovery: Discovery,
    /// Opened when first needed, once for all readers.
    files: Arc<OnceLock<Arc<dyn Files>>>,
    rows: PhantomData<fn() -> T>,
}

#[derive(Debug, Clone)]
struct Config<F> {
    path: PathBuf,
    format: F,
    split_bytes: u64,
    max_row_bytes: usize,
    watch: Option<Duration>,
    arrival: Arrival,
    on_error: OnError,
}

impl<T, F: Clone> Clone for FileSource<T, F> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            discovery: self.discovery.clone(),
            files: Arc::clone(&self.files),
            rows: PhantomData,
        }
    }
}

#[cfg(feature = "csv")]
impl<T> FileSource<T, Csv> {
    /// CSV with a header, read by the names of columns.
    pub fn csv(path: impl AsRef<Path>) -> Self {
        Self::new(path, Csv::new())
    }
}

#[cfg(feature = "json")]
impl<T> FileSource<T, JsonLines> {
    /// JSON lines.
    pub fn json_lines(path: impl AsRef<Path>) -> Self {
        Self::new(path, JsonLines::new())
    }
}

impl<T, F> FileSource<T, F> {
    /// The file, or all files of the directory, at `path`.
    pub fn new(path: impl AsRef<Path>, format: F) -> Self {
        let config = Config {
            path: path.as_ref().to_path_buf(),
            format,
            split_bytes: 32 << 20,
            max_row_bytes: 16 << 20,
            watch: None,
            arrival: Arrival::default(),
            on_error: OnError::default(),
        };
        Self { config, discovery: Discovery::default(), files: Arc::default(), rows: PhantomData }
    }

    fn files(&self) -> Result<Arc<dyn Files>, Error> {
        if let Some(files) = self.files.get() {
            return Ok(Arc::clone(files));
        }
        let files = place::files(&self.config.path)?;
        Ok(Arc::clone(self.files.get_or_init(|| files)))
    }

    /// Size of the splits of a plain file whose format is splittable: 32 MiB by
    /// default.
    pub fn split_bytes(mut self, bytes: u64) -> Self {
        self.config.split_bytes = bytes.max(1);
        self
    }

    /// A longer row is bad: 16 MiB by default. Only the line that it begins with
    /// is skipped.
    pub fn max_row_bytes(mut self, bytes: usize) -> Self {
        self.config.max_row_bytes = bytes.max(1);
        self
    }

    /// Looks for new files this often, for ever. Without it, the files that are
    /// there at the start are all, and the source ends with them.
    pub fn watch(mut self, every: Duration) -> Self {
        self.config.watch = Some(every);
        self
    }

    /// When a file in a watched directory is complete.
    pub fn arrival(mut self, arrival: Arrival) -> Self {
        self.config.arrival = arrival;
        self
    }

    /// What to do with a row that cannot be understood.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.config.on_error = on_error;
        self
    }
}

/// A file, or the part of one whose rows begin in `start..end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSplit {
    /// The file, as found below the path that the source was given.
    pub path: String,
    /// Where it begins: 0, or an offset in a plain file.
    pub start: u64,
    /// Where it ends; `None`: with the file.
    pub end: Option<u64>,
    /// Offset of the next row. Equal to `start` before the first, wherever that begins.
    pub offset: u64,
    /// Rows read so far, without bad ones.
    pub rows: u64,
}

impl Split for FileSplit {
    fn id(&self) -> String {
        format!("{}@{}", self.path, self.start)
    }
}

impl<T: Send + 'static, F: Decode<T>> Source for FileSource<T, F> {
    type Out = T;
    type Split = FileSplit;
    type Reader = FileReader<T, F>;

    fn discover(&mut self, known: &[FileSplit]) -> Res<Vec<FileSplit>> {
        let splittable = self.config.format.splittable().then_some(self.config.split_bytes);
        let settled = self.config.watch.is_some() && self.config.arrival == Arrival::Settled;
        let files = self.files().map_err(Error::into_fail)?;
        let root = &self.config.path;
        let found = self.discovery.look(files.as_ref(), root, known, splittable, settled);
        found.map_err(Error::into_fail)
    }

    fn discover_every(&self) -> Option<Duration> {
        self.config.watch
    }

    fn reader(&self, cx: SourceCx) -> Res<Self::Reader> {
        let files = self.files().map_err(Error::into_fail)?;
        Ok(FileReader::new(self.config.clone(), files, cx))
    }
}

/// Why files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user gave a path where nothing is.
    #[error("input `{path}` does not exist")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// A place in S3 that this program knows nothing of.
    #[cfg(not(feature = "s3"))]
    #[error("cannot read `{path}`: this program is built without feature `s3`")]
    NoS3 {
        /// The place.
        path: PathBuf,
    },
    /// A place in S3 that cannot be used.
    #[cfg(feature = "s3")]
    #[error("cannot read `{path}`: {why}")]
    Place {
        /// The place.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file cannot be opened.
    #[error("cannot open input `{path}`: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read input `{path}` after offset {offset}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Offset in its content.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// What is in a packed file cannot be unpacked.
    #[error(
        "input `{path}` is damaged or not complete, after offset {offset} of its content: {source}; put a sound copy in its place and run the job again: it goes on where it was"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset in its content.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// A file is packed in a way that is not read here.
    #[error("cannot unpack input `{path}`: {source}")]
    Unpackable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is named as packed and is not.
    #[error("input `{path}` is named as {promised} and holds something else")]
    Packing {
        /// The file.
        path: PathBuf,
        /// The packing that its name promises.
        promised: &'static str,
    },
    /// A file is packed in a way that this program was built without.
    #[error(
        "input `{path}` is packed by {feature}; this program is built without feature `{feature}` of millrace-connectors"
    )]
    NotBuiltIn {
        /// The file.
        path: PathBuf,
        /// The cargo feature.
        feature: &'static str,
    },
    /// A file is shorter than a position in it.
    #[error("input `{path}` has changed: it ends before offset {offset}, up to which it was read")]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// The position.
        offset: u64,
    },
    /// A file's name is no UTF-8.
    #[error("the name of input `{path}` is not UTF-8")]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A file has the wrong header.
    #[error("input `{path}`: {reason}")]
    Misfit {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A bad row, where these fail the job.
    #[error("input `{path}`, offset {offset}: bad row: {reason}: {raw}")]
    BadRow {
        /// The file.
        path: PathBuf,
        /// Offset of the row in the file's content.
        offset: u64,
        /// What is bad.
        reason: String,
        /// The row, or its beginning.
        raw: String,
    },
}

impl Error {
    pub(in crate::file) fn open(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { path: path.into() },
            _ => Error::Open { path: path.into(), source },
        }
    }

    pub(in crate::file) fn read(path: &Path, offset: u64, source: io::Error) -> Self {
        Error::Read { path: path.into(), offset, source }
    }

    /// As the runtime takes it: what only the user can mend is a [`UserError`].
    fn into_fail(self) -> Fail {
        match self {
            Error::Open { ref source, .. } if source.kind() != io::ErrorKind::PermissionDenied => {
                Box::new(self)
            }
            Error::Read { .. } => Box::new(self),
            other => Box::new(UserError(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
