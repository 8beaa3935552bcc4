//! Which splits are idle. Pure: times are arguments.
//!
//! A split is idle when its reader says that it has nothing now, and nothing has come of it
//! for as long as [`Watermarks::idle_after`](crate::time::Watermarks::idle_after) says. Time
//! alone makes no split idle: one that waits behind another in the same reader has rows that
//! nobody has asked for. And only time in which the reader is listened to counts: while it is
//! held back, by consumers that are behind or by memory, it cannot say that a row has come.

use std::time::{Duration, Instant};

/// How long a reader has been listened to.
#[derive(Debug)]
pub struct Listening {
    begun: Instant,
    /// Since when it is held back.
    held: Option<Instant>,
    /// How long it was.
    lost: Duration,
}

impl Listening {
    /// From `now` on.
    pub fn since(now: Instant) -> Self {
        Self { begun: now, held: None, lost: Duration::ZERO }
    }

    /// The reader is held back until it is polled again.
    pub fn hold(&mut self, now: Instant) {
        self.held.get_or_insert(now);
    }

    /// The reader is polled; for how long it has been listened to.
    pub fn at(&mut self, now: Instant) -> Duration {
        if let Some(held) = self.held.take() {
            self.lost += now.saturating_duration_since(held);
        }
        now.saturating_duration_since(self.begun).saturating_sub(self.lost)
    }
}

/// The silence of a split, in time of its reader's [`Listening`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Silence {
    /// It has rows, or nobody has looked.
    #[default]
    None,
    /// It was found to have nothing then, and no row has come since.
    Since(Duration),
    /// For too long.
    Idle,
}

impl Silence {
    /// Whether it holds nobody back.
    pub fn is_idle(self) -> bool {
        self == Self::Idle
    }

    /// The reader says that the split has nothing now. True if that makes it idle.
    pub fn goes_on(&mut self, heard: Duration, after: Duration) -> bool {
        let since = match *self {
            Self::Idle => return false,
            Self::Since(since) => since,
            Self::None => heard,
        };
        let idle = heard.saturating_sub(since) >= after;
        *self = if idle { Self::Idle } else { Self::Since(since) };
        idle
    }

    /// It is not to be read for now, which is no silence of its own.
    pub fn pause(&mut self) {
        if let Self::Since(_) = self {
            *self = Self::None;
        }
    }

    /// When it will be idle, if nothing comes.
    pub fn due(self, after: Duration) -> Option<Duration> {
        match self {
            Self::Since(since) => Some(since + after),
            Self::None | Self::Idle => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_split_is_idle_once_it_was_found_empty_for_long_enough() {
        let mut silence = Silence::default();
        assert_eq!(silence.due(AFTER), None, "nobody has looked at it");
        assert!(!silence.goes_on(ms(500), AFTER), "time before the first look does not count");
        assert_eq!(silence.due(AFTER), Some(ms(600)));
        assert!(!silence.goes_on(ms(599), AFTER));
        assert!(silence.goes_on(ms(600), AFTER));
        assert!(silence.is_idle());
        assert!(!silence.goes_on(ms(900), AFTER), "it is already");
        silence.pause();
        assert!(silence.is_idle(), "what is idle is not read either");
        assert_eq!(silence.due(AFTER), None);
    }

    #[test]
    fn a_pause_ends_a_silence() {
        let mut silence = Silence::Since(ms(0));
        silence.pause();
        assert!(!silence.goes_on(ms(1_000), AFTER));
        assert_eq!(silence, Silence::Since(ms(1_000)));
    }

    #[test]
    fn only_time_in_which_a_reader_is_listened_to_counts() {
        let begun = Instant::now();
        let mut listening = Listening::since(begun);
        assert_eq!(listening.at(begun + ms(30)), ms(30));
        listening.hold(begun + ms(40));
        listening.hold(begun + ms(900));
        assert_eq!(listening.at(begun + ms(1_040)), ms(40));
        assert_eq!(listening.at(begun + ms(1_050)), ms(50));
    }
}
