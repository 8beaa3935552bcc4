//! Golden files: what format 1 wrote stays readable. `GOLDEN=write` makes those
//! of the newest format anew; an existing format's files never change.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use millrace_protocol::format::FormatError;
use millrace_protocol::head::{
    CheckpointRef, ConfigRef, Ending, HeadRecord, Nonce, Origin, Owner, Phase, Pin, RestartBudget,
    Version,
};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid, Slot, Subtask, Uid};
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::*;
use millrace_protocol::objects::Home;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .join("tests/golden")
        .join(name);
    if std::env::var("GOLDEN").as_deref() == Ok("write") {
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::read(&path).unwrap()
}

fn home() -> Home {
    Home::new(&JobUid::from("0f3a")).unwrap()
}

fn checkpoint(attempt: u64, checkpoint: u64, pending: u32) -> CheckpointRef {
    let (attempt, checkpoint) = (Attempt(attempt), CheckpointId(checkpoint));
    let manifest = home().manifest(attempt, checkpoint);
    let sha256 = sha256_hex(b"manifest");
    CheckpointRef { attempt, checkpoint, manifest, sha256, pending, nothing_since: None }
}

fn head() -> HeadRecord {
    HeadRecord {
        format: 1,
        version: Version(41),
        nonce: Nonce::new(1, 2),
        job: JobUid::from("0f3a"),
        attempt: Attempt(3),
        owner: Owner { pod: "flights-0".into(), process: 77, address: "10.0.0.1:7070".into() },
        phase: Phase::Stopping(Ending::Suspended),
        cause: Some("asked to stop".into()),
        config: ConfigRef { generation: 5, hash: "abcd".into(), program: "flights".into() },
        latest: Some(checkpoint(3, 12, 2)),
        origin: Some(Origin { path: "/savepoints/s1".into(), sha256: sha256_hex(b"s1") }),
        last_checkpoint: CheckpointId(13),
        retained: vec![checkpoint(3, 11, 0), checkpoint(2, 9, 0)],
        pins: vec![Pin {
            savepoint: "s2".into(),
            at: checkpoint(3, 12, 2),
            target: "/savepoints".into(),
        }],
        restart: RestartBudget { used: 1, total: 0 },
        restore_nonce: 0,
    }
}

fn file(n: u64) -> FileRef {
    let checkpoint = CheckpointId(n);
    FileRef {
        key: home().state_file(Attempt(3), checkpoint, Slot((n % 2) as u16), 0),
        len: 1000 + n,
        crc32: 0xdead_beef,
        order: FileOrder { checkpoint, index: 0 },
        sections: vec![Section {
            operator: Uid::from("delays"),
            groups: KeyGroupRange { start: 0, end: 512 },
        }],
    }
}

fn manifest(files: u64) -> Manifest {
    let pending = |index, when| PendingCommit {
        id: CommitId { attempt: Attempt(3), checkpoint: CheckpointId(12), index },
        sink: Uid::from("out"),
        connector: "files".into(),
        options: vec![("path".into(), "/out".into())],
        subtask: Subtask(1),
        when,
        payload: vec![1, 2, 3],
        shape: ShapeBytes(b"staged file".to_vec()),
    };
    Manifest {
        job: JobUid::from("0f3a"),
        kind: ManifestKind::Checkpoint,
        attempt: Attempt(3),
        checkpoint: CheckpointId(12),
        created_at_ms: 1_700_000_000_000,
        max_parallelism: MaxParallelism::DEFAULT,
        hash_version: 1,
        fingerprint: "f00d".into(),
        operators: vec![OperatorState {
            uid: Uid::from("delays"),
            name: "delays per origin".into(),
            kind: "window".into(),
            parallelism: 2,
            keyed: vec![KeyedState { name: "panes".into(), shape: ShapeBytes(b"u64".to_vec()) }],
            lists: vec![ListState {
                name: "splits".into(),
                shape: ShapeBytes(b"split".to_vec()),
                redistribution: Redistribution::Even,
                parts: vec![ListPart { subtask: Subtask(0), items: vec![vec![7], vec![8, 9]] }],
            }],
            watermarks: vec![RangeWatermark {
                groups: KeyGroupRange { start: 0, end: 512 },
                watermark: -5,
            }],
            ended: vec![Subtask(1)],
        }],
        files: (0..files).map(file).collect(),
        pending: vec![pending(0, When::Ready), pending(1, When::OnRestore)],
    }
}

#[test]
fn head_of_format_1() {
    let bytes = golden("head-1.json", &head().encode().unwrap());
    assert_eq!(HeadRecord::decode("head", &bytes).unwrap(), head());
    assert_eq!(String::from_utf8(bytes), String::from_utf8(head().encode().unwrap()));
}

#[test]
fn manifest_of_format_1() {
    let bytes = golden("manifest-1.bin", &manifest(3).encode().unwrap());
    assert_eq!(Manifest::decode("m", &bytes).unwrap(), manifest(3));
    assert_eq!(bytes, manifest(3).encode().unwrap());
}

#[test]
fn a_newer_format_says_so() {
    let text = String::from_utf8(head().encode().unwrap()).unwrap();
    let newer = text.replace("\"format\":1", "\"format\":9");
    let error = HeadRecord::decode("j/head/41", newer.as_bytes()).unwrap_err();
    assert!(matches!(error, FormatError::Newer { found: 9, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("j/head/41"));

    let mut bytes = manifest(1).encode().unwrap();
    bytes[8] = 9;
    let error = Manifest::decode("j/data/3/m-12", &bytes).unwrap_err();
    assert!(matches!(error, FormatError::Newer { found: 9, .. }), "{error}");
}

#[test]
fn damage_anywhere_is_noticed() {
    let good = manifest(3).encode().unwrap();
    for length in 0..good.len() {
        assert!(Manifest::decode("m", &good[..length]).is_err(), "cut at {length}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(Manifest::decode("m", &bad).is_err(), "byte {at} changed");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(Manifest::decode("m", &longer).is_err());
    assert!(Manifest::decode_checked("m", &good, &sha256_hex(b"other")).is_err());
    let head = head().encode().unwrap();
    for length in 0..head.len() {
        assert!(HeadRecord::decode("h", &head[..length]).is_err());
    }
}

#[test]
fn ten_thousand_files_are_no_burden() {
    let manifest = manifest(10_000);
    let start = Instant::now();
    let bytes = manifest.encode().unwrap();
    let encoded = start.elapsed();
    assert_eq!(Manifest::decode("m", &bytes).unwrap(), manifest);
    let both = start.elapsed();
    println!("{} bytes, encode {encoded:?}, decode {:?}", bytes.len(), both - encoded);
    assert!(bytes.len() < 1 << 20);
    assert!(both < Duration::from_secs(2));
}
