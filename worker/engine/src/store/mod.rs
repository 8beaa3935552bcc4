//! The object store: where a job's progress is kept.
//!
//! Calls block; they are made from the side pool. What is decided from their
//! answers is elsewhere ([`crate::coordinator`]). An error says whether the
//! call certainly did nothing or may have had its effect.

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod copies;
pub mod directory;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
pub mod lock;
pub mod opener;

pub use copies::WithCopies;
pub use directory::DirectoryStore;
pub use lock::{InUse, OwnerLock};
pub use opener::{Access, DirectoryOpener, Opener};

use millrace_protocol::objects::{self, ObjectKey, Prefix};
use std::fmt;
use thiserror::Error;

/// What became of a put-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is now there, with these bytes.
    Created,
    /// There was one before; it is unchanged.
    Exists,
}

/// Whether a call that gave an error had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It did nothing.
    Failed,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// What is wrong, as far as somebody has to act differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no such object.
    Missing,
    /// Permission denied, read-only, no such bucket: the user must act.
    Denied,
    /// No space left: the user must act.
    Full,
    /// The key is a prefix of others, or beneath an object: a bug.
    Key,
    /// Anything else; worth another try.
    Other,
}

/// A store call that gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct StoreError {
    /// What was tried: "write", "read", "list", "delete".
    pub action: &'static str,
    /// The object or prefix, as the user can find it.
    pub object: String,
    /// Whether it had its effect.
    pub certainty: Certainty,
    /// What is wrong.
    pub fault: Fault,
    /// The cause.
    pub reason: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.action, self.object, self.reason)?;
        match (self.certainty, self.fault) {
            (Certainty::Unknown, _) => f.write_str(" (it may have happened)"),
            (_, Fault::Full) => f.write_str(" (free some space)"),
            _ => Ok(()),
        }
    }
}

/// A result of a store call.
pub type StoreResult<T> = Result<T, StoreError>;

/// Keeps objects by key. Safe to share; calls block.
pub trait ObjectStore: Send + Sync + 'static {
    /// Puts an object unless there is one. Atomic and durable once answered; of
    /// concurrent calls for a key exactly one is answered with [`Put::Created`].
    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put>;

    /// Puts an object whether or not there is one. Atomic and durable.
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()>;

    /// Begins a large object, which is there once the writer is finished.
    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>>;

    /// All of an object; `None` if there is none.
    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>>;

    /// Part of an object. Beyond its end, or if there is none: an error.
    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>>;

    /// An object's length in bytes; `None` if there is none.
    fn size(&self, key: &ObjectKey) -> StoreResult<Option<u64>>;

    /// All keys that begin with `prefix`, in no order. May miss recent puts and
    /// may name what was just deleted: nothing may rest on it for safety.
    fn list(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>>;

    /// Deletes an object. No error if there is none.
    fn delete(&self, key: &ObjectKey) -> StoreResult<()>;

    /// Keys below `prefix` of large objects that were begun and not finished, as far as the
    /// store keeps and lists them: what dead processes left, and what others write now.
    fn unfinished(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        let _ = prefix;
        Ok(Vec::new())
    }

    /// Takes back what was begun at this key and not finished. An object there stays.
    fn discard_unfinished(&self, key: &ObjectKey) -> StoreResult<()> {
        let _ = key;
        Ok(())
    }

    /// Whether an answer takes so long that it pays to ask several questions at a time.
    fn is_far(&self) -> bool {
        false
    }

    /// A copy of an object that is on this machine, if there is one. It may be damaged, or
    /// of another object of that name: whoever reads it checks it.
    fn copy(&self, key: &ObjectKey) -> Option<std::fs::File> {
        let _ = key;
        None
    }

    /// Removes the copy of an object, if there is one. The object stays.
    fn drop_copy(&self, key: &ObjectKey) {
        let _ = key;
    }

    /// Removes the copies of all other objects.
    fn keep_copies(&self, keys: &mut dyn Iterator<Item = &ObjectKey>) {
        let _ = keys;
    }
}

/// Writes one object. Dropped without [`ObjectWriter::finish`], it leaves nothing.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> StoreResult<()>;

    /// Makes the object visible, durably; answers its length.
    fn finish(self: Box<Self>) -> StoreResult<u64>;

    /// Removes what was written.
    fn abort(self: Box<Self>);
}

/// How often a store is asked that gives no answer, and the pause after the first time.
const PROBES: u32 = 6;
const PROBE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Probes a store, again and again while it gives no answer that the user could help.
/// `nonce` makes a new one.
pub fn probe_patiently(
    store: &dyn ObjectStore,
    mut nonce: impl FnMut() -> String,
) -> StoreResult<()> {
    let mut tries = 1;
    loop {
        match probe(store, &nonce()) {
            Err(error)
                if tries < PROBES && error.action != "use" && error.fault == Fault::Other =>
            {
                tracing::warn!(%error, "the storage is probed again");
                std::thread::sleep(PROBE_PAUSE * 2_u32.pow(tries - 1));
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Asks a store whether it honours put-if-absent, with a key made of `nonce`,
/// which nobody else uses. A store that does not is no place for a job.
pub fn probe(store: &dyn ObjectStore, nonce: &str) -> StoreResult<()> {
    let bad = |object: &str, reason: &str| StoreError {
        action: "use",
        object: object.to_owned(),
        certainty: Certainty::Failed,
        fault: Fault::Other,
        reason: reason.to_owned(),
    };
    let key = objects::probe(nonce).map_err(|error| bad(nonce, &error.to_string()))?;
    let first = store.put_if_absent(&key, b"a")?;
    let second = store.put_if_absent(&key, b"b")?;
    let found = store.get(&key)?;
    store.delete(&key)?;
    if first != Put::Created || second != Put::Exists || found.as_deref() != Some(b"a") {
        let why = "the storage does not honour conditional writes, so two processes could \
                   both own a job there: use another storage";
        return Err(bad(key.as_str(), why));
    }
    Ok(())
}
