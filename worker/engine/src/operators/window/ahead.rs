//! Rows of the generic operator's table that may be in a tier, brought back before they
//! are looked at: those of timers, a few at a time. Pure but for the tier.

use super::timers::Timers;
use crate::data::{Res, Ts};
use crate::state::{Row, Table};
use millrace_protocol::key::Key;

/// Timers whose rows are fetched together.
pub(crate) const FETCH: usize = 256;

/// Brings back the rows of some keys, given with their hashes.
pub(crate) fn fetch<'k, K: Key, R: Row>(
    table: &mut Table<K, R>,
    keys: impl IntoIterator<Item = (u64, &'k K)>,
) -> Res {
    if table.spills() {
        keys.into_iter().for_each(|(hash, key)| table.want(hash, key));
    }
    table.fetch()
}

/// Brings back the rows of the timers that are due first, and lets others leave for them.
/// How many timers may be taken before it is to be called again: those set meanwhile are
/// of keys whose rows are here, so that of the next so many none is missing.
pub(crate) fn fetch_due<K: Key, R: Row>(
    table: &mut Table<K, R>,
    timers: &mut Timers<K>,
    limit: Ts,
) -> Res<usize> {
    if !table.has_tier() {
        return Ok(usize::MAX);
    }
    // What the last ones changed: a firing may go through all keys.
    table.tend();
    if !table.spills() {
        return Ok(FETCH);
    }
    let mut due = Vec::new();
    while due.len() < FETCH
        && let Some(wake) = timers.pop(limit)
    {
        due.push(wake);
    }
    fetch(table, due.iter().map(|wake| (wake.hash, &wake.key)))?;
    let count = due.len();
    due.into_iter().for_each(|wake| timers.push(wake));
    Ok(count.max(1))
}
