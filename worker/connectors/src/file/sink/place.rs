//! What the sink needs of a place that files are written to.

use super::local::Local;
use super::names::Places;
use super::{Error, FileCommit};
use millrace_engine::connector::Committed;
use millrace_engine::store::opener::is_url;
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// A place for the files of one sink of one job.
pub(super) trait Place: Send + Sync {
    /// The job as names of parts have it.
    fn job(&self) -> &str;

    /// Begins a part.
    fn begin(&self, commit: &FileCommit) -> Result<Box<dyn Body>, Error>;

    /// Makes it last that the parts begun so far exist.
    fn settle(&self) -> Result<(), Error>;

    /// Makes a part visible. Idempotent.
    fn commit(&self, commit: &FileCommit) -> Result<Committed, Error>;

    /// Removes what attempts below `attempt` staged, but for `keep`.
    fn abort_others(&self, attempt: Attempt, keep: &[FileCommit]) -> Result<(), Error>;
}

/// The bytes of a part.
pub(super) trait Body: Write {
    /// What messages call it.
    fn path(&self) -> &Path;

    /// The part could end here. What is left to do until that lasts; `changed`: whether bytes
    /// came since the last time.
    fn seal(&mut self, changed: bool) -> io::Result<Option<Seal>>;

    /// Whether more bytes should come now.
    fn has_room(&mut self) -> bool {
        true
    }

    /// Whether it can take only few more, whatever their number.
    fn is_full(&self) -> bool {
        false
    }

    /// Bytes of it in memory.
    fn held(&self) -> usize {
        0
    }
}

/// Makes last what a part held, and completes what its commit needs to know. Blocks.
pub(super) type Seal = Box<dyn FnOnce(&mut FileCommit) -> Result<(), Error> + Send>;

/// Opens the output directory.
pub(super) fn open(dir: &Path, job: &JobUid, uid: &Uid) -> Result<Arc<dyn Place>, Error> {
    open_as(dir, job, uid, Places::create)
}

/// Opens one that output went to earlier, without making anything there.
pub(super) fn open_former(dir: &Path, job: &JobUid, uid: &Uid) -> Result<Arc<dyn Place>, Error> {
    open_as(dir, job, uid, |dir, job, uid| Ok(Places::former(dir, job, uid)))
}

fn open_as(
    dir: &Path,
    job: &JobUid,
    uid: &Uid,
    local: fn(&Path, &JobUid, &Uid) -> Result<Places, Error>,
) -> Result<Arc<dyn Place>, Error> {
    match dir.to_str() {
        #[cfg(feature = "s3")]
        Some(url) if millrace_s3::Location::is_one(url) => {
            Ok(Arc::new(super::s3::Keys::open(dir, url, job, uid)?))
        }
        Some(url) if is_url(url) => {
            let why = match url.starts_with("s3://") {
                true => "this program is built without S3: build it with feature `s3` of millrace",
                false => "give the path of a directory, or s3://bucket/prefix",
            };
            let source = io::Error::new(io::ErrorKind::Unsupported, why);
            Err(Error::Directory { path: dir.to_path_buf(), source })
        }
        _ => Ok(Arc::new(Local::new(local(dir, job, uid)?))),
    }
}
