//! That a slot which has nothing to do hears what it is told.

use super::*;
use crate::coordinator::BarrierKind;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::pool::Pool;
use crate::state::StateTable;
use crate::store::DirectoryStore;
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::objects::Home;
use std::sync::mpsc::{Sender, channel};

/// Never has anything to do; tells of the barriers that it is to inject.
struct Resting {
    uid: Uid,
    metrics: Arc<NodeMetrics>,
    heard: Sender<CheckpointId>,
}

impl Task for Resting {
    fn name(&self) -> &str {
        "resting"
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn subtask(&self) -> u16 {
        0
    }

    fn run(&mut self, _: &mut Turn<'_>) -> Res<Progress> {
        Ok(Progress::Idle)
    }

    fn flush(&mut self) -> Res<bool> {
        Ok(false)
    }

    fn next_time(&self) -> Option<Ts> {
        None
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        Vec::new()
    }

    fn ended(&self) -> bool {
        false
    }

    fn trigger(&mut self, barrier: Barrier) {
        self.heard.send(barrier.checkpoint).unwrap();
    }

    fn metrics(&self) -> &Arc<NodeMetrics> {
        &self.metrics
    }
}

fn slot(signal: &Arc<Signal>, control: Receiver<Control>, heard: Sender<CheckpointId>) -> SlotLoop {
    let reports: Tell = Arc::new(|_| ());
    let directory = tempfile::tempdir().unwrap();
    let to = SnapshotHome {
        slot: Slot(0),
        attempt: Attempt(1),
        max: MaxParallelism::DEFAULT,
        home: Home::new(&JobUid::from("job")).unwrap(),
        store: Arc::new(DirectoryStore::open(directory.path()).unwrap()),
        pool: Arc::new(Pool::new(2)),
        reports: Arc::clone(&reports),
        most_under_way: 1 << 20,
        most_in_flight: 0,
        signal: Arc::clone(signal),
    };
    let groups = vec![KeyGroupRange { start: 0, end: 8 }];
    let task = Resting { uid: Uid::from("resting"), metrics: Arc::default(), heard };
    SlotLoop {
        slot: Slot(0),
        tasks: vec![Box::new(task)],
        again: vec![true],
        signal: Arc::clone(signal),
        control,
        reports,
        cancel: Arc::default(),
        snapshots: SlotSnapshots::new(to, groups, None, Vec::new()),
        budget: None,
        ended_told: false,
        overtaking: None,
        blocked: vec![false],
        closed: vec![None],
        last_sizes: Instant::now(),
    }
}

/// A job that has read all its input hung in this way before its last checkpoint, once in
/// some thousand runs. The message must come while the slot is awake for another reason, so
/// the slot is woken before each, and each comes a little later than the one before.
#[test]
fn what_a_slot_is_told_while_it_goes_to_sleep_is_heard() {
    let signal = Arc::new(Signal::new(1));
    let (heard, hears) = channel();
    let (tell, told) = channel();
    let own = Arc::clone(&signal);
    let thread = std::thread::spawn(move || {
        own.attach();
        let mut slot = slot(&own, told, heard);
        let mut at = At { names: vec!["resting".to_owned()], current: None };
        slot.run(&mut at).unwrap();
    });
    for number in 0..30_000_u64 {
        signal.wake(0);
        for _ in 0..number % 3_000 {
            std::hint::spin_loop();
        }
        let (checkpoint, kind) = (CheckpointId(number), BarrierKind::Periodic);
        let barrier =
            Barrier { attempt: Attempt(1), checkpoint, base: None, kind, unaligned_at: None };
        tell.send(Control::Trigger(barrier)).unwrap();
        signal.wake(0);
        let answer = hears.recv_timeout(Duration::from_secs(60));
        assert_eq!(answer, Ok(checkpoint), "the slot sleeps over a message");
    }
    drop(tell);
    signal.wake(0);
    thread.join().unwrap();
}
