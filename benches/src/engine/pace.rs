//! How many rows came out of a job, and how long it paused between batches.

use super::looking::Look;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A pause is the longest of this much time.
const STRETCH: Duration = Duration::from_secs(1);

/// What all subtasks of a sink have seen.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    rows: AtomicU64,
    pauses: Mutex<Vec<Pause>>,
}

/// The longest pause of a subtask in a stretch of time.
#[derive(Debug, Clone, Copy)]
struct Pause {
    stretch_began: Instant,
    length: Duration,
}

impl Pace {
    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.0.rows.load(Ordering::Relaxed)
    }

    /// The longest pauses of each subtask and second that lies in `from..to`.
    pub fn pauses(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let pauses = self.0.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |p: &&Pause| from <= p.stretch_began && p.stretch_began + STRETCH <= to;
        pauses.iter().filter(within).map(|p| p.length).collect()
    }

    /// The eye of a subtask.
    pub fn eye(&self) -> PaceOfOne {
        let now = Instant::now();
        let longest = Pause { stretch_began: now, length: Duration::ZERO };
        PaceOfOne { all: self.clone(), last: now, longest }
    }
}

/// Looks at one subtask's batches.
#[derive(Debug)]
pub struct PaceOfOne {
    all: Pace,
    last: Instant,
    longest: Pause,
}

impl<T> Look<T> for PaceOfOne {
    fn batch(&mut self, rows: &[T]) {
        let now = Instant::now();
        self.all.0.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.longest.length = self.longest.length.max(now - self.last);
        self.last = now;
        if now - self.longest.stretch_began >= STRETCH {
            let seen = &self.all.0.pauses;
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(self.longest);
            self.longest = Pause { stretch_began: now, length: Duration::ZERO };
        }
    }
}
