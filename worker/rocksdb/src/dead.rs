//! What of a column family is dead: everything below a key, and values whose time has come.
//! Files that hold nothing else but the former go at once; what is left goes as compactions
//! come across it.

use millrace_engine::data::Ts;
use millrace_engine::state::tier::timed;
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is dead by now.
#[derive(Clone, Default)]
pub(crate) struct Dead(Arc<Mutex<Limits>>);

#[derive(Clone, Default)]
struct Limits {
    /// All below this key.
    below: Vec<u8>,
    /// All values whose time is not after this. None: values have no times.
    expired: Option<Ts>,
}

impl Dead {
    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All below `until` is dead.
    pub fn below(&self, until: &[u8]) {
        let mut limits = self.limits();
        if limits.below.as_slice() < until {
            until.clone_into(&mut limits.below);
        }
    }

    /// What expires at `now` or before is dead.
    pub fn expired(&self, now: Ts) {
        let mut limits = self.limits();
        limits.expired = limits.expired.max(Some(now));
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
pub(crate) struct RemoveDead(Limits);

impl CompactionFilter for RemoveDead {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        let Limits { below, expired } = &self.0;
        let late = |now: Ts| timed(value).is_some_and(|(time, _)| time <= now);
        match key < below.as_slice() || expired.is_some_and(late) {
            true => CompactionDecision::Remove,
            false => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"millrace-dead"
    }
}

impl CompactionFilterFactory for Dead {
    type Filter = RemoveDead;

    fn create(&mut self, _: CompactionFilterContext) -> RemoveDead {
        RemoveDead(self.limits().clone())
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
