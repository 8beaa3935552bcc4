//! What every store must do. Run it with a maker of empty stores.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use super::{Fault, ObjectStore, Put};
use millrace_protocol::objects::{Home, ObjectKey, Prefix};
use millrace_protocol::{head::Version, ids::JobUid};
use std::sync::{Arc, Barrier};

type Make<'a> = &'a dyn Fn() -> Arc<dyn ObjectStore>;

/// Checks the whole contract; panics where it is broken.
pub fn check(make: Make<'_>) {
    put_if_absent_keeps_the_first(make);
    one_of_many_wins(make);
    put_replaces(make);
    writers_publish_at_the_end(make);
    ranges(make);
    lists(make);
    deletes_are_idempotent(make);
    no_key_is_object_and_prefix(make);
    concurrent_puts_and_deletes_of_a_prefix(make);
    super::probe(make().as_ref(), "nonce").unwrap();
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn put_if_absent_keeps_the_first(make: Make<'_>) {
    let store = make();
    assert_eq!(store.get(&key("a/b")).unwrap(), None);
    assert_eq!(store.size(&key("a/b")).unwrap(), None);
    assert_eq!(store.put_if_absent(&key("a/b"), b"one").unwrap(), Put::Created);
    assert_eq!(store.put_if_absent(&key("a/b"), b"two").unwrap(), Put::Exists);
    assert_eq!(store.put_if_absent(&key("a/b"), b"one").unwrap(), Put::Exists);
    assert_eq!(store.get(&key("a/b")).unwrap().as_deref(), Some(b"one".as_slice()));
    assert_eq!(store.put_if_absent(&key("empty"), b"").unwrap(), Put::Created);
    assert_eq!(store.get(&key("empty")).unwrap().as_deref(), Some(b"".as_slice()));
    assert_eq!(store.size(&key("empty")).unwrap(), Some(0));
}

fn one_of_many_wins(make: Make<'_>) {
    const RACERS: u8 = 8;
    let store = make();
    for round in 0..20 {
        let name = key(&format!("race/{round}"));
        let start = Barrier::new(usize::from(RACERS));
        let won: Vec<u8> = std::thread::scope(|scope| {
            let race = |n: u8| {
                let (store, name, start) = (&store, &name, &start);
                scope.spawn(move || {
                    start.wait();
                    (store.put_if_absent(name, &[n; 100]).unwrap() == Put::Created).then_some(n)
                })
            };
            let racers: Vec<_> = (0..RACERS).map(race).collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "winners: {won:?}");
        assert_eq!(store.get(&name).unwrap().unwrap(), [won[0]; 100]);
    }
}

fn put_replaces(make: Make<'_>) {
    let store = make();
    store.put(&key("a/b"), b"one").unwrap();
    store.put(&key("a/b"), b"three").unwrap();
    assert_eq!(store.get(&key("a/b")).unwrap().as_deref(), Some(b"three".as_slice()));
    assert_eq!(store.put_if_absent(&key("a/b"), b"x").unwrap(), Put::Exists);
}

fn writers_publish_at_the_end(make: Make<'_>) {
    let store = make();
    let mut writer = store.create(&key("a/big")).unwrap();
    for n in 0..100_u8 {
        writer.write(&[n; 10_000]).unwrap();
    }
    assert_eq!(store.get(&key("a/big")).unwrap(), None, "visible before its end");
    assert_eq!(store.list(&Prefix::all()).unwrap(), []);
    assert_eq!(writer.finish().unwrap(), 1_000_000);
    assert_eq!(store.size(&key("a/big")).unwrap(), Some(1_000_000));
    assert_eq!(store.get_range(&key("a/big"), 999_999, 1).unwrap(), [99]);

    let mut writer = store.create(&key("a/aborted")).unwrap();
    writer.write(b"x").unwrap();
    writer.abort();
    let mut writer = store.create(&key("a/dropped")).unwrap();
    writer.write(b"x").unwrap();
    drop(writer);
    assert_eq!(store.list(&Prefix::all()).unwrap(), [key("a/big")]);
}

fn ranges(make: Make<'_>) {
    let store = make();
    store.put(&key("a"), b"0123456789").unwrap();
    assert_eq!(store.get_range(&key("a"), 0, 10).unwrap(), b"0123456789");
    assert_eq!(store.get_range(&key("a"), 3, 4).unwrap(), b"3456");
    assert_eq!(store.get_range(&key("a"), 10, 0).unwrap(), b"");
    for (offset, len) in [(5, 6), (11, 1), (u64::MAX, 1), (0, usize::MAX)] {
        assert!(store.get_range(&key("a"), offset, len).is_err(), "{len} from {offset}");
    }
    let missing = store.get_range(&key("b"), 0, 1).unwrap_err();
    assert_eq!(missing.fault, Fault::Missing);
}

fn lists(make: Make<'_>) {
    let store = make();
    let home = Home::new(&JobUid::from("job")).unwrap();
    let keys: Vec<_> = (0..30).map(|v| home.head(Version(v))).collect();
    for key in &keys {
        store.put_if_absent(key, b"x").unwrap();
    }
    store.put(&home.floor(0), b"").unwrap();
    let other = Home::new(&JobUid::from("job2")).unwrap();
    store.put(&other.head(Version(1)), b"").unwrap();
    let mut listed = store.list(&home.heads()).unwrap();
    listed.sort();
    assert_eq!(listed, keys);
    assert_eq!(store.list(&Prefix::all()).unwrap().len(), 32);
    assert_eq!(store.list(&home.data()).unwrap(), []);
}

fn deletes_are_idempotent(make: Make<'_>) {
    let store = make();
    store.delete(&key("a/b")).unwrap();
    store.put(&key("a/b"), b"x").unwrap();
    store.put(&key("a/c"), b"x").unwrap();
    store.delete(&key("a/b")).unwrap();
    store.delete(&key("a/b")).unwrap();
    store.delete(&key("a")).unwrap();
    assert_eq!(store.get(&key("a/b")).unwrap(), None);
    assert_eq!(store.list(&Prefix::all()).unwrap(), [key("a/c")]);
    store.delete(&key("a/c")).unwrap();
    assert_eq!(store.put_if_absent(&key("a/b"), b"y").unwrap(), Put::Created);
}

/// Four of five S3 servers break there, so no store may be asked to; a store
/// that notices says which key.
fn no_key_is_object_and_prefix(make: Make<'_>) {
    let store = make();
    store.put(&key("a/b"), b"x").unwrap();
    let tries: [&dyn Fn() -> Result<(), super::StoreError>; 4] = [
        &|| store.put(&key("a"), b"x"),
        &|| store.put_if_absent(&key("a"), b"x").map(drop),
        &|| store.put(&key("a/b/c"), b"x"),
        &|| store.put_if_absent(&key("a/b/c"), b"x").map(drop),
    ];
    for (n, attempt) in tries.iter().enumerate() {
        match attempt() {
            Ok(()) => {}
            Err(error) => assert_eq!(error.fault, Fault::Key, "try {n}: {error}"),
        }
    }
    assert_eq!(store.get(&key("a/b")).unwrap().as_deref(), Some(b"x".as_slice()));
    for name in ["a/b/c", "a/b", "a"] {
        store.delete(&key(name)).unwrap();
    }
    assert_eq!(store.list(&Prefix::all()).unwrap(), []);
    store.put(&key("a"), b"x").unwrap();
}

fn concurrent_puts_and_deletes_of_a_prefix(make: Make<'_>) {
    let store = make();
    std::thread::scope(|scope| {
        for n in 0..3 {
            let store = &store;
            scope.spawn(move || {
                let name = key(&format!("a/b/{n}"));
                for _ in 0..50 {
                    assert_eq!(store.put_if_absent(&name, b"x").unwrap(), Put::Created);
                    store.list(&Prefix::all()).unwrap();
                    store.delete(&name).unwrap();
                }
            });
        }
    });
    assert_eq!(store.list(&Prefix::all()).unwrap(), []);
}
