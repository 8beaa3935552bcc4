//! A store in a directory of a local or shared file system.
//!
//! An object is a file; it becomes visible whole, by `link` (put-if-absent) or
//! `rename` of a synced temporary file, and is durable once its directory is
//! synced. Temporary files live in `.tmp`, which no key can name.

use super::{Certainty, Fault, ObjectStore, ObjectWriter, OwnerLock, Put, StoreError, StoreResult};
use millrace_protocol::objects::{ObjectKey, Prefix};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const TEMPORARY: &str = ".tmp";

/// Directories of objects come and go with them; so often a put tries again
/// when a delete took its directory away.
const TRIES: usize = 1000;

/// Keeps objects as files below a directory.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    root: PathBuf,
    next: AtomicU64,
}

impl DirectoryStore {
    /// Opens the store, and makes the directory if there is none. Fails if it
    /// cannot be written to.
    pub fn open(root: &Path) -> StoreResult<Self> {
        let place = Place { root: root.to_owned(), next: AtomicU64::new(0) };
        let error = |error| failed("write", root, error);
        fs::create_dir_all(place.temporary()).map_err(error)?;
        let (path, file) = place.temporary_file().map_err(error)?;
        drop(file);
        remove_if_there(&path).map_err(error)?;
        Ok(Self { place: Arc::new(place) })
    }

    /// Opens a directory only to read from it; writes fail.
    pub fn open_to_read(root: &Path) -> Self {
        Self { place: Arc::new(Place { root: root.to_owned(), next: AtomicU64::new(0) }) }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.place.root
    }

    /// Removes what dead processes left half-written. The lock proves that no
    /// other process leads the job; those that only open the directory now may lose
    /// what they try it with.
    pub fn remove_leftovers(&self, lock: &OwnerLock) -> StoreResult<()> {
        if lock.directory() != self.place.root {
            return Ok(());
        }
        let directory = self.place.temporary();
        let error = |error| failed("clean", &directory, error);
        for entry in fs::read_dir(&directory).map_err(error)? {
            remove_if_there(&entry.map_err(error)?.path()).map_err(error)?;
        }
        Ok(())
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Place {
    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn temporary(&self) -> PathBuf {
        self.root.join(TEMPORARY)
    }

    /// A new file, named so that processes on any number of hosts do not meet.
    fn temporary_file(&self) -> io::Result<(PathBuf, File)> {
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{n}", std::process::id());
            let path = self.temporary().join(name);
            match File::create_new(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the directories above `path`, durably.
    fn make_parents(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if parent == self.root || parent.is_dir() {
            return Ok(());
        }
        self.make_parents(parent)?;
        match fs::create_dir(parent) {
            Ok(()) => parent.parent().map_or(Ok(()), sync),
            // Gone again by now (`NotFound`) is no file in the way: it is tried again.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if fs::metadata(parent)?.is_dir() {
                    Ok(())
                } else {
                    Err(ErrorKind::NotADirectory.into())
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Moves a synced temporary file to its name with `publish`, then syncs the
    /// directory. `Ok(false)`: there was an object.
    fn publish(
        &self,
        temporary: &Path,
        path: &Path,
        publish: fn(&Path, &Path) -> io::Result<()>,
    ) -> StoreResult<bool> {
        let mut tries = 0;
        let created = loop {
            match self.make_parents(path).and_then(|()| publish(temporary, path)) {
                Ok(()) => break true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if path.is_dir() {
                        let error = ErrorKind::IsADirectory.into();
                        return Err(failed("write", path, error));
                    }
                    break false;
                }
                Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES => {
                    tries += 1;
                    std::thread::yield_now();
                }
                Err(error) => return Err(failed("write", path, error)),
            }
        };
        // Also if it existed: whoever put it may have died before this.
        match path.parent().map_or(Ok(()), sync) {
            Ok(()) => Ok(created),
            // Existed and was deleted, with its directory, in between.
            Err(error) if !created && error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => {
                let error = failed("write", path, error);
                Err(StoreError { certainty: Certainty::Unknown, ..error })
            }
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> StoreResult<Temporary> {
        let error = |error| failed("write", path, error);
        let (temporary, mut file) = self.temporary_file().map_err(error)?;
        let temporary = Temporary(temporary);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(error)?;
        Ok(temporary)
    }

    fn list(&self, directory: &Path, found: &mut Vec<ObjectKey>) -> io::Result<()> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(error),
            };
            let relative = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
            // Files that no key can name are not ours.
            let Some(key) = relative.and_then(|text| ObjectKey::parse(text).ok()) else { continue };
            if kind.is_dir() {
                self.list(&path, found)?;
            } else {
                found.push(key);
            }
        }
        Ok(())
    }
}

/// A temporary file, removed when dropped (its object keeps the content).
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing left; a leak is cleaned at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    match File::open(directory) {
        Ok(file) => file.sync_all(),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    let (fault, reason) = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            (Fault::Denied, format!("{error}: check the permissions of the storage"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (Fault::Full, error.to_string()),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists => {
            (Fault::Key, format!("a name cannot be both file and directory ({error})"))
        }
        ErrorKind::NotFound => (Fault::Missing, error.to_string()),
        _ => (Fault::Other, error.to_string()),
    };
    let object = path.display().to_string();
    StoreError { action, object, certainty: Certainty::Failed, fault, reason }
}

impl ObjectStore for DirectoryStore {
    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put> {
        let path = self.place.path(key);
        let temporary = self.place.write(&path, bytes)?;
        let link = |from: &Path, to: &Path| fs::hard_link(from, to);
        let created = self.place.publish(&temporary.0, &path, link)?;
        Ok(if created { Put::Created } else { Put::Exists })
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()> {
        let path = self.place.path(key);
        let temporary = self.place.write(&path, bytes)?;
        self.place.publish(&temporary.0, &path, |from, to| fs::rename(from, to)).map(drop)
    }

    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>> {
        let path = self.place.path(key);
        let (temporary, file) =
            self.place.temporary_file().map_err(|error| failed("write", &path, error))?;
        let temporary = Temporary(temporary);
        Ok(Box::new(FileWriter { place: Arc::clone(&self.place), path, temporary, file, len: 0 }))
    }

    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>> {
        let path = self.place.path(key);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("read", &path, error)),
        }
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
        let path = self.place.path(key);
        let read = || {
            let mut file = File::open(&path)?;
            let size = file.metadata()?.len();
            // Before allocating: a length from a damaged file may be absurd.
            if offset.checked_add(len as u64).is_none_or(|end| end > size) {
                let why = format!("{len} bytes from {offset} are beyond its end at {size}");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, why));
            }
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; len];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|error| failed("read", &path, error))
    }

    fn size(&self, key: &ObjectKey) -> StoreResult<Option<u64>> {
        let path = self.place.path(key);
        match fs::metadata(&path) {
            Ok(data) if data.is_dir() => Ok(None),
            Ok(data) => Ok(Some(data.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("read", &path, error)),
        }
    }

    fn list(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        let directory = self.place.root.join(prefix.as_str());
        let mut found = Vec::new();
        let listed = self.place.list(&directory, &mut found);
        listed.map_err(|error| failed("list", &directory, error))?;
        Ok(found)
    }

    fn delete(&self, key: &ObjectKey) -> StoreResult<()> {
        let path = self.place.path(key);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if is_absent(&error) || path.is_dir() => return Ok(()),
            Err(error) => return Err(failed("delete", &path, error)),
        }
        // Directories go with their last object, so that a prefix may become a key.
        for parent in path.ancestors().skip(1).take_while(|parent| *parent != self.place.root) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }
}

struct FileWriter {
    place: Arc<Place>,
    path: PathBuf,
    temporary: Temporary,
    file: File,
    len: u64,
}

impl ObjectWriter for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> StoreResult<()> {
        self.file.write_all(bytes).map_err(|error| failed("write", &self.path, error))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> StoreResult<u64> {
        self.file.sync_all().map_err(|error| failed("write", &self.path, error))?;
        let rename = |from: &Path, to: &Path| fs::rename(from, to);
        self.place.publish(&self.temporary.0, &self.path, rename)?;
        Ok(self.len)
    }

    fn abort(self: Box<Self>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text).unwrap()
    }

    #[test]
    fn keeps_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        let count = AtomicU64::new(0);
        contract::check(&|| {
            let n = count.fetch_add(1, Ordering::Relaxed);
            Arc::new(DirectoryStore::open(&directory.path().join(n.to_string())).unwrap())
        });
    }

    /// All processes of a job start together: one cleans up while others open.
    #[test]
    fn it_is_opened_while_the_owner_cleans_up() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(directory.path()).unwrap();
        let lock = OwnerLock::acquire(directory.path()).unwrap();
        std::thread::scope(|scope| {
            let opens = scope.spawn(|| {
                for _ in 0..3_000 {
                    DirectoryStore::open(directory.path()).unwrap();
                }
            });
            while !opens.is_finished() {
                store.remove_leftovers(&lock).unwrap();
            }
        });
    }

    /// A directory that others made and removed meanwhile is no file in the way: the
    /// put tries again. A link to nowhere is the same moment, held still: it cannot be
    /// made, for it is there, and it is not there when one looks.
    #[test]
    #[cfg(unix)]
    fn a_directory_that_comes_and_goes_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(directory.path()).unwrap();
        let parent = directory.path().join("a");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &parent).unwrap();
        let made = store.place.make_parents(&parent.join("b"));
        assert_eq!(made.unwrap_err().kind(), ErrorKind::NotFound);
        std::thread::scope(|scope| {
            let put = scope.spawn(|| store.put_if_absent(&key("a/b"), b"x"));
            fs::remove_file(&parent).unwrap();
            assert_eq!(put.join().unwrap().unwrap(), Put::Created);
        });
    }

    #[test]
    fn what_a_dead_process_left_is_removed_by_the_next_owner() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(directory.path()).unwrap();
        let mut writer = store.create(&key("a/b")).unwrap();
        writer.write(b"half").unwrap();
        std::mem::forget(writer);
        let leftovers = || fs::read_dir(directory.path().join(TEMPORARY)).unwrap().count();
        assert_eq!(leftovers(), 1);
        let lock = OwnerLock::acquire(directory.path()).unwrap();
        store.remove_leftovers(&lock).unwrap();
        assert_eq!(leftovers(), 0);
        assert_eq!(store.list(&Prefix::all()).unwrap(), []);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = DirectoryStore::open(&file).unwrap_err();
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
}
