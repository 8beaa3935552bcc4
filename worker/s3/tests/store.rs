//! The store contract against a real server, alone and behind a proxy that makes it fail.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

use millrace_engine::store::{Access, Certainty, Fault, ObjectStore, Opener, Put, contract, probe};
use millrace_protocol::config::{S3Storage, Storage};
use millrace_protocol::objects::{ObjectKey, Prefix};
use millrace_s3::testing::{Faults, Proxy, Server, seed};
use millrace_s3::{Bucket, Location, S3Opener, S3Store};
use std::sync::{Arc, Barrier};

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn store(storage: &S3Storage) -> Arc<dyn ObjectStore> {
    Arc::new(S3Store::open(storage).unwrap())
}

fn through(proxy: &Proxy, storage: S3Storage) -> S3Storage {
    S3Storage { endpoint: Some(proxy.endpoint()), ..storage }
}

#[test]
fn versitygw_keeps_the_contract() {
    let server = Server::shared();
    contract::check(&|| store(&server.bucket()));
    // And below a prefix.
    contract::check(&|| store(&S3Storage { prefix: "a b/home".to_owned(), ..server.bucket() }));
}

#[test]
#[ignore = "builds MinIO, which takes ten minutes the first time: make s3-cross-check"]
fn minio_keeps_the_contract() {
    let server = Server::start("minio");
    contract::check(&|| store(&server.bucket()));
}

#[test]
fn the_contract_holds_while_the_server_fails() {
    let server = Server::shared();
    let faults = Faults { spare_conditional: true, ..Faults::each(0.01) };
    let proxy = Proxy::start(server.port(), seed(), faults);
    contract::check(&|| store(&through(&proxy, server.bucket())));
    assert!(proxy.injected() > 10, "{} faults", proxy.injected());
}

/// What a coordinator does to append: the same bytes until it is known what became of them.
fn append(store: &dyn ObjectStore, name: &ObjectKey, bytes: &[u8]) -> bool {
    for _ in 0..100 {
        match store.put_if_absent(name, bytes) {
            Ok(Put::Created) => return true,
            Ok(Put::Exists) => break,
            Err(error) => assert_eq!(error.fault, Fault::Other, "{error}"),
        }
    }
    loop {
        match store.get(name) {
            Ok(found) => return found.unwrap() == bytes,
            Err(error) => assert_eq!(error.fault, Fault::Other, "{error}"),
        }
    }
}

#[test]
fn of_racing_writers_one_wins_whatever_fails() {
    const RACERS: u8 = 6;
    let server = Server::shared();
    let proxy = Proxy::start(server.port(), seed(), Faults::each(0.08));
    let store = store(&through(&proxy, server.bucket()));
    for round in 0..25 {
        let name = key(&format!("race/{round}"));
        let start = Barrier::new(usize::from(RACERS));
        let won: Vec<u8> = std::thread::scope(|scope| {
            let race = |n: u8| {
                let (store, name, start) = (&store, &name, &start);
                scope.spawn(move || {
                    start.wait();
                    append(store.as_ref(), name, &[n; 2000]).then_some(n)
                })
            };
            let racers: Vec<_> = (0..RACERS).map(race).collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "round {round}, winners {won:?}");
    }
    assert!(proxy.injected() > 20, "{} faults", proxy.injected());
}

/// A lost answer must not come out as "exists": nothing repeats the request beneath.
#[test]
fn a_conditional_put_is_sent_once() {
    let server = Server::shared();
    let faults = Faults { answer_lost: 1.0, ..Faults::default() };
    let proxy = Proxy::start(server.port(), 1, faults);
    let storage = server.bucket();
    let name = key("head/1");
    let error = store(&through(&proxy, storage.clone())).put_if_absent(&name, b"x").unwrap_err();
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    assert_eq!(proxy.injected(), 1);
    assert_eq!(store(&storage).get(&name).unwrap().as_deref(), Some(b"x".as_slice()));
}

#[test]
fn large_objects_go_in_parts_and_come_in_ranges() {
    let server = Server::shared();
    let faults = Faults { delay: 0.0, ..Faults::each(0.02) };
    let proxy = Proxy::start(server.port(), seed(), faults);
    let store = store(&through(&proxy, server.bucket()));
    let bytes: Vec<u8> = (0..20 << 20).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    let mut writer = store.create(&key("big")).unwrap();
    for piece in bytes.chunks(777_777) {
        writer.write(piece).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), bytes.len() as u64);
    assert!(store.get(&key("big")).unwrap().unwrap() == bytes);
    let border = (8 << 20) - 5;
    assert_eq!(store.get_range(&key("big"), border as u64, 10).unwrap(), bytes[border..][..10]);
    let missing = store.get_range(&key("big"), 20 << 20, 1).unwrap_err();
    assert!(missing.to_string().contains("beyond its end"), "{missing}");
}

#[test]
fn unfinished_uploads_are_found_and_discarded() {
    let server = Server::shared();
    let store = store(&S3Storage { prefix: "p".to_owned(), ..server.bucket() });
    for name in ["a/1", "a/2", "b/1"] {
        let mut writer = store.create(&key(name)).unwrap();
        writer.write(&vec![1; 9 << 20]).unwrap();
        // As if the process had died.
        std::mem::forget(writer);
    }
    let a = millrace_protocol::objects::Home::new(&"a".into()).unwrap().data();
    assert!(store.unfinished(&a).unwrap().is_empty());
    let mut found = store.unfinished(&Prefix::all()).unwrap();
    found.sort();
    assert_eq!(found, ["a/1", "a/2", "b/1"].map(key));
    store.discard_unfinished(&key("a/1")).unwrap();
    store.discard_unfinished(&key("a/1")).unwrap();
    store.discard_unfinished(&key("a")).unwrap();
    let mut found = store.unfinished(&Prefix::all()).unwrap();
    found.sort();
    assert_eq!(found, ["a/2", "b/1"].map(key));
    for name in ["a/2", "b/1"] {
        store.discard_unfinished(&key(name)).unwrap();
    }
    // What is dropped takes itself back.
    let mut writer = store.create(&key("a/3")).unwrap();
    writer.write(&vec![1; 9 << 20]).unwrap();
    drop(writer);
    // In its own time.
    let begun = std::time::Instant::now();
    while !store.unfinished(&Prefix::all()).unwrap().is_empty() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "it does not");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn what_the_user_must_mend_is_said() {
    let server = Server::shared();
    let good = server.bucket();
    let said = |storage: &S3Storage| {
        let opened = S3Store::open(storage);
        let error = opened.and_then(|store| probe(&store, "n")).unwrap_err();
        assert_eq!(error.certainty, Certainty::Failed, "{error}");
        error.to_string()
    };
    let error = said(&S3Storage { bucket: "no-such-bucket".to_owned(), ..good.clone() });
    assert!(error.contains("s3://no-such-bucket/") && error.contains("create it"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let path = Some(directory.path().display().to_string());
    let wrong = S3Storage { credentials_dir: path, ..good.clone() };
    let error = said(&wrong);
    assert!(error.contains("accessKeyId does not exist"), "{error}");
    std::fs::write(directory.path().join("accessKeyId"), "testtest").unwrap();
    std::fs::write(directory.path().join("secretAccessKey"), "wrong").unwrap();
    let error = said(&wrong);
    assert!(error.contains("does not know these credentials"), "{error}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = said(&S3Storage { endpoint: Some(format!("http://{nobody}")), ..good.clone() });
    assert!(error.contains("connection refused"), "{error}");

    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, "no certificate").unwrap();
    let ca = Some(ca.display().to_string());
    let error = said(&S3Storage { ca_file: ca, ..good.clone() });
    assert!(error.contains("no certificate in PEM"), "{error}");
    let error = said(&S3Storage { bucket: String::new(), ..good });
    assert!(error.contains("it has no bucket"), "{error}");
}

#[test]
fn replaced_credentials_are_used_at_once() {
    let server = Server::shared();
    let good = server.bucket();
    let from = good.credentials_dir.clone().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("accessKeyId"), "testtest").unwrap();
    std::fs::write(path("secretAccessKey"), "old").unwrap();
    let storage =
        S3Storage { credentials_dir: Some(directory.path().display().to_string()), ..good };
    let store = store(&storage);
    assert_eq!(store.put(&key("a"), b"x").unwrap_err().fault, Fault::Denied);
    std::fs::copy(format!("{from}/secretAccessKey"), path("secretAccessKey")).unwrap();
    store.put(&key("a"), b"x").unwrap();
}

#[test]
fn places_are_opened_as_they_are_written() {
    let storage = Server::shared().bucket();
    let url = Location(S3Storage { prefix: "x/y".to_owned(), ..storage.clone() }).to_string();
    let opened = S3Opener::default().open(&url, Access::Write).unwrap();
    opened.put(&key("a"), b"1").unwrap();
    // The server's settings may come from elsewhere.
    let short = format!("s3://{}/x", storage.bucket);
    let opened = S3Opener::new(storage.clone()).open(&short, Access::Read).unwrap();
    assert_eq!(opened.list(&Prefix::all()).unwrap(), [key("y/a")]);
    assert!(Bucket::open(&storage).unwrap().head("x/y/a").unwrap().is_some());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d").display().to_string();
    let opened = S3Opener::open_storage(&Storage::Directory { path: path.clone() }).unwrap();
    opened.put(&key("a"), b"2").unwrap();
    let opened = S3Opener::default().open(&path, Access::Read).unwrap();
    assert_eq!(opened.get(&key("a")).unwrap().as_deref(), Some(b"2".as_slice()));
}
