//! What a task says when a barrier overtakes rows: of event time in the middle of a batch, and
//! to those behind it that have heard nothing yet.

use super::*;
use crate::coordinator::BarrierKind;
use crate::data::{Packet, Rows};
use crate::exchange::codec::Packets;
use crate::runtime::channel::{Channel, Element, TaskWaker};
use crate::runtime::emit::{Fanout, Stage};
use crate::runtime::flight::{Flight, IN_FLIGHT, MOST, Restored};
use crate::runtime::gate::Marks;
use crate::runtime::operator::{drive, marks_of};
use crate::runtime::signal::Signal;
use millrace_protocol::ids::Attempt;
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::ShapeBytes;
use std::sync::Mutex;

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

/// Notes what those behind a task hear.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<&'static str>>>);

impl Heard {
    fn note(&self, word: &'static str) -> Res {
        self.0.lock().unwrap().push(word);
        Ok(())
    }
}

impl Stage<u64> for Heard {
    fn push(&mut self, _: &mut Rows<u64>) -> Res {
        self.note("rows")
    }

    fn watermark(&mut self, _: Ts) -> Res {
        self.note("watermark")
    }

    fn idle(&mut self, _: bool) -> Res {
        self.note("idle")
    }

    fn barrier(&mut self, _: &Barrier, _: &mut SnapshotParts) -> Res {
        self.note("barrier")
    }

    fn end(&mut self) -> Res {
        self.note("end")
    }

    fn flush(&mut self, _: bool) -> Res {
        Ok(())
    }

    fn force(&mut self) -> Res {
        Ok(())
    }

    fn blocked(&self) -> bool {
        false
    }
}

fn channel() -> Arc<Channel> {
    let waker = TaskWaker { signal: Arc::new(Signal::new(1)), task: 0 };
    Arc::new(Channel::new(waker.clone(), waker).carrying(Some(flight())))
}

fn flight() -> Flight {
    Flight {
        uid: Uid::from("slow"),
        state: format!("{IN_FLIGHT}0 from rows"),
        input: 0,
        keyed: true,
        groups: KeyGroupRange { start: 0, end: 8 },
        codec: Arc::new(Packets::<u64>::new()),
        shape: ShapeBytes::default(),
        up: 0,
    }
}

fn task(channel: &Arc<Channel>) -> OperatorTask<Slow> {
    restored(channel, Vec::new(), Vec::new())
}

fn restored(
    channel: &Arc<Channel>,
    restored: Vec<Restored>,
    stages: Vec<Box<dyn Stage<u64>>>,
) -> OperatorTask<Slow> {
    let out = Emitter::new(Fanout::new(stages, None, Arc::default()));
    let mut gate = Gate::new(vec![(0, Arc::clone(channel))], Slow::inputs());
    gate.restore_rows(restored);
    let (name, uid) = ("slow".to_owned(), Uid::from("slow"));
    OperatorTask::new(name, uid, 0, Slow { may: 0 }, out, gate, Arc::default())
}

fn packet(rows: u64, marks: &[(u32, Ts)]) -> Box<Packet<u64>> {
    let rows = (0..rows).map(|row| (row as Ts, row, row)).collect();
    Box::new(Packet { rows, marks: marks.to_vec() })
}

fn send(channel: &Channel, rows: u64, marks: &[(u32, Ts)]) {
    drop(channel.force_send(packet(rows, marks)));
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

/// Those behind it do not give out a row before they have heard all that are before them, and
/// a barrier says nothing.
#[test]
fn one_that_has_no_room_for_what_it_was_restored_with_greets_before_it_passes_a_barrier() {
    let (channel, heard) = (channel(), Heard::default());
    let rows = Restored { flight: Arc::new(flight()), batch: packet(4, &[]) };
    let mut task = restored(&channel, vec![rows], vec![Box::new(heard.clone())]);
    turn(&mut task, None);
    channel.send_control(Element::Watermark(TS_MIN));
    assert_eq!(at_a_barrier(&mut task, &channel, 0, 7), TS_MIN);
    assert_eq!(at_a_barrier(&mut task, &channel, 0, 8), TS_MIN);
    assert_eq!(*heard.0.lock().unwrap(), ["watermark", "barrier", "barrier"]);
}
