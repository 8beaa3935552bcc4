//! What of a column family is dead: everything below a key. Files that hold nothing else go
//! at once; what is left of it goes as compactions come across it.

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};

/// The key below which all is dead.
#[derive(Clone, Default)]
pub(crate) struct Dead(Arc<Mutex<Vec<u8>>>);

impl Dead {
    /// All below `until` is dead.
    pub fn below(&self, until: &[u8]) {
        let mut dead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if dead.as_slice() < until {
            until.clone_into(&mut dead);
        }
    }
}

/// The highest of the keys below `until` that is as short; `None`: there is none.
pub(crate) fn last_below(until: &[u8]) -> Option<Vec<u8>> {
    let (last, rest) = until.split_last()?;
    let mut below = rest.to_vec();
    if *last > 0 {
        below.push(last - 1);
        below.extend([u8::MAX; 8]);
    }
    Some(below)
}

/// Removes what was dead when the compaction began.
pub(crate) struct RemoveDead(Vec<u8>);

impl CompactionFilter for RemoveDead {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> CompactionDecision {
        if key < self.0.as_slice() { CompactionDecision::Remove } else { CompactionDecision::Keep }
    }

    fn name(&self) -> &CStr {
        c"millrace-dead"
    }
}

impl CompactionFilterFactory for Dead {
    type Filter = RemoveDead;

    fn create(&mut self, _: CompactionFilterContext) -> RemoveDead {
        RemoveDead(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn name(&self) -> &CStr {
        c"millrace-dead"
    }
}

#[cfg(test)]
mod tests {
    use super::last_below;

    #[test]
    fn a_key_is_below() {
        assert_eq!(last_below(&[]), None);
        assert_eq!(last_below(&[3, 0]), Some(vec![3]));
        for until in [&[3, 1][..], &[0], &[255, 255, 1], &[7, 0, 0]] {
            let below = last_below(until).unwrap();
            assert!(below.as_slice() < until, "{below:?} {until:?}");
        }
        assert!(last_below(&[3, 2]).unwrap() > vec![3, 1, 255, 7]);
    }
}
