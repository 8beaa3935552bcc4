//! How one checkpoint of 1,000 slots with 10,000 files goes: time and memory of the
//! coordinator. Run by hand: `cargo test -p millrace-engine --release -- --ignored size`.

use super::scripts::place;
use super::workers::{cluster, worker};
use super::world::home;
use crate::coordinator::*;
use millrace_protocol::ids::{Slot, Subtask, Uid};
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::*;
use std::time::{Duration, Instant};

const SLOTS: u16 = 1000;
const FILES: u32 = 10;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

#[test]
#[ignore = "a measurement"]
fn a_thousand_slots_and_ten_thousand_files() {
    let place = place();
    let before = resident_kib();
    let mut config = cluster(1, 1, SLOTS, 125);
    config.program.max_parallelism =
        millrace_protocol::keygroup::MaxParallelism::new(1024).unwrap();
    let mut job = place.alone(config);
    for ordinal in 0..125 {
        job.tell(Event::WorkerJoined { worker: worker(ordinal, "p"), slots: 8 });
    }
    job.run_placed();
    for round in 0..3 {
        job.now += Duration::from_secs(10);
        job.tell(Event::RequestCheckpoint);
        let (checkpoint, attempt) = (job.barrier().0, job.attempt());
        let began = Instant::now();
        for slot in (0..SLOTS).map(Slot) {
            let file = |index: u32| FileRef {
                key: home().state_file(attempt, checkpoint, slot, index),
                len: 1 << 20,
                crc32: 0,
                order: FileOrder { checkpoint, index },
                sections: Vec::new(),
            };
            let groups = KeyGroupRange { start: slot.0, end: slot.0 + 1 };
            let operators = ["source", "sink"].map(|operator| SubtaskState {
                operator: Uid::from(operator),
                subtask: Subtask(slot.0),
                lists: Vec::new(),
                watermarks: vec![RangeWatermark { groups, watermark: 1 }],
                ended: false,
            });
            let snapshot = SlotSnapshot {
                slot,
                files: (0..FILES).map(file).collect(),
                operators: operators.into(),
                prepared: Vec::new(),
                stats: SnapshotStats::default(),
            };
            job.tell(Event::Acknowledge { attempt, checkpoint, snapshot });
        }
        let took = began.elapsed();
        assert_eq!(job.head().latest.as_ref().unwrap().checkpoint, checkpoint);
        let used = resident_kib().saturating_sub(before);
        println!("checkpoint {round}: {took:?}, {} MiB resident", used / 1024);
    }
}
