//! What a process of a small real program (`examples/counts.rs`) asks of the system.

#![cfg(feature = "disk")]
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `cargo test` builds it, but not `cargo test --test limits`: there
/// `cargo build --example counts` comes first.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples/counts");
    assert!(path.exists(), "{} is not built: see this function's comment", path.display());
    path
}

/// Killed at the end, however that comes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many files a process may open: the limit that holds, and how far it may raise that.
fn open_files(pid: u32) -> Option<(u64, u64)> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut words = line.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// A shell gives a process a few hundred files, and tables in files take more.
#[test]
fn a_job_with_state_in_files_may_open_as_many_as_the_system_allows() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -n 200 && ulimit -H -n 3000 && exec \"$@\"", "sh"]);
    shell.arg(program()).args(["run", "--backend", "disk", "--memory", "64MiB"]);
    shell.args(["--rows", "1000000000", "--rate", "1000", "--progress", "never"]);
    for (option, name) in [("--storage", "state"), ("--output", "out"), ("--local-dir", "local")] {
        shell.arg(option).arg(dir.path().join(name));
    }
    let quiet = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut job = Killed(quiet.spawn().unwrap());
    let begun = Instant::now();
    while open_files(job.0.id()) != Some((3000, 3000)) {
        let limits = open_files(job.0.id());
        assert!(job.0.try_wait().unwrap().is_none(), "it has ended with {limits:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{limits:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
