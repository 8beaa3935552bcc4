//! The newest checkpoint is damaged: the job goes back to an older one by itself where
//! nothing was committed since, and else stops and names the file.

use crate::common::{assert_same, multiset, options, run_until, run_watched};
use millrace::connectors::{Collected, Generator};
use millrace::engine::coordinator::Outcome;
use millrace::engine::job::{Handle, JobError, JobOptions};
use millrace::prelude::*;
use millrace::protocol::manifest::Manifest;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROWS: u64 = 60_000;
const KEYS: u64 = 50;
/// Rows at the beginning and at the end that a quiet job writes.
const LOUD: u64 = 1_000;
/// Where it is stopped: many checkpoints after it fell quiet.
const STOPPED: u64 = 30_000;

type Row = (u64, u64, u64);

fn is_written(quiet: bool, i: u64) -> bool {
    !quiet || !(LOUD..ROWS - LOUD).contains(&i)
}

/// Counts rows by key, and writes each count, or only those of the first and last rows.
fn job(out: &Collected<Row>, quiet: bool, rate: Option<u64>) -> Handle {
    let env = Env::new();
    let mut rows = Generator::new(|i| i).count(ROWS).splits(1);
    if let Some(rate) = rate {
        rows = rows.rate(rate);
    }
    env.source("rows", rows, Watermarks::none())
        .map(|i| (i % KEYS, i, 1u64))
        .key_by(|row| row.0)
        .reduce("counts", |sum, row| *sum = (row.0, row.1, sum.2 + 1))
        .filter(move |row| is_written(quiet, row.1))
        .sink("out", out.sink());
    Handle::new(env.into_graph())
}

fn keeping_three(storage: &Path) -> JobOptions {
    let mut options = options(storage, 2);
    options.checkpoints.retained = 3;
    options
}

/// Stops the job in the middle. What it has written.
fn stopped(storage: &Path, quiet: bool) -> Vec<Row> {
    let out = Collected::new();
    run_until(&job(&out, quiet, Some(20_000)), keeping_three(storage), "counts", STOPPED);
    out.rows()
}

fn run_on(storage: &Path, quiet: bool) -> Result<Vec<Row>, JobError> {
    let out = Collected::new();
    let ended = run_watched(&job(&out, quiet, None), keeping_three(storage))?;
    assert_eq!(ended, Outcome::Finished);
    Ok(out.rows())
}

fn is_complete(rows: Vec<Row>, quiet: bool, what: &str) {
    let written = (0..ROWS).filter(|i| is_written(quiet, *i));
    let expected = written.map(|i| (i % KEYS, i, i / KEYS + 1));
    assert_same(&multiset(rows), &multiset(expected), what);
}

/// The newest manifest, and the newest of its state files.
fn newest(storage: &Path) -> (PathBuf, PathBuf) {
    let mut found = Vec::new();
    let mut look = vec![storage.to_owned()];
    while let Some(directory) = look.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match name.strip_prefix("m-").and_then(|n| n.parse::<u64>().ok()) {
                _ if path.is_dir() => look.push(path),
                Some(number) => found.push((number, path)),
                None => {}
            }
        }
    }
    assert_eq!(found.len(), 3, "three are kept: {found:?}");
    let (_, manifest) = found.into_iter().max().unwrap();
    let read = Manifest::decode("manifest", &fs::read(&manifest).unwrap()).unwrap();
    let file = read.files.iter().max_by_key(|file| file.order).unwrap();
    assert_eq!(file.order.checkpoint, read.checkpoint, "its own file");
    (manifest, storage.join(file.key.as_str()))
}

type Damage = fn(&Path);

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

/// Another file of the same kind under its name.
fn swap(path: &Path) {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let kind = name(path).chars().next().unwrap();
    let others = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let other = others.filter(|other| other != path && name(other).starts_with(kind)).min();
    fs::copy(other.unwrap(), path).unwrap();
}

const DAMAGES: [(&str, Damage); 4] =
    [("cut", cut), ("flipped", flip), ("missing", remove), ("swapped", swap)];

/// Does each damage to a copy of a storage, to its newest manifest and to a state file.
fn with_each_damage(storage: &Path, then: impl Fn(&Path, &Path, &str)) {
    for (what, damage) in DAMAGES {
        for of_manifest in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let copy = dir.path().join("storage");
            let copied = Command::new("cp").arg("-r").arg(storage).arg(&copy).status().unwrap();
            assert!(copied.success());
            let (manifest, state) = newest(&copy);
            let (file, kind) = if of_manifest { (manifest, "manifest") } else { (state, "state") };
            damage(&file);
            then(&copy, &file, &format!("{kind} {what}"));
        }
    }
}

#[test]
fn a_job_goes_back_over_checkpoints_since_which_nothing_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let before = stopped(dir.path(), true);
    assert_eq!(before.len() as u64, LOUD);
    with_each_damage(dir.path(), |storage, _, what| {
        let after = run_on(storage, true).unwrap_or_else(|error| panic!("{what}: {error}"));
        is_complete([before.clone(), after].concat(), true, what);
    });
}

#[test]
fn a_job_whose_output_would_come_twice_stops_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let before = stopped(dir.path(), false);
    with_each_damage(dir.path(), |storage, file, what| {
        let error = run_on(storage, false).unwrap_err();
        let (text, name) = (error.to_string(), file.file_name().unwrap().to_str().unwrap());
        assert!(matches!(error, JobError::User(_)), "{what}: {text}");
        assert!(text.contains(name), "{what}: {text}");
        // Put back, it goes on from where it was.
        let sound = dir.path().join(file.strip_prefix(storage).unwrap());
        fs::copy(sound, file).unwrap();
        is_complete([before.clone(), run_on(storage, false).unwrap()].concat(), false, what);
    });
}
