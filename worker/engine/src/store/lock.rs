//! The owner lock of a storage directory: one live process at a time.
//!
//! Ownership itself rests on the chain; the lock spares a user who starts a job
//! twice on one machine from two processes that fence each other.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Name of the lock file; no object key begins with a dot.
const LOCK: &str = ".owner";

/// Why a storage directory cannot be had.
#[derive(Debug, Error)]
pub enum InUse {
    /// Another process has it.
    #[error("{} is in use by process {owner}: stop that process, or use another directory", directory.display())]
    Process {
        /// The directory.
        directory: PathBuf,
        /// Process id and host.
        owner: String,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {}: {error}", file.display())]
    Io {
        /// The lock file.
        file: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
}

/// Holds a storage directory; released when dropped, or when the process dies.
#[derive(Debug)]
pub struct OwnerLock {
    _file: File,
    directory: PathBuf,
}

impl OwnerLock {
    /// Takes the lock, or says who has it. Makes the directory if there is none.
    pub fn acquire(directory: &Path) -> Result<Self, InUse> {
        let path = directory.join(LOCK);
        let io = |error| InUse::Io { file: path.clone(), error };
        std::fs::create_dir_all(directory).map_err(io)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(io(error)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // The name is for people; who has the lock may not have written it yet.
                let _ = file.read_to_string(&mut owner);
                let owner = match owner.trim() {
                    "" => "(unknown)".to_owned(),
                    owner => owner.to_owned(),
                };
                return Err(InUse::Process { directory: directory.to_owned(), owner });
            }
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{} on {}", std::process::id(), host()).map_err(io)?;
        Ok(Self { _file: file, directory: directory.to_owned() })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// This machine's name, for people.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => std::env::var("HOSTNAME").unwrap_or_else(|_| "this host".to_owned()),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("new/home");
        let lock = OwnerLock::acquire(&home).unwrap();
        let message = OwnerLock::acquire(&home).unwrap_err().to_string();
        assert!(message.contains(&format!("in use by process {} on ", std::process::id())));
        drop(lock);
        OwnerLock::acquire(&home).unwrap();
    }
}
