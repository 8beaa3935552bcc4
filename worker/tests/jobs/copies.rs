//! Copies of checkpoint files on the machine: used if they are sound, as good as none if
//! they are not.

use crate::common::{Counts, assert_same, multiset, options, run_until, run_watched};
use millrace::connectors::Collected;
use millrace::engine::coordinator::Outcome;
use std::fs;
use std::path::{Path, PathBuf};

const JOB: Counts = Counts { rows: 40_000, keys: 3_000, rate: 40_000 };

/// All files below a directory that are state of slots.
fn state_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(state_files(&path));
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let name = name.rsplit(',').next().unwrap().to_owned();
        if name.starts_with('s') && name.contains("-c") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file of blocks of which none is what it was.
fn damage_blocks(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let blocks = bytes.len() / 2;
    bytes[..blocks].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(path, bytes).unwrap();
}

/// Suspends the job half-way, does something to its files, and lets it run to its end:
/// `near`: the copies, `far`: what the storage holds.
fn resumed_after(what: &str, between: impl Fn(&[PathBuf], &[PathBuf])) {
    let dir = tempfile::tempdir().unwrap();
    let (storage, copies) = (dir.path().join("storage"), dir.path().join("copies"));
    let out = Collected::new();
    let options = || {
        let mut options = options(&storage, 2);
        options.copies = Some(copies.clone());
        options
    };
    run_until(&JOB.job(&out), options(), "running", 20_000);
    let (near, far) = (state_files(&copies), state_files(&storage));
    assert!(!near.is_empty(), "{what}: there are no copies");
    assert!(near.len() <= far.len(), "{what}: copies of files that are gone: {near:?} {far:?}");
    between(&near, &far);
    let ended = run_watched(&JOB.job(&out), options()).unwrap();
    assert_eq!(ended, Outcome::Finished, "{what}");
    assert_same(&multiset(out.rows()), &JOB.expected(), what);
}

#[test]
fn state_is_read_from_sound_copies() {
    resumed_after("with originals that nobody could read", |_, far| {
        far.iter().for_each(|path| damage_blocks(path));
    });
}

#[test]
fn copies_that_are_not_sound_are_as_good_as_none() {
    resumed_after("with damaged blocks", |near, _| {
        near.iter().for_each(|path| damage_blocks(path));
    });
    resumed_after("with truncated files", |near, _| {
        for path in near {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        }
    });
    resumed_after("with files under each other's names", |near, _| {
        let contents: Vec<_> = near.iter().map(|path| fs::read(path).unwrap()).collect();
        for (path, bytes) in near.iter().zip(contents.iter().rev()) {
            fs::write(path, bytes).unwrap();
        }
    });
    resumed_after("without copies", |near, _| {
        near.iter().for_each(|path| fs::remove_file(path).unwrap());
    });
}
