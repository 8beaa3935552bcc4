//! Writes files, each row exactly once.
//!
//! **Parts.** Every subtask writes parts of its own, under
//! `DIR/.millrace/<job>/<sink uid>/`. A part is closed when it is large or old
//! enough (see [`Rolling`]), and at the end of input or a stop; it gets its final
//! name once the checkpoint that it was closed for is complete. Readers of the
//! directory never see a row that could be taken back.
//!
//! **Names.** `DIR/[partition/]<sink uid>-<subtask>-<attempt>-<counter>-<job>.csv`,
//! with numbers of fixed width: the parts of a subtask, in the order of their
//! names, hold its rows in the order in which they were written. A file that is
//! there is never overwritten.
//!
//! **Open parts.** A part that stays open over a checkpoint is in it with the
//! length it had. A job that is restored from there copies that much, and
//! commits the copy: the writer it was taken from may still be appending.
//!
//! **Guarantee.** Exactly once, also after the loss of power: parts and the
//! directories they are in are flushed before the checkpoint is acknowledged. If
//! a part is gone and its target does not exist, the loss is reported. The
//! directory must be one file system, shared by all workers.
//!
//! **Moved output.** A job that is given another directory completes in the old one what
//! it had written there: no row is lost, and none is in both. That directory has to be
//! writable until then; if it is not, the job says so and does not start.
//!
//! **S3.** Written to `s3://bucket/prefix`, a part is a multipart upload of its final
//! key, which becomes visible when it is completed: nothing is staged elsewhere and
//! nothing copied. Parts in the making take memory, 8 MiB each and 64 MiB in a
//! subtask; beyond that the largest is closed early. At a checkpoint what is not
//! sent yet of an open part goes into its upload, as a part of its own that later
//! ones replace. What attempts left is found in the list of unfinished uploads,
//! which takes the permission `s3:ListBucketMultipartUploads`; on a server that
//! cannot list them (MinIO) its own rule for old uploads removes them.

mod commit;
mod local;
mod names;
mod part;
mod place;
#[cfg(feature = "s3")]
mod s3;
mod writer;

pub use commit::FileCommitter;
pub use names::{FileCommit, Upload, UploadPart};
pub use writer::FileWriter;

#[cfg(feature = "csv")]
use crate::format::Csv;
use crate::format::Encode;
#[cfg(feature = "json")]
use crate::format::JsonLines;
use millrace_engine::connector::{Sink, SinkCx};
use millrace_engine::data::{Fail, Res, UserError};
use millrace_protocol::ids::{JobUid, Uid};
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How parts are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Gzip, a member for each stretch between checkpoints.
    #[cfg(feature = "gzip")]
    Gzip,
    /// Zstandard, a frame for each stretch between checkpoints.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Compression {
    /// What it adds to the names of files.
    fn extension(self) -> &'static str {
        match self {
            Compression::None => "",
            #[cfg(feature = "gzip")]
            Compression::Gzip => ".gz",
            #[cfg(feature = "zstd")]
            Compression::Zstd => ".zst",
        }
    }
}

/// When a part is closed. Whatever is first; at the end of input and at a stop always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rolling {
    /// Once its file is as large as this: 128 MiB by default.
    pub max_bytes: u64,
    /// At the first checkpoint after this age: a minute by default. Zero: at
    /// every checkpoint, so that output is seen soonest and in most files.
    pub max_age: Duration,
}

impl Default for Rolling {
    fn default() -> Self {
        Self { max_bytes: 128 << 20, max_age: Duration::from_secs(60) }
    }
}

/// Gives the sub path of a row.
type Partition<T> = Arc<dyn Fn(&T, &mut String) + Send + Sync>;

/// A sink that writes files. See the [module](self) for what it promises.
///
/// ```
/// use millrace_connectors::file::FileSink;
/// use std::fmt::Write;
///
/// #[derive(serde::Serialize)]
/// struct Delay {
///     date: String,
///     minutes: f64,
/// }
///
/// let sink = FileSink::csv("out/delays")
///     .partition_by(|row: &Delay, path| _ = write!(path, "date={}", row.date));
/// ```
pub struct FileSink<T, F> {
    config: Config<T, F>,
}

struct Config<T, F> {
    dir: PathBuf,
    format: F,
    compression: Compression,
    rolling: Rolling,
    partition: Option<Partition<T>>,
    max_open: usize,
    rows: PhantomData<fn(T)>,
}

impl<T, F: Clone> Clone for Config<T, F> {
    fn clone(&self) -> Self {
        Self {
            dir: self.dir.clone(),
            format: self.format.clone(),
            compression: self.compression,
            rolling: self.rolling.clone(),
            partition: self.partition.clone(),
            max_open: self.max_open,
            rows: PhantomData,
        }
    }
}

impl<T, F: Clone> Clone for FileSink<T, F> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone() }
    }
}

#[cfg(feature = "csv")]
impl<T> FileSink<T, Csv> {
    /// CSV, with a header in every file.
    pub fn csv(dir: impl AsRef<Path>) -> Self {
        Self::new(dir, Csv::new())
    }
}

#[cfg(feature = "json")]
impl<T> FileSink<T, JsonLines> {
    /// JSON lines.
    pub fn json_lines(dir: impl AsRef<Path>) -> Self {
        Self::new(dir, JsonLines::new())
    }
}

impl<T, F> FileSink<T, F> {
    /// Writes to files in `dir`, which is created if necessary: a directory, or
    /// `s3://bucket/prefix`.
    pub fn new(dir: impl AsRef<Path>, format: F) -> Self {
        let config = Config {
            dir: dir.as_ref().to_path_buf(),
            format,
            compression: Compression::None,
            rolling: Rolling::default(),
            partition: None,
            max_open: 64,
            rows: PhantomData,
        };
        Self { config }
    }

    /// How parts are packed.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.compression = compression;
        self
    }

    /// When a part is closed.
    pub fn rolling(mut self, rolling: Rolling) -> Self {
        self.config.rolling = rolling;
        self
    }

    /// Puts each row into a file below the path that `partition` appends to the
    /// empty string it is given: `date=2013-01-01`. `/` separates directories. A
    /// path that is absolute, or has a component that is empty or begins with
    /// `.`, fails the job.
    pub fn partition_by(
        mut self,
        partition: impl Fn(&T, &mut String) + Send + Sync + 'static,
    ) -> Self {
        self.config.partition = Some(Arc::new(partition));
        self
    }

    /// At most this many parts are open in a subtask, 64 by default: when there
    /// are more partitions, the part that was opened first is closed.
    pub fn max_open(mut self, parts: usize) -> Self {
        self.config.max_open = parts.max(1);
        self
    }
}

impl<T: 'static, F: Encode<T>> Sink<T> for FileSink<T, F> {
    type Commit = FileCommit;
    type Writer = FileWriter<T, F>;
    type Committer = FileCommitter;

    fn writer(&self, cx: SinkCx) -> Res<Self::Writer> {
        let place = place::open(&self.config.dir, &cx.job, &cx.uid).map_err(Error::into_fail)?;
        Ok(FileWriter::new(self.config.clone(), place, cx))
    }

    fn committer(&self, job: &JobUid, uid: &Uid) -> Res<Self::Committer> {
        FileCommitter::open(&self.config.dir, job, uid).map_err(Error::into_fail)
    }
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be created or written.
    #[error("cannot write to output directory `{path}`: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write output `{path}`: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The partition of a row is no sub path.
    #[error(
        "`{path}` cannot be the partition of a row: a relative path is needed, without `..` or hidden directories"
    )]
    Partition {
        /// What was given.
        path: String,
    },
    /// The output has moved, and what was written before cannot be completed.
    #[error(
        "the output moved from `{from}` to `{to}`, and what was written before and is not \
         visible yet cannot be completed in `{from}`: {source}"
    )]
    Left {
        /// Where it went.
        from: PathBuf,
        /// Where it goes.
        to: PathBuf,
        /// What is wrong there.
        source: Box<Error>,
    },
}

impl Error {
    fn write(path: &Path, source: io::Error) -> Self {
        Error::Write { path: path.into(), source }
    }

    fn left(self, from: &str, to: &Path) -> Self {
        Error::Left { from: from.into(), to: to.into(), source: Box::new(self) }
    }

    fn is_users(&self) -> bool {
        match self {
            Error::Partition { .. } => true,
            Error::Directory { source, .. } => !passes(source.kind()),
            Error::Write { .. } => false,
            // Nobody writes there any more, so nobody will notice that it is in the way.
            Error::Left { source, .. } => match source.as_ref() {
                Error::Write { source, .. } => stays(source.kind()),
                other => other.is_users(),
            },
        }
    }

    /// As the runtime takes it: what only the user can mend is a [`UserError`].
    fn into_fail(self) -> Fail {
        match self.is_users() {
            true => Box::new(UserError(self.to_string())),
            false => Box::new(self),
        }
    }
}

/// What may be over by itself: no reason to fail a job for good.
fn passes(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::OutOfMemory
            | Kind::ResourceBusy
            | Kind::Interrupted
            | Kind::WouldBlock
            | Kind::TimedOut
            | Kind::StaleNetworkFileHandle
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}

/// What is not over until somebody does something about it.
fn stays(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    matches!(kind, Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::NotADirectory)
}

#[cfg(test)]
mod tests;
