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
    bind_with(Security::Tls(Certificates::read(directory.path()).unwrap()))
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
        Certificates::read(directory.path()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        let why = wrong(file, "nothing");
        assert!(why.contains(file), "{why}");
    }
}
