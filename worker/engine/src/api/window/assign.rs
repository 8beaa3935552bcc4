//! Window assigners: which windows a row belongs to. Pure.

use crate::data::{Fun, TS_MAX, TS_MIN, Ts};
use crate::time::millis;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The bounds of a window, in milliseconds: `[start, end)`.
///
/// A session's end is the last row's timestamp plus the gap. A global window reaches
/// from [`TS_MIN`] to [`TS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// First moment of the window.
    pub start: Ts,
    /// First moment after it.
    pub end: Ts,
}

impl Window {
    /// The window of all time.
    pub const GLOBAL: Self = Self { start: TS_MIN, end: TS_MAX };

    /// The last moment of the window: the timestamp of its results (those of a global
    /// window carry the timestamp of the row, or the time of the timer, that fired it).
    pub fn last(self) -> Ts {
        self.end.saturating_sub(1)
    }

    /// Whether a moment lies within.
    pub fn contains(self, ts: Ts) -> bool {
        self.start <= ts && ts < self.end
    }
}

/// Which clock windows follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeDomain {
    /// The rows' timestamps and the watermark.
    #[default]
    Event,
    /// The machine's clock, when a row is worked on. Not repeatable: after a restore rows
    /// may fall into other windows. What is open when a bounded input ends is fired then.
    Processing,
}

/// Windows at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aligned {
    /// Length in milliseconds.
    pub size: Ts,
    /// Distance from one window's start to the next, in milliseconds.
    pub slide: Ts,
    /// Windows start at multiples of `slide` plus this.
    pub offset: Ts,
}

impl Aligned {
    /// The start of the last window that starts at `ts` or before.
    #[inline]
    pub fn last_start(self, ts: Ts) -> Ts {
        let k = ts.saturating_sub(self.offset).div_euclid(self.slide);
        k.saturating_mul(self.slide).saturating_add(self.offset)
    }

    fn assign(self, ts: Ts, windows: &mut Vec<Window>) {
        let mut start = self.last_start(ts);
        let from = windows.len();
        while start > ts.saturating_sub(self.size) {
            windows.push(Window { start, end: start.saturating_add(self.size) });
            start = start.saturating_sub(self.slide);
        }
        windows[from..].reverse();
    }

    fn check(self) -> Result<(), String> {
        if self.size < 1 || self.slide < 1 {
            return Err("windows and their slide must be at least 1 ms long".to_owned());
        }
        Ok(())
    }
}

/// Puts rows into windows.
pub trait WindowAssigner<T>: Fun {
    /// Appends the windows of a row, in order of their start. `ts`: its timestamp;
    /// `now`: processing time.
    fn assign(&mut self, row: &T, ts: Ts, now: Ts, windows: &mut Vec<Window>);

    /// Which clock ends the windows.
    fn domain(&self) -> TimeDomain {
        TimeDomain::Event
    }

    /// Whether windows that overlap or touch become one (sessions).
    fn merges(&self) -> bool {
        false
    }

    /// Whether time ends the windows at all; a global one is only left by its trigger.
    fn ends(&self) -> bool {
        true
    }

    /// For windows at equal distances in event time: lets operators share panes.
    fn aligned(&self) -> Option<Aligned> {
        None
    }

    /// What is wrong with the assigner, told before the job starts.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Windows of one size that follow each other without gap.
///
/// A row without a timestamp fails the job; with [`crate::time::Watermarks::none`] use
/// `processing_time()`.
#[derive(Debug, Clone, Copy)]
pub struct TumblingWindows {
    aligned: Aligned,
    domain: TimeDomain,
}

impl TumblingWindows {
    /// Windows of `size` (at least 1 ms), which begin at multiples of it since the epoch.
    pub fn of(size: Duration) -> Self {
        let size = millis(size);
        Self { aligned: Aligned { size, slide: size, offset: 0 }, domain: TimeDomain::Event }
    }

    /// Windows that begin `offset` later: days of a time zone, say.
    pub fn offset(mut self, offset: Duration) -> Self {
        self.aligned.offset = millis(offset);
        self
    }

    /// By the machine's clock. See [`TimeDomain::Processing`].
    pub fn processing_time(mut self) -> Self {
        self.domain = TimeDomain::Processing;
        self
    }
}

/// Windows of one size of which one starts every `slide`: a row belongs to about
/// `size / slide` of them, and to none if it falls between windows whose slide is
/// larger than their size.
///
/// With the default trigger an aggregate's cost does not grow with `size / slide`:
/// windows share panes.
#[derive(Debug, Clone, Copy)]
pub struct SlidingWindows {
    aligned: Aligned,
    domain: TimeDomain,
}

impl SlidingWindows {
    /// Windows of `size`, one every `slide` (both at least 1 ms).
    pub fn of(size: Duration, slide: Duration) -> Self {
        let aligned = Aligned { size: millis(size), slide: millis(slide), offset: 0 };
        Self { aligned, domain: TimeDomain::Event }
    }

    /// Windows that begin `offset` later.
    pub fn offset(mut self, offset: Duration) -> Self {
        self.aligned.offset = millis(offset);
        self
    }

    /// By the machine's clock. See [`TimeDomain::Processing`].
    pub fn processing_time(mut self) -> Self {
        self.domain = TimeDomain::Processing;
        self
    }
}

macro_rules! aligned_assigner {
    ($name:ty) => {
        impl<T> WindowAssigner<T> for $name {
            fn assign(&mut self, _: &T, ts: Ts, now: Ts, windows: &mut Vec<Window>) {
                let at = if self.domain == TimeDomain::Event { ts } else { now };
                self.aligned.assign(at, windows);
            }

            fn domain(&self) -> TimeDomain {
                self.domain
            }

            fn aligned(&self) -> Option<Aligned> {
                (self.domain == TimeDomain::Event).then_some(self.aligned)
            }

            fn check(&self) -> Result<(), String> {
                self.aligned.check()
            }
        }
    };
}

aligned_assigner!(TumblingWindows);
aligned_assigner!(SlidingWindows);

/// How long a session waits for a next row.
pub trait Gap<T>: Fun {
    /// The gap after `row` in milliseconds.
    fn of(&mut self, row: &T) -> Ts;
    /// What is wrong with it.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The same gap after every row.
#[derive(Debug, Clone, Copy)]
pub struct StaticGap(Ts);

impl<T> Gap<T> for StaticGap {
    #[inline]
    fn of(&mut self, _: &T) -> Ts {
        self.0
    }

    fn check(&self) -> Result<(), String> {
        if self.0 < 1 { Err("a session's gap must be at least 1 ms".to_owned()) } else { Ok(()) }
    }
}

/// A gap computed from each row.
#[derive(Debug, Clone, Copy)]
pub struct DynamicGap<F>(F);

impl<T, F: FnMut(&T) -> Duration + Fun> Gap<T> for DynamicGap<F> {
    #[inline]
    fn of(&mut self, row: &T) -> Ts {
        // A session of no length could never meet another row.
        millis((self.0)(row)).max(1)
    }
}

/// A session: rows of a key none of which is further than the gap from another.
///
/// A row exactly one gap after the last one still belongs to the session, so a session is
/// complete when the watermark has *passed* its end. A row that is late by itself but
/// joins a session that is still open is not late; one that bridges two sessions makes
/// them one.
#[derive(Debug, Clone, Copy)]
pub struct SessionWindows<G> {
    gap: G,
    domain: TimeDomain,
}

impl SessionWindows<StaticGap> {
    /// Sessions that end when no row came for `gap` (at least 1 ms).
    pub fn with_gap(gap: Duration) -> Self {
        Self { gap: StaticGap(millis(gap)), domain: TimeDomain::Event }
    }
}

impl<F> SessionWindows<DynamicGap<F>> {
    /// Sessions whose gap depends on the row: each row keeps its session open until its
    /// timestamp plus `gap(row)`. Less than 1 ms counts as 1 ms.
    pub fn with_dynamic_gap<T>(gap: F) -> Self
    where
        F: FnMut(&T) -> Duration + Fun,
    {
        Self { gap: DynamicGap(gap), domain: TimeDomain::Event }
    }
}

impl<G> SessionWindows<G> {
    /// By the machine's clock. See [`TimeDomain::Processing`].
    pub fn processing_time(mut self) -> Self {
        self.domain = TimeDomain::Processing;
        self
    }
}

impl<T, G: Gap<T>> WindowAssigner<T> for SessionWindows<G> {
    fn assign(&mut self, row: &T, ts: Ts, now: Ts, windows: &mut Vec<Window>) {
        let start = if self.domain == TimeDomain::Event { ts } else { now };
        windows.push(Window { start, end: start.saturating_add(self.gap.of(row)) });
    }

    fn domain(&self) -> TimeDomain {
        self.domain
    }

    fn merges(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        self.gap.check()
    }
}

/// One window for all rows of a key. It never ends: only a trigger fires it, and without
/// one nothing is ever emitted. With [`super::EventTimeTrigger`] it fires when a bounded
/// input ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct GlobalWindows;

impl<T> WindowAssigner<T> for GlobalWindows {
    fn assign(&mut self, _: &T, _: Ts, _: Ts, windows: &mut Vec<Window>) {
        windows.push(Window::GLOBAL);
    }

    fn ends(&self) -> bool {
        false
    }
}
