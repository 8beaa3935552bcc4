//! When a slot's part of a checkpoint is sealed whose barrier may overtake rows that wait to
//! leave this process.

use super::*;
use crate::coordinator::{BarrierKind, Event, SlotSnapshot};
use crate::data::{Packet, TS_MAX, Ts};
use crate::exchange::codec::Packets;
use crate::runtime::channel::{Element, TaskWaker};
use crate::runtime::flight::{Flight, IN_FLIGHT, MOST, Phase};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::slot::Report;
use crate::runtime::task::{Progress, Turn};
use crate::state::StateTable;
use crate::store::DirectoryStore;
use millrace_protocol::ids::{JobUid, Uid};
use millrace_protocol::manifest::ShapeBytes;
use std::time::Duration;

/// A task without state, at the end of which rows leave.
struct Sending {
    uid: Uid,
    metrics: Arc<NodeMetrics>,
}

impl Task for Sending {
    fn name(&self) -> &str {
        "sending"
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

    fn metrics(&self) -> &Arc<NodeMetrics> {
        &self.metrics
    }
}

fn flight() -> Flight {
    Flight {
        uid: Uid::from("receiving"),
        state: format!("{IN_FLIGHT}0 from rows"),
        input: 0,
        keyed: true,
        groups: KeyGroupRange { start: 0, end: 8 },
        codec: Arc::new(Packets::<u64>::new()),
        shape: ShapeBytes::default(),
        up: 0,
    }
}

fn batch() -> Packet<u64> {
    Packet { rows: vec![(1, 1, 1)], marks: Vec::new() }
}

/// Bytes of a batch in a checkpoint.
fn one_batch() -> usize {
    let mut recorded = Recorded::default();
    recorded.add(&flight(), Phase::Sent, &batch(), MOST).unwrap();
    recorded.bytes()
}

/// A slot with one task and a channel that leaves this process; who sends what is in that is
/// the test.
struct OneSlot {
    snapshots: SlotSnapshots,
    tasks: Vec<Box<dyn Task>>,
    channel: Arc<Channel>,
    reported: Receiver<Report>,
    _directory: tempfile::TempDir,
}

impl OneSlot {
    fn new(most_in_flight: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signal = Arc::new(Signal::new(1));
        let waker = TaskWaker { signal: Arc::clone(&signal), task: 0 };
        let channel = Arc::new(Channel::new(waker.clone(), waker).carrying(Some(flight())));
        let (reports, reported) = channel_of_reports();
        let to = SnapshotHome {
            slot: Slot(0),
            attempt: Attempt(1),
            max: MaxParallelism::DEFAULT,
            home: Home::new(&JobUid::from("job")).unwrap(),
            store: Arc::new(DirectoryStore::open(directory.path()).unwrap()),
            pool: Arc::new(Pool::new(2)),
            reports,
            most_under_way: 1 << 20,
            most_in_flight,
            signal,
        };
        let groups = vec![KeyGroupRange { start: 0, end: 8 }];
        let snapshots = SlotSnapshots::new(to, groups, None, vec![Arc::clone(&channel)]);
        let uid = Uid::from("sending");
        let tasks: Vec<Box<dyn Task>> = vec![Box::new(Sending { uid, metrics: Arc::default() })];
        Self { snapshots, tasks, channel, reported, _directory: directory }
    }

    /// The task has sent `batches`, and then a barrier.
    fn pass(&mut self, batches: usize, unaligned_at: Ts) {
        let (checkpoint, kind) = (CheckpointId(7), BarrierKind::Periodic);
        let unaligned_at = Some(unaligned_at);
        let barrier = Barrier { attempt: Attempt(1), checkpoint, base: None, kind, unaligned_at };
        (0..batches).for_each(|_| drop(self.channel.force_send(Box::new(batch()))));
        self.channel.send_control(Element::Barrier(barrier.clone()));
        let task = self.tasks[0].as_mut();
        self.snapshots.passed(0, &barrier, task, Recorded::default()).unwrap();
    }

    /// Turns until there is nothing to do; whether the slot's part is sealed then.
    fn is_sealed(&mut self) -> bool {
        while self.snapshots.turn(&mut self.tasks).unwrap() {}
        self.snapshots.current.is_none()
    }

    /// Sends so many elements of the channel.
    fn leave(&self, elements: usize) -> Vec<Element> {
        (0..elements).map(|_| self.channel.receive().unwrap()).collect()
    }

    fn acknowledged(&self) -> SlotSnapshot {
        match self.reported.recv_timeout(Duration::from_secs(60)) {
            Ok(Report::Event(Event::Acknowledge { snapshot, .. })) => snapshot,
            _ => panic!("no acknowledgement"),
        }
    }
}

fn channel_of_reports() -> (Tell, Receiver<Report>) {
    let (tell, told) = channel();
    (Arc::new(move |report| drop(tell.send(report))), told)
}

#[test]
fn what_a_barrier_overtakes_on_its_way_out_is_in_the_part_that_is_acknowledged() {
    let mut slot = OneSlot::new(one_batch());
    slot.pass(4, 0);
    // Four do not fit: the barrier waits behind them, and the part for the barrier.
    assert!(!slot.is_sealed());
    assert!(slot.reported.try_recv().is_err());
    slot.leave(3);
    assert!(slot.is_sealed());
    let snapshot = slot.acknowledged();
    let [file] = &snapshot.files[..] else { panic!("one file of rows: {:?}", snapshot.files) };
    assert!(file.sections.is_empty() && file.len > one_batch() as u64, "{file:?}");
    let lists: Vec<_> = snapshot.operators.iter().flat_map(|of| &of.lists).collect();
    assert_eq!(lists.len(), 1);
    assert_eq!(lists[0].parts[0].items.len(), 1, "one batch");
    // The barrier goes before what it overtook, which is sent all the same.
    assert!(matches!(slot.leave(2)[..], [Element::Barrier(_), Element::Batch(_)]));
}

#[test]
fn a_part_waits_as_long_as_its_barrier_may_yet_overtake() {
    let mut slot = OneSlot::new(MOST);
    slot.pass(1, TS_MAX);
    assert!(!slot.is_sealed(), "its time may come while rows are before it");
    assert!(matches!(slot.leave(1)[..], [Element::Batch(_)]));
    assert!(!slot.is_sealed());
    assert!(matches!(slot.leave(1)[..], [Element::Barrier(_)]));
    assert!(slot.is_sealed(), "it has left as an aligned one does");
    assert!(slot.acknowledged().files.is_empty());
}
