//! `check`, which a pod runs before a job is stopped for a new program or configuration:
//! what it lets pass, and what it refuses with which words.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

use std::path::Path;
use std::process::Command;

/// A configuration as the controller writes it, with what a case changes.
struct Case<'a> {
    storage: &'a Path,
    args: &'a [&'a str],
    backend: &'a str,
    live: &'a str,
}

impl<'a> Case<'a> {
    fn new(storage: &'a Path) -> Self {
        Self { storage, args: &["--output", "out"], backend: "Memory", live: r#""parallelism":2"# }
    }

    /// Exit code, and what was said.
    fn check(&self) -> (Option<i32>, String) {
        let files = tempfile::tempdir().unwrap();
        let (config, live) = (files.path().join("revision.json"), files.path().join("live.json"));
        let revision = format!(
            r#"{{"format":1,"name":"shop/delays","job":"flight-delays","args":{:?},
                "max_parallelism":1024,"slots_per_worker":2,"backend":{:?},
                "storage":{{"directory":{{"path":{:?}}}}}}}"#,
            self.args, self.backend, self.storage
        );
        std::fs::write(&config, revision).unwrap();
        let text =
            format!(r#"{{"format":1,"generation":1,"revision":"r","workers":1,{}}}"#, self.live);
        std::fs::write(&live, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_flight-delays"));
        command.arg("check").arg("--config").arg(config).arg("--live").arg(live);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    fn passes(&self, words: &str) {
        let (code, said) = self.check();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(words), "{said}");
    }

    fn is_refused(&self, words: &str) {
        let (code, said) = self.check();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_program_passes_that_can_take_the_job_over() {
    let (output, ran, new) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let example = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut run = Command::new(env!("CARGO_BIN_EXE_flight-delays"));
    run.arg("run").arg("--input").arg(example.join("data/flights-2013-01.csv.gz"));
    run.arg("--output").arg(output.path()).arg("--storage").arg(ran.path());
    let ended = run.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Case::new(new.path()).passes("there is no checkpoint yet");
    Case::new(ran.path()).passes("keeps state of");
    let begun = r#""parallelism":2,"begun":true"#;
    Case { live: begun, ..Case::new(ran.path()) }.passes("keeps state of");
}

#[test]
fn what_would_lose_state_or_not_run_is_refused_with_the_reason() {
    let storage = tempfile::tempdir().unwrap();
    let case = || Case::new(storage.path());
    let begun = r#""parallelism":2,"begun":true"#;
    Case { live: begun, ..case() }.is_refused("holds nothing of");
    Case { live: r#""parallelism":2000"#, ..case() }.is_refused("1024");
    Case { live: r#""parallelism":2,"paralelism":2"#, ..case() }.is_refused("paralelism");
    Case { backend: "RocksDB", ..case() }.is_refused("RocksDB");
    Case { args: &["--output", "out", "--inptu", "x"], ..case() }.is_refused("--inptu");
    let file = storage.path().join("file");
    std::fs::write(&file, "").unwrap();
    Case::new(&file.join("state")).is_refused("file");
    // Nothing of a job was left behind, but where the store was probed.
    let files = |of: &Path| std::fs::read_dir(of).unwrap().map(|f| f.unwrap().path());
    let left: Vec<_> = files(storage.path()).filter(|path| *path != file).collect();
    assert_eq!(left, [storage.path().join(".tmp")]);
    assert_eq!(files(&left[0]).count(), 0);
}
