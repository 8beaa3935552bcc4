//! A disk that is full: the storage's, that of copies, that of state which memory has no room
//! for. Each on a small file system of its own, which only root can make: elsewhere these
//! tests say loudly that they did not run.

use crate::common::{Counts, assert_same, multiset, options, run_watched, until};
use millrace::connectors::Collected;
use millrace::engine::coordinator::Outcome;
use millrace::engine::job::{Handle, JobError, JobOptions};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(120);

/// What the system says of a full disk.
const FULL: &str = "No space left";

/// A file system of its own, gone with this value.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(mib: u32) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(at.path());
        if mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return Some(Self(at));
        }
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Past what holds back the output of tests that pass.
        let told = format!("{test}: SKIPPED, nothing was tested: mounting a tmpfs takes root\n");
        io::stderr().write_all(told.as_bytes()).unwrap();
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Takes all the room that is left, again and again, as files come and go.
    fn fill(&self) -> Ballast {
        let mut ballast = Ballast { path: self.path("ballast"), parts: 0 };
        ballast.grow();
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: threads that end may hold files yet.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

struct Ballast {
    path: PathBuf,
    parts: u32,
}

impl Ballast {
    fn grow(&mut self) {
        for size in [1 << 20, 4 << 10] {
            loop {
                let part = self.path.with_extension(self.parts.to_string());
                self.parts += 1;
                match File::create(part).and_then(|mut file| file.write_all(&vec![7; size])) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Takes what room comes up until it is so.
    fn hold_until(&mut self, what: &str, so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !so() {
            self.grow();
            assert!(begun.elapsed() < LONG, "{what} does not happen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn remove(self) {
        for part in 0..self.parts {
            fs::remove_file(self.path.with_extension(part.to_string())).unwrap();
        }
    }
}

fn wait_for(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LONG, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const JOB: Counts = Counts { rows: 60_000, keys: 1_000, rate: 10_000 };

/// Rows that the running count has taken when the disk becomes full.
const SOON: u64 = 5_000;

fn start(
    handle: &Handle,
    options: JobOptions,
) -> JoinHandle<Result<millrace::engine::coordinator::Outcome, JobError>> {
    let handle = handle.clone();
    std::thread::spawn(move || run_watched(&handle, options))
}

fn rows(handle: &Handle) -> u64 {
    let nodes = handle.status().nodes;
    nodes.iter().filter(|node| node.name == "running").map(|node| node.rows_in).sum()
}

fn checkpoint(handle: &Handle) -> Option<u64> {
    handle.status().checkpoint.map(|(report, _)| report.checkpoint.0)
}

/// Whether the last failure in the status is a full disk, at this place.
fn tells(handle: &Handle, place: &Path) -> bool {
    let failures = handle.status().failures;
    let told = failures.last().map(|note| note.message.clone()).unwrap_or_default();
    told.contains(FULL) && told.contains(place.to_str().unwrap())
}

fn is_exact(out: &Collected<crate::common::Out>, what: &str) {
    assert_same(&multiset(out.rows()), &JOB.expected(), what);
}

#[test]
fn with_a_full_storage_a_job_runs_on_and_takes_checkpoints_when_there_is_room_again() {
    let Some(disk) = Disk::new(32) else { return };
    let (out, storage) = (Collected::new(), disk.path("storage"));
    let mut options = options(&storage, 2);
    options.checkpoints.tolerated_failures = u32::MAX;
    let handle = JOB.job(&out);
    let running = start(&handle, options);
    until(&handle, "running", SOON);
    let mut full = disk.fill();
    full.hold_until("a failed checkpoint in the status", || tells(&handle, &storage));
    let (taken, newest) = (rows(&handle), checkpoint(&handle));
    full.hold_until("rows that go on", || rows(&handle) > taken + 5_000);
    assert_eq!(checkpoint(&handle), newest, "the disk is full");
    full.remove();
    wait_for("a checkpoint", || checkpoint(&handle) > newest);
    assert_eq!(running.join().unwrap().unwrap(), Outcome::Finished);
    assert_eq!(handle.status().restarts, 0);
    is_exact(&out, "after a full storage");
}

#[test]
fn a_job_that_a_full_storage_has_ended_goes_on_exactly_where_it_was() {
    let Some(disk) = Disk::new(32) else { return };
    let (out, storage) = (Collected::new(), disk.path("storage"));
    let strict = || {
        let mut options = options(&storage, 2);
        options.checkpoints.tolerated_failures = 0;
        options
    };
    let handle = JOB.job(&out);
    let running = start(&handle, strict());
    until(&handle, "running", SOON);
    let mut full = disk.fill();
    full.hold_until("its end", || running.is_finished());
    let error = running.join().unwrap().unwrap_err().to_string();
    assert!(error.contains(FULL) && error.contains(storage.to_str().unwrap()), "{error}");
    // Nor can it be started there.
    let refused = run_watched(&JOB.job(&out), strict()).unwrap_err().to_string();
    assert!(refused.contains(FULL) && refused.contains(storage.to_str().unwrap()), "{refused}");
    full.remove();
    assert_eq!(run_watched(&JOB.job(&out), strict()).unwrap(), Outcome::Finished);
    is_exact(&out, "after a full storage");
}

fn whole_copies(copies: &Path) -> usize {
    let Ok(entries) = fs::read_dir(copies.join("0")) else { return 0 };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".partial")).count()
}

#[test]
fn copies_that_have_no_room_are_done_without_until_they_have() {
    let Some(disk) = Disk::new(8) else { return };
    let storage = tempfile::tempdir().unwrap();
    let (out, copies) = (Collected::new(), disk.path("copies"));
    let full = disk.fill();
    let mut options = options(storage.path(), 2);
    options.copies = Some(copies.clone());
    let handle = JOB.job(&out);
    let running = start(&handle, options);
    until(&handle, "running", SOON);
    wait_for("a checkpoint", || checkpoint(&handle).is_some());
    assert_eq!((whole_copies(&copies), handle.status().failures.len()), (0, 0));
    full.remove();
    wait_for("copies", || whole_copies(&copies) > 0);
    assert_eq!(running.join().unwrap().unwrap(), Outcome::Finished);
    assert_eq!(handle.status().restarts, 0);
    is_exact(&out, "after copies without room");
}

/// What is logged on this thread while `act` runs.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let to = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    tracing::subscriber::with_default(to.finish(), act);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn copies_that_have_no_room_are_said_once() {
    use millrace::engine::store::{DirectoryStore, ObjectStore, WithCopies};
    use millrace::protocol::objects::ObjectKey;
    use std::sync::Arc;

    let Some(disk) = Disk::new(1) else { return };
    let storage = tempfile::tempdir().unwrap();
    let copies = disk.path("copies");
    let store = Arc::new(DirectoryStore::open(storage.path()).unwrap());
    let store = WithCopies::new(store, &copies);
    let full = disk.fill();
    let write = |name: &str| {
        let key = ObjectKey::parse(name).unwrap();
        let mut writer = store.create(&key).unwrap();
        writer.write(&vec![1; 100_000]).unwrap();
        writer.finish().unwrap();
        assert_eq!(store.get(&key).unwrap().unwrap().len(), 100_000);
        store.copy(&key).is_some()
    };
    let said = logged(|| assert!(!write("a") && !write("b")));
    assert_eq!(said.matches(FULL).count(), 1, "{said}");
    assert!(said.contains("WARN") && said.contains(copies.to_str().unwrap()), "{said}");
    assert!(said.contains("restarts read all of their state from the storage"), "{said}");
    full.remove();
    assert!(write("c"), "there is room again");
}

#[test]
#[cfg(feature = "disk")]
fn without_room_for_state_beyond_memory_the_job_restarts_until_there_is_some() {
    use millrace::engine::graph::SpillTo;
    use millrace::engine::state::budget::Budget;
    use std::sync::Arc;

    let Some(disk) = Disk::new(16) else { return };
    let storage = tempfile::tempdir().unwrap();
    let (out, local) = (Collected::new(), disk.path("local"));
    let mut options = options(storage.path(), 2);
    // So little memory that nearly all state is in files.
    let tiers = Arc::new(millrace_disk::DiskTiers::open(&local, 16 << 10).unwrap());
    options.spill = Some(SpillTo { tiers, budget: Budget::new(16 << 10) });
    let handle = JOB.job(&out);
    let running = start(&handle, options);
    until(&handle, "running", SOON);
    let mut full = disk.fill();
    full.hold_until("restarts", || tells(&handle, &local) && handle.status().restarts > 2);
    assert!(!running.is_finished());
    full.remove();
    assert_eq!(running.join().unwrap().unwrap(), Outcome::Finished);
    is_exact(&out, "after a full local disk");
}
