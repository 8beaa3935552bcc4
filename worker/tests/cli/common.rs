//! Programs as processes, and directories for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The job of `examples/counts.rs`.
pub fn program() -> Command {
    example("counts")
}

/// A program of `examples/`. `cargo test` builds them, but not `cargo test --test cli`: there
/// `cargo build --examples` comes first.
pub fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples").join(name);
    assert!(path.exists(), "{} is not built: see this function's comment", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("RUST_LOG");
    command
}

pub struct Dirs {
    pub root: tempfile::TempDir,
}

impl Dirs {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// `run` with storage and output in this directory.
    pub fn run(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.arg("run").args(["--storage", &self.text("state"), "--output", &self.text("out")]);
        command.args(["--checkpoint-interval", "200ms", "--parallelism", "2"]);
        for pair in args.chunks(2) {
            // What a test says counts instead.
            let mut all: Vec<_> = command.get_args().map(|a| a.to_owned()).collect();
            if let Some(at) = all.iter().position(|a| a == pair[0]) {
                all.drain(at..at + 2);
                command = program();
                command.args(all);
            }
            command.args(pair);
        }
        command
    }

    /// `run` of the program that copies the rows of files, from `input` in this directory.
    pub fn copy(&self, input: &str, args: &[&str]) -> Command {
        let mut command = example("lines");
        command.args(["run", "--storage", &self.text("state"), "--output", &self.text("out")]);
        command.args(["--input", &self.text(input), "--checkpoint-interval", "50ms"]);
        command.args(["--parallelism", "2"]).args(args);
        command
    }

    /// The numbers of the rows that were copied, in order.
    pub fn copied(&self) -> Vec<u64> {
        let files = tree(&self.path("out")).into_iter();
        let files = files.filter(|(path, _)| path.extension().is_some_and(|e| e == "csv"));
        let mut rows: Vec<u64> = files
            .filter(|(path, _)| !path.to_string_lossy().contains("/.millrace/"))
            .flat_map(|(_, bytes)| {
                let text = String::from_utf8(bytes).unwrap();
                let lines = text.lines().skip(1);
                lines.map(|l| l.split_once(',').unwrap().0.parse().unwrap()).collect::<Vec<_>>()
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// A job that runs long, with at least one complete checkpoint.
    pub fn start(&self, args: &[&str]) -> Child {
        let mut child = self.run(&[&["--rate", "2000", "--rows", "1000000000"], args].concat());
        let child = child.spawn().unwrap();
        self.wait_for_checkpoint();
        child
    }

    pub fn wait_for_checkpoint(&self) {
        let begun = Instant::now();
        loop {
            let (code, out, _) = self.ask(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
            if code == 0 && status["checkpoint"]["id"].is_u64() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint: {out}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Another command about the storage directory.
    pub fn ask(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = program();
        command.args(args).args(["--storage", &self.text("state")]);
        ended(command.output().unwrap())
    }

    pub fn inspect(&self, name: &str) -> serde_json::Value {
        let output = program().args(["inspect", "--json", &self.text(name)]).output().unwrap();
        let (code, out, err) = ended(output);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }

    /// Counts by key and window, each exactly once.
    pub fn counts(&self) -> BTreeMap<(u64, i64), u64> {
        let mut counts = BTreeMap::new();
        for entry in fs::read_dir(self.path("out")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "csv") {
                continue;
            }
            for line in fs::read_to_string(path).unwrap().lines().skip(1) {
                let numbers: Vec<i64> = line.split(',').map(|n| n.parse().unwrap()).collect();
                let window = (numbers[0] as u64, numbers[1]);
                let twice = counts.insert(window, numbers[2] as u64);
                assert_eq!(twice, None, "window {window:?} was written twice");
            }
        }
        counts
    }
}

/// All files below a directory with what is in them, but the lock, which names the process.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        // A running job may remove files.
        if path.is_dir() {
            found.extend(tree(&path));
        } else if path.file_name().unwrap() != ".owner"
            && let Ok(bytes) = fs::read(&path)
        {
            found.insert(path, bytes);
        }
    }
    found
}

/// Fails unless all these files are as they were; others may have come.
pub fn kept(files: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    for (path, bytes) in files {
        let same = fs::read(path).is_ok_and(|now| now == *bytes);
        assert!(same, "{what}: {} was changed", path.display());
    }
}

/// Waits until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

pub fn wait(child: Child) -> (i32, String, String) {
    ended(child.wait_with_output().unwrap())
}

pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

pub fn expected(rows: u64) -> BTreeMap<(u64, i64), u64> {
    let mut counts = BTreeMap::new();
    for row in 0..rows {
        *counts.entry((row % 10, row as i64 / 100 * 100)).or_insert(0) += 1;
    }
    counts
}

/// The job is refused with exit code 2, and the error says all of `says`.
pub fn refused(command: &mut Command, says: &[&str]) {
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (code, _, err) = wait(child);
    assert_eq!(code, 2, "{err}");
    for text in says {
        assert!(err.contains(text), "{text:?} is not in: {err}");
    }
}
