//! RocksDB as a tier of tables, and its directory.
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

use millrace_engine::state::contract;
use millrace_engine::state::tier::{Packed, Tier, TierFactory, timed};
use millrace_rocksdb::{LocalDir, RocksTiers};
use std::ops::Range;
use std::sync::Arc;

fn rng() -> fastrand::Rng {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

#[test]
fn it_keeps_what_a_tier_must() {
    let tiers = RocksTiers::open(LocalDir::temporary().unwrap(), 16 << 20).unwrap();
    let tiers: Arc<dyn TierFactory> = Arc::new(tiers);
    contract::check(&mut rng(), 4, &tiers);
}

fn packed(strings: &[&str]) -> Packed {
    let mut packed = Packed::default();
    strings.iter().for_each(|s| packed.push(|out| out.extend_from_slice(s.as_bytes())));
    packed
}

#[test]
fn a_directory_is_emptied_at_the_start_and_at_the_end_and_is_one_processs_alone() {
    let parent = tempfile::tempdir().unwrap();
    let within = |name: &str| LocalDir::within(&parent.path().join(name));
    let tiers = RocksTiers::open(within("a").unwrap(), 0).unwrap();
    let tier = tiers.open("state").unwrap();
    tier.write(&Packed::default(), &packed(&["k"]), &packed(&["v"])).unwrap();
    let refused = within("a").err().unwrap().to_string();
    assert!(refused.contains("a local directory of its own"), "{refused}");
    // Nothing of it is gone.
    let mut found = 0;
    let mut find = |_, value: &[u8]| {
        found += usize::from(value == b"v");
        Ok(())
    };
    tier.get(&packed(&["k", "other"]), &mut find).unwrap();
    assert_eq!(found, 1);
    // The database lives as long as a table of it.
    drop(tiers);
    tier.write(&packed(&["k"]), &Packed::default(), &Packed::default()).unwrap();
    drop(tier);
    assert!(!parent.path().join("a/millrace-tier").exists());
    // What a killed process leaves behind.
    std::mem::forget(RocksTiers::open(within("b").unwrap(), 0).unwrap());
    assert!(parent.path().join("b/millrace-tier/CURRENT").exists());
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = LocalDir::within(file.path()).err().unwrap().to_string();
    assert!(refused.contains(&file.path().display().to_string()), "{refused}");
}

/// Writes 45 MB of which 40 are dead once `die` was called, and waits until these have left
/// the disk. Values of the first begin with the time 1, others with the time 2; `key` makes
/// keys of that and of a number.
fn what_is_dead_leaves_the_disk(key: fn(u8, u32) -> Vec<u8>, die: fn(&dyn Tier)) {
    let mut rng = rng();
    let tiers = RocksTiers::open(LocalDir::temporary().unwrap(), 0).unwrap();
    let tier = tiers.open("panes").unwrap();
    let mut write = |first: u8, numbers: Range<u32>| {
        for number in numbers.step_by(1000) {
            let (mut keys, mut values) = (Packed::default(), Packed::default());
            for number in number..number + 1000 {
                keys.push(|out| out.extend_from_slice(&key(first, number)));
                let time = i64::from(first) + 1;
                let value = time.to_le_bytes().into_iter().chain((8..1000).map(|_| rng.u8(..)));
                values.push(|out| out.extend(value));
            }
            tier.write(&Packed::default(), &keys, &values).unwrap();
        }
    };
    write(0, 0..40_000);
    write(1, 0..5_000);
    die(tier.as_ref());
    // What is left of it goes as others come.
    for _ in 0..100 {
        if tiers.stats().disk < 20 << 20 {
            break;
        }
        write(1, 0..5_000);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let disk = tiers.stats().disk;
    assert!(disk < 20 << 20, "{disk} bytes of disk for 5 MB that count");
    let mut seen = 0;
    tier.scan(&[], &[u8::MAX], &mut |_, value| {
        seen += u32::from(timed(value).unwrap().0 == 2);
        Ok(true)
    })
    .unwrap();
    assert_eq!(seen, 5000);
}

#[test]
fn what_is_forgotten_leaves_the_disk_and_nothing_else_does() {
    let key = |first: u8, number: u32| [&[first][..], &number.to_be_bytes()].concat();
    what_is_dead_leaves_the_disk(key, |tier| tier.forget(&[1]).unwrap());
}

/// What expires lies among what does not: the one are all numbers, of the other every eighth.
#[test]
fn what_expired_leaves_the_disk_and_nothing_else_does() {
    let key = |first: u8, number: u32| {
        let number = if first == 0 { number } else { number * 8 };
        [&number.to_be_bytes()[..], &[first]].concat()
    };
    what_is_dead_leaves_the_disk(key, |tier| tier.expire(1));
}
