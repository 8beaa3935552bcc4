//! Where files are read from: directories of this machine, or S3.

use super::source::Error;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A file's bytes as they are stored.
pub(super) trait Contents: Read + Seek {}

impl<T: Read + Seek> Contents for T {}

/// A file that was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
}

/// A kind of place.
pub(super) trait Files: Send + Sync {
    /// The file `root`, or all files below it but hidden ones, in the order of names.
    fn look(&self, root: &Path) -> Result<Vec<Found>, Error>;

    /// Opens a file that was found.
    fn open(&self, path: &Path) -> Result<Box<dyn Contents>, Error>;
}

/// The kind of place that `root` is in. Nothing is asked of it yet.
pub(super) fn files(root: &Path) -> Result<Arc<dyn Files>, Error> {
    match root.to_str() {
        #[cfg(feature = "s3")]
        Some(url) if millrace_s3::Location::is_one(url) => super::s3::S3Files::open(root, url),
        #[cfg(not(feature = "s3"))]
        Some(url) if url.starts_with("s3://") => Err(Error::NoS3 { path: root.into() }),
        _ => Ok(Arc::new(Local)),
    }
}

/// This machine.
struct Local;

impl Files for Local {
    fn look(&self, root: &Path) -> Result<Vec<Found>, Error> {
        let mut paths = Vec::new();
        if fs::metadata(root).map_err(|e| Error::open(root, e))?.is_dir() {
            walk(root, &mut paths)?;
            paths.sort();
        } else {
            paths.push(root.to_path_buf());
        }
        let mut found = Vec::new();
        for path in paths {
            match fs::metadata(&path) {
                Ok(meta) => {
                    found.push(Found { path, len: meta.len(), modified: meta.modified().ok() });
                }
                // Removed or renamed since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound && path != root => {}
                Err(e) => return Err(Error::open(&path, e)),
            }
        }
        Ok(found)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Contents>, Error> {
        Ok(Box::new(File::open(path).map_err(|e| Error::open(path, e))?))
    }
}

/// All files below a directory but hidden ones.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|e| Error::open(dir, e))? {
        let entry = entry.map_err(|e| Error::open(dir, e))?;
        let name = entry.file_name();
        if matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_')) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
