//! A job's objects below a prefix of a bucket.

use crate::bucket::Bucket;
use millrace_engine::store::{ObjectStore, ObjectWriter, Put, StoreResult};
use millrace_protocol::config::S3Storage;
use millrace_protocol::objects::{ObjectKey, Prefix};

/// Keeps objects in S3.
#[derive(Debug, Clone)]
pub struct S3Store {
    bucket: Bucket,
    /// Empty, or ends with `/`.
    root: String,
}

impl S3Store {
    /// The store that `storage` names. Nothing is asked of the server yet: see
    /// [`probe`](millrace_engine::store::probe).
    pub fn open(storage: &S3Storage) -> StoreResult<Self> {
        let bucket = Bucket::open(storage)?;
        let root = match storage.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Ok(Self { bucket, root })
    }

    fn key(&self, key: &ObjectKey) -> String {
        format!("{}{}", self.root, key.as_str())
    }
}

impl ObjectStore for S3Store {
    fn is_far(&self) -> bool {
        true
    }

    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put> {
        self.bucket.put_if_absent(&self.key(key), bytes)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()> {
        self.bucket.put(&self.key(key), bytes)
    }

    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>> {
        Ok(Box::new(self.bucket.upload(&self.key(key))))
    }

    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>> {
        self.bucket.get(&self.key(key))
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
        self.bucket.get_range(&self.key(key), offset, len)
    }

    fn size(&self, key: &ObjectKey) -> StoreResult<Option<u64>> {
        self.bucket.size(&self.key(key))
    }

    fn list(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        let listed = self.bucket.list(&format!("{}{}", self.root, prefix.as_str()))?;
        let keys = listed.iter().filter_map(|object| object.key.strip_prefix(&self.root));
        // What no key can name is not ours.
        Ok(keys.filter_map(|key| ObjectKey::parse(key).ok()).collect())
    }

    fn delete(&self, key: &ObjectKey) -> StoreResult<()> {
        self.bucket.delete(&self.key(key))
    }

    fn unfinished(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        let found = self.bucket.unfinished(&format!("{}{}", self.root, prefix.as_str()))?;
        let keys = found.iter().filter_map(|upload| upload.key.strip_prefix(&self.root));
        Ok(keys.filter_map(|key| ObjectKey::parse(key).ok()).collect())
    }

    fn discard_unfinished(&self, key: &ObjectKey) -> StoreResult<()> {
        let key = self.key(key);
        let mut found = self.bucket.unfinished(&key)?;
        found.retain(|upload| upload.key == key);
        found.iter().try_for_each(|upload| self.bucket.abort(upload))
    }
}
