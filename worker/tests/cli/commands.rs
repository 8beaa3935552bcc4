//! The commands, their exit codes, and what only the user can mend.

use crate::common::{Dirs, ended, expected, kept, program, refused, signal, tree, wait};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

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
    let before = tree(dirs.root.path());
    refused(&mut dirs.run(&["--max-parallelism", "64"]), &["max parallelism 1024", "64"]);
    refused(&mut dirs.run(&["--uid", "totals"]), &["\"counts\"", "does not have"]);
    kept(&before, "refused");
}

/// Changes a file, sees the job and `inspect` refuse it by name, and puts it back.
fn damaged(dirs: &Dirs, file: &Path, says: &str, damage: impl Fn(&mut Vec<u8>)) {
    let good = fs::read(file).unwrap();
    let mut bad = good.clone();
    damage(&mut bad);
    fs::write(file, &bad).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let before = tree(&dirs.path("state"));
    refused(program().arg("inspect").arg(dirs.path("state")), &[name, says]);
    refused(&mut dirs.run(&["--restart", "fixed:1:10ms"]), &[name, says]);
    kept(&before, says);
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
