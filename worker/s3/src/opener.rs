//! Opens what users write: a place in S3, or else a directory.

use crate::location::Location;
use crate::store::S3Store;
use millrace_engine::store::{
    Access, Certainty, DirectoryOpener, Fault, ObjectStore, Opener, StoreError, StoreResult,
};
use millrace_protocol::config::{S3Storage, Storage};
use std::sync::{Arc, OnceLock};

static SERVER: OnceLock<S3Storage> = OnceLock::new();

/// Makes this the server of files in S3 whose URLs name none: that of the job's storage,
/// told once when the process starts. Bucket and prefix do not count.
pub fn set_default_server(settings: S3Storage) {
    // A second one is the same job's.
    let _ = SERVER.set(settings);
}

/// The server of files in S3 whose URLs name none.
pub fn default_server() -> S3Storage {
    SERVER.get().cloned().unwrap_or_default()
}

/// Opens `s3://bucket/prefix`, and directories as well.
#[derive(Debug, Clone, Default)]
pub struct S3Opener {
    /// The server's settings where the text has none of its own: a savepoint goes to the
    /// server of the job. Bucket and prefix do not count.
    defaults: S3Storage,
}

impl S3Opener {
    /// With these settings where a place has none of its own.
    pub fn new(defaults: S3Storage) -> Self {
        Self { defaults }
    }

    /// The place that a text names.
    pub fn locate(&self, location: &str) -> StoreResult<Location> {
        Location::parse(location, &self.defaults).map_err(|error| StoreError {
            action: "use",
            object: location.to_owned(),
            certainty: Certainty::Failed,
            fault: Fault::Denied,
            reason: error.to_string(),
        })
    }

    /// Opens a job's storage.
    pub fn open_storage(storage: &Storage) -> StoreResult<Arc<dyn ObjectStore>> {
        match storage {
            Storage::Directory { path } => DirectoryOpener.open(path, Access::Write),
            Storage::S3(s3) => Ok(Arc::new(S3Store::open(s3)?)),
        }
    }
}

impl Opener for S3Opener {
    fn open(&self, location: &str, access: Access) -> StoreResult<Arc<dyn ObjectStore>> {
        if !Location::is_one(location) {
            return DirectoryOpener.open(location, access);
        }
        Ok(Arc::new(S3Store::open(&self.locate(location)?.0)?))
    }
}
