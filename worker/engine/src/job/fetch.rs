//! Reading ahead from a store that is far away.
//!
//! A restore reads many pieces of many files, and knows which before it needs the first:
//! [`Ahead`] asks for several of them at a time. They are taken in the order in which they
//! were expected, so that what waits to be taken can be bounded.

use crate::store::{ObjectStore, StoreResult};
use millrace_protocol::objects::ObjectKey;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Pieces asked for at a time.
const THREADS: usize = 12;

/// Bytes that wait to be taken, at most; one piece may be more.
const AHEAD: u64 = 32 << 20;

/// Reads pieces ahead; see the module.
pub struct Ahead {
    shared: Arc<Shared>,
}

type Piece = (ObjectKey, Range<u64>);

struct Shared {
    store: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Not asked for yet, in the order in which they will be taken.
    queue: VecDeque<Piece>,
    /// Expected and not taken; `Some`: it has come.
    expected: HashMap<Piece, Option<StoreResult<Vec<u8>>>>,
    /// Bytes that were asked for and not taken.
    held: u64,
    threads: usize,
    over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one piece after the other, until nobody wants any more.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.over {
                return;
            }
            let fits = |(_, range): &&Piece| {
                state.held == 0 || state.held + (range.end - range.start) <= AHEAD
            };
            let Some(piece) = state.queue.front().filter(fits).cloned() else {
                state = self.wait(state);
                continue;
            };
            state.queue.pop_front();
            state.held += piece.1.end - piece.1.start;
            drop(state);
            let bytes = read(self.store.as_ref(), &piece.0, &piece.1);
            state = self.lock();
            state.expected.insert(piece, Some(bytes));
            self.changed.notify_all();
        }
    }
}

fn read(store: &dyn ObjectStore, key: &ObjectKey, range: &Range<u64>) -> StoreResult<Vec<u8>> {
    // A piece is a part of a file that was written in one go.
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    store.get_range(key, range.start, len)
}

impl Ahead {
    /// Of a store's objects. One that is near is asked only when something is taken.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        let shared = Shared { store, state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Whose pieces they are.
    pub fn store(&self) -> &dyn ObjectStore {
        self.shared.store.as_ref()
    }

    /// These pieces will be taken next, after those that were expected before.
    pub fn expect(&self, key: &ObjectKey, ranges: &[Range<u64>]) {
        if !self.shared.store.is_far() {
            return;
        }
        let mut state = self.shared.lock();
        for range in ranges {
            let piece = (key.clone(), range.clone());
            // One that is expected twice is read ahead once.
            if !state.expected.contains_key(&piece) {
                state.expected.insert(piece.clone(), None);
                state.queue.push_back(piece);
            }
        }
        while state.threads < THREADS.min(state.expected.len()) {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("millrace-ahead".to_owned());
            match thread.spawn(move || shared.work()) {
                Ok(_) => state.threads += 1,
                Err(error) => {
                    tracing::warn!(%error, "nothing is read ahead");
                    break;
                }
            }
        }
        if state.threads == 0 {
            state.queue.clear();
            state.expected.clear();
        }
        self.shared.changed.notify_all();
    }

    /// A piece, at once if it has come.
    pub fn take(&self, key: &ObjectKey, range: &Range<u64>) -> StoreResult<Vec<u8>> {
        let piece = (key.clone(), range.clone());
        let mut state = self.shared.lock();
        if let Some(at) = state.queue.iter().position(|queued| *queued == piece) {
            // Nobody is at it yet.
            state.queue.remove(at);
            state.expected.remove(&piece);
        }
        loop {
            match state.expected.get_mut(&piece).map(Option::take) {
                None => break,
                Some(None) => state = self.shared.wait(state),
                Some(Some(bytes)) => {
                    state.expected.remove(&piece);
                    state.held -= range.end - range.start;
                    self.shared.changed.notify_all();
                    return bytes;
                }
            }
        }
        drop(state);
        read(self.shared.store.as_ref(), key, range)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // The threads end when what they have asked for has come.
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirectoryStore;
    use crate::store::faulty::{Faults, FaultyStore};
    use std::time::Duration;

    const DELAY: Duration = Duration::from_millis(50);

    fn key(n: usize) -> ObjectKey {
        ObjectKey::parse(&format!("job/{n}")).unwrap()
    }

    /// Objects of a megabyte in a store that takes its time.
    fn ahead(objects: usize, far: bool) -> (tempfile::TempDir, Ahead) {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(directory.path()).unwrap();
        for n in 0..objects {
            store.put(&key(n), &vec![n as u8; 1 << 20]).unwrap();
        }
        let faults = Faults { slow: 1.0, delay: DELAY, far, ..Faults::default() };
        let store = FaultyStore::new(Arc::new(store), 1, faults);
        (directory, Ahead::new(Arc::new(store)))
    }

    #[test]
    fn pieces_are_asked_for_side_by_side() {
        let (_directory, ahead) = ahead(40, true);
        let pieces: Vec<Range<u64>> = (0..4).map(|n| n << 18..(n + 1) << 18).collect();
        (0..40).for_each(|n| ahead.expect(&key(n), &pieces));
        assert_eq!(ahead.shared.lock().threads, THREADS);
        for n in 0..40 {
            for piece in &pieces {
                assert_eq!(ahead.take(&key(n), piece).unwrap(), vec![n as u8; 1 << 18]);
                let held = ahead.shared.lock().held;
                assert!(held <= AHEAD, "{held} bytes wait");
            }
        }
        assert!(ahead.shared.lock().expected.is_empty());
    }

    #[test]
    fn what_is_expected_twice_is_there_twice() {
        let (_directory, ahead) = ahead(2, true);
        let piece = 0..1 << 10;
        for n in [0, 1, 1] {
            ahead.expect(&key(n), std::slice::from_ref(&piece));
            std::thread::sleep(DELAY * 3);
        }
        for n in [0, 1, 1] {
            assert_eq!(ahead.take(&key(n), &piece).unwrap().len(), 1 << 10);
        }
    }

    #[test]
    fn any_order_comes_to_its_end() {
        let (_directory, ahead) = ahead(50, true);
        // More than may wait, taken from the last to the first, some twice, some never.
        let whole = 0..1 << 20;
        (0..50).for_each(|n| ahead.expect(&key(n), std::slice::from_ref(&whole)));
        for n in (10..50).rev() {
            assert_eq!(ahead.take(&key(n), &(0..1 << 20)).unwrap().len(), 1 << 20);
        }
        assert_eq!(ahead.take(&key(20), &(0..1 << 20)).unwrap().len(), 1 << 20);
        assert!(ahead.take(&key(99), &(0..1)).is_err());
        assert!(ahead.take(&key(11), &(0..1 << 21)).is_err());
    }

    #[test]
    fn nothing_is_read_ahead_of_what_is_near() {
        let (_directory, ahead) = ahead(3, false);
        let whole = 0..1 << 20;
        (0..3).for_each(|n| ahead.expect(&key(n), std::slice::from_ref(&whole)));
        assert_eq!(ahead.shared.lock().threads, 0);
        assert_eq!(ahead.take(&key(1), &(0..1 << 20)).unwrap().len(), 1 << 20);
    }
}
