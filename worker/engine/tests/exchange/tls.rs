//! The same under mutual TLS, with right certificates and with wrong ones.

use super::*;
use millrace_engine::exchange::tls::Certificates;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

/// Files of a worker whose certificate `by` signed and that trusts `trusted`.
fn files(directory: &Path, by: &Authority, trusted: &Authority, name: &str) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &by.issuer).unwrap();
    std::fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(directory.join("ca.crt"), &trusted.pem).unwrap();
}

fn listener(by: &Authority, trusted: &Authority, name: &str) -> Arc<Listener> {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path(), by, trusted, name);
    bind_with(Security::Tls(Certificates::read(directory.path(), None).unwrap()))
}

#[test]
fn rows_arrive_under_tls() {
    let ours = authority();
    let (one, two) = (listener(&ours, &ours, "127.0.0.1"), listener(&ours, &ours, "127.0.0.1"));
    let Pair { out, into, first, second } = pair_of(2, None, &one, &two);
    let (first, second) = (first.start(), second.start());
    let mut found = Vec::new();
    for n in 0..200 {
        until("room", || {
            found.extend(take(&into[1]));
            !out[1].is_full()
        });
        assert!(out[1].try_send(batch(n * 50, 50, 500)).is_ok());
    }
    until("all rows", || {
        found.extend(take(&into[1]));
        found.len() == 10_000
    });
    assert!(found.iter().copied().eq(0..10_000));
    assert_eq!((first.failure(), second.failure()), (None, None));
    second.exchange.stop();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(first.failure(), None);
}

/// What the first worker is told.
fn told(one: &Arc<Listener>, two: &Arc<Listener>) -> String {
    let Pair { first, second, .. } = pair_of(1, None, one, two);
    let _second = second.start();
    first.start().fails()
}

#[test]
fn wrong_certificates_are_refused() {
    let (ours, theirs) = (authority(), authority());
    let right = listener(&ours, &ours, "127.0.0.1");
    let why = told(&right, &listener(&theirs, &ours, "127.0.0.1"));
    assert!(why.contains("invalid peer certificate"), "{why}");
    let why = told(&right, &listener(&ours, &ours, "elsewhere.example"));
    assert!(why.contains("not valid for name"), "{why}");
    // Here the second does not trust the first, whose certificate it sees last.
    let why = told(&listener(&theirs, &ours, "127.0.0.1"), &right);
    assert!(why.contains("received fatal alert"), "{why}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let ours = authority();
    let wrong = |file: &str, text: &str| {
        files(directory.path(), &ours, &ours, "a.example");
        std::fs::write(directory.path().join(file), text).unwrap();
        Certificates::read(directory.path(), None).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        let why = wrong(file, "nothing");
        assert!(why.contains(file), "{why}");
    }
}

#[test]
fn a_name_that_all_share_is_enough() {
    let (ours, directory) = (authority(), tempfile::tempdir().unwrap());
    files(directory.path(), &ours, &ours, "job.example");
    let listener = |name: &str| {
        let name = Some(name.to_owned());
        bind_with(Security::Tls(Certificates::read(directory.path(), name).unwrap()))
    };
    let Pair { out, into, first, second } =
        pair_of(1, None, &listener("job.example"), &listener("job.example"));
    let (first, second) = (first.start(), second.start());
    assert!(out[0].try_send(batch(0, 50, 500)).is_ok());
    let mut found = Vec::new();
    until("all rows", || {
        found.extend(take(&into[0]));
        found.len() == 50
    });
    assert_eq!((first.failure(), second.failure()), (None, None));
    let why = told(&listener("other.example"), &listener("job.example"));
    assert!(why.contains("not valid for name"), "{why}");
    assert!(Certificates::read(directory.path(), Some("no name".to_owned())).is_err());
}

#[test]
fn renewed_certificates_are_used() {
    let (old, new, directory) = (authority(), authority(), tempfile::tempdir().unwrap());
    files(directory.path(), &old, &old, "127.0.0.1");
    let renewed = bind_with(Security::Tls(Certificates::read(directory.path(), None).unwrap()));
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    files(directory.path(), &new, &new, "127.0.0.1");
    let file = std::fs::File::options().append(true).open(directory.path().join("tls.crt"));
    file.unwrap().set_modified(later).unwrap();
    let meets = |other: &Arc<Listener>| {
        let Pair { first, second, .. } = pair_of(1, None, &renewed, other);
        let (first, second) = (first.start(), second.start());
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!((first.failure(), second.failure()), (None, None));
        first.exchange.stop();
        second.exchange.stop();
    };
    meets(&listener(&new, &new, "127.0.0.1"));
    // What cannot be used is not.
    std::fs::write(directory.path().join("tls.crt"), "nothing").unwrap();
    meets(&listener(&new, &new, "127.0.0.1"));
}
