//! The example with its state in S3, on a real server, and its input and output there too:
//! several processes, of which any is killed at random moments, while the server fails as
//! well.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use common::job::{Disturbance, NONE_LATE, Places, compare, disturbed};
use common::{OF_S3, Run, long_input, seed, tell_faults};
use millrace::protocol::config::S3Storage;
use millrace_s3::testing::{Faults, Proxy, Server};
use millrace_s3::{Bucket, Location};
use std::fs;
use std::path::{Path, PathBuf};

/// A bucket of a test, which the job reaches perhaps through a proxy.
struct Lab {
    storage: S3Storage,
    bucket: Bucket,
    endpoint: String,
}

impl Lab {
    fn new(endpoint: String) -> Self {
        let storage = Server::shared().bucket();
        let bucket = Bucket::open(&storage).unwrap();
        Self { storage, bucket, endpoint }
    }

    fn url(&self, prefix: &str) -> PathBuf {
        let (prefix, endpoint) = (prefix.to_owned(), Some(self.endpoint.clone()));
        Location(S3Storage { prefix, endpoint, ..self.storage.clone() }).to_string().into()
    }

    /// Everything in S3, of the job whose directory this would be.
    fn places(&self, dir: &Path, input: &Path) -> Places {
        self.bucket.put("in/flights.csv", &fs::read(input).unwrap()).unwrap();
        let output = self.url(&format!("out/{}", name(dir)));
        Places { input: self.url("in"), output, storage: self.storage_of(dir) }
    }

    fn storage_of(&self, dir: &Path) -> PathBuf {
        self.url(&format!("jobs/{}", name(dir)))
    }

    /// Copies the output of a job to its directory.
    fn fetch(&self, dir: &Path) -> PathBuf {
        let output = format!("out/{}", name(dir));
        for object in self.bucket.list(&format!("{output}/")).unwrap() {
            let to = dir.join(&object.key);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, self.bucket.get(&object.key).unwrap().unwrap()).unwrap();
        }
        dir.join(output)
    }
}

fn name(dir: &Path) -> &str {
    dir.file_name().unwrap().to_str().unwrap()
}

/// Kills processes; of the requests to the server so many fail in each of the ways.
/// `all`: not only the state is in S3.
fn disturb(faults: usize, months: usize, rescales: bool, share: f64, all: bool, late: bool) {
    let seed = seed();
    let proxy = Proxy::start(Server::shared().port(), seed, Faults::each(share));
    let lab = Lab::new(proxy.endpoint());
    disturbed(&Disturbance {
        seed,
        faults,
        months,
        rescales,
        late,
        places: &|dir, input| match all {
            true => lab.places(dir, input),
            false => Places { storage: lab.storage_of(dir), ..Places::local(dir, input) },
        },
        fetch: &|dir, places| match all {
            true => lab.fetch(dir),
            false => places.output.clone(),
        },
    });
    if share > 0.0 {
        let failed = usize::try_from(proxy.injected()).unwrap();
        tell_faults(failed, "of the server");
        assert!(failed > 0);
    }
}

#[test]
fn in_one_process_with_everything_in_s3_it_gives_what_it_gives_in_directories() {
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), 2);
    let expected = common::job::calm(dir.path(), &input);
    let lab = Lab::new(Server::shared().endpoint());
    let fetched = dir.path().join("one");
    let Places { input, output, storage } = &lab.places(&fetched, &input);
    let run = Run { input, output, storage, parallelism: 2, interval: "100ms", more: &NONE_LATE };
    let command = &mut run.command();
    let ended = command.env("XDG_CACHE_HOME", dir.path().join("home")).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    compare(&expected, &lab.fetch(&fetched), 0);
    let left = lab.bucket.unfinished("").unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn killed_with_its_state_in_s3_it_gives_what_an_undisturbed_run_gives() {
    disturb(OF_S3[0], 120, true, 0.0, false, false);
}

#[test]
fn killed_while_the_server_fails_it_gives_what_an_undisturbed_run_gives() {
    disturb(OF_S3[1], 100, false, 0.01, false, false);
}

#[test]
fn killed_with_everything_in_s3_while_that_fails_it_gives_what_an_undisturbed_run_gives() {
    disturb(OF_S3[2], 100, true, 0.01, true, false);
}

#[test]
fn killed_with_its_state_in_s3_while_rows_are_late_each_is_counted_or_late_once() {
    disturb(OF_S3[3], 200, true, 0.0, false, true);
}

#[test]
#[ignore = "takes minutes: make chaos"]
fn two_hundred_faults_and_a_server_that_fails() {
    for all in [false, true, false, true] {
        disturb(50, 240, true, 0.01, all, all);
    }
}
