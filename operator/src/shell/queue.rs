//! Which job is looked at when: at once if anything of it changed, again after what its
//! plan said, later and later while it fails. One pass at a time for each job.

use super::Shell;
use super::cache::JobKey;
use super::pass::{self, Remembered};
use std::collections::BTreeMap;
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

/// Works until told to end; passes under way are finished.
pub(crate) async fn work(
    shell: Arc<Shell>,
    mut marked: UnboundedReceiver<JobKey>,
    mut stopped: watch::Receiver<bool>,
) {
    let (finished, mut done) = mpsc::unbounded_channel::<Done>();
    let mut slots: BTreeMap<JobKey, Slot> = BTreeMap::new();
    let mut running = 0usize;
    while !*stopped.borrow() || running > 0 {
        let now = Instant::now();
        if !*stopped.borrow() && shell.cache.is_ready() {
            for (key, slot) in &mut slots {
                let due = slot.due.is_some_and(|due| due <= now);
                if due && !slot.running && running < AT_ONCE {
                    (slot.due, slot.running) = (None, true);
                    running += 1;
                    let memory = std::mem::take(&mut slot.memory);
                    let told = std::mem::take(&mut slot.told);
                    start(shell.clone(), key.clone(), memory, told, finished.clone());
                }
            }
        }
        let next = slots.values().filter(|slot| !slot.running).filter_map(|slot| slot.due).min();
        let next =
            next.unwrap_or(now + Duration::from_secs(1)).max(now + Duration::from_millis(10));
        tokio::select! {
            Some(key) = marked.recv() => {
                let slot = slots.entry(key).or_default();
                let soon = now + BUNCH;
                slot.due = Some(slot.due.map_or(soon, |due| due.min(soon)));
                slot.told = true;
            }
            Some((key, memory, result)) = done.recv() => {
                running -= 1;
                if let Some(slot) = slots.get_mut(&key) {
                    slot.running = false;
                    slot.memory = memory;
                    match again(slot, result, &key) {
                        Some(after) => {
                            let at = Instant::now() + after;
                            slot.due = Some(slot.due.map_or(at, |due| due.min(at)));
                        }
                        None if slot.due.is_none() => { slots.remove(&key); }
                        None => {}
                    }
                }
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
        let result = pass::pass(&shell, &key, &mut memory, told).instrument(span.clone()).await;
        let result = result.map_err(|error| {
            shell.metrics.failed_passes.inc();
            let error = format!("{error:#}");
            span.record("error", &error);
            error
        });
        let _ = done.send((key, memory, result));
    });
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
                "pass failed, tried again: {error}"
            );
            Some(Duration::from_millis(wait))
        }
    }
}
