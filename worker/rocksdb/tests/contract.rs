//! RocksDB as a tier of tables, and its directory.

use millrace_engine::state::contract;
use millrace_engine::state::tier::{Packed, TierFactory};
use millrace_rocksdb::{LocalDir, RocksTiers};
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

#[test]
fn what_is_dead_leaves_the_disk_and_nothing_else_does() {
    let open = || RocksTiers::open(LocalDir::temporary().unwrap(), 0).unwrap();
    contract::what_is_forgotten_leaves_the_disk(&mut rng(), &open());
    contract::what_expired_leaves_the_disk(&mut rng(), &open());
}
