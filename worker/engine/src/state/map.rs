//! [`MapState`]: values by key within one row. Pure.

use super::fields::Field;
use super::row::{FieldKind, FieldShape, decode, encode};
use crate::data::{Data, Res};
use hashbrown::HashTable;
use millrace_protocol::key::Key;
use millrace_protocol::shape::{self, ShapeError};

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

/// Up to this many entries are searched one by one.
const SCANNED: usize = 8;

impl<K: Key, V> Inner<K, V> {
    fn find(&self, key: &K) -> Option<usize> {
        if self.entries.len() <= SCANNED {
            return self.entries.iter().position(|(k, _)| k == key);
        }
        let same = |at: &u32| self.entries[*at as usize].0 == *key;
        self.index.find(key.hash64(), same).map(|at| *at as usize)
    }

    fn push(&mut self, key: K, value: V) {
        self.entries.push((key, value));
        let entries = &self.entries;
        let hasher = |at: &u32| entries[*at as usize].0.hash64();
        // The index begins once it is worth it.
        let from = if entries.len() == SCANNED + 1 { 0 } else { entries.len() - 1 };
        if entries.len() > SCANNED {
            for (at, (key, _)) in entries.iter().enumerate().skip(from) {
                self.index.insert_unique(key.hash64(), at as u32, hasher);
            }
        }
    }

    fn remove(&mut self, at: usize) -> V {
        if self.entries.len() > SCANNED {
            let last = self.entries.len() - 1;
            let mut forget = |of: usize| {
                let hash = self.entries[of].0.hash64();
                if let Ok(found) = self.index.find_entry(hash, |i| *i as usize == of) {
                    found.remove();
                }
            };
            forget(at);
            if last != at {
                forget(last);
                let entries = &self.entries;
                let hasher = |i: &u32| entries[*i as usize].0.hash64();
                self.index.insert_unique(entries[last].0.hash64(), at as u32, hasher);
            }
        }
        let (_, value) = self.entries.swap_remove(at);
        if self.entries.len() <= SCANNED {
            self.index.clear();
        }
        value
    }
}

impl<K: Key, V: Data> MapState<K, V> {
    fn find(&self, key: &K) -> Option<(&Inner<K, V>, usize)> {
        let inner = self.inner.as_deref()?;
        Some((inner, inner.find(key)?))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Res<Option<&V>> {
        Ok(self.find(key).map(|(inner, at)| &inner.entries[at].1))
    }

    /// The value of a key, to be changed; counts as written.
    pub fn get_mut(&mut self, key: &K) -> Res<Option<&mut V>> {
        let Some((_, at)) = self.find(key) else { return Ok(None) };
        self.dirty = true;
        Ok(self.inner.as_mut().map(|inner| &mut inner.entries[at].1))
    }

    /// Whether there is a value for a key.
    pub fn contains(&self, key: &K) -> Res<bool> {
        Ok(self.find(key).is_some())
    }

    /// Sets the value of a key and gives the one it had.
    pub fn put(&mut self, key: K, value: V) -> Res<Option<V>> {
        self.dirty = true;
        let inner = self.inner.get_or_insert_with(|| {
            Box::new(Inner { entries: Vec::new(), index: HashTable::new() })
        });
        match inner.find(&key) {
            Some(at) => Ok(Some(std::mem::replace(&mut inner.entries[at].1, value))),
            None => {
                inner.push(key, value);
                Ok(None)
            }
        }
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, key: &K) -> Res<Option<V>> {
        let Some((_, at)) = self.find(key) else { return Ok(None) };
        self.dirty = true;
        let value = self.inner.as_mut().map(|inner| inner.remove(at));
        if self.inner.as_ref().is_some_and(|i| i.entries.is_empty()) {
            self.inner = None;
        }
        Ok(value)
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

/// Written as the number of entries, then each: the key's length and canonical
/// bytes, and the value.
impl<K: Key, V: Data> Field for MapState<K, V> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    #[inline]
    fn is_dirty(&self) -> bool {
        self.dirty
    }

    #[inline]
    fn clean(&mut self) {
        self.dirty = false;
    }

    fn write(&self, out: &mut Vec<u8>) -> Res {
        encode(&self.len(), out)?;
        let mut bytes = Vec::new();
        for (key, value) in self.iter()? {
            bytes.clear();
            key.write(&mut bytes);
            encode(&bytes.len(), out)?;
            out.extend_from_slice(&bytes);
            encode(value, out)?;
        }
        Ok(())
    }

    fn read(bytes: &mut &[u8], old: Option<&FieldShape>) -> Res<Self> {
        let mut map = Self { inner: None, dirty: false };
        for _ in 0..decode::<usize>(bytes)? {
            let length: usize = decode(bytes)?;
            let mut key = bytes.split_off(..length).ok_or("a map key ends too early")?;
            let key = K::read(&mut key)?;
            let value = match old {
                None => decode(bytes)?,
                Some(old) => shape::read_by_name(bytes, &old.value)?,
            };
            map.put(key, value)?;
        }
        map.dirty = false;
        Ok(map)
    }

    fn shape(name: &str) -> Result<FieldShape, ShapeError> {
        let (key, value) = (Some(shape::trace::<K>()?), shape::trace::<V>()?);
        Ok(FieldShape { name: name.to_owned(), kind: FieldKind::Map, value, key })
    }

    fn heap_bytes(&self) -> usize {
        let of = |i: &Inner<K, V>| {
            i.entries.capacity() * size_of::<(K, V)>() + i.index.allocation_size()
        };
        self.inner.as_deref().map_or(0, of)
    }
}
