//! What a rescale reads from the storage: the key groups that moved to another worker, and
//! next to nothing else.

use crate::common::{options, run_until};
use millrace::connectors::{Blackhole, Generator};
use millrace::engine::job::{Handle, JobOptions, WrapStore};
use millrace::engine::store::{ObjectStore, ObjectWriter, Put, StoreResult};
use millrace::prelude::*;
use millrace::protocol::ids::Uid;
use millrace::protocol::keygroup::MaxParallelism;
use millrace::protocol::manifest::Manifest;
use millrace::protocol::objects::{ObjectKey, Prefix};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const KEYS: u64 = 1_000_000;

/// What is read of a file beside blocks of key groups that moved: its end, which holds its
/// index, and what a block of about a megabyte holds of others.
const BESIDE: u64 = (64 << 10) + (1 << 20);

/// Bytes and calls of ranged reads.
#[derive(Default)]
struct Read {
    bytes: AtomicU64,
    calls: AtomicU64,
}

/// A store that counts what is read of its files.
struct Counting(Arc<dyn ObjectStore>, Arc<Read>);

impl ObjectStore for Counting {
    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<Put> {
        self.0.put_if_absent(key, bytes)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> StoreResult<()> {
        self.0.put(key, bytes)
    }

    fn create(&self, key: &ObjectKey) -> StoreResult<Box<dyn ObjectWriter>> {
        self.0.create(key)
    }

    fn get(&self, key: &ObjectKey) -> StoreResult<Option<Vec<u8>>> {
        assert!(!is_state(key), "all of {key} is read");
        self.0.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
        self.1.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.1.calls.fetch_add(1, Ordering::Relaxed);
        self.0.get_range(key, offset, len)
    }

    fn size(&self, key: &ObjectKey) -> StoreResult<Option<u64>> {
        self.0.size(key)
    }

    fn list(&self, prefix: &Prefix) -> StoreResult<Vec<ObjectKey>> {
        self.0.list(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> StoreResult<()> {
        self.0.delete(key)
    }
}

fn is_state(key: &ObjectKey) -> bool {
    let name = key.as_str().rsplit('/').next().unwrap();
    name.starts_with('s') && name.contains("-c")
}

/// A running sum of many keys.
fn job() -> Handle {
    let env = Env::new();
    env.source("rows", Generator::new(|i| (i % KEYS, i)).splits(4), Watermarks::none())
        .uid("rows")
        .key_by(|row| row.0)
        .reduce("sums", |sum, row| sum.1 += row.1)
        .uid("sums")
        .sink("none", Blackhole);
    Handle::new(env.into_graph())
}

/// On so many workers, one subtask each. Only the stop takes a checkpoint, as a rescale does.
fn on_workers(dir: &Path, workers: u16, read: &Arc<Read>) -> JobOptions {
    let mut options = options(&dir.join("storage"), workers);
    options.loopback = Some(workers);
    options.copies = Some(dir.join("copies"));
    options.checkpoints.interval = None;
    let read = Arc::clone(read);
    let wrap: WrapStore = Arc::new(move |store| Arc::new(Counting(store, Arc::clone(&read))));
    options.wrap_store = Some(wrap);
    options
}

/// The newest manifest.
fn manifest(storage: &Path) -> Manifest {
    let mut newest = None;
    let mut look = vec![storage.to_owned()];
    while let Some(directory) = look.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                look.push(path);
            } else if name.starts_with("m-") {
                let manifest = Manifest::decode(&name, &fs::read(&path).unwrap()).unwrap();
                newest = newest.max(Some((manifest.checkpoint, path)));
            }
        }
    }
    let (_, path) = newest.unwrap();
    Manifest::decode("manifest", &fs::read(path).unwrap()).unwrap()
}

/// What of the newest checkpoint's state lies elsewhere than on the worker that is to have
/// it, subtask `n` on worker `n`: bytes, by the key groups of each file, and files.
fn to_move(dir: &Path, parallelism: u16) -> (f64, u64) {
    let manifest = manifest(&dir.join("storage"));
    let (mut bytes, mut files) = (0.0, 0);
    for subtask in 0..parallelism {
        let owned = MaxParallelism::DEFAULT.range(subtask, parallelism);
        let near = dir.join("copies").join(subtask.to_string());
        for file in &manifest.files {
            let sums = file.sections.iter().find(|section| section.operator == Uid::from("sums"));
            let Some(section) = sums else { continue };
            let moved = section.groups.intersect(owned);
            if moved.is_empty() || near.join(file.key.as_str().replace('/', ",")).exists() {
                continue;
            }
            bytes += file.len as f64 * f64::from(moved.len()) / f64::from(section.groups.len());
            files += 1;
        }
    }
    (bytes, files)
}

#[test]
fn only_key_groups_that_moved_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let first = Arc::default();
    // Every key a few times, in each phase.
    run_until(&job(), on_workers(dir.path(), 2, &first), "sums", 2 * KEYS);
    assert_eq!(first.bytes.load(Ordering::Relaxed), 0, "there was nothing to read");
    for (from, to) in [(2, 4), (4, 2)] {
        let (moved, files) = to_move(dir.path(), to);
        let state = manifest(&dir.path().join("storage")).state_bytes();
        let read = Arc::new(Read::default());
        run_until(&job(), on_workers(dir.path(), to, &read), "sums", 2 * KEYS);
        let bytes = read.bytes.load(Ordering::Relaxed);
        let calls = read.calls.load(Ordering::Relaxed);
        println!("{from} -> {to}: {bytes} bytes read in {calls} of {state}; {moved:.0} moved");
        assert!(moved > 1e6 && moved < 0.9 * state as f64, "too little for this test");
        let most = moved * 1.02 + (files * BESIDE) as f64;
        assert!(calls <= 6 * files, "{from} -> {to}: {calls} reads of {files} files");
        assert!(bytes as f64 <= most, "{from} -> {to}: {bytes} bytes were read, not {moved:.0}");
        assert!(bytes as f64 >= moved * 0.95, "{from} -> {to}: {bytes} of {moved:.0} were read");
    }
}
