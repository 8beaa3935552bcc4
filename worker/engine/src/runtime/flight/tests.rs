//! What gates and channels record, and how it is written.

use super::seal::Piece;
use super::*;
use crate::coordinator::BarrierKind;
use crate::data::{Packet, TS_MIN};
use crate::exchange::codec::Packets;
use crate::runtime::channel::{Channel, Element, TaskWaker};
use crate::runtime::gate::{Event, Gate};
use crate::runtime::operator::marks_of;
use crate::runtime::signal::Signal;
use crate::runtime::snapshot::Barrier;
use crate::store::{DirectoryStore, ObjectStore};
use millrace_protocol::ids::{Attempt, CheckpointId};
use millrace_protocol::manifest::FileOrder;
use millrace_protocol::objects::ObjectKey;

fn flight(up: u16) -> Flight {
    Flight {
        uid: Uid::from("sum"),
        state: format!("{IN_FLIGHT}0 from rows"),
        input: 0,
        keyed: true,
        groups: KeyGroupRange { start: 0, end: 8 },
        codec: Arc::new(Packets::<u64>::new()),
        shape: ShapeBytes::default(),
        up,
    }
}

fn batch(values: &[u64]) -> Box<Packet<u64>> {
    let rows = values.iter().map(|v| (*v as i64, v << 40, *v)).collect();
    Box::new(Packet { rows, marks: vec![(1, 5)] })
}

fn channel(flight: Option<Flight>) -> Arc<Channel> {
    let waker = TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 };
    let channel = Channel::new(waker.clone(), waker).carrying(flight);
    channel.send_control(Element::Watermark(TS_MIN));
    Arc::new(channel)
}

fn barrier(checkpoint: u64, unaligned_at: Option<i64>) -> Barrier {
    let (checkpoint, kind) = (CheckpointId(checkpoint), BarrierKind::Periodic);
    Barrier { attempt: Attempt(1), checkpoint, base: None, kind, unaligned_at }
}

fn gate(channels: &[&Arc<Channel>]) -> Gate {
    let inlets = channels.iter().map(|c| (0, Arc::clone(c))).collect();
    let mut gate = Gate::new(inlets, vec![marks_of::<u64>]);
    assert!(matches!(gate.poll(), Some(Event::Watermark(TS_MIN))));
    gate
}

/// The rows of a gate's next event.
fn next(gate: &mut Gate) -> Vec<u64> {
    match gate.poll() {
        Some(Event::Batch { mut batch, .. }) => values(batch.as_mut()),
        _ => panic!("no rows"),
    }
}

fn values(batch: &mut dyn AnyBatch) -> Vec<u64> {
    let packet = batch.as_any_mut().downcast_mut::<Packet<u64>>().unwrap();
    packet.rows.iter().map(|row| row.2).collect()
}

fn key() -> ObjectKey {
    ObjectKey::parse("data/1/s0-c7-1").unwrap()
}

fn order() -> FileOrder {
    FileOrder { checkpoint: CheckpointId(7), index: 0 }
}

/// All rows of a record in their order, with the bytes they were written as.
fn read(recorded: Recorded) -> (Vec<Vec<u64>>, Vec<u8>) {
    let sealed = recorded.seal(&key(), order()).unwrap().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(dir.path()).unwrap();
    sealed.write(&store).unwrap();
    let bytes = store.get(&key()).unwrap().unwrap();
    check(&bytes, sealed.file.crc32).unwrap();
    assert_eq!(sealed.file.len, bytes.len() as u64);
    let items = sealed.lists.iter().flat_map(|list| &list.items);
    let mut pieces: Vec<Piece> = items.map(|i| postcard::from_bytes(i).unwrap()).collect();
    pieces.sort_by_key(Piece::order);
    let decode = |piece: &Piece| {
        let at = piece.at as usize;
        let part = &bytes[at..at + piece.len as usize];
        assert_eq!(piece.crc32, crc32fast::hash(part));
        values(flight(0).codec.decode(part, None).unwrap().as_mut())
    };
    (pieces.iter().map(decode).collect(), bytes)
}

#[test]
fn rows_keep_their_order_over_all_phases() {
    let mut slot = Recorded::default();
    slot.add(&flight(1), Phase::Sent, batch(&[5]).as_ref());
    slot.add(&flight(1), Phase::Received, batch(&[3]).as_ref());
    slot.add(&flight(1), Phase::Received, batch(&[4]).as_ref());
    let mut task = Recorded::default();
    task.add(&flight(0), Phase::Received, batch(&[2]).as_ref());
    task.add(&flight(0), Phase::Restored, batch(&[1]).as_ref());
    task.add(&flight(0), Phase::Restored, batch(&[]).as_ref());
    slot.append(task);
    assert_eq!(read(slot).0, [[1], [2], [3], [4], [5]]);
}

/// Checkpoints of older builds hold these bytes.
#[test]
fn the_format_of_the_first_build() {
    let mut recorded = Recorded::default();
    recorded.add(&flight(3), Phase::Received, batch(&[1, 2]).as_ref());
    let (rows, bytes) = read(recorded);
    assert_eq!(rows, [[1, 2]]);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN);
}

#[test]
fn damage_and_newer_formats_are_told() {
    let mut recorded = Recorded::default();
    recorded.add(&flight(3), Phase::Received, batch(&[1, 2]).as_ref());
    let crc32 = crc32fast::hash(&read(recorded).1);
    let mut recorded = Recorded::default();
    recorded.add(&flight(3), Phase::Received, batch(&[1, 2]).as_ref());
    let sound = read(recorded).1;
    assert_eq!(check(&sound, crc32), Ok(()));
    assert!(check(&sound[..5], crc32).unwrap_err().contains("only 5 bytes"));
    let changed = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 2;
        check(&bytes, crc32).unwrap_err()
    };
    assert!(changed(0).contains("no rows in flight"));
    assert!(changed(8).contains("format 3"));
    assert!(changed(sound.len() - 1).contains("checksum"));
}

#[test]
fn too_much_is_refused() {
    let mut recorded = Recorded::default();
    recorded.add(&flight(0), Phase::Received, batch(&[1]).as_ref());
    recorded.grown(MOST);
    recorded.add(&flight(0), Phase::Received, batch(&[1]).as_ref());
    let mut slot = Recorded::default();
    slot.append(recorded);
    let why = slot.seal(&key(), order()).err().unwrap();
    assert!(why.contains("256 MiB") && why.contains("more slots"), "{why}");
}

#[test]
fn a_barrier_overtakes_what_channels_hold_and_what_follows_on_others() {
    let (a, b) = (channel(Some(flight(0))), channel(Some(flight(1))));
    let mut gate = gate(&[&a, &b]);
    a.force_send(batch(&[1]));
    b.force_send(batch(&[10]));
    a.send_control(Element::Barrier(barrier(7, Some(100))));
    // Not before its time.
    assert!(gate.overtaking(99).is_none());
    assert_eq!(gate.overtakes_at(99), Some(100));
    let taken = gate.overtaking(100).unwrap();
    let current = batch(&[0]);
    gate.overtake(&taken, Some((0, current.as_ref())));
    assert!(gate.overtaking(100).is_none(), "twice");
    assert!(gate.recorded(CheckpointId(7)).is_none(), "the other channel has no barrier yet");
    // Worked on as ever, and recorded if it is before the barrier.
    a.force_send(batch(&[2]));
    assert_eq!(next(&mut gate), [1]);
    assert_eq!(next(&mut gate), [10]);
    b.force_send(batch(&[11]));
    assert_eq!(next(&mut gate), [2]);
    assert_eq!(next(&mut gate), [11]);
    b.force_send(batch(&[12]));
    b.send_control(Element::Barrier(barrier(7, Some(100))));
    b.force_send(batch(&[13]));
    gate.catch_up();
    let recorded = gate.recorded(CheckpointId(7)).unwrap();
    assert_eq!(read(recorded).0, [[0], [1], [10], [11], [12]]);
    assert_eq!(next(&mut gate), [12]);
    assert_eq!(next(&mut gate), [13]);
    assert!(gate.poll().is_none(), "the barrier comes once");
}

#[test]
fn a_channel_that_cannot_be_overtaken_is_waited_for() {
    let (a, b) = (channel(Some(flight(0))), channel(None));
    let mut gate = gate(&[&a, &b]);
    a.force_send(batch(&[1]));
    a.send_control(Element::Barrier(barrier(7, Some(0))));
    b.force_send(batch(&[10]));
    b.send_control(Element::Barrier(barrier(7, Some(0))));
    assert!(gate.overtaking(0).is_none());
    assert_eq!(next(&mut gate), [1]);
    assert_eq!(next(&mut gate), [10]);
    assert!(matches!(gate.poll(), Some(Event::Barrier(b)) if b.checkpoint == CheckpointId(7)));
}

#[test]
fn one_given_up_is_not_recorded_any_longer() {
    let (a, b) = (channel(Some(flight(0))), channel(Some(flight(1))));
    let mut gate = gate(&[&a, &b]);
    a.send_control(Element::Barrier(barrier(7, Some(0))));
    let taken = gate.overtaking(0).unwrap();
    gate.overtake(&taken, None);
    gate.aborted(CheckpointId(7));
    b.force_send(batch(&[10]));
    assert_eq!(next(&mut gate), [10]);
    // Its barrier comes late, behind rows; the next one overtakes both.
    b.force_send(batch(&[11]));
    b.send_control(Element::Barrier(barrier(7, Some(0))));
    b.send_control(Element::Barrier(barrier(8, Some(0))));
    let taken = gate.overtaking(0).unwrap();
    assert_eq!(taken.checkpoint, CheckpointId(8));
    gate.overtake(&taken, None);
    a.send_control(Element::Barrier(barrier(8, Some(0))));
    gate.catch_up();
    assert_eq!(read(gate.recorded(CheckpointId(8)).unwrap()).0, [[11]]);
    assert_eq!(next(&mut gate), [11]);
    assert!(gate.poll().is_none());
}

#[test]
fn a_sender_lets_the_barrier_out_first() {
    let channel = channel(Some(flight(0)));
    channel.receive().unwrap();
    channel.force_send(batch(&[1]));
    channel.send_control(Element::Barrier(barrier(7, Some(0))));
    let mut recorded = Recorded::default();
    assert!(channel.overtake(CheckpointId(7), Phase::Sent, &mut recorded));
    assert!(channel.announced().is_none(), "it would overtake twice");
    assert!(matches!(channel.receive(), Some(Element::Barrier(_))));
    assert!(matches!(channel.receive(), Some(Element::Batch(_))));
    assert_eq!(read(recorded).0, [[1]]);
}

/// `MILLROWS`, the format, and a packet of two rows with a mark.
const GOLDEN: &str = concat!(
    "4d494c4c524f5753",
    "01000000",
    "02000000010000000101000000000000000200000000000000010000000000000002000000000000",
    "0000000000000100000000000000020000010000000500000000000000",
);
