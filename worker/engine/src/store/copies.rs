//! Copies, on this machine, of the large objects that this process writes to a store.
//!
//! A process that starts again reads its state from them instead of from far away. They
//! only save time: one that is missing, damaged, or of an object that has another content
//! by now is as good as none, and what goes wrong with them fails nothing. Whoever reads
//! one checks it against what the checkpoint says of the object.

use super::{ObjectStore, ObjectWriter, Put, StoreResult};
use millrace_protocol::objects::{ObjectKey, Prefix};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A store that keeps copies; see the module.
pub struct WithCopies {
    store: Arc<dyn ObjectStore>,
    copies: Arc<Copies>,
}

struct Copies {
    directory: PathBuf,
    begun: AtomicU64,
    /// Whether the user was told that none can be kept.
    told: AtomicBool,
}

impl WithCopies {
    /// Keeps copies in `directory`, which no other process uses; those in it are taken on.
    pub fn new(store: Arc<dyn ObjectStore>, directory: &Path) -> Self {
        let copies = Copies {
            directory: directory.to_owned(),
            begun: AtomicU64::new(0),
            told: AtomicBool::new(false),
        };
        // What a dead process was writing has no use for anybody.
        copies.remove(|name| !is_partial(name));
        Self { store, copies: Arc::new(copies) }
    }
}

/// Ends the names of copies that are not complete. No job has such keys.
const PARTIAL: &str = ".partial";

fn is_partial(name: &str) -> bool {
    name.ends_with(PARTIAL)
}

/// A key as the name of a file: `/` becomes `,`, which is in no key.
fn name(key: &ObjectKey) -> String {
    key.as_str().replace('/', ",")
}

impl Copies {
    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.directory.join(name(key))
    }

    fn begin(&self, key: &ObjectKey) -> io::Result<Copy> {
        fs::create_dir_all(&self.directory)?;
        let n = self.begun.fetch_add(1, Ordering::Relaxed);
        let partial = self.directory.join(format!("{n}{PARTIAL}"));
        let file = File::create(&partial)?;
        Ok(Copy { file, partial, complete: self.path(key) })
    }

    /// Removes all files but those whose names are to be kept.
    fn remove(&self, keep: impl Fn(&str) -> bool) {
        // No directory, no copies.
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(&keep) {
                self.report(fs::remove_file(entry.path()));
            }
        }
    }

    fn report(&self, result: io::Result<()>) {
        match result {
            Err(error)
                if error.kind() != io::ErrorKind::NotFound
                    && !self.told.swap(true, Ordering::Relaxed) =>
            {
                let directory = self.directory.display();
                tracing::warn!(
                    %directory, %error,
                    "cannot keep copies of checkpoint files on this machine: restarts read \
                     all of their state from the storage"
                );
            }
            _ => {}
        }
    }
}

/// A copy that is being written; removed when dropped before it is complete.
struct Copy {
    file: File,
    partial: PathBuf,
    complete: PathBuf,
}

impl Copy {
    /// Not synced: after a crash of the machine it is checked like any other.
    fn complete(self) -> io::Result<()> {
        fs::rename(&self.partial, &self.complete)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // After the rename there is nothing; a leak is removed at the next start.
        let _ = fs::remove_file(&self.partial);
    }
}

struct Writer {
    object: Box<dyn ObjectWriter>,
    copy: Option<Copy>,
    copies: Arc<Copies>,
}

impl ObjectWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> StoreResult<()> {
        if let Some(copy) = &mut self.copy
            && let Err(error) = copy.file.write_all(bytes)
        {
            self.copy = None;
            self.copies.report(Err(error));
        }
        self.object.write(bytes)
    }

    fn finish(self: Box<Self>) -> StoreResult<u64> {
        let len = self.object.finish()?;
        if let Some(copy) = self.copy {
            self.copies.report(copy.complete());
        }
        Ok(len)
    }

    fn abort(self: Box<Self>) {
        self.object.abort();
    }
}

impl ObjectStore for WithCopies {
    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put> {
        self.store.put_if_absent(key, bytes)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()> {
        self.store.put(key, bytes)
    }

    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>> {
        let object = self.store.create(key)?;
        let copy = self.copies.begin(key).map_err(|error| self.copies.report(Err(error))).ok();
        Ok(Box::new(Writer { object, copy, copies: Arc::clone(&self.copies) }))
    }

    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>> {
        self.store.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
        self.store.get_range(key, offset, len)
    }

    fn size(&self, key: &ObjectKey) -> StoreResult<Option<u64>> {
        self.store.size(key)
    }

    fn list(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        self.store.list(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> StoreResult<()> {
        self.drop_copy(key);
        self.store.delete(key)
    }

    fn unfinished(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        self.store.unfinished(prefix)
    }

    fn discard_unfinished(&self, key: &ObjectKey) -> StoreResult<()> {
        self.store.discard_unfinished(key)
    }

    fn is_far(&self) -> bool {
        self.store.is_far()
    }

    fn copy(&self, key: &ObjectKey) -> Option<File> {
        File::open(self.copies.path(key)).ok()
    }

    fn drop_copy(&self, key: &ObjectKey) {
        self.copies.report(fs::remove_file(self.copies.path(key)));
    }

    fn keep_copies(&self, keys: &mut dyn Iterator<Item = &ObjectKey>) {
        let names: std::collections::HashSet<String> = keys.map(name).collect();
        self.copies.remove(|name| names.contains(name) || is_partial(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DirectoryStore, contract};
    use std::io::Read;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text).unwrap()
    }

    struct Setup {
        directory: tempfile::TempDir,
        store: WithCopies,
    }

    impl Setup {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Self::open(directory.path());
            Self { directory, store }
        }

        fn open(at: &Path) -> WithCopies {
            let far = Arc::new(DirectoryStore::open(&at.join("far")).unwrap());
            WithCopies::new(far, &at.join("near"))
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            let mut writer = self.store.create(&key(name)).unwrap();
            writer.write(bytes).unwrap();
            writer.finish().unwrap();
        }

        fn copy(&self, name: &str) -> Option<Vec<u8>> {
            let mut bytes = Vec::new();
            self.store.copy(&key(name))?.read_to_end(&mut bytes).unwrap();
            Some(bytes)
        }

        fn near(&self) -> usize {
            fs::read_dir(self.directory.path().join("near")).map_or(0, Iterator::count)
        }
    }

    #[test]
    fn it_is_a_store_like_any_other() {
        let directories = std::cell::RefCell::new(Vec::new());
        contract::check(&|| {
            let directory = tempfile::tempdir().unwrap();
            let store = Arc::new(Setup::open(directory.path()));
            directories.borrow_mut().push(directory);
            store
        });
    }

    #[test]
    fn what_is_written_is_here_too_until_it_is_dropped() {
        let setup = Setup::new();
        for name in ["a/b", "a/c", "a/d"] {
            setup.write(name, name.as_bytes());
        }
        assert_eq!(setup.copy("a/b").unwrap(), b"a/b");
        setup.store.drop_copy(&key("a/b"));
        setup.store.drop_copy(&key("a/b"));
        assert_eq!(setup.copy("a/b"), None);
        assert_eq!(setup.store.get(&key("a/b")).unwrap().unwrap(), b"a/b");
        setup.store.keep_copies(&mut [key("a/c"), key("x")].iter());
        assert_eq!((setup.copy("a/c").is_some(), setup.copy("a/d")), (true, None));
        setup.store.delete(&key("a/c")).unwrap();
        assert_eq!(setup.near(), 0);
    }

    #[test]
    fn only_whole_objects_are_copied() {
        let setup = Setup::new();
        let mut writer = setup.store.create(&key("a")).unwrap();
        writer.write(b"half").unwrap();
        assert_eq!((setup.copy("a"), setup.near()), (None, 1));
        setup.store.keep_copies(&mut [].iter());
        assert_eq!(setup.near(), 1, "what is being written was removed");
        writer.abort();
        assert_eq!(setup.near(), 0);
        let mut writer = setup.store.create(&key("a")).unwrap();
        writer.write(b"half").unwrap();
        std::mem::forget(writer);
        let again = Setup::open(setup.directory.path());
        assert!(again.copy(&key("a")).is_none());
        assert_eq!(setup.near(), 0, "what a dead process left is there");
    }

    #[test]
    fn without_a_place_for_copies_objects_are_written_all_the_same() {
        let setup = Setup::new();
        fs::write(setup.directory.path().join("near"), b"no directory").unwrap();
        setup.write("a", b"1");
        assert_eq!(setup.copy("a"), None);
        assert_eq!(setup.store.get(&key("a")).unwrap().unwrap(), b"1");
    }
}
