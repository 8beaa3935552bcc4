//! What a user must mend: each is a clear error that names the thing and what to do, and
//! nothing that was there is changed.

use crate::common::{Counts, Out, assert_same, multiset, options, run_until, run_watched};
use millrace::connectors::{Blackhole, Collected, Collection, Generator};
use millrace::engine::coordinator::{Outcome, RestoreChoice};
use millrace::engine::job::{Handle, JobError, JobOptions};
use millrace::engine::store::lock::OwnerLock;
use millrace::prelude::*;
use millrace::protocol::keygroup::MaxParallelism;
use millrace::protocol::manifest::Manifest;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const JOB: Counts = Counts { rows: 3_000, keys: 13, rate: 10_000 };

/// All files with what is in them, but the lock, which names the process.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else if path.file_name().unwrap() != ".owner" {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// A job that was stopped in the middle.
fn stopped(dir: &Path, out: &Collected<Out>) {
    run_until(&JOB.job(out), options(dir, 2), "running", 1_000);
}

/// The job must be refused, in these words, and what was in the storage is there still.
fn refused(handle: &Handle, options: JobOptions, says: &[&str]) -> String {
    let dir = PathBuf::from(&options.storage);
    let before = if dir.is_dir() { tree(&dir) } else { BTreeMap::new() };
    let error = run_watched(handle, options).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, JobError::User(_)), "not the user's: {text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    if dir.is_dir() {
        let after = tree(&dir);
        for (path, bytes) in &before {
            assert!(after.get(path) == Some(bytes), "{} was changed: {text}", path.display());
        }
    }
    text
}

/// In the end the job can still go on.
fn goes_on(dir: &Path, out: &Collected<Out>) {
    assert_eq!(run_watched(&JOB.job(out), options(dir, 3)).unwrap(), Outcome::Finished);
    assert_same(&multiset(out.rows()), &JOB.expected(), "after refusals");
}

#[test]
fn a_program_that_does_not_fit_its_storage() {
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    stopped(dir.path(), &out);
    let with = |change: &dyn Fn(&mut JobOptions)| {
        let mut options = options(dir.path(), 2);
        change(&mut options);
        options
    };
    refused(
        &JOB.job(&out),
        with(&|o| o.max_parallelism = MaxParallelism::new(64).unwrap()),
        &["max parallelism", "64", "fixed for a job's life"],
    );
    refused(
        &JOB.job(&out),
        with(&|o| o.parallelism = o.max_parallelism.get() + 1),
        &["\"rows\"", "above the max parallelism", "lower it"],
    );
    // A program without the state that there is.
    let env = Env::new();
    env.source("rows", Generator::new(|i| i).count(5), Watermarks::none())
        .map(|i| ("other".to_owned(), i, 0i64, 0u64))
        .sink("windows out", out.sink());
    let text = refused(&Handle::new(env.into_graph()), with(&|_| {}), &["put it back"]);
    assert!(text.contains("windows") || text.contains("running"), "{text}");
    goes_on(dir.path(), &out);
}

#[test]
fn two_operators_of_one_uid() {
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    let env = Env::new();
    let rows = env.source("rows", Collection::new(0u64..5), Watermarks::none()).erase();
    for _ in 0..2 {
        rows.clone()
            .key_by(|i| *i)
            .reduce("sum", |acc, i| *acc += i)
            .map(|i| i)
            .sink("out", out.sink());
    }
    let storage = dir.path().join("new");
    refused(&Handle::new(env.into_graph()), options(&storage, 2), &["\"sum\"", "twice", "its own"]);
    assert!(!storage.exists(), "nothing is made");
}

#[test]
fn a_checkpoint_of_another_job() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    let out = Collected::new();
    stopped(&mine, &out);
    stopped(&other, &Collected::new());
    let manifest = newest(&other, "/m-");
    let mut from = options(&mine, 2);
    from.from = RestoreChoice::Path(manifest.display().to_string());
    refused(&JOB.job(&out), from, &["belongs to job", "take a savepoint of that job"]);
    let mut from = options(&mine, 2);
    from.from = RestoreChoice::Path(dir.path().join("nowhere").display().to_string());
    refused(&JOB.job(&out), from, &["cannot read", "nowhere", "give a savepoint's directory"]);
    goes_on(&mine, &out);
}

/// The last of the files whose path holds `part`.
fn newest(dir: &Path, part: &str) -> PathBuf {
    files(dir, part).pop().unwrap()
}

fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        tree(dir).into_keys().filter(|p| p.to_string_lossy().contains(part)).collect();
    found.sort_by_key(|p| fs::metadata(p).unwrap().modified().unwrap());
    found
}

/// Damages a file, starts the job, and mends the file.
fn damaged(dir: &Path, file: &Path, says: &[&str], damage: impl Fn(&mut Vec<u8>)) {
    let sound = fs::read(file).unwrap();
    let mut bytes = sound.clone();
    damage(&mut bytes);
    println!("{}: {} bytes instead of {}", file.display(), bytes.len(), sound.len());
    fs::write(file, &bytes).unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let says: Vec<&str> = says.iter().copied().chain([name.as_str()]).collect();
    refused(&JOB.job(&Collected::new()), options(dir, 3), &says);
    fs::write(file, sound).unwrap();
}

#[test]
fn damaged_manifests_and_state_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    stopped(dir.path(), &out);
    let manifest = newest(dir.path(), "/m-");
    let anew = "start from another checkpoint or savepoint";
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let flip = |at: fn(usize) -> usize| {
        move |bytes: &mut Vec<u8>| {
            let at = at(bytes.len());
            bytes[at] ^= 0x40;
        }
    };
    damaged(dir.path(), &manifest, &["damaged", anew], half);
    damaged(dir.path(), &manifest, &["damaged", anew], flip(|n| n / 2));
    damaged(dir.path(), &manifest, &["damaged", anew], Vec::clear);
    damaged(dir.path(), &manifest, &["format", "newer"], |bytes| bytes[8] = 9);
    let head = newest(dir.path(), "/head/");
    damaged(dir.path(), &head, &["damaged"], half);
    // The newest of its files: all that is in it counts.
    let checkpoint = Manifest::decode("manifest", &fs::read(&manifest).unwrap()).unwrap();
    let state = checkpoint.files.iter().max_by_key(|file| file.order).unwrap();
    let state = &dir.path().join(state.key.as_str());
    let cure = "or resume from another checkpoint or savepoint";
    damaged(dir.path(), state, &["damaged", anew], half);
    damaged(dir.path(), state, &["corrupt", cure], flip(|_| 40));
    damaged(dir.path(), state, &["corrupt", cure], flip(|n| n - 40));
    damaged(dir.path(), state, &["format 9", "newer"], |bytes| {
        let at = bytes.len() - 12;
        bytes[at] = 9;
    });
    fs::rename(state, dir.path().join("aside")).unwrap();
    refused(&JOB.job(&Collected::new()), options(dir.path(), 2), &["is missing", anew]);
    fs::rename(dir.path().join("aside"), state).unwrap();
    goes_on(dir.path(), &out);
}

/// A sound file of another checkpoint, of the same length, is not taken for this one's.
#[test]
fn a_state_file_of_another_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    let run = |storage: &Path, value: u64| {
        let env = Env::new();
        env.source("rows", Generator::new(|i| i).rate(2_000), Watermarks::none())
            .flat_map(|i| if i == 0 { 0..50 } else { i..i + 1 })
            .map(move |i| (i % 50, value))
            .key_by(|r| r.0)
            .reduce("highest", |acc, row| acc.1 = acc.1.max(row.1))
            .sink("out", Blackhole);
        let handle = Handle::new(env.into_graph());
        let mut options = options(storage, 1);
        // Only that of the stop, with all of the state in one file.
        options.checkpoints.interval = None;
        (handle, options)
    };
    let file_of = |storage: &Path, value: u64| {
        let (handle, options) = run(storage, value);
        run_until(&handle, options, "highest", 60);
        newest(storage, "/s0-")
    };
    let file = file_of(&mine, 7);
    let sound = fs::read(&file).unwrap();
    // The length depends on checksums, a little.
    let others = (8..50).map(|value| file_of(&other.join(value.to_string()), value));
    let swapped = others.map(|file| fs::read(file).unwrap()).find(|f| f.len() == sound.len());
    let swapped = swapped.unwrap();
    fs::write(&file, swapped).unwrap();
    let (handle, options) = run(&mine, 7);
    let name = file.display().to_string();
    refused(&handle, options, &[&name, "another file than the one that the checkpoint names"]);
    fs::write(&file, sound).unwrap();
    let (handle, options) = run(&mine, 7);
    run_until(&handle, options, "highest", 10);
}

#[test]
fn storage_in_use_or_not_writable() {
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    stopped(dir.path(), &out);
    let lock = OwnerLock::acquire(dir.path()).unwrap();
    refused(&JOB.job(&out), options(dir.path(), 2), &["in use by process", "another directory"]);
    drop(lock);
    goes_on(dir.path(), &out);
    // A file where the directory should be: root may write anywhere else.
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    refused(&JOB.job(&out), options(&file, 2), &["file"]);
    refused(&JOB.job(&out), options(&file.join("below"), 2), &["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
    refused(&JOB.job(&out), options(Path::new("/proc/millrace"), 2), &["/proc/millrace"]);
}
