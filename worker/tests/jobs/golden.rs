//! A storage directory of format 1, as it was written when that format was new: this
//! version, and every later one, must go on from it.
//!
//! It is made anew, which only a new format calls for, by
//! `cargo test -p millrace --test jobs -- --ignored make_the_golden_storage`, into
//! `worker/engine/tests/golden/storage-N`; what was there stays for good.

use crate::common::{Counts, Out, assert_same, multiset, options, run_watched};
use millrace::connectors::Collected;
use millrace::connectors::collection::{CollectCommit, CollectSink};
use millrace::engine::connector::{Committed, Committer, Sink, SinkCx};
use millrace::engine::coordinator::{Outcome, RestartPolicy};
use millrace::engine::job::JobError;
use millrace::prelude::*;
use millrace::protocol::ids::{Attempt, JobUid, Uid};
use millrace::protocol::manifest::Manifest;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Windows and running counts: keyed state in both forms, positions of splits.
const JOB: Counts = Counts { rows: 600, keys: 7, rate: 2_000 };

fn golden() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .join("engine/tests/golden/storage-1")
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in crate::refusals::tree(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

/// The output is what it would have been: state, positions and what was prepared and never
/// committed are all taken up.
#[test]
fn storage_of_format_1_is_taken_up() {
    let manifest = crate::refusals::tree(&golden())
        .into_iter()
        .filter(|(path, _)| path.to_string_lossy().contains("/m-"))
        .map(|(path, bytes)| Manifest::decode(&path.display().to_string(), &bytes).unwrap())
        .max_by_key(|manifest| manifest.checkpoint)
        .unwrap();
    assert!(!manifest.pending.is_empty() && manifest.files.len() > 2);
    let lists = manifest.operators.iter().flat_map(|o| &o.lists);
    assert!(lists.clone().count() > 0 && lists.clone().all(|list| !list.shape.0.is_empty()));
    for parallelism in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        copy(&golden(), dir.path());
        let out = Collected::new();
        let outcome = run_watched(&JOB.job(&out), options(dir.path(), parallelism));
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        assert_same(&multiset(out.rows()), &JOB.expected(), "from the golden storage");
    }
}

/// A sink that prepares and never commits.
#[derive(Clone)]
struct Closed(CollectSink<Out>);

impl Sink<Out> for Closed {
    type Commit = CollectCommit<Out>;
    type Writer = <CollectSink<Out> as Sink<Out>>::Writer;
    type Committer = Closed;

    fn writer(&self, cx: SinkCx) -> Res<Self::Writer> {
        self.0.writer(cx)
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Closed> {
        Ok(self.clone())
    }
}

impl Committer<CollectCommit<Out>> for Closed {
    fn commit(&mut self, _: &CollectCommit<Out>) -> Res<Committed> {
        Err("closed".into())
    }

    fn abort_others(&mut self, _: Attempt, _: &[CollectCommit<Out>]) -> Res {
        Ok(())
    }
}

#[test]
#[ignore = "writes the golden files: only for a new format"]
fn make_the_golden_storage() {
    let dir = golden();
    assert!(!dir.exists(), "{} is there: golden files are not replaced", dir.display());
    let stop = |row| if row > 400 { Err("far enough".into()) } else { Ok(row) };
    let handle = JOB.build(Closed(Collected::new().sink()), stop);
    let mut options = options(&dir, 2);
    options.checkpoints.interval = Some(Duration::from_millis(40));
    options.restart = RestartPolicy::None;
    let error = run_watched(&handle, options).unwrap_err();
    assert!(matches!(error, JobError::Failed(_)), "{error}");
    fs::remove_file(dir.join(".owner")).unwrap();
}
