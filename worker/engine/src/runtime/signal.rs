//! Waking a slot: one bit per task says "look at me", and a parked thread is unparked.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// The ready bitmap of a slot, which doubles as its wake flag.
#[derive(Debug)]
pub struct Signal {
    ready: Vec<AtomicU64>,
    parked: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Signal {
    /// For a slot of `tasks` tasks.
    pub fn new(tasks: usize) -> Self {
        Self {
            ready: (0..tasks.div_ceil(64).max(1)).map(|_| AtomicU64::new(0)).collect(),
            parked: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// Called once by the slot's thread.
    pub fn attach(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// Marks a task ready and wakes the slot if it sleeps. Whoever leaves the slot a
    /// message elsewhere marks task 0 afterwards; the slot looks for messages after it has
    /// taken the bits, for with its bit a message is gone from here.
    pub fn wake(&self, task: usize) {
        if let Some(word) = self.ready.get(task / 64) {
            word.fetch_or(1 << (task % 64), Ordering::Release);
        }
        self.nudge();
    }

    fn nudge(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst)
            && self.parked.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Takes the ready bits of word `index`.
    pub fn take(&self, index: usize) -> u64 {
        let word = &self.ready[index];
        if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::AcqRel) }
    }

    /// Number of words.
    pub fn words(&self) -> usize {
        self.ready.len()
    }

    /// Sleeps until woken or `timeout`, unless a bit is set or `busy` says that
    /// something else arrived (tested after the slot is marked as parked).
    pub fn park(&self, timeout: Option<Duration>, busy: impl Fn() -> bool) {
        self.parked.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        let ready = self.ready.iter().any(|w| w.load(Ordering::SeqCst) != 0);
        if !ready && !busy() {
            match timeout {
                Some(t) => std::thread::park_timeout(t),
                None => std::thread::park(),
            }
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}
