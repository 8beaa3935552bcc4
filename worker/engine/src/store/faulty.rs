//! A store that goes wrong in seeded ways, for tests.

use super::{Certainty, Fault, ObjectStore, ObjectWriter, Put, StoreError, StoreResult};
use millrace_protocol::objects::{ObjectKey, Prefix};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often each fault happens: `0.0..=1.0` of the calls it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// A put does nothing and says so.
    pub put_fails: f64,
    /// A put does nothing, and nobody knows.
    pub put_vanishes: f64,
    /// A put happens, but the answer is lost.
    pub answer_lost: f64,
    /// A writer breaks in the middle; nothing is visible.
    pub writer_breaks: f64,
    /// A writer's object is visible, but short: a store that lied, or a disk
    /// that died. What reads it must notice.
    pub truncated: f64,
    /// A list misses what was put since the list before.
    pub stale_list: f64,
    /// A read or list fails.
    pub read_fails: f64,
    /// A delete fails.
    pub delete_fails: f64,
    /// A call takes `delay` longer.
    pub slow: f64,
    /// See `slow`.
    pub delay: Duration,
    /// It says of itself that it is far away; that is no fault.
    pub far: bool,
}

impl Faults {
    /// All that a correct job must survive unharmed, each at this rate.
    pub fn survivable(rate: f64) -> Self {
        Self {
            put_fails: rate,
            put_vanishes: rate,
            answer_lost: rate,
            writer_breaks: rate,
            truncated: 0.0,
            stale_list: rate,
            read_fails: rate,
            delete_fails: rate,
            slow: rate,
            delay: Duration::from_millis(1),
            far: true,
        }
    }
}

/// Wraps a store; safe to share.
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
    shared: Arc<Shared>,
}

struct Shared {
    random: Mutex<fastrand::Rng>,
    calm: AtomicBool,
    injected: AtomicU64,
    lists: Mutex<Vec<(Prefix, Vec<ObjectKey>)>>,
}

impl Shared {
    fn happens(&self, rate: f64) -> bool {
        if rate == 0.0 || self.calm.load(Ordering::Relaxed) {
            return false;
        }
        let random = self.random.lock().map_or(1.0, |mut random| random.f64());
        let happens = random < rate;
        self.injected.fetch_add(u64::from(happens), Ordering::Relaxed);
        happens
    }
}

impl FaultyStore {
    /// Faults in the order that `seed` gives.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, faults: Faults) -> Self {
        let shared = Shared {
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            calm: AtomicBool::new(false),
            injected: AtomicU64::new(0),
            lists: Mutex::default(),
        };
        Self { inner, faults, shared: Arc::new(shared) }
    }

    /// No more faults from here on.
    pub fn calm_down(&self) {
        self.shared.calm.store(true, Ordering::Relaxed);
    }

    /// How many faults there were.
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }

    fn slow(&self) {
        if self.shared.happens(self.faults.slow) {
            std::thread::sleep(self.faults.delay);
        }
    }

    fn around<T>(&self, key: &ObjectKey, put: impl FnOnce() -> StoreResult<T>) -> StoreResult<T> {
        self.slow();
        if self.shared.happens(self.faults.put_fails) {
            return Err(injected("write", key.as_str(), Certainty::Failed));
        }
        if self.shared.happens(self.faults.put_vanishes) {
            return Err(injected("write", key.as_str(), Certainty::Unknown));
        }
        let answer = put()?;
        if self.shared.happens(self.faults.answer_lost) {
            return Err(injected("write", key.as_str(), Certainty::Unknown));
        }
        Ok(answer)
    }

    fn read(&self, object: &str) -> StoreResult<()> {
        self.slow();
        if self.shared.happens(self.faults.read_fails) {
            return Err(injected("read", object, Certainty::Failed));
        }
        Ok(())
    }
}

fn injected(action: &'static str, object: &str, certainty: Certainty) -> StoreError {
    let reason = "injected fault".to_owned();
    StoreError { action, object: object.to_owned(), certainty, fault: Fault::Other, reason }
}

impl ObjectStore for FaultyStore {
    fn is_far(&self) -> bool {
        self.faults.far || self.inner.is_far()
    }

    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put> {
        self.around(key, || self.inner.put_if_absent(key, bytes))
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()> {
        self.around(key, || self.inner.put(key, bytes))
    }

    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>> {
        let breaks = self.shared.happens(self.faults.writer_breaks);
        let truncates = !breaks && self.shared.happens(self.faults.truncated);
        let lost = self.shared.happens(self.faults.answer_lost);
        let inner = self.inner.create(key)?;
        Ok(Box::new(FaultyWriter { inner, key: key.clone(), len: 0, breaks, truncates, lost }))
    }

    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>> {
        self.read(key.as_str())?;
        self.inner.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
        self.read(key.as_str())?;
        self.inner.get_range(key, offset, len)
    }

    fn size(&self, key: &ObjectKey) -> StoreResult<Option<u64>> {
        self.read(key.as_str())?;
        self.inner.size(key)
    }

    fn list(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        self.read(prefix.as_str())?;
        let fresh = self.inner.list(prefix)?;
        let Ok(mut lists) = self.shared.lists.lock() else { return Ok(fresh) };
        let before = lists.iter().position(|(known, _)| known == prefix);
        if self.shared.happens(self.faults.stale_list) {
            return Ok(before.map(|at| lists[at].1.clone()).unwrap_or_default());
        }
        match before {
            Some(at) => lists[at].1.clone_from(&fresh),
            None => lists.push((prefix.clone(), fresh.clone())),
        }
        Ok(fresh)
    }

    fn delete(&self, key: &ObjectKey) -> StoreResult<()> {
        self.slow();
        if self.shared.happens(self.faults.delete_fails) {
            return Err(injected("delete", key.as_str(), Certainty::Unknown));
        }
        self.inner.delete(key)
    }

    fn unfinished(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        self.inner.unfinished(prefix)
    }

    fn discard_unfinished(&self, key: &ObjectKey) -> StoreResult<()> {
        self.slow();
        if self.shared.happens(self.faults.delete_fails) {
            return Err(injected("delete", key.as_str(), Certainty::Unknown));
        }
        self.inner.discard_unfinished(key)
    }
}

struct FaultyWriter {
    inner: Box<dyn ObjectWriter>,
    key: ObjectKey,
    len: u64,
    breaks: bool,
    truncates: bool,
    lost: bool,
}

impl ObjectWriter for FaultyWriter {
    fn write(&mut self, bytes: &[u8]) -> StoreResult<()> {
        self.len += bytes.len() as u64;
        let short = if self.truncates || self.breaks { &bytes[..bytes.len() / 2] } else { bytes };
        self.inner.write(short)?;
        if self.breaks {
            return Err(injected("write", self.key.as_str(), Certainty::Failed));
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> StoreResult<u64> {
        if self.breaks {
            self.inner.abort();
            return Err(injected("write", self.key.as_str(), Certainty::Failed));
        }
        self.inner.finish()?;
        if self.lost {
            return Err(injected("write", self.key.as_str(), Certainty::Unknown));
        }
        Ok(self.len)
    }

    fn abort(self: Box<Self>) {
        self.inner.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DirectoryStore, contract};
    use std::cell::Cell;

    #[test]
    fn without_faults_it_keeps_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        let count = Cell::new(0);
        contract::check(&|| {
            count.set(count.get() + 1);
            let path = directory.path().join(count.get().to_string());
            let inner = Arc::new(DirectoryStore::open(&path).unwrap());
            Arc::new(FaultyStore::new(inner, 0, Faults::default()))
        });
    }

    #[test]
    fn answers_are_true_as_far_as_they_go() {
        let directory = tempfile::tempdir().unwrap();
        let inner: Arc<dyn ObjectStore> = Arc::new(DirectoryStore::open(directory.path()).unwrap());
        let store = FaultyStore::new(Arc::clone(&inner), 7, Faults::survivable(0.3));
        let mut lost = 0;
        for n in 0..200 {
            let key = ObjectKey::parse(&format!("k/{n}")).unwrap();
            let answer = store.put_if_absent(&key, b"x");
            let there = inner.get(&key).unwrap().is_some();
            match answer {
                Ok(put) => assert!(there && put == Put::Created),
                Err(error) if error.certainty == Certainty::Failed => assert!(!there),
                Err(_) => lost += u32::from(there),
            }
        }
        assert!(lost > 0 && store.injected() > 0);
    }
}
