//! What a task says of event time when a barrier overtakes rows in the middle of a batch.

use super::*;
use crate::coordinator::BarrierKind;
use crate::data::{Packet, TS_MIN};
use crate::exchange::codec::Packets;
use crate::runtime::channel::{Channel, Element, TaskWaker};
use crate::runtime::emit::Fanout;
use crate::runtime::flight::{Flight, IN_FLIGHT, MOST};
use crate::runtime::gate::Marks;
use crate::runtime::operator::{drive, marks_of};
use crate::runtime::signal::Signal;
use millrace_protocol::ids::Attempt;
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::ShapeBytes;

/// Takes as many rows as it may, and then has no room.
struct Slow {
    may: usize,
}

impl Operator for Slow {
    type Out = u64;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<u64>]
    }

    fn batch(&mut self, _: usize, batch: &mut dyn AnyBatch, out: &mut Emitter<u64>) -> Res<Flow> {
        drive::<u64, _, _>(
            self,
            batch,
            out,
            |slow, rows, _| {
                while slow.may > 0 && rows.next().is_some() {
                    slow.may -= 1;
                }
                Ok(())
            },
            |_, watermark, out| out.mark(watermark).map(|()| Flow::Done),
        )
    }
}

fn channel() -> Arc<Channel> {
    let waker = TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 };
    let flight = Flight {
        uid: Uid::from("slow"),
        state: format!("{IN_FLIGHT}0 from rows"),
        input: 0,
        keyed: true,
        groups: KeyGroupRange { start: 0, end: 8 },
        codec: Arc::new(Packets::<u64>::new()),
        shape: ShapeBytes::default(),
        up: 0,
    };
    Arc::new(Channel::new(waker.clone(), waker).carrying(Some(flight)))
}

fn task(channel: &Arc<Channel>) -> OperatorTask<Slow> {
    let out = Emitter::new(Fanout::new(Vec::new(), None, Arc::default()));
    let gate = Gate::new(vec![(0, Arc::clone(channel))], Slow::inputs());
    let (name, uid) = ("slow".to_owned(), Uid::from("slow"));
    OperatorTask::new(name, uid, 0, Slow { may: 0 }, out, gate, Arc::default())
}

fn send(channel: &Channel, rows: u64, marks: &[(u32, Ts)]) {
    let rows = (0..rows).map(|row| (row as Ts, row, row)).collect();
    drop(channel.force_send(Box::new(Packet { rows, marks: marks.to_vec() })));
}

fn turn(task: &mut OperatorTask<Slow>, overtaking: Option<usize>) -> (SnapshotParts, Recorded) {
    let (mut parts, mut passed, mut overtaken) =
        (SnapshotParts::default(), None, Recorded::default());
    let mut turn = Turn {
        now: 0,
        overtaking,
        parts: &mut parts,
        passed: &mut passed,
        overtaken: &mut overtaken,
    };
    task.run(&mut turn).unwrap();
    assert_eq!(passed.is_some(), overtaking.is_some(), "a barrier was passed");
    (parts, overtaken)
}

/// The event time that a checkpoint holds whose barrier comes when the task has taken so
/// many rows more and has no room for others.
fn at_a_barrier(task: &mut OperatorTask<Slow>, channel: &Channel, rows: usize, number: u64) -> Ts {
    task.operator.may = rows;
    turn(task, None);
    assert_eq!(task.operator.may, 0, "it had as many rows");
    let (checkpoint, kind) = (CheckpointId(number), BarrierKind::Periodic);
    let barrier =
        Barrier { attempt: Attempt(1), checkpoint, base: None, kind, unaligned_at: Some(0) };
    channel.send_control(Element::Barrier(barrier));
    let (parts, overtaken) = turn(task, Some(MOST));
    assert!(overtaken.bytes() > 0, "the rest of the batch is in the checkpoint");
    let [(_, time)] = &parts.event_times[..] else { panic!("one operator") };
    time.watermark()
}

/// The gate knows all marks of a batch as soon as that has come, the operator only those
/// that it came to. The rows behind it are in the checkpoint, and must not be late there.
#[test]
fn a_checkpoint_in_the_middle_of_a_batch_holds_the_event_time_that_its_rows_have_reached() {
    let channel = channel();
    channel.send_control(Element::Watermark(TS_MIN));
    send(&channel, 4, &[(1, 5), (3, 25)]);
    let mut task = task(&channel);
    assert_eq!(at_a_barrier(&mut task, &channel, 2, 7), 5);
    assert_eq!(task.gate.watermark(), 25, "the gate is ahead of it");
    assert_eq!(at_a_barrier(&mut task, &channel, 1, 8), 25);
    // One more row ends the batch; of the next one it has taken no mark.
    send(&channel, 2, &[(2, 60)]);
    assert_eq!(at_a_barrier(&mut task, &channel, 2, 9), 25);
    assert_eq!(task.gate.watermark(), 60);
}
