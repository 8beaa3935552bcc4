//! Files as a tier of tables.
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

use millrace_disk::DiskTiers;
use millrace_engine::state::contract;
use millrace_engine::state::tier::{Packed, Tier, TierFactory};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

fn rng() -> fastrand::Rng {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// From a run for each write, to nearly all in memory.
#[test]
fn it_keeps_what_a_tier_must() {
    for memory in [0, 16 << 10, 128 << 10, 4 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let tiers: Arc<dyn TierFactory> =
            Arc::new(DiskTiers::open(directory.path(), memory).unwrap());
        contract::check(&mut rng(), 4, &tiers);
    }
}

#[test]
fn what_is_dead_leaves_the_disk_and_nothing_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let open = || DiskTiers::open(directory.path(), 8 << 20).unwrap();
    contract::what_is_forgotten_leaves_the_disk(&mut rng(), &open());
    contract::what_expired_leaves_the_disk(&mut rng(), &open());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "files have no names");
}

/// A value that expires hides an older one that does not: a merge of newer runs must not
/// bring that back.
#[test]
fn what_expired_does_not_uncover_what_was_there_before() {
    let directory = tempfile::tempdir().unwrap();
    let tiers = DiskTiers::open(directory.path(), 0).unwrap();
    let tier = tiers.open("state").unwrap();
    let one = |key: &[u8], time: i64| {
        let (mut keys, mut values) = (Packed::default(), Packed::default());
        keys.push(|out| out.extend_from_slice(key));
        values.push(|out| out.extend_from_slice(&time.to_le_bytes()));
        tier.write(&Packed::default(), &keys, &values).unwrap();
    };
    one(b"a", i64::MAX);
    // One large run is at the bottom, and stays there.
    let mut large = Packed::default();
    large.push(|out| out.extend_from_slice(&[0xff; 1 << 20]));
    let mut key = Packed::default();
    key.push(|out| out.push(b'z'));
    tier.write(&Packed::default(), &key, &large).unwrap();
    (0..4).for_each(|_| one(b"b", i64::MAX));
    one(b"a", 5);
    tier.expire(7);
    for n in 0..100_u8 {
        one(&[b'c', n], i64::MAX);
        std::thread::sleep(Duration::from_millis(1));
        let mut keys = Packed::default();
        keys.push(|out| out.push(b'a'));
        let mut found = Vec::new();
        let mut find = |_, value: &[u8]| {
            found.push(value.to_vec());
            Ok(())
        };
        tier.get(&keys, &mut find).unwrap();
        // It may be there, or not, but not the older one.
        assert!(found.is_empty() || found == [5_i64.to_le_bytes().to_vec()], "{n}: {found:?}");
    }
}

/// Keys and values of all sizes, over many runs.
#[test]
fn entries_of_all_sizes_are_found() {
    let rng = &mut rng();
    let directory = tempfile::tempdir().unwrap();
    for memory in [0, 1 << 20] {
        let tiers = DiskTiers::open(directory.path(), memory).unwrap();
        let tier = tiers.open("state").unwrap();
        let mut model = BTreeMap::new();
        for _ in 0..150 {
            let (mut keys, mut values) = (Packed::default(), Packed::default());
            for _ in 0..rng.usize(1..30) {
                let common = [0, 0, 9, 300][rng.usize(..4)];
                let mut key = vec![7; common];
                key.extend(rng.u16(..300).to_be_bytes());
                let length = [0, 5, 100, 4_090, 70_000][rng.usize(..5)];
                let value = vec![rng.u8(..); rng.usize(..length + 1)];
                keys.push(|out| out.extend_from_slice(&key));
                values.push(|out| out.extend_from_slice(&value));
                model.insert(key, value);
            }
            tier.write(&Packed::default(), &keys, &values).unwrap();
        }
        let mut seen = BTreeMap::new();
        let mut see = |key: &[u8], value: &[u8]| {
            seen.insert(key.to_vec(), value.to_vec());
            Ok(true)
        };
        tier.scan(&[], &[u8::MAX], &mut see).unwrap();
        assert!(seen == model, "{} seen of {}", seen.len(), model.len());
        let (mut keys, mut found) = (Packed::default(), BTreeMap::new());
        model.keys().for_each(|key| keys.push(|out| out.extend_from_slice(key)));
        let all: Vec<_> = model.keys().collect();
        let mut find = |at: usize, value: &[u8]| {
            found.insert(all[at].clone(), value.to_vec());
            Ok(())
        };
        tier.get(&keys, &mut find).unwrap();
        assert!(found == model, "{} found of {}", found.len(), model.len());
    }
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = DiskTiers::open(file.path(), 0).err().unwrap().to_string();
    assert!(refused.contains(&file.path().display().to_string()), "{refused}");
}

/// What is mostly dead is written anew, though there is nothing of its size to merge it with.
#[test]
fn a_large_run_of_dead_entries_does_not_stay() {
    for die in [|tier: &dyn Tier| tier.forget(&[1]).unwrap(), |tier: &dyn Tier| tier.expire(1)] {
        let directory = tempfile::tempdir().unwrap();
        let tiers = DiskTiers::open(directory.path(), 64 << 10).unwrap();
        let tier = tiers.open("state").unwrap();
        let write = |entries: &mut dyn Iterator<Item = (u8, u32)>| {
            let (mut keys, mut values) = (Packed::default(), Packed::default());
            for (first, number) in entries {
                keys.push(|out| out.extend([&[first][..], &number.to_be_bytes()].concat()));
                values.push(|out| {
                    out.extend((i64::from(first) + 1).to_le_bytes());
                    out.extend([first; 192]);
                });
            }
            tier.write(&Packed::default(), &keys, &values).unwrap();
        };
        // Nine of ten die.
        write(&mut (0..10_000).map(|n| (u8::from(n % 10 == 0), n)));
        let mut n = 0;
        let mut wait_until = |done: &dyn Fn(u64) -> bool| {
            while !done(tiers.stats().disk) && n < 1_000 {
                std::thread::sleep(Duration::from_millis(20));
                write(&mut std::iter::once((2, n)));
                n += 1;
            }
            let disk = tiers.stats().disk;
            assert!(done(disk), "{disk} bytes of disk");
        };
        wait_until(&|disk| disk > 1 << 20);
        die(tier.as_ref());
        // A tenth of it is 0.2 MB.
        wait_until(&|disk| disk < 1 << 20);
    }
}
