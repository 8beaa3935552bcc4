//! The example in several processes, of which any is killed at random moments, beside a run
//! in one that nothing disturbed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use common::job::{Disturbance, Job, NONE_LATE, Places, calm, compare, disturbed};
use common::{OF_WORKERS, long_input, seed};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs;
use std::path::Path;

#[test]
fn several_processes_give_what_one_gives() {
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), 2);
    let expected = calm(&dir.path().join("calm"), &input);
    let wild = dir.path().join("wild");
    let options = [&NONE_LATE[..], &["--unaligned-after", "0"]].concat();
    let job = Job::start_with(&wild, Places::local(&wild, &input), 3, 5, &options);
    compare(&expected, &job.finish().output, 0);
}

/// Files as cert-manager writes them, good for a name.
fn certificates(directory: &Path, name: &str) {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).unwrap().pem();
    let issuer = Issuer::new(params, authority);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap().pem();
    fs::create_dir_all(directory).unwrap();
    let files = [("tls.crt", own), ("tls.key", key.serialize_pem()), ("ca.crt", root)];
    files.iter().for_each(|(name, text)| fs::write(directory.join(name), text).unwrap());
}

#[test]
fn under_tls_several_processes_give_what_one_gives() {
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), 2);
    let expected = calm(&dir.path().join("calm"), &input);
    let (wild, keys) = (dir.path().join("wild"), dir.path().join("keys"));
    certificates(&keys, "127.0.0.1");
    let tls = [&NONE_LATE[..], &["--exchange-tls", keys.to_str().unwrap()]].concat();
    let job = Job::start_with(&wild, Places::local(&wild, &input), 3, 5, &tls);
    compare(&expected, &job.finish().output, 0);
}

#[test]
fn a_certificate_for_another_name_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), 1);
    certificates(dir.path(), "elsewhere.example");
    let tls = ["--exchange-tls", dir.path().to_str().unwrap()];
    let mut job = Job::start_with(dir.path(), Places::local(dir.path(), &input), 2, 4, &tls);
    job.says("not valid for name");
}

fn disturb(faults: usize, months: usize, rescales: bool, late: bool) {
    disturbed(&Disturbance {
        seed: seed(),
        faults,
        months,
        rescales,
        late,
        places: &Places::local,
        fetch: &|_, places| places.output.clone(),
    });
}

#[test]
fn killed_workers_and_leaders_change_nothing() {
    disturb(OF_WORKERS[0], 150, false, false);
}

#[test]
fn killed_while_it_is_rescaled_it_gives_what_an_undisturbed_run_gives() {
    disturb(OF_WORKERS[1], 150, true, false);
}

#[test]
fn killed_while_rows_are_late_each_row_is_counted_or_late_once() {
    disturb(OF_WORKERS[2], 200, true, true);
}

#[test]
#[ignore = "takes minutes: make chaos"]
fn two_hundred_faults() {
    for late in [false, true, false, true] {
        disturb(50, 240, true, late);
    }
}
