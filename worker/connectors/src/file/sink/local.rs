//! Parts in directories: staged under a name of their own, and given their final one.
//!
//! A commit is `link`, which fails if the name is taken, and `unlink` of the
//! staged name, in this order and each made to last: after a crash in between
//! the part is found under both.

use super::names::{Places, sync_dir};
use super::place::{Body, Place, Seal};
use super::{Error, FileCommit};
use millrace_engine::connector::Committed;
use millrace_protocol::ids::Attempt;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The directories of one sink of one job.
pub(super) struct Local {
    places: Places,
}

impl Local {
    pub(super) fn new(places: Places) -> Self {
        Self { places }
    }

    fn try_commit(&self, commit: &FileCommit) -> Result<Committed, Error> {
        let target = self.places.target(commit);
        let staged = self.places.staged(commit);
        match length(&target)? {
            Some(len) if len == commit.len => {
                self.unstage(commit)?;
                return Ok(Committed::Before);
            }
            Some(len) => {
                return Ok(Committed::Lost(format!(
                    "`{}` exists with {len} bytes where {} were to be committed: it was written \
                     by a later checkpoint than the one restored, or by someone else",
                    target.display(),
                    commit.len
                )));
            }
            None => {}
        }
        let found = length(&staged)?;
        let Some(found) = found.filter(|found| *found >= commit.len) else {
            // Another committer may have been at it between the two looks.
            if length(&target)? == Some(commit.len) {
                return Ok(Committed::Before);
            }
            let what = match found {
                Some(found) => format!("has only {found} bytes"),
                None => "is gone".to_owned(),
            };
            return Ok(Committed::Lost(format!(
                "staged file `{}` of `{}` ({} bytes) {what}",
                staged.display(),
                target.display(),
                commit.len
            )));
        };
        if let Some(parent) = target.parent() {
            self.create_dirs(parent)?;
        }
        let put = if commit.closed && found == commit.len {
            put_if_absent(&staged, &target)
        } else {
            let copy = self.copy(commit, &staged)?;
            let put = put_if_absent(&copy, &target);
            remove(&copy)?;
            put
        };
        match put {
            Ok(()) => {}
            // A fenced process was faster: look at what it made.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return self.try_commit(commit),
            Err(e) if e.kind() == io::ErrorKind::NotFound && length(&target)?.is_some() => {
                return self.try_commit(commit);
            }
            Err(e) => return Err(Error::write(&target, e)),
        }
        if let Some(parent) = target.parent() {
            sync_dir(parent).map_err(|e| Error::write(parent, e))?;
        }
        self.unstage(commit)?;
        Ok(Committed::Done)
    }

    /// Copies what counts of a part that was open: its writer may still append.
    /// Under a name of this call alone, or another process could truncate what
    /// has become the target.
    fn copy(&self, commit: &FileCommit, staged: &Path) -> Result<PathBuf, Error> {
        let failed = |e| Error::write(&self.places.stage, e);
        let mut from = File::open(staged).map_err(|e| Error::write(staged, e))?.take(commit.len);
        for n in 0u32.. {
            let copy = self.places.copy(commit, std::process::id(), n);
            match OpenOptions::new().write(true).create_new(true).open(&copy) {
                Ok(mut to) => {
                    io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).map_err(failed)?;
                    return Ok(copy);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Err(failed(io::ErrorKind::AlreadyExists.into()))
    }

    fn unstage(&self, commit: &FileCommit) -> Result<(), Error> {
        remove(&self.places.staged(commit))
    }

    /// Creates the directories of a partition so that they last.
    fn create_dirs(&self, dir: &Path) -> Result<(), Error> {
        let failed = |e| Error::write(dir, e);
        if dir.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(dir).map_err(failed)?;
        for made in dir.ancestors().skip(1).take_while(|path| path.starts_with(&self.places.dir)) {
            sync_dir(made).map_err(failed)?;
        }
        Ok(())
    }
}

impl Place for Local {
    fn job(&self) -> &str {
        &self.places.job
    }

    fn begin(&self, commit: &FileCommit) -> Result<Box<dyn Body>, Error> {
        let path = self.places.staged(commit);
        // Never one that is there: names are unique, so it would be another's.
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(|e| Error::write(&path, e))?;
        Ok(Box::new(Staged { file, path }))
    }

    fn settle(&self) -> Result<(), Error> {
        let stage = &self.places.stage;
        sync_dir(stage).map_err(|e| Error::write(stage, e))
    }

    fn commit(&self, commit: &FileCommit) -> Result<Committed, Error> {
        self.try_commit(commit)
    }

    fn abort_others(&self, attempt: Attempt, keep: &[FileCommit]) -> Result<(), Error> {
        let keep: BTreeSet<&str> = keep.iter().map(|commit| commit.staged.as_str()).collect();
        // Copies are removed too: by now the parts they were made of are committed.
        let stage = &self.places.stage;
        let failed = |e| Error::write(stage, e);
        let entries = match fs::read_dir(stage) {
            // A place of the past may be gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let strange = io::Error::other("there is a strange file");
                return Err(Error::Directory { path: stage.clone(), source: strange });
            };
            let earlier = self.places.attempt_of(name).is_some_and(|by| by < attempt);
            if earlier && !keep.contains(name) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// A staged file that is being written.
struct Staged {
    file: File,
    path: PathBuf,
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Body for Staged {
    fn path(&self) -> &Path {
        &self.path
    }

    fn seal(&mut self, changed: bool) -> io::Result<Option<Seal>> {
        if !changed {
            return Ok(None);
        }
        let (file, path) = (self.file.try_clone()?, self.path.clone());
        Ok(Some(Box::new(move |_| file.sync_data().map_err(|e| Error::write(&path, e)))))
    }
}

/// Gives a file another name, if that is free.
fn put_if_absent(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(e)
            if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
        {
            // A file system without links. Nobody else uses our names.
            if to.exists() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        other => other,
    }
}

fn length(path: &Path) -> Result<Option<u64>, Error> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::write(path, e)),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::write(path, e)),
        _ => Ok(()),
    }
}
