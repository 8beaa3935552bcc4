//! The generated events and the digests of what they lead to. Pure.
//!
//! Every bench takes its rows from here, engine halves and plain loops alike,
//! and `flink/PeerBench.java` holds the same functions, number for number. So
//! the checksums that all of them print can be compared, and a faster run that
//! did other work is seen.

/// Events in a millisecond of event time: a window of 1 s holds ten million.
pub const EVENTS_PER_MS: u64 = 10_000;

/// Length of the tumbling windows.
pub const WINDOW_MS: i64 = 1_000;

/// One generated event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// `0..keys`, uniform.
    pub key: u64,
    /// Event time in milliseconds; never decreases.
    pub ts: i64,
    /// A function of the key alone, so that what a running reduce emits does
    /// not depend on which of two sources was faster.
    pub value: u64,
}

/// The splitmix64 finaliser (Steele, Lea, Flood 2014). Not the hash that keys
/// are partitioned by: correlated bits would flatter the tables.
#[inline]
pub fn splitmix(i: u64) -> u64 {
    let z = i.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Event number `i` over `keys < 2^32` keys.
///
/// The key is the upper half of `splitmix(i)` scaled to the range (Lemire 2019)
/// and not a remainder, whose division by a run-time number costs as much as
/// all the rest of a plain loop.
#[inline]
pub fn event(i: u64, keys: u64) -> Event {
    let key = ((splitmix(i) >> 32) * keys) >> 32;
    Event { key, ts: (i / EVENTS_PER_MS) as i64, value: (key & 0xff) + 1 }
}

/// Digest of one result; a run's checksum is the wrapping sum over all results,
/// which no order and no parallelism changes. `start` is the window's start, or
/// 0 where there is no window.
#[inline]
pub fn digest(key: u64, start: i64, value: u64) -> u64 {
    splitmix(key ^ (start as u64).rotate_left(20) ^ value.rotate_left(40))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out apart from this code; PeerBench.java must make the same rows.
    #[test]
    fn the_first_events_and_digests_never_change() {
        assert_eq!(event(0, 1_000), Event { key: 883, ts: 0, value: 116 });
        assert_eq!(splitmix(1), 0x910a_2dec_8902_5cc1);
        assert_eq!(digest(1, 1_000, 2), splitmix(1 ^ (1_000 << 20) ^ (2 << 40)));
    }

    #[test]
    fn keys_stay_in_range_and_reach_both_ends() {
        let keys = (0..10_000).map(|i| event(i, 10).key);
        let seen = keys.fold([false; 10], |mut seen, key| {
            seen[key as usize] = true;
            seen
        });
        assert_eq!(seen, [true; 10]);
    }
}
