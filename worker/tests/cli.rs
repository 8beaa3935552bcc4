//! The command line of a small real program (`examples/counts.rs`), as processes.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program. `cargo test` builds it, but not `cargo test --test cli`: there
/// `cargo build --example counts` comes first.
fn program() -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples/counts");
    assert!(path.exists(), "{} is not built: see this function's comment", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("RUST_LOG");
    command
}

struct Dirs {
    root: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// `run` with storage and output in this directory.
    fn run(&self, args: &[&str]) -> Command {
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

    /// A job that runs long, with at least one complete checkpoint.
    fn start(&self, args: &[&str]) -> Child {
        let mut child = self.run(&[&["--rate", "2000", "--rows", "1000000000"], args].concat());
        let child = child.spawn().unwrap();
        self.wait_for_checkpoint();
        child
    }

    fn wait_for_checkpoint(&self) {
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
    fn ask(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = program();
        command.args(args).args(["--storage", &self.text("state")]);
        ended(command.output().unwrap())
    }

    fn inspect(&self, name: &str) -> serde_json::Value {
        let output = program().args(["inspect", "--json", &self.text(name)]).output().unwrap();
        let (code, out, err) = ended(output);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }

    /// Counts by key and window, each exactly once.
    fn counts(&self) -> BTreeMap<(u64, i64), u64> {
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

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn wait(child: Child) -> (i32, String, String) {
    ended(child.wait_with_output().unwrap())
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

fn expected(rows: u64) -> BTreeMap<(u64, i64), u64> {
    let mut counts = BTreeMap::new();
    for row in 0..rows {
        *counts.entry((row % 10, row as i64 / 100 * 100)).or_insert(0) += 1;
    }
    counts
}

/// The job is refused with exit code 2, and the error says all of `says`.
fn refused(command: &mut Command, says: &[&str]) {
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

#[test]
fn a_job_that_finishes_exits_with_0_and_has_nothing_to_do_then() {
    let dirs = Dirs::new();
    let (code, _, err) = ended(dirs.run(&[]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(dirs.counts(), expected(20_000));
    let (code, _, err) = ended(dirs.run(&[]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("--from none"), "{err}");
    let inspected = dirs.inspect("state");
    assert_eq!(inspected["phase"], "Finished");
    let (code, out, _) = dirs.ask(&["stop"]);
    assert_eq!((code, out.trim()), (0, "no process runs the job; it has finished"));
}

/// The options of `docs/state.md`, in one process and in two that get them in a revision, as
/// pods do.
#[test]
fn state_may_lie_on_the_disk_within_a_budget_that_is_said_at_the_start() {
    let workers: &[&[&str]] =
        if cfg!(feature = "cluster") { &[&[], &["--workers", "2"]] } else { &[&[]] };
    let backends: &[&str] =
        if cfg!(feature = "rocksdb") { &["disk", "rocksdb"] } else { &["disk"] };
    for (backend, workers) in backends.iter().flat_map(|b| workers.iter().map(move |w| (b, w))) {
        let dirs = Dirs::new();
        let local = dirs.text("local");
        let spill = ["--backend", backend, "--memory", "256MiB", "--local-dir", &local];
        let (code, _, err) = ended(dirs.run(&[&spill, *workers].concat()).output().unwrap());
        assert_eq!(code, 0, "{err}");
        assert_eq!(dirs.counts(), expected(20_000));
        let told = err.lines().filter(|line| line.contains("256 MiB: tables")).count();
        assert_eq!(told, workers.len().max(1), "{err}");
        let left: Vec<_> = fs::read_dir(&local).unwrap().map(|e| e.unwrap().path()).collect();
        let holds = |path: &PathBuf| match *backend {
            "disk" => fs::read_dir(path).unwrap().count() > 0,
            _ => path.join("CURRENT").exists(),
        };
        assert!(!left.iter().any(holds), "{backend}, {workers:?}: {left:?}");
    }
}

#[test]
fn what_a_stopped_job_left_can_be_inspected_and_goes_on() {
    let dirs = Dirs::new();
    let child = dirs.start(&["--retained", "3"]);
    signal(&child, "-TERM");
    let (code, _, err) = wait(child);
    assert_eq!(code, 0, "{err}");
    assert!(!dirs.path("state/.control").exists());
    let report = dirs.inspect("state");
    assert_eq!(report["phase"], "Suspended");
    assert_eq!(report["pending"].as_array().unwrap().len(), 0);
    let operators = report["operators"].as_array().unwrap();
    let counts = operators.iter().find(|o| o["uid"] == "counts").unwrap();
    assert_eq!(counts["parallelism"], 2);
    let state = &counts["keyed"][0];
    assert_eq!((&state["key"], &state["row"]), (&"u64".into(), &"u64".into()));
    assert!(state["entries"].as_u64().unwrap() > 0, "{state}");
    let source = operators.iter().find(|o| o["uid"] == "rows").unwrap();
    let positions = source["lists"].as_array().unwrap().iter().find(|l| l["name"] == "positions");
    assert_eq!(positions.unwrap()["items"], 4);
    assert!(counts["watermarks"][0]["watermark"].as_str().unwrap().ends_with('Z'));
    let (code, out, _) = ended(program().arg("inspect").arg(dirs.path("state")).output().unwrap());
    assert_eq!(code, 0);
    assert!(
        out.contains("operator \"counts\", parallelism 2") && out.contains("u64 -> u64"),
        "{out}"
    );
    // The manifest by itself says the same of its operators.
    let manifest = PathBuf::from(report["manifest"].as_str().unwrap());
    let manifest = manifest.strip_prefix(dirs.root.path()).unwrap().display().to_string();
    assert_eq!(dirs.inspect(&manifest)["operators"], report["operators"]);
    // Goes on at another parallelism, up to where a new limit ends it.
    let (code, _, err) = ended(dirs.run(&["--parallelism", "3", "--rate", "1"]).spawn_stop());
    assert_eq!(code, 0, "{err}");
    assert_eq!(dirs.inspect("state")["operators"].as_array().unwrap().len(), operators.len());
}

trait SpawnStop {
    fn spawn_stop(&mut self) -> Output;
}

impl SpawnStop for Command {
    /// Starts it, and stops it when it has begun.
    fn spawn_stop(&mut self) -> Output {
        let child = self.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        signal(&child, "-INT");
        child.wait_with_output().unwrap()
    }
}

fn from_one(dirs: &Dirs) -> PathBuf {
    dirs.path("saved/one")
}

#[test]
fn a_savepoint_is_taken_once_and_starts_a_job_at_another_parallelism() {
    let dirs = Dirs::new();
    let rows = ["--rows", "12000", "--rate", "4000"];
    let child = dirs.run(&rows).spawn().unwrap();
    dirs.wait_for_checkpoint();
    let target = dirs.text("saved");
    let (code, path, err) = dirs.ask(&["savepoint", "--id", "one", &target]);
    assert_eq!((code, path.trim()), (0, format!("{target}/one").as_str()), "{err}");
    let first = fs::read(dirs.path("saved/one/_manifest")).unwrap();
    let again = dirs.ask(&["savepoint", "--id", "one", &target]);
    assert_eq!((again.0, &again.1), (0, &path), "{}", again.2);
    assert_eq!(fs::read(dirs.path("saved/one/_manifest")).unwrap(), first);
    let (code, _, err) = wait(child);
    assert_eq!(code, 0, "{err}");
    assert_eq!(dirs.counts(), expected(12_000));
    // No process runs: the last checkpoint is exported.
    let (code, path, err) = dirs.ask(&["savepoint", "--id", "two", &target]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(path.trim(), format!("{target}/two"));
    assert_eq!(dirs.inspect("saved/two")["kind"], "savepoint");
    // A renamed one is told its name.
    let renamed = Dirs::new();
    let copy = renamed.path("copy");
    assert!(
        Command::new("cp").arg("-r").arg(from_one(&dirs)).arg(&copy).status().unwrap().success()
    );
    refused(renamed.run(&[]).arg("--from").arg(&copy), &["was called one when it was taken"]);
    // The rest of the rows, by another job: together with what the first one had
    // written by then it is all.
    let other = Dirs::new();
    let mut run = other.run(&[&rows[..], &["--parallelism", "3"]].concat());
    let from = from_one(&dirs);
    let (code, _, err) = ended(run.arg("--from").arg(&from).output().unwrap());
    assert_eq!(code, 0, "{err}");
    let (rest, all) = (other.counts(), expected(12_000));
    assert!(!rest.is_empty() && rest.iter().all(|(window, n)| all[window] == *n), "{rest:?}");
    let last = all.keys().map(|(_, window)| *window).max().unwrap();
    assert!(rest.keys().any(|(_, window)| *window == last));
    let from_the_start = rest.keys().map(|(_, window)| *window).min().unwrap();
    assert!(from_the_start > 0, "it began from nothing");
    refused(program().args(["inspect", &target]), &["one, two"]);
    fs::rename(dirs.path("saved/two"), dirs.path("saved/renamed")).unwrap();
    assert_eq!(dirs.inspect("saved/renamed")["kind"], "savepoint");
    refused(
        program().args(["savepoint", "--id", "one", &target, "--storage", &other.text("state")]),
        &["saved/one is a savepoint of job", "choose another id"],
    );
    refused(
        program().args(["savepoint", "--id", "../x", &target, "--storage", &dirs.text("state")]),
        &["../x"],
    );
}

#[test]
fn stop_waits_for_the_last_checkpoint() {
    let dirs = Dirs::new();
    let child = dirs.start(&[]);
    let (code, out, _) = dirs.ask(&["status"]);
    assert_eq!(code, 0);
    assert!(out.contains("running") && out.contains("counts"), "{out}");
    let (code, out, err) = dirs.ask(&["stop"]);
    assert_eq!((code, out.trim()), (0, "stopped with a last checkpoint"), "{err}");
    assert_eq!(wait(child).0, 0);
    assert_eq!(dirs.inspect("state")["phase"], "Suspended");
    let (code, out, _) = dirs.ask(&["status"]);
    assert_eq!(code, 0);
    assert!(out.contains("it is stopped, and goes on when it is run"), "{out}");
    // Drained: every row that was read is in a window that was written.
    let dirs = Dirs::new();
    let child = dirs.start(&[]);
    let (code, out, err) = dirs.ask(&["stop", "--drain"]);
    assert_eq!((code, out.trim()), (0, "finished"), "{err}");
    assert_eq!(wait(child).0, 0);
    // Windows that event time had not passed yet were fired too.
    assert!(dirs.counts().values().any(|count| *count < 10));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let dirs = Dirs::new();
        fs::create_dir(dirs.path("out")).unwrap();
        // It cannot take a checkpoint while it stalls.
        let child = dirs.run(&["--stall-at", "5000"]).spawn().unwrap();
        let begun = Instant::now();
        while !dirs.path("out/stalled").exists() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        signal(&child, name);
        std::thread::sleep(Duration::from_millis(300));
        let (asked, out, _) = dirs.ask(&["status"]);
        assert!(asked == 0 && out.contains("stopping"), "{out}");
        signal(&child, name);
        let (found, _, err) = wait(child);
        assert_eq!(found, code, "{err}");
        assert!(begun.elapsed() < Duration::from_secs(25));
        assert!(!dirs.path("state/.control").exists());
        // Nothing is lost: run again, it gives all.
        let (code, _, err) = ended(dirs.run(&[]).output().unwrap());
        assert_eq!(code, 0, "{err}");
        assert_eq!(dirs.counts(), expected(20_000));
    }
}

#[test]
fn a_failing_job_exits_with_1_and_says_where() {
    let dirs = Dirs::new();
    let mut run = dirs.run(&["--panic-at", "777", "--restart", "fixed:1:10ms"]);
    let (code, _, err) = ended(run.output().unwrap());
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("row 777 is not to be counted"), "{err}");
    let (code, out, _) = dirs.ask(&["status"]);
    assert_eq!(code, 0);
    assert!(out.contains("it has failed"), "{out}");
}

#[test]
fn what_only_the_user_can_mend_exits_with_2() {
    let dirs = Dirs::new();
    refused(&mut dirs.run(&["--uid", "rows"]), &["uid \"rows\" is used twice"]);
    refused(
        &mut dirs.run(&["--parallelism", "9", "--max-parallelism", "8"]),
        &["parallelism 9, above the max parallelism 8"],
    );
    refused(&mut dirs.run(&["--max-parallelism", "40000"]), &["40000 is not between 1 and 32768"]);
    refused(&mut dirs.run(&["--restart", "sometimes"]), &["fixed:N:DELAY"]);
    refused(&mut dirs.run(&["--parallelism", "0"]), &["--parallelism"]);
    refused(&mut dirs.run(&["--memory", "1GiB"]), &["--backend disk"]);
    refused(&mut dirs.run(&["--memory", "1GB"]), &["KiB, MiB or GiB"]);
    let small = ["--backend", "disk", "--memory", "1MiB"];
    refused(&mut dirs.run(&small), &["1 MiB of memory are too few"]);
    if !cfg!(feature = "rocksdb") {
        let why = ["built without this backend", "rocksdb"];
        refused(&mut dirs.run(&["--backend", "rocksdb"]), &why);
    }
    refused(&mut dirs.run(&["--from", &dirs.text("nowhere")]), &["nowhere", "path of a savepoint"]);
    assert!(!dirs.path("state").exists(), "nothing was touched");
    fs::write(dirs.path("file"), "").unwrap();
    let inside = dirs.text("file/state");
    refused(&mut dirs.run(&["--storage", &inside]), &["file/state"]);
    refused(&mut dirs.run(&["--dead-letters", &inside]), &["dead letters", "file/state"]);
    for command in ["status", "stop", "savepoint"] {
        let mut ask = program();
        ask.args([command, "--storage", &dirs.text("no-such")]);
        if command == "savepoint" {
            ask.arg(dirs.path("saved"));
        }
        refused(&mut ask, &["no-such is not the storage of a job"]);
        assert!(!dirs.path("no-such").exists());
    }
    refused(program().arg("inspect").arg(dirs.path("no-such")), &["no-such"]);
    refused(program().arg("inspect").arg(dirs.root.path()), &["neither the storage of a job nor"]);
    refused(program().arg("inspect").arg(dirs.path("file")), &["file is damaged"]);
}

#[test]
fn a_directory_in_use_is_refused() {
    let dirs = Dirs::new();
    let child = dirs.start(&[]);
    let pid = child.id().to_string();
    refused(&mut dirs.run(&[]), &["in use by process", &pid]);
    signal(&child, "-KILL");
    assert_eq!(wait(child).0, -1);
    // What a killed process left is no obstacle.
    let child = dirs.start(&[]);
    let (code, _, err) = dirs.ask(&["stop"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(wait(child).0, 0);
}

#[test]
fn another_max_parallelism_or_a_lost_operator_is_refused() {
    let dirs = Dirs::new();
    let child = dirs.start(&[]);
    dirs.ask(&["stop"]);
    wait(child);
    refused(&mut dirs.run(&["--max-parallelism", "64"]), &["max parallelism 1024", "64"]);
    refused(&mut dirs.run(&["--uid", "totals"]), &["\"counts\"", "does not have"]);
}

/// Changes a file, sees the job and `inspect` refuse it by name, and puts it back.
fn damaged(dirs: &Dirs, file: &Path, says: &str, damage: impl Fn(&mut Vec<u8>)) {
    let good = fs::read(file).unwrap();
    let mut bad = good.clone();
    damage(&mut bad);
    fs::write(file, &bad).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    refused(program().arg("inspect").arg(dirs.path("state")), &[name, says]);
    refused(&mut dirs.run(&["--restart", "fixed:1:10ms"]), &[name, says]);
    fs::write(file, good).unwrap();
}

#[test]
fn damaged_files_are_named() {
    let dirs = Dirs::new();
    let child = dirs.start(&[]);
    dirs.ask(&["stop"]);
    wait(child);
    let report = dirs.inspect("state");
    let manifest = PathBuf::from(report["manifest"].as_str().unwrap());
    damaged(&dirs, &manifest, "damaged", |bytes| bytes.truncate(30));
    damaged(&dirs, &manifest, "damaged", |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    damaged(&dirs, &manifest, "has format 9", |bytes| bytes[8] = 9);
    // The newest one: of older ones all may be dead.
    let files = report["files"].as_array().unwrap();
    let newest = files.iter().max_by_key(|file| file["checkpoint"].as_u64());
    let state = PathBuf::from(newest.unwrap()["path"].as_str().unwrap());
    damaged(&dirs, &state, "bytes", |bytes| bytes.truncate(50));
    damaged(&dirs, &state, "corrupt", |bytes| {
        let at = bytes.len() - 30;
        bytes[at] ^= 1;
    });
    damaged(&dirs, &state, "has format 9", |bytes| {
        let at = bytes.len() - 12;
        bytes[at] = 9;
    });
    damaged(&dirs, &state, "corrupt", |bytes| bytes[40] ^= 1);
    // All is as it was.
    let (code, _, err) = ended(dirs.run(&["--rate", "1"]).spawn_stop());
    assert_eq!(code, 0, "{err}");
}
