//! How far event time has come, for a subtask and for each of its keys. Pure.
//!
//! Mostly that is one watermark. But where barriers overtake rows, subtasks have come to
//! different event times in a checkpoint, and a subtask that takes over key groups of several
//! goes on from the lowest. What the others had done must not be done again, so for their key
//! groups a **floor** holds: the event time of a key is the watermark or the floor of its
//! group, whichever is higher. Once the watermark has come to the highest floor there are none.
//!
//! Timers wait for the watermark all the same: those of a key that its event time had passed
//! have fired, and one that is set for such a time anew fires when the watermark comes there.

use crate::data::{TS_MIN, Ts};
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::RangeWatermark;

/// The event time of a subtask.
#[derive(Debug, Clone)]
pub struct EventTime {
    watermark: Ts,
    floors: Option<Box<Floors>>,
}

#[derive(Debug, Clone)]
struct Floors {
    max: MaxParallelism,
    /// The first key group that has one.
    first: u16,
    /// Of each key group from there on.
    of: Vec<Ts>,
    highest: Ts,
}

impl EventTime {
    /// Before the first watermark.
    pub const START: Self = Self::at(TS_MIN);

    /// The same for all keys.
    pub const fn at(watermark: Ts) -> Self {
        Self { watermark, floors: None }
    }

    /// What the owner of `groups`, of `max`, goes on from: the lowest that a checkpoint says
    /// of them, with floors for those that had come further. Of which it says nothing, those
    /// had come to no event time yet.
    pub fn restored(
        max: MaxParallelism,
        groups: KeyGroupRange,
        watermarks: &[RangeWatermark],
    ) -> Self {
        let mut of = vec![TS_MIN; usize::from(groups.len())];
        for RangeWatermark { groups: of_these, watermark } in watermarks {
            let mine = of_these.intersect(groups);
            for group in mine.start..mine.end {
                if let Some(floor) = of.get_mut(usize::from(group - groups.start)) {
                    *floor = (*floor).max(*watermark);
                }
            }
        }
        let lowest = of.iter().copied().min().unwrap_or(TS_MIN);
        let highest = of.iter().copied().max().unwrap_or(TS_MIN);
        let floors = Box::new(Floors { max, first: groups.start, of, highest });
        Self { watermark: lowest, floors: (lowest < highest).then_some(floors) }
    }

    /// The watermark: no key's event time is lower.
    #[inline]
    pub fn watermark(&self) -> Ts {
        self.watermark
    }

    /// Whether all keys have the watermark's event time.
    #[inline]
    pub fn is_level(&self) -> bool {
        self.floors.is_none()
    }

    /// The event time of the keys with this hash.
    #[inline]
    pub fn of(&self, hash: u64) -> Ts {
        match &self.floors {
            None => self.watermark,
            Some(floors) => floors.of(hash).max(self.watermark),
        }
    }

    /// The watermark advances; it does not go back.
    pub fn advance(&mut self, watermark: Ts) {
        self.watermark = self.watermark.max(watermark);
        if self.floors.as_ref().is_some_and(|floors| floors.highest <= self.watermark) {
            self.floors = None;
        }
    }

    /// What a checkpoint is to say of `groups`, which are those of this subtask.
    pub fn by_range(&self, groups: KeyGroupRange) -> Vec<RangeWatermark> {
        let mut ranges: Vec<RangeWatermark> = Vec::new();
        let Some(floors) = &self.floors else {
            ranges.push(RangeWatermark { groups, watermark: self.watermark });
            return without_start(ranges);
        };
        for group in groups.start..groups.end {
            let watermark = floors.of_group(KeyGroup(group)).max(self.watermark);
            match ranges.last_mut() {
                Some(last) if last.watermark == watermark => last.groups.end = group + 1,
                _ => {
                    let groups = KeyGroupRange { start: group, end: group + 1 };
                    ranges.push(RangeWatermark { groups, watermark });
                }
            }
        }
        without_start(ranges)
    }
}

/// Of key groups without event time nothing is said.
fn without_start(mut ranges: Vec<RangeWatermark>) -> Vec<RangeWatermark> {
    ranges.retain(|range| range.watermark != TS_MIN);
    ranges
}

impl Floors {
    #[cold]
    fn of(&self, hash: u64) -> Ts {
        self.of_group(self.max.group(hash))
    }

    fn of_group(&self, group: KeyGroup) -> Ts {
        let at = group.0.checked_sub(self.first).and_then(|at| self.of.get(usize::from(at)));
        at.copied().unwrap_or(TS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_protocol::key::Key;

    const MAX: MaxParallelism = MaxParallelism::DEFAULT;

    fn range(start: u16, end: u16) -> KeyGroupRange {
        KeyGroupRange { start, end }
    }

    fn mark(start: u16, end: u16, watermark: Ts) -> RangeWatermark {
        RangeWatermark { groups: range(start, end), watermark }
    }

    fn of_group(time: &EventTime, group: u16) -> Ts {
        let key = (0u64..).find(|key| MAX.group(key.hash64()) == KeyGroup(group)).unwrap();
        time.of(key.hash64())
    }

    #[test]
    fn those_who_had_come_further_stay_there_until_all_have() {
        let mut time = EventTime::restored(
            MAX,
            range(200, 600),
            &[mark(0, 300, 700), mark(300, 500, 900), mark(500, 1024, 400)],
        );
        assert_eq!(time.watermark(), 400);
        let at = |time: &EventTime| [200, 299, 300, 499, 500].map(|g| of_group(time, g));
        assert_eq!(at(&time), [700, 700, 900, 900, 400]);
        time.advance(800);
        assert_eq!(at(&time), [800, 800, 900, 900, 800]);
        let ranges = [mark(200, 300, 800), mark(300, 500, 900), mark(500, 600, 800)];
        assert_eq!(time.by_range(range(200, 600)), ranges);
        time.advance(700);
        assert_eq!(time.watermark(), 800);
        assert!(!time.is_level());
        time.advance(900);
        assert!(time.is_level());
        assert_eq!(at(&time), [900; 5]);
        assert_eq!(time.by_range(range(200, 600)), [mark(200, 600, 900)]);
    }

    #[test]
    fn those_who_agree_have_no_floors() {
        let marks = [mark(0, 512, 7), mark(512, 1024, 7)];
        let time = EventTime::restored(MAX, MAX.all(), &marks);
        assert!(time.is_level());
        assert_eq!(time.by_range(MAX.all()), [mark(0, 1024, 7)]);
        assert!(EventTime::restored(MAX, MAX.all(), &[]).by_range(MAX.all()).is_empty());
        assert_eq!(EventTime::restored(MAX, range(5, 5), &marks).watermark(), TS_MIN);
    }

    #[test]
    fn nothing_is_said_of_groups_that_had_no_event_time() {
        let marks = [mark(0, 100, 7), mark(300, 400, 9)];
        let time = EventTime::restored(MAX, range(50, 350), &marks);
        assert_eq!(time.watermark(), TS_MIN);
        assert_eq!([50, 99, 100, 300].map(|g| of_group(&time, g)), [7, 7, TS_MIN, 9]);
        assert_eq!(time.by_range(range(50, 350)), [mark(50, 100, 7), mark(300, 350, 9)]);
    }

    /// Whatever the parallelisms, no restore and no checkpoint changes a key group's time.
    #[test]
    fn nothing_is_lost_from_checkpoint_to_checkpoint() {
        let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("MILLRACE_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let max = MaxParallelism::new(64).unwrap();
        for _ in 0..200 {
            let mut known = vec![TS_MIN; 64];
            let mut marks = Vec::new();
            for _ in 0..5 {
                let parallelism = rng.u16(1..8);
                let mut next = Vec::new();
                for subtask in 0..parallelism {
                    let groups = max.range(subtask, parallelism);
                    let mut time = EventTime::restored(max, groups, &marks);
                    let watermark = if rng.bool() { rng.i64(0..100) } else { TS_MIN };
                    time.advance(watermark);
                    for group in groups.start..groups.end {
                        let of = &mut known[usize::from(group)];
                        *of = (*of).max(watermark);
                    }
                    next.extend(time.by_range(groups));
                }
                marks = next;
                for (group, known) in (0u16..).zip(&known) {
                    let said = marks.iter().find(|m| m.groups.contains(KeyGroup(group)));
                    assert_eq!(said.map_or(TS_MIN, |m| m.watermark), *known, "seed {seed}");
                }
            }
        }
    }
}
