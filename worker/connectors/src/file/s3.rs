//! Files in S3, read by ranges.

use super::place::{Contents, Files, Found};
use super::source::Error;
use millrace_engine::store::{Fault, StoreError};
use millrace_s3::{Bucket, Listed, Location};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The first request of a file: enough to tell its packing and to read a header.
const FIRST: u64 = 256 << 10;
/// The others.
const BLOCK: u64 = 4 << 20;

/// The files below a prefix of a bucket.
pub(super) struct S3Files {
    bucket: Bucket,
    /// A key, or the beginning of keys up to a `/`.
    prefix: String,
}

impl S3Files {
    pub(super) fn open(root: &Path, url: &str) -> Result<Arc<dyn Files>, Error> {
        let unusable = |why: String| Error::Place { path: root.into(), why };
        let location = Location::parse(url, &millrace_s3::default_server());
        let Location(storage) = location.map_err(|error| unusable(error.to_string()))?;
        let bucket = Bucket::open(&storage).map_err(|error| unusable(error.to_string()))?;
        Ok(Arc::new(Self { bucket, prefix: storage.prefix }))
    }

    fn found(&self, object: Listed) -> Found {
        let modified = object.modified_ms.and_then(|ms| u64::try_from(ms).ok());
        Found {
            path: PathBuf::from(self.bucket.url(&object.key)),
            len: object.len,
            modified: modified.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }
}

/// Whether a part of a key below the root is hidden, or the key is a directory's.
fn is_hidden(below: &str) -> bool {
    below.ends_with('/') || below.split('/').any(|part| part.starts_with(['.', '_']))
}

fn failed(path: &Path, error: StoreError) -> Error {
    let kind = match error.fault {
        Fault::Missing => io::ErrorKind::NotFound,
        Fault::Denied => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    Error::open(path, io::Error::new(kind, error))
}

impl Files for S3Files {
    fn look(&self, root: &Path) -> Result<Vec<Found>, Error> {
        if !self.prefix.is_empty() {
            let found = self.bucket.head(&self.prefix).map_err(|error| failed(root, error))?;
            if let Some(object) = found {
                return Ok(vec![self.found(object)]);
            }
        }
        let below = match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let mut listed = self.bucket.list(&below).map_err(|error| failed(root, error))?;
        if listed.is_empty() {
            return Err(Error::Missing { path: root.into() });
        }
        listed.retain(|object| object.key.strip_prefix(&below).is_some_and(|k| !is_hidden(k)));
        Ok(listed.into_iter().map(|object| self.found(object)).collect())
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Contents>, Error> {
        let root = self.bucket.url("");
        let key = path.to_str().and_then(|path| path.strip_prefix(&root));
        let key = key.ok_or_else(|| Error::Missing { path: path.into() })?;
        let head = self.bucket.head(key).map_err(|error| failed(path, error))?;
        let len = head.ok_or_else(|| Error::Missing { path: path.into() })?.len;
        let (bucket, key) = (self.bucket.clone(), key.to_owned());
        Ok(Box::new(Object { bucket, key, len, at: 0, block: Vec::new(), begins: 0 }))
    }
}

/// An object, of which one block at a time is in memory.
struct Object {
    bucket: Bucket,
    key: String,
    len: u64,
    at: u64,
    block: Vec<u8>,
    /// Where the block begins in the object.
    begins: u64,
}

impl Read for Object {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.len || into.is_empty() {
            return Ok(0);
        }
        let within = self.at.checked_sub(self.begins).and_then(|at| usize::try_from(at).ok());
        let within = match within.filter(|at| *at < self.block.len()) {
            Some(within) => within,
            None => {
                let most = if self.block.is_empty() { FIRST } else { BLOCK };
                let len = usize::try_from(most.min(self.len - self.at)).unwrap_or(usize::MAX);
                let block = self.bucket.get_range(&self.key, self.at, len);
                self.block = block.map_err(io::Error::other)?;
                self.begins = self.at;
                0
            }
        };
        let rest = &self.block[within..];
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Object {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
