//! Event time: where timestamps come from, and how watermarks follow from them.
//!
//! A watermark `w` says: no row earlier than `w` is expected. A window `[start, end)`
//! is complete when the watermark reaches `end`. Watermarks are a function of the rows
//! of a split alone (not of the clock or of where batches end), so a restarted job
//! judges lateness exactly as the first run did; only idleness looks at the clock.
//!
//! Watermarks advance in steps of a **grain** (1/32 of the out-of-orderness, between
//! 1 ms and 1 s, unless set), so that ordered input does not carry one per row.

use crate::data::{Fun, TS_MIN, Ts};
use std::marker::PhantomData;
use std::time::Duration;

/// Milliseconds of a duration, saturating.
pub fn millis(duration: Duration) -> Ts {
    Ts::try_from(duration.as_millis()).unwrap_or(Ts::MAX)
}

/// A wall-clock time for people, as `2026-01-02T03:04:05Z`; milliseconds since 1970.
pub(crate) fn utc(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1_000 % 86_400);
    // Counted from 1 March of the year 0, so that a leap day is the last of its year:
    // Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A user's rule for watermarks.
pub trait WatermarkGenerator<T>: Fun {
    /// Looks at a row; the watermark that now holds. It may stay, and never goes back.
    fn on_row(&mut self, row: &T, ts: Ts) -> Ts;

    /// Continues from a checkpoint: the highest timestamp that the split had shown.
    fn restore(&mut self, max_ts: Ts);

    /// Rows earlier than this would not move the watermark: they may be passed over,
    /// and only the highest timestamp among them is told to [`Self::passed`]. The default
    /// passes none.
    fn quiet_below(&self) -> Ts {
        TS_MIN
    }

    /// The highest timestamp of rows that were passed over.
    fn passed(&mut self, _max_ts: Ts) {}
}

/// Clock of one split.
pub trait LaneClock<T>: Send {
    /// Appends a timestamp for each value to `ts`, and marks (see [`crate::data::Rows`])
    /// where the split's watermark advances. `given`: timestamps from the source, or empty.
    fn stamp(&mut self, values: &[T], given: &[Ts], ts: &mut Vec<Ts>, marks: &mut Vec<(u32, Ts)>);
    /// The split's watermark.
    fn watermark(&self) -> Ts;
    /// The highest timestamp seen.
    fn max_ts(&self) -> Ts;
}

trait Strategy<T>: Send {
    fn lane(&self, max_ts: Ts, watermark: Ts) -> Box<dyn LaneClock<T>>;
    fn copy(&self) -> Box<dyn Strategy<T>>;
}

/// How a source's rows get timestamps and watermarks.
pub struct Watermarks<T> {
    strategy: Box<dyn Strategy<T>>,
    idle: Option<Duration>,
    alignment: Option<(String, Ts)>,
}

impl<T> Clone for Watermarks<T> {
    fn clone(&self) -> Self {
        Self { strategy: self.strategy.copy(), idle: self.idle, alignment: self.alignment.clone() }
    }
}

impl<T: 'static> Watermarks<T> {
    /// Rows may come up to `delay` out of order: the watermark is the highest timestamp
    /// less `delay`. `timestamp` gives milliseconds since the epoch.
    pub fn bounded(delay: Duration, timestamp: impl FnMut(&T) -> Ts + Fun) -> Self {
        let grain = (millis(delay) / 32).clamp(1, 1000);
        Self::custom(
            timestamp,
            Bounded { delay: millis(delay), grain, max: TS_MIN, next: TS_MIN, watermark: TS_MIN },
        )
    }

    /// As [`Watermarks::bounded`], with watermarks at multiples of `grain` (at least 1 ms).
    pub fn bounded_with_grain(
        delay: Duration,
        grain: Duration,
        timestamp: impl FnMut(&T) -> Ts + Fun,
    ) -> Self {
        let grain = millis(grain).max(1);
        Self::custom(
            timestamp,
            Bounded { delay: millis(delay), grain, max: TS_MIN, next: TS_MIN, watermark: TS_MIN },
        )
    }

    /// Timestamps never fall within a split.
    pub fn monotonous(timestamp: impl FnMut(&T) -> Ts + Fun) -> Self {
        Self::bounded(Duration::ZERO, timestamp)
    }

    /// No event time: rows have no timestamp, and there is no watermark before the end.
    pub fn none() -> Self {
        Self { strategy: Box::new(NoTime), idle: None, alignment: None }
    }

    /// Watermarks come from the rows themselves: `watermark` gives one for the rows that carry it.
    pub fn punctuated(
        timestamp: impl FnMut(&T) -> Ts + Fun,
        watermark: impl FnMut(&T) -> Option<Ts> + Fun,
    ) -> Self {
        Self::custom(timestamp, Punctuated { of: watermark, watermark: TS_MIN })
    }

    /// A generator of the user's.
    pub fn custom(
        timestamp: impl FnMut(&T) -> Ts + Fun,
        generator: impl WatermarkGenerator<T>,
    ) -> Self {
        let strategy = Custom { timestamp, generator, _row: PhantomData };
        Self { strategy: Box::new(strategy), idle: None, alignment: None }
    }

    /// A split that has nothing for `timeout` no longer holds the watermark back, until it
    /// has again. It is the reader who says that a split has nothing: one that waits behind
    /// others to be read does not become idle, nor does time count in which the reader is
    /// held back by consumers, by memory or by its alignment group.
    pub fn idle_after(mut self, timeout: Duration) -> Self {
        self.idle = Some(timeout);
        self
    }

    /// Sources of one `group` wait for each other: a split whose watermark is more than
    /// `max_drift` ahead of the lowest in the group is not read until that has caught up.
    /// It keeps a fast source from filling the state of a join with a slow one.
    ///
    /// Splits that are idle or ended do not count. One that has shown no row yet holds
    /// the others back, as it does the watermark: use [`Watermarks::idle_after`] where
    /// that can last because there is none; a file that waits behind others of its reader
    /// holds them back until its turn has come. A split is read a batch at a time, so it
    /// may get ahead by a batch more. A reader whose source cannot leave out a single split
    /// ([`crate::connector::Reader::pauses`]) waits only when all its splits are ahead.
    /// Sources with [`Watermarks::none`] must not be in a group.
    pub fn align(mut self, group: &str, max_drift: Duration) -> Self {
        self.alignment = Some((group.to_owned(), millis(max_drift)));
        self
    }

    /// What [`Watermarks::align`] set: the group, and the drift in milliseconds.
    pub fn alignment(&self) -> Option<(&str, Ts)> {
        self.alignment.as_ref().map(|(group, drift)| (group.as_str(), *drift))
    }

    /// What [`Watermarks::idle_after`] set.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.idle
    }

    /// The clock of a split that has shown `max_ts` and come to `watermark` before
    /// (both [`TS_MIN`]: a new one).
    pub fn lane(&self, max_ts: Ts, watermark: Ts) -> Box<dyn LaneClock<T>> {
        self.strategy.lane(max_ts, watermark)
    }
}

/// Bounded out-of-orderness.
#[derive(Debug, Clone)]
struct Bounded {
    delay: Ts,
    grain: Ts,
    max: Ts,
    /// The timestamp that moves the watermark next.
    next: Ts,
    watermark: Ts,
}

impl Bounded {
    #[inline(never)]
    fn advance(&mut self, ts: Ts) {
        let exact = ts.saturating_sub(self.delay);
        self.watermark = exact.div_euclid(self.grain).saturating_mul(self.grain);
        self.next = self.watermark.saturating_add(self.grain).saturating_add(self.delay);
    }
}

impl<T> WatermarkGenerator<T> for Bounded {
    #[inline]
    fn on_row(&mut self, _: &T, ts: Ts) -> Ts {
        if ts > self.max {
            self.max = ts;
            if ts >= self.next {
                self.advance(ts);
            }
        }
        self.watermark
    }

    fn restore(&mut self, max_ts: Ts) {
        self.max = max_ts;
        self.advance(max_ts);
    }

    fn quiet_below(&self) -> Ts {
        self.next
    }

    fn passed(&mut self, max_ts: Ts) {
        self.max = self.max.max(max_ts);
    }
}

#[derive(Clone)]
struct Punctuated<W> {
    of: W,
    watermark: Ts,
}

impl<T, W: FnMut(&T) -> Option<Ts> + Fun> WatermarkGenerator<T> for Punctuated<W> {
    fn on_row(&mut self, row: &T, _: Ts) -> Ts {
        if let Some(w) = (self.of)(row) {
            self.watermark = self.watermark.max(w);
        }
        self.watermark
    }

    fn restore(&mut self, _max_ts: Ts) {}
}

struct Custom<T, A, G> {
    timestamp: A,
    generator: G,
    _row: PhantomData<fn(T)>,
}

impl<T: 'static, A: FnMut(&T) -> Ts + Fun, G: WatermarkGenerator<T>> Strategy<T>
    for Custom<T, A, G>
{
    fn lane(&self, max_ts: Ts, watermark: Ts) -> Box<dyn LaneClock<T>> {
        let mut generator = self.generator.clone();
        if max_ts != TS_MIN {
            generator.restore(max_ts);
        }
        Box::new(Lane { timestamp: self.timestamp.clone(), generator, max_ts, watermark })
    }

    fn copy(&self) -> Box<dyn Strategy<T>> {
        Box::new(Self {
            timestamp: self.timestamp.clone(),
            generator: self.generator.clone(),
            _row: PhantomData,
        })
    }
}

/// Rows looked at together.
const STRETCH: usize = 64;

struct Lane<A, G> {
    timestamp: A,
    generator: G,
    max_ts: Ts,
    watermark: Ts,
}

impl<T, A: FnMut(&T) -> Ts + Fun, G: WatermarkGenerator<T>> LaneClock<T> for Lane<A, G> {
    fn stamp(&mut self, values: &[T], given: &[Ts], ts: &mut Vec<Ts>, marks: &mut Vec<(u32, Ts)>) {
        let from = ts.len();
        if given.is_empty() {
            ts.extend(values.iter().map(&mut self.timestamp));
        } else {
            ts.extend_from_slice(given);
        }
        // In stretches: most of them do not move the watermark, and a maximum is cheap.
        for (at, (values, stamps)) in
            values.chunks(STRETCH).zip(ts[from..].chunks(STRETCH)).enumerate()
        {
            let highest = stamps.iter().copied().fold(TS_MIN, Ts::max);
            self.max_ts = self.max_ts.max(highest);
            if highest < self.generator.quiet_below() {
                self.generator.passed(highest);
                continue;
            }
            for (i, (value, ts)) in values.iter().zip(stamps).enumerate() {
                let watermark = self.generator.on_row(value, *ts);
                if watermark > self.watermark {
                    self.watermark = watermark;
                    marks.push(((from + at * STRETCH + i + 1) as u32, watermark));
                }
            }
        }
    }

    fn watermark(&self) -> Ts {
        self.watermark
    }

    fn max_ts(&self) -> Ts {
        self.max_ts
    }
}

struct NoTime;

impl<T> Strategy<T> for NoTime {
    fn lane(&self, _: Ts, _: Ts) -> Box<dyn LaneClock<T>> {
        Box::new(Self)
    }

    fn copy(&self) -> Box<dyn Strategy<T>> {
        Box::new(Self)
    }
}

impl<T> LaneClock<T> for NoTime {
    fn stamp(&mut self, values: &[T], given: &[Ts], ts: &mut Vec<Ts>, _: &mut Vec<(u32, Ts)>) {
        if given.is_empty() {
            ts.resize(ts.len() + values.len(), TS_MIN);
        } else {
            ts.extend_from_slice(given);
        }
    }

    fn watermark(&self) -> Ts {
        TS_MIN
    }

    fn max_ts(&self) -> Ts {
        TS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_for_people() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_420_800, "2026-11-23T08:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1_000 + 999), text);
        }
    }
}
