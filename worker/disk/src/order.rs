//! Entries from several places in one order.

use millrace_engine::data::Res;

/// A key, and its value; `None`: it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Entries in order of their keys, each key once.
pub(crate) trait Source {
    /// The entry in hand, until there is none.
    fn entry(&self) -> Option<Entry<'_>>;

    /// Goes to the next.
    fn advance(&mut self) -> Res;
}

/// Goes through all sources in order of keys, until `each` answers false; of a key that
/// several have, the first one's counts.
pub(crate) fn merge(
    mut sources: Vec<Box<dyn Source + '_>>,
    mut each: impl FnMut(Entry<'_>) -> Res<bool>,
) -> Res {
    sources.retain(|source| source.entry().is_some());
    let mut heads: Vec<u64> =
        sources.iter().map(|s| s.entry().map_or(0, |e| head(e.key, 0))).collect();
    let mut key = Vec::new();
    loop {
        let mut first: Option<(usize, Entry<'_>)> = None;
        for (at, source) in sources.iter().enumerate() {
            // Eight bytes mostly tell.
            if first.is_some_and(|(f, _)| heads.get(at) > heads.get(f)) {
                continue;
            }
            if let Some(entry) = source.entry()
                && first.is_none_or(|(_, least)| entry.key < least.key)
            {
                first = Some((at, entry));
            }
        }
        let Some((first, entry)) = first else { return Ok(()) };
        if !each(entry)? {
            return Ok(());
        }
        key.clear();
        key.extend_from_slice(entry.key);
        let same = head(&key, 0);
        let mut over = false;
        for (at, source) in sources.iter_mut().enumerate().skip(first) {
            let Some(head_of) = heads.get_mut(at).filter(|head| **head == same) else { continue };
            if source.entry().is_some_and(|entry| entry.key == key) {
                source.advance()?;
                match source.entry() {
                    Some(entry) => *head_of = head(entry.key, 0),
                    None => over = true,
                }
            }
        }
        if over {
            let mut at = 0;
            heads.retain(|_| {
                at += 1;
                sources.get(at - 1).is_some_and(|source| source.entry().is_some())
            });
            sources.retain(|source| source.entry().is_some());
        }
    }
}

/// Eight bytes of a key after its first ones, big endian: in the order of keys that have
/// these in common.
pub(crate) fn head(key: &[u8], skip: usize) -> u64 {
    let mut head = [0; 8];
    let rest = key.get(skip..).unwrap_or_default();
    let n = rest.len().min(8);
    head[..n].copy_from_slice(&rest[..n]);
    u64::from_be_bytes(head)
}
