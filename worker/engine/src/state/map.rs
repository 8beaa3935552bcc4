//! [`MapState`]: values by key within one row. Pure.

use crate::data::{Data, Res};
use hashbrown::HashTable;
use millrace_protocol::key::Key;

/// State that holds values by key.
///
/// Iteration is in order of insertion, also after a restore, until a removal
/// moves the last entry into the gap.
pub struct MapState<K, V> {
    /// `None` when empty: 8 bytes in the row.
    inner: Option<Box<Inner<K, V>>>,
    dirty: bool,
}

struct Inner<K, V> {
    entries: Vec<(K, V)>,
    index: HashTable<u32>,
}

impl<K, V> Default for MapState<K, V> {
    /// Empty, and counted as written: so that assigning it is a change.
    fn default() -> Self {
        Self { inner: None, dirty: true }
    }
}

impl<K: Key, V: Data> MapState<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Res<Option<&V>> {
        let _ = (key, &self.inner.as_ref().map(|i| (&i.entries, &i.index)), self.dirty);
        Ok(None)
    }

    /// The value of a key, to be changed; counts as written.
    pub fn get_mut(&mut self, _key: &K) -> Res<Option<&mut V>> {
        Ok(None)
    }

    /// Whether there is a value for a key.
    pub fn contains(&self, key: &K) -> Res<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Sets the value of a key and gives the one it had.
    pub fn put(&mut self, _key: K, _value: V) -> Res<Option<V>> {
        Ok(None)
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, _key: &K) -> Res<Option<V>> {
        Ok(None)
    }

    /// All keys with their values.
    pub fn iter(&self) -> Res<impl Iterator<Item = (&K, &V)>> {
        Ok(self.inner.iter().flat_map(|i| i.entries.iter().map(|(k, v)| (k, v))))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.inner.as_ref().map_or(0, |i| i.entries.len())
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.dirty |= self.inner.is_some();
        self.inner = None;
    }
}
