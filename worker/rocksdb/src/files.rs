//! Where the database lies: a directory that is empty at the start and gone at the end.

use millrace_engine::data::{Fail, Res};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The directory's name within the one that the user gave.
const NAME: &str = "millrace-tier";

/// A directory for one database.
pub struct LocalDir {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl LocalDir {
    /// In `parent`, which is made if it is not there. What an earlier process left there
    /// is removed; one that still runs is an error.
    pub fn within(parent: &Path) -> Res<Self> {
        let path = parent.join(NAME);
        std::fs::create_dir_all(&path)
            .map_err(|e| Fail::from(format!("cannot keep state in {}: {e}", path.display())))?;
        destroy(&path).map_err(|e| {
            let path = path.display();
            Fail::from(format!(
                "cannot empty {path}: {e}. If another process uses it, give this one a local \
                 directory of its own"
            ))
        })?;
        std::fs::create_dir_all(&path)?;
        Ok(Self { path, _temporary: None })
    }

    /// In the directory for temporary files.
    pub fn temporary() -> Res<Self> {
        let directory = tempfile::Builder::new().prefix("millrace-tier-").tempdir()?;
        Ok(Self { path: directory.path().to_path_buf(), _temporary: Some(directory) })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Fails while another process has the database open.
fn destroy(path: &Path) -> Result<(), rocksdb::Error> {
    crate::Db::destroy(&rocksdb::Options::default(), path)
}

impl Drop for LocalDir {
    fn drop(&mut self) {
        if let Err(error) = destroy(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "local state is left behind");
        }
    }
}
