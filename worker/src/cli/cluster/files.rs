//! The files of a job of several processes on one machine.

use crate::cli::trouble::Trouble;
use millrace_cluster::token::Token;
use millrace_protocol::config::{Live, Revision};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The directory with the files of the job in a storage directory.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    /// Of a storage directory.
    pub fn of(storage: &Path) -> Self {
        Self(storage.join(".workers"))
    }

    /// What the job is.
    pub fn revision(&self) -> PathBuf {
        self.0.join("revision.json")
    }

    /// How many it should be.
    pub fn live(&self) -> PathBuf {
        self.0.join("live.json")
    }

    /// What its processes share.
    pub fn token(&self) -> PathBuf {
        self.0.join("token")
    }

    /// Where its leader is.
    pub fn leader(&self) -> PathBuf {
        self.0.join("leader")
    }

    /// Makes the directory, which is the user's alone, and all files but the leader's.
    pub fn write(&self, revision: &Revision, live: &Live, token: &Token) -> Result<(), Trouble> {
        let bad =
            |error: io::Error| Trouble::user(format!("cannot use {}: {error}", self.0.display()));
        match fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(bad(error)),
            _ => {}
        }
        match fs::remove_file(self.leader()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(bad(error)),
            _ => {}
        }
        let revision = revision.encode().map_err(Trouble::failed)?;
        let live = live.encode().map_err(Trouble::failed)?;
        replace(&self.revision(), &revision)
            .and_then(|()| replace(&self.live(), &live))
            .and_then(|()| replace(&self.token(), token.text().as_bytes()))
            .map_err(bad)
    }

    /// Removes them: the job has ended.
    pub fn remove(&self) {
        // What is left is replaced by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }

    /// What the job should be now.
    pub fn read_live(&self) -> Result<Live, Trouble> {
        let path = self.live();
        let name = path.display().to_string();
        let bytes = fs::read(&path).map_err(|error| {
            Trouble::user(format!(
                "cannot read {name}: {error}: does a job with --workers run here?"
            ))
        })?;
        Live::decode(&name, &bytes).map_err(Trouble::user)
    }
}

/// Writes a file that others read at any time; readable by the user alone.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)
}
