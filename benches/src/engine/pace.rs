//! How many rows came out of a job, and how long it paused between batches.

use super::looking::Look;
use std::fs::File;
use std::os::unix::fs::FileExt;
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
    /// The longest without what the thread waited for a core that others had.
    own: Duration,
    /// The hypervisor had a core of this machine meanwhile.
    disturbed: bool,
}

impl Pause {
    fn none_since(stretch_began: Instant) -> Self {
        Self { stretch_began, length: Duration::ZERO, own: Duration::ZERO, disturbed: false }
    }
}

impl Pace {
    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.0.rows.load(Ordering::Relaxed)
    }

    /// The longest pauses of each subtask and second that lies in `from..to`: as
    /// they were, and without waits for a core. And how many of these seconds are left
    /// out, since the hypervisor had a core: nothing that runs here can tell whose.
    pub fn pauses(&self, from: Instant, to: Instant) -> (Vec<(Duration, Duration)>, usize) {
        let pauses = self.0.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |p: &&Pause| from <= p.stretch_began && p.stretch_began + STRETCH <= to;
        let (disturbed, rest): (Vec<&Pause>, Vec<_>) =
            pauses.iter().filter(within).partition(|p| p.disturbed);
        (rest.iter().map(|p| (p.length, p.own)).collect(), disturbed.len())
    }

    /// The eye of a subtask, made on its thread.
    pub fn eye(&self) -> PaceOfOne {
        let now = Instant::now();
        let mut eye = PaceOfOne {
            all: self.clone(),
            schedstat: File::open("/proc/thread-self/schedstat").ok(),
            waited: Duration::ZERO,
            stolen: stolen(),
            last: now,
            longest: Pause::none_since(now),
        };
        eye.waited = eye.waited_for_core();
        eye
    }
}

/// Looks at one subtask's batches.
#[derive(Debug)]
pub struct PaceOfOne {
    all: Pace,
    /// Of this thread; `None` where the kernel does not keep it.
    schedstat: Option<File>,
    waited: Duration,
    stolen: Option<u64>,
    last: Instant,
    longest: Pause,
}

impl PaceOfOne {
    /// How long this thread has been ready to run and did not: the second number.
    /// About a microsecond, once a batch.
    fn waited_for_core(&self) -> Duration {
        let mut text = [0; 96];
        let len = self.schedstat.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let text = std::str::from_utf8(&text[..len.unwrap_or(0)]).unwrap_or_default();
        let waited = text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok());
        Duration::from_nanos(waited.unwrap_or(0))
    }
}

/// What the hypervisor has taken of this machine's cores, in ticks: the eighth number after
/// the name in the first line.
fn stolen() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().next()?.split_whitespace().nth(8)?.parse().ok()
}

impl<T> Look<T> for PaceOfOne {
    fn batch(&mut self, rows: &[T]) {
        let now = Instant::now();
        self.all.0.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
        let (pause, waited) = (now - self.last, self.waited_for_core());
        let own = pause.saturating_sub(waited.saturating_sub(self.waited));
        self.longest.length = self.longest.length.max(pause);
        self.longest.own = self.longest.own.max(own);
        (self.last, self.waited) = (now, waited);
        if now - self.longest.stretch_began >= STRETCH {
            let stolen = stolen();
            self.longest.disturbed = stolen != self.stolen;
            self.stolen = stolen;
            let seen = &self.all.0.pauses;
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(self.longest);
            self.longest = Pause::none_since(now);
        }
    }
}
