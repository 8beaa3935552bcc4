//! Which job is looked at when: at once if anything of it changed, again after what its
//! plan said, later and later while it fails. One pass at a time for each job.

use super::Shell;
use super::cache::JobKey;
use super::pass::{self, Remembered};
use crate::traces::line;
use futures::FutureExt;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

const AT_ONCE: usize = 16;
/// Changes come in bunches.
const BUNCH: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Slot {
    due: Option<Instant>,
    /// Something has changed since the last look began.
    told: bool,
    running: bool,
    failures: u32,
    memory: Remembered,
}

type Done = (JobKey, Remembered, Result<Option<u64>, String>);

/// All jobs. Who looks for what is due looks at none of the others, of which there may be
/// thousands.
#[derive(Default)]
struct Queue {
    slots: BTreeMap<JobKey, Slot>,
    /// Those that are due and are not being looked at, soonest first.
    due: BTreeSet<(Instant, JobKey)>,
}

impl Queue {
    /// The job is looked at by then.
    fn wish(&mut self, key: JobKey, at: Instant) -> &mut Slot {
        let slot = self.slots.entry(key.clone()).or_default();
        let by = slot.due.map_or(at, |due| due.min(at));
        if !slot.running {
            if let Some(before) = slot.due {
                self.due.remove(&(before, key.clone()));
            }
            self.due.insert((by, key));
        }
        slot.due = Some(by);
        slot
    }

    /// One whose time has come; it is running from here on.
    fn next(&mut self, now: Instant) -> Option<(JobKey, Remembered, bool)> {
        if self.soonest()? > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        let slot = self.slots.get_mut(&key)?;
        (slot.due, slot.running) = (None, true);
        Some((key, std::mem::take(&mut slot.memory), std::mem::take(&mut slot.told)))
    }

    fn soonest(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn done(&mut self, (key, memory, result): Done, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        (slot.running, slot.memory) = (false, memory);
        let again = again(slot, result, &key).map(|after| now + after);
        if let Some(at) = again.or(slot.due) {
            self.wish(key, at);
        } else {
            self.slots.remove(&key);
        }
    }
}

/// Works until told to end; passes under way are finished.
pub(crate) async fn work(
    shell: Arc<Shell>,
    mut marked: UnboundedReceiver<JobKey>,
    mut stopped: watch::Receiver<bool>,
) {
    let (finished, mut done) = mpsc::unbounded_channel::<Done>();
    let mut queue = Queue::default();
    let mut running = 0usize;
    while !*stopped.borrow() || running > 0 {
        let now = Instant::now();
        let works = !*stopped.borrow() && shell.cache.is_ready();
        while works
            && running < AT_ONCE
            && let Some((key, memory, told)) = queue.next(now)
        {
            running += 1;
            start(shell.clone(), key, memory, told, finished.clone());
        }
        let next = queue.soonest();
        let next =
            next.unwrap_or(now + Duration::from_secs(1)).max(now + Duration::from_millis(10));
        tokio::select! {
            Some(key) = marked.recv() => queue.wish(key, now + BUNCH).told = true,
            Some(ended) = done.recv() => {
                running -= 1;
                queue.done(ended, Instant::now());
            }
            () = sleep_until(next) => {}
            _ = stopped.changed() => {}
        }
    }
}

fn start(
    shell: Arc<Shell>,
    key: JobKey,
    mut memory: Remembered,
    told: bool,
    done: mpsc::UnboundedSender<Done>,
) {
    tokio::spawn(async move {
        shell.metrics.passes.inc();
        let span = tracing::info_span!(
            "pass",
            namespace = key.0,
            job = key.1,
            error = tracing::field::Empty
        );
        let pass = pass::pass(&shell, &key, &mut memory, told).instrument(span.clone());
        let result = caught(pass).await.unwrap_or_else(|panic| {
            // It may be half-changed.
            memory = Remembered::default();
            Err(anyhow::anyhow!("a bug of the controller: {panic}"))
        });
        let result = result.map_err(|error| {
            shell.metrics.failed_passes.inc();
            let error = format!("{error:#}");
            span.record("error", &error);
            error
        });
        let _ = done.send((key, memory, result));
    });
}

/// What it comes to, or what it said when it panicked: the job is looked at again all the
/// same, and its failures are counted and told as others are.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

/// When to look again; `None`: the job is gone.
fn again(slot: &mut Slot, result: Result<Option<u64>, String>, key: &JobKey) -> Option<Duration> {
    match result {
        Ok(after) => {
            slot.failures = 0;
            // Jitter, so that a thousand jobs do not look at once.
            after.map(|ms| Duration::from_millis(ms - fastrand::u64(0..=ms / 5)))
        }
        Err(error) => {
            // What was told is still to be looked at.
            slot.told = true;
            slot.failures = slot.failures.saturating_add(1);
            let longest = (200u64 << slot.failures.min(8)).min(30_000);
            let wait = longest / 2 + fastrand::u64(0..=longest / 2);
            tracing::warn!(
                namespace = key.0,
                job = key.1,
                wait,
                "pass failed, tried again: {}",
                line(&error)
            );
            Some(Duration::from_millis(wait))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> JobKey {
        ("n".to_owned(), name.to_owned())
    }

    fn next(queue: &mut Queue, now: Instant) -> Option<(String, bool)> {
        queue.next(now).map(|((_, name), _, told)| (name, told))
    }

    #[test]
    fn jobs_are_looked_at_when_they_are_due_and_one_at_a_time_each() {
        let (queue, now) = (&mut Queue::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        let done = |name, after| (key(name), Remembered::default(), Ok(after));
        queue.wish(key("late"), at(90));
        queue.wish(key("soon"), at(50)).told = true;
        queue.wish(key("late"), at(70));
        queue.wish(key("late"), at(95));
        assert_eq!((next(queue, at(49)), queue.soonest()), (None, Some(at(50))));
        assert_eq!(next(queue, at(50)), Some(("soon".to_owned(), true)));
        // Told of while it is being looked at: once more, when that look is over.
        queue.wish(key("soon"), at(60)).told = true;
        assert_eq!(next(queue, at(70)), Some(("late".to_owned(), false)));
        assert_eq!((next(queue, at(99)), queue.soonest()), (None, None));
        queue.done(done("soon", Some(30_000)), at(99));
        assert_eq!(next(queue, at(99)), Some(("soon".to_owned(), true)));
        // Gone, unless it was told of meanwhile.
        queue.wish(key("soon"), at(110)).told = true;
        queue.done(done("soon", None), at(100));
        queue.done(done("late", None), at(100));
        assert_eq!(queue.slots.keys().collect::<Vec<_>>(), [&key("soon")]);
        assert_eq!(next(queue, at(110)), Some(("soon".to_owned(), true)));
        queue.done(done("soon", None), at(111));
        assert!(queue.slots.is_empty() && queue.due.is_empty());
    }

    #[test]
    fn a_look_that_failed_is_repeated_as_if_told() {
        let (queue, now) = (&mut Queue::default(), Instant::now());
        queue.wish(key("a"), now).told = true;
        assert_eq!(next(queue, now), Some(("a".to_owned(), true)));
        queue.done((key("a"), Remembered::default(), Err("no answer".to_owned())), now);
        assert!(queue.soonest().is_some_and(|at| at > now));
        let later = now + Duration::from_secs(30);
        assert_eq!(next(queue, later), Some(("a".to_owned(), true)));
    }

    #[tokio::test]
    async fn a_look_that_panics_has_failed() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let text = "no such place".to_owned();
        let panics = async { std::panic::panic_any(text) };
        assert_eq!(caught::<()>(panics).await, Err("no such place".to_owned()));
    }
}
