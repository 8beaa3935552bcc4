//! Where files are, and what they take of the disk and of memory.

use millrace_engine::data::{Fail, Res};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that something takes, counted while it lives.
pub(crate) struct Counted {
    bytes: u64,
    counter: Arc<AtomicU64>,
}

impl Counted {
    pub fn new(bytes: u64, counter: &Arc<AtomicU64>) -> Self {
        counter.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, counter: Arc::clone(counter) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where runs are, and what they take.
pub(crate) struct Place {
    directory: Box<Path>,
    next: AtomicU64,
    pub disk: Arc<AtomicU64>,
    pub memory: Arc<AtomicU64>,
    /// What filters and first keys may take; above it, the oldest runs are without filters.
    most: u64,
}

impl Place {
    pub fn new(directory: &Path, most: u64) -> Self {
        let counter = || Arc::new(AtomicU64::new(0));
        let (disk, memory) = (counter(), counter());
        Self { directory: directory.into(), next: AtomicU64::new(0), disk, memory, most }
    }

    /// A file without a name.
    pub fn file(&self) -> Res<File> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("millrace-{}-{number}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.and_then(|file| std::fs::remove_file(&path).map(|()| file));
        file.map_err(|e| {
            Fail::from(format!("cannot keep state in {}: {e}", self.directory.display()))
        })
    }

    /// Bytes that filters and first keys may still take.
    pub fn room(&self) -> u64 {
        self.most.saturating_sub(self.memory.load(Ordering::Relaxed))
    }

    pub fn failed(&self, what: &str, error: &std::io::Error) -> Fail {
        format!("cannot {what} state in {}: {error}", self.directory.display()).into()
    }

    pub fn damaged(&self) -> Fail {
        let directory = self.directory.display();
        format!("state in {directory} is damaged: is the disk sound?").into()
    }
}
