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

/// Adds rows for which there is room.
fn add(recorded: &mut Recorded, flight: &Flight, phase: Phase, rows: &[u64]) {
    recorded.add(flight, phase, batch(rows).as_ref(), MOST).unwrap();
}

#[test]
fn rows_keep_their_order_over_all_phases() {
    let mut slot = Recorded::default();
    add(&mut slot, &flight(1), Phase::Sent, &[5]);
    add(&mut slot, &flight(1), Phase::Received, &[3]);
    add(&mut slot, &flight(1), Phase::Received, &[4]);
    let mut task = Recorded::default();
    add(&mut task, &flight(0), Phase::Received, &[2]);
    add(&mut task, &flight(0), Phase::Restored, &[1]);
    add(&mut task, &flight(0), Phase::Restored, &[]);
    slot.append(task);
    assert_eq!(read(slot).0, [[1], [2], [3], [4], [5]]);
}

/// Checkpoints of older builds hold these bytes.
#[test]
fn the_format_of_the_first_build() {
    let mut recorded = Recorded::default();
    add(&mut recorded, &flight(3), Phase::Received, &[1, 2]);
    let (rows, bytes) = read(recorded);
    assert_eq!(rows, [[1, 2]]);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN);
}

#[test]
fn damage_and_newer_formats_are_told() {
    let mut recorded = Recorded::default();
    add(&mut recorded, &flight(3), Phase::Received, &[1, 2]);
    let crc32 = crc32fast::hash(&read(recorded).1);
    let mut recorded = Recorded::default();
    add(&mut recorded, &flight(3), Phase::Received, &[1, 2]);
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
fn what_there_is_no_room_for_is_told() {
    let mut recorded = Recorded::default();
    add(&mut recorded, &flight(0), Phase::Received, &[1]);
    let (one, rows) = (recorded.bytes(), batch(&[1]));
    assert_eq!(recorded.add(&flight(0), Phase::Received, rows.as_ref(), 2 * one), Ok(()));
    let full = recorded.add(&flight(0), Phase::Received, rows.as_ref(), 3 * one - 1);
    assert_eq!(full, Err(Unfit::Room(3 * one - 1)));
    let mut wrong = flight(0);
    wrong.codec = Arc::new(Packets::<String>::new());
    let why = Recorded::default().add(&wrong, Phase::Received, rows.as_ref(), MOST).unwrap_err();
    assert!(why.to_string().contains("on their way to operator sum"), "{why}");
}

#[test]
fn a_barrier_overtakes_what_channels_hold_once_it_is_in_all() {
    let (a, b) = (channel(Some(flight(0))), channel(Some(flight(1))));
    let mut gate = gate(&[&a, &b]);
    a.force_send(batch(&[1]));
    b.force_send(batch(&[10]));
    a.send_control(Element::Barrier(barrier(7, Some(100))));
    assert_eq!(gate.overtakes_at(99), Some(100));
    assert!(gate.overtaking(100).is_none(), "more may come before it on the other channel");
    b.force_send(batch(&[11]));
    b.send_control(Element::Barrier(barrier(7, Some(100))));
    a.force_send(batch(&[2]));
    b.force_send(batch(&[12]));
    // Not before its time.
    assert!(gate.overtaking(99).is_none());
    let taken = gate.overtaking(100).unwrap();
    let current = batch(&[0]);
    let recorded = gate.overtake(&taken, Some((0, current.as_ref())), MOST).unwrap();
    assert_eq!(read(recorded).0, [[0], [1], [10], [11]]);
    assert!(gate.overtaking(100).is_none(), "twice");
    // Worked on as ever.
    for expected in [1, 10, 2, 11, 12] {
        assert_eq!(next(&mut gate), [expected]);
    }
    assert!(gate.poll().is_none(), "the barrier comes once");
}

#[test]
fn a_barrier_waits_for_rows_that_do_not_fit() {
    let (a, b) = (channel(Some(flight(0))), channel(Some(flight(1))));
    let mut gate = gate(&[&a, &b]);
    let mut one = Recorded::default();
    add(&mut one, &flight(0), Phase::Received, &[1]);
    let room = 3 * one.bytes();
    (1..=4).for_each(|n| drop(a.force_send(batch(&[n]))));
    (11..=14).for_each(|n| drop(b.force_send(batch(&[n]))));
    for channel in [&a, &b] {
        channel.send_control(Element::Barrier(barrier(7, Some(0))));
        channel.force_send(batch(&[100]));
    }
    let mut taken = Vec::new();
    let recorded = loop {
        let waits = gate.overtaking(0).unwrap();
        match gate.overtake(&waits, None, room) {
            Some(recorded) => break read(recorded).0,
            None => taken.push(next(&mut gate)[0]),
        }
    };
    // Looked at again when a quarter of the eight is done, and of the six that are left.
    assert_eq!(taken, [1, 11, 2, 12, 3]);
    assert_eq!(recorded, [[4], [13], [14]]);
    for expected in [13, 4, 14, 100, 100] {
        assert_eq!(next(&mut gate), [expected]);
    }
    // The next one is looked at anew.
    a.force_send(batch(&[5]));
    a.send_control(Element::Barrier(barrier(8, Some(0))));
    b.send_control(Element::Barrier(barrier(8, Some(0))));
    let waits = gate.overtaking(0).unwrap();
    assert_eq!(read(gate.overtake(&waits, None, room).unwrap()).0, [[5]]);
}

#[test]
fn with_no_room_at_all_a_barrier_comes_as_an_aligned_one() {
    let (a, b) = (channel(Some(flight(0))), channel(Some(flight(1))));
    let mut gate = gate(&[&a, &b]);
    for channel in [&a, &b] {
        channel.force_send(batch(&[1]));
        channel.send_control(Element::Barrier(barrier(7, Some(0))));
        channel.force_send(batch(&[2]));
    }
    let waits = gate.overtaking(0).unwrap();
    assert!(gate.overtake(&waits, None, 0).is_none());
    assert_eq!([next(&mut gate), next(&mut gate)], [[1], [1]]);
    assert!(matches!(gate.poll(), Some(Event::Barrier(b)) if b.checkpoint == CheckpointId(7)));
    assert_eq!([next(&mut gate), next(&mut gate)], [[2], [2]]);
}

#[test]
fn a_channel_that_cannot_be_overtaken_is_waited_for() {
    let (a, b) = (channel(Some(flight(0))), channel(None));
    let mut gate = gate(&[&a, &b]);
    (1..=4).for_each(|n| drop(a.force_send(batch(&[n]))));
    a.send_control(Element::Barrier(barrier(7, Some(0))));
    b.force_send(batch(&[10]));
    b.send_control(Element::Barrier(barrier(7, Some(0))));
    for expected in [1, 10, 2, 3] {
        assert!(gate.overtaking(0).is_none());
        assert_eq!(next(&mut gate), [expected]);
    }
    let taken = gate.overtaking(0).unwrap();
    assert_eq!(read(gate.overtake(&taken, None, MOST).unwrap()).0, [[4]]);
    assert_eq!(next(&mut gate), [4]);
    assert!(gate.poll().is_none());
}

#[test]
fn restored_rows_stay_before_what_was_heard_since() {
    let waker = TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 };
    let a = Arc::new(Channel::new(waker.clone(), waker).carrying(Some(flight(0))));
    // The first word of the channel is rows: these are held.
    a.force_send(batch(&[10]));
    let mut gate = Gate::new(vec![(0, Arc::clone(&a))], vec![marks_of::<u64>]);
    let restored = |n| Restored { flight: Arc::new(flight(0)), batch: batch(&[n]) };
    gate.restore_rows(vec![restored(1), restored(2)]);
    assert!(matches!(gate.poll(), Some(Event::Watermark(TS_MIN))));
    let Some(Event::Batch { inlet, batch: current, .. }) = gate.poll() else { panic!("no rows") };
    a.force_send(batch(&[11]));
    a.send_control(Element::Barrier(barrier(7, Some(0))));
    let taken = gate.overtaking(0).unwrap();
    let recorded = gate.overtake(&taken, Some((inlet, current.as_ref())), MOST).unwrap();
    assert_eq!(read(recorded).0, [[1], [2], [10], [11]]);
    for expected in [2, 10, 11] {
        assert_eq!(next(&mut gate), [expected]);
    }
    assert!(gate.poll().is_none());
}

/// A task that has no room to work on what it was restored with does not poll.
#[test]
fn a_barrier_overtakes_restored_rows_of_a_gate_that_was_not_polled_since_the_first_words_came() {
    for greets in [true, false] {
        let waker = TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 };
        let a = Arc::new(Channel::new(waker.clone(), waker).carrying(Some(flight(0))));
        let mut gate = Gate::new(vec![(0, Arc::clone(&a))], vec![marks_of::<u64>]);
        let restored = |n| Restored { flight: Arc::new(flight(0)), batch: batch(&[n]) };
        gate.restore_rows(vec![restored(1), restored(2)]);
        let Some(Event::Batch { inlet, batch: current, .. }) = gate.poll() else { panic!("rows") };
        assert!(gate.overtaking(0).is_none(), "there is no barrier");
        if greets {
            a.send_control(Element::Watermark(TS_MIN));
        }
        a.send_control(Element::Barrier(barrier(7, Some(0))));
        let taken = gate.overtaking(0).unwrap();
        let recorded = gate.overtake(&taken, Some((inlet, current.as_ref())), MOST).unwrap();
        assert_eq!(read(recorded).0, [[1], [2]]);
        assert!(gate.take_greeting(), "it is passed on in front of the barrier");
        assert!(gate.overtaking(0).is_none(), "twice");
        assert_eq!(next(&mut gate), [2]);
        assert!(gate.poll().is_none(), "no barrier, and the greeting once");
    }
}

#[test]
fn restored_rows_go_before_the_watermark_that_was_heard_since() {
    let waker = TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 };
    let a = Arc::new(Channel::new(waker.clone(), waker).carrying(Some(flight(0))));
    a.send_control(Element::Watermark(50));
    let mut gate = Gate::new(vec![(0, a)], vec![marks_of::<u64>]);
    gate.restore(7);
    gate.restore_rows(vec![Restored { flight: Arc::new(flight(0)), batch: batch(&[10]) }]);
    assert_eq!(next(&mut gate), [10]);
    assert!(matches!(gate.poll(), Some(Event::Watermark(50))));
}

#[test]
fn one_given_up_is_overtaken_by_the_next() {
    let (a, b) = (channel(Some(flight(0))), channel(Some(flight(1))));
    let mut gate = gate(&[&a, &b]);
    b.force_send(batch(&[10]));
    b.send_control(Element::Barrier(barrier(7, Some(0))));
    b.force_send(batch(&[11]));
    b.send_control(Element::Barrier(barrier(8, Some(0))));
    assert!(gate.overtaking(0).is_none());
    a.send_control(Element::Barrier(barrier(8, Some(0))));
    let taken = gate.overtaking(0).unwrap();
    assert_eq!(taken.checkpoint, CheckpointId(8));
    let recorded = gate.overtake(&taken, None, MOST).unwrap();
    assert_eq!(read(recorded).0, [[10], [11]]);
    assert_eq!(next(&mut gate), [10]);
    // The older barrier is still there, and means nothing any more; late ones neither.
    a.send_control(Element::Barrier(barrier(7, Some(0))));
    assert_eq!(next(&mut gate), [11]);
    assert!(gate.poll().is_none());
    assert!(gate.overtaking(0).is_none());
}

#[test]
fn a_sender_lets_the_barrier_out_first() {
    let channel = channel(Some(flight(0)));
    channel.receive().unwrap();
    channel.force_send(batch(&[1]));
    channel.send_control(Element::Barrier(barrier(7, Some(0))));
    channel.force_send(batch(&[2]));
    assert_eq!(channel.put_in_front(CheckpointId(7), 3).err(), Some(Unfit::Room(3)));
    assert!(channel.announced().is_some(), "it may overtake yet");
    assert_eq!(channel.rows_before(CheckpointId(7)), 1);
    let recorded = channel.put_in_front(CheckpointId(7), MOST).unwrap();
    assert!(channel.announced().is_none(), "it would overtake twice");
    assert!(matches!(channel.receive(), Some(Element::Barrier(_))));
    assert!(matches!(channel.receive(), Some(Element::Batch(_))));
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

#[test]
fn rows_in_flight_take_an_eighth_of_the_memory_at_most() {
    assert_eq!(room(MOST, None, 2), MOST);
    assert_eq!(room(MOST, Some(64 << 30), 2), MOST);
    assert_eq!(room(MOST, Some(512 << 20), 2), 32 << 20);
    assert_eq!(room(1000, Some(512 << 20), 0), 1000);
}
