//! What the threads of an attempt's exchange share.

use super::{Failed, Peer, Side, Token};
use crate::runtime::signal::Signal;
use crate::runtime::slot::panic_text;
use millrace_protocol::ids::{Attempt, JobUid};
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What went through an exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of frames written.
    pub bytes_out: u64,
    /// Bytes of frames read.
    pub bytes_in: u64,
    /// Frames of rows written.
    pub batches_out: u64,
    /// Frames of rows read.
    pub batches_in: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub bytes_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub batches_out: AtomicU64,
    pub batches_in: AtomicU64,
}

#[derive(Default)]
struct Open {
    sockets: Vec<TcpStream>,
    signals: Vec<Arc<Signal>>,
    threads: Vec<JoinHandle<()>>,
}

/// An attempt's exchange as its threads see it.
pub(super) struct Shared {
    pub job: JobUid,
    pub attempt: Attempt,
    pub token: Token,
    pub me: Peer,
    /// Credit of each channel that comes from others.
    pub window: u64,
    pub counters: Counters,
    /// Those who have not connected yet.
    incoming: Mutex<BTreeMap<u16, (Peer, Side)>>,
    /// All who may.
    expected: BTreeMap<u16, Peer>,
    open: Mutex<Open>,
    stopping: AtomicBool,
    failed: AtomicBool,
    tell: Failed,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is held under these locks is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(
        (job, attempt, token): (JobUid, Attempt, Token),
        me: Peer,
        (incoming, window): (BTreeMap<u16, (Peer, Side)>, u64),
        tell: Failed,
    ) -> Self {
        let expected = incoming.iter().map(|(ordinal, (peer, _))| (*ordinal, peer.clone()));
        Self {
            job,
            attempt,
            token,
            me,
            window,
            counters: Counters::default(),
            expected: expected.collect(),
            incoming: Mutex::new(incoming),
            open: Mutex::new(Open::default()),
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            tell,
        }
    }

    /// A worker that has channels to this one.
    pub fn expected(&self, ordinal: u16) -> Option<&Peer> {
        self.expected.get(&ordinal)
    }

    /// A peer has connected and proven who it is: its channels, once.
    pub fn claim(&self, ordinal: u16) -> Result<(Peer, Side), String> {
        if self.is_stopping() {
            return Err("the attempt is over".to_owned());
        }
        let claimed = lock(&self.incoming).remove(&ordinal);
        claimed.ok_or_else(|| format!("worker {ordinal} is connected already"))
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Tells the attempt's end, unless it was told or is on its way.
    pub fn fail(&self, why: String) {
        if !self.is_stopping() && !self.failed.swap(true, Ordering::SeqCst) {
            tracing::warn!(job = %self.job, attempt = %self.attempt, why, "the exchange failed");
            (self.tell)(why);
        }
    }

    pub fn note_signal(&self, signal: &Arc<Signal>) {
        lock(&self.open).signals.push(Arc::clone(signal));
        if self.is_stopping() {
            signal.wake(0);
        }
    }

    pub fn note_socket(&self, stream: &TcpStream) -> std::io::Result<()> {
        let stream = stream.try_clone()?;
        let mut open = lock(&self.open);
        if self.is_stopping() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        open.sockets.push(stream);
        Ok(())
    }

    /// Starts a thread that [`super::Exchange::stop`] joins.
    /// A panic in it fails the attempt.
    pub fn spawn(self: &Arc<Self>, name: String, f: impl FnOnce() + Send + 'static) {
        let shared = Arc::clone(self);
        let guarded = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(f)) {
                let panic = panic_text(panic.as_ref());
                shared.fail(format!("{}: a thread of the exchange panicked: {panic}", shared.me));
            }
        };
        let mut open = lock(&self.open);
        match std::thread::Builder::new().name(name).stack_size(STACK).spawn(guarded) {
            Ok(thread) => open.threads.push(thread),
            Err(error) => {
                drop(open);
                self.fail(format!("could not start a thread of the exchange: {error}"));
            }
        }
    }

    pub fn take_threads(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut lock(&self.open).threads)
    }

    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let open = lock(&self.open);
        open.signals.iter().for_each(|signal| signal.wake(0));
    }

    pub fn close_sockets(&self) {
        for socket in &lock(&self.open).sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub fn stats(&self) -> Stats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            bytes_out: of(&self.counters.bytes_out),
            bytes_in: of(&self.counters.bytes_in),
            batches_out: of(&self.counters.batches_out),
            batches_in: of(&self.counters.batches_in),
        }
    }
}

/// Rows may nest: see [`super::codec::read`].
const STACK: usize = 4 << 20;
