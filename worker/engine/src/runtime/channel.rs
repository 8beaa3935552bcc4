//! A channel: rows and control elements from one upstream subtask to one downstream subtask.
//!
//! Bounded in batches; control elements (watermark, barrier, idle, end) need no
//! room and coalesce. Emptied batches travel back for reuse. Batches are large,
//! so a mutex per batch costs less than 0.1 ns a row.

use crate::data::{AnyBatch, Ts};
use crate::runtime::CHANNEL_BATCHES;
use crate::runtime::flight::{Flight, Phase, Recorded, Unfit};
use crate::runtime::signal::Signal;
use crate::runtime::snapshot::Barrier;
use millrace_protocol::ids::CheckpointId;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What flows on a channel.
pub enum Element {
    /// Rows.
    Batch(Box<dyn AnyBatch>),
    /// A watermark for which no batch was due. [`crate::data::TS_MIN`] only says "here, and active".
    Watermark(Ts),
    /// Nothing is to be expected for now (true) or again (false).
    Idle(bool),
    /// A checkpoint's barrier.
    Barrier(Barrier),
    /// No more rows. Barriers still follow.
    End,
}

/// Wakes one task of a slot, or one channel of a connection to another worker, whose
/// threads sleep on a [`Signal`] of their own.
#[derive(Clone)]
pub struct TaskWaker {
    /// The slot's signal.
    pub signal: Arc<Signal>,
    /// The task's index in it.
    pub task: usize,
}

impl TaskWaker {
    /// Marks the task ready.
    pub fn wake(&self) {
        self.signal.wake(self.task);
    }
}

#[derive(Default)]
struct Queue {
    elements: VecDeque<Element>,
    batches: usize,
    sender_waits: bool,
    /// The sender is woken when so few batches are left.
    wake_at: usize,
    /// The sender gives leave for what was taken: it must hear of all of it.
    credited: bool,
    recycled: Vec<Box<dyn AnyBatch>>,
    /// The newest barrier in the queue that may overtake rows.
    announced: Option<Barrier>,
}

impl Queue {
    /// Where a checkpoint's barrier stands.
    fn barrier(&self, checkpoint: CheckpointId) -> Option<usize> {
        let is_it = |e: &Element| matches!(e, Element::Barrier(b) if b.checkpoint == checkpoint);
        self.elements.iter().position(is_it)
    }

    fn batches_before(&self, at: usize) -> impl Iterator<Item = &dyn AnyBatch> {
        self.elements.range(..at).filter_map(|element| match element {
            Element::Batch(batch) => Some(batch.as_ref()),
            _ => None,
        })
    }
}

/// The channel itself; both ends share it.
pub struct Channel {
    queue: Mutex<Queue>,
    sender: TaskWaker,
    receiver: TaskWaker,
    /// What its rows are if barriers may overtake them.
    flight: Option<Flight>,
    /// Whether its receiver is a connection to another worker.
    leaves: bool,
    /// Whether there is an announced barrier, to be asked without the lock.
    announces: AtomicBool,
}

impl Channel {
    /// An empty channel between two tasks.
    pub fn new(sender: TaskWaker, receiver: TaskWaker) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            sender,
            receiver,
            flight: None,
            leaves: false,
            announces: AtomicBool::new(false),
        }
    }

    /// The same, of rows that barriers may overtake (or not).
    #[must_use]
    pub fn carrying(self, flight: Option<Flight>) -> Self {
        Self { flight, ..self }
    }

    /// The same, to a connection that sends its rows to another worker.
    #[must_use]
    pub fn leaving(self) -> Self {
        Self { leaves: true, ..self }
    }

    /// Whether its rows are only encoded here, and worked on elsewhere.
    pub fn leaves(&self) -> bool {
        self.leaves
    }

    /// What its rows are if barriers may overtake them.
    pub fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic while the lock is held cannot leave the queue half-changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a batch if there is room, and gets an emptied one back for reuse.
    /// Without room the batch is returned, and the sender's task is woken later.
    pub fn try_send(
        &self,
        batch: Box<dyn AnyBatch>,
    ) -> Result<Option<Box<dyn AnyBatch>>, Box<dyn AnyBatch>> {
        let mut queue = self.lock();
        if queue.batches >= CHANNEL_BATCHES {
            queue.sender_waits = true;
            queue.wake_at = CHANNEL_BATCHES / 2;
            return Err(batch);
        }
        Ok(self.push(queue, batch))
    }

    /// Whether there is no room; then the sender's task is woken when there is.
    pub fn is_full(&self) -> bool {
        let mut queue = self.lock();
        let full = queue.batches >= CHANNEL_BATCHES;
        if full {
            queue.sender_waits = true;
            queue.wake_at = CHANNEL_BATCHES / 2;
        }
        full
    }

    /// Whether there is more in it than there is room for, as rows were forced into it;
    /// then the sender's task is woken when there is room again.
    pub fn is_over(&self) -> bool {
        let mut queue = self.lock();
        let over = queue.batches > CHANNEL_BATCHES;
        if over {
            queue.sender_waits = true;
            queue.wake_at = CHANNEL_BATCHES / 2;
        }
        over
    }

    /// Sends a batch whether there is room or not: the rows buffered before a barrier.
    pub fn force_send(&self, batch: Box<dyn AnyBatch>) -> Option<Box<dyn AnyBatch>> {
        self.push(self.lock(), batch)
    }

    /// Sends a batch that another process had leave to send, and wakes the sender, which
    /// gives such leave, once half of what waits then was taken.
    pub fn deliver(&self, batch: Box<dyn AnyBatch>) -> Option<Box<dyn AnyBatch>> {
        let mut queue = self.lock();
        queue.sender_waits = true;
        queue.wake_at = queue.batches.div_ceil(2);
        queue.credited = true;
        self.push(queue, batch)
    }

    fn push(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        batch: Box<dyn AnyBatch>,
    ) -> Option<Box<dyn AnyBatch>> {
        queue.elements.push_back(Element::Batch(batch));
        queue.batches += 1;
        let recycled = queue.recycled.pop();
        drop(queue);
        self.receiver.wake();
        recycled
    }

    /// Sends a control element; never waits.
    pub fn send_control(&self, element: Element) {
        let mut queue = self.lock();
        if let Element::Barrier(barrier) = &element
            && barrier.unaligned_at.is_some()
            && self.flight.is_some()
        {
            queue.announced = Some(barrier.clone());
            self.announces.store(true, Ordering::Release);
        }
        match (queue.elements.back_mut(), &element) {
            (Some(Element::Watermark(last)), Element::Watermark(next)) => {
                *last = (*last).max(*next)
            }
            (Some(Element::Idle(last)), Element::Idle(next)) => *last = *next,
            _ => queue.elements.push_back(element),
        }
        drop(queue);
        self.receiver.wake();
    }

    /// Takes the next element.
    pub fn receive(&self) -> Option<Element> {
        self.take(self.lock())
    }

    /// Takes the next element unless it is a batch: for who has no room for one.
    pub fn receive_control(&self) -> Option<Element> {
        let queue = self.lock();
        if matches!(queue.elements.front(), Some(Element::Batch(_))) {
            return None;
        }
        self.take(queue)
    }

    #[inline]
    fn take(&self, mut queue: MutexGuard<'_, Queue>) -> Option<Element> {
        let element = queue.elements.pop_front()?;
        let mut wake = false;
        if let (Element::Barrier(barrier), Some(announced)) = (&element, &queue.announced)
            && barrier.checkpoint == announced.checkpoint
        {
            self.forget_announced(&mut queue);
        }
        if matches!(element, Element::Batch(_)) {
            queue.batches -= 1;
            if queue.sender_waits && queue.batches <= queue.wake_at {
                wake = true;
                // Half of the rest next: what is left may be all that there is leave for.
                queue.sender_waits = queue.credited && queue.batches > 0;
                queue.wake_at = queue.batches / 2;
            }
        }
        drop(queue);
        if wake {
            self.sender.wake();
        }
        Some(element)
    }

    fn forget_announced(&self, queue: &mut Queue) {
        queue.announced = None;
        self.announces.store(false, Ordering::Release);
    }

    /// The newest barrier that waits among the rows and may overtake them.
    pub fn announced(&self) -> Option<Barrier> {
        if !self.announces.load(Ordering::Acquire) {
            return None;
        }
        self.lock().announced.clone()
    }

    /// How many rows stand before a checkpoint's barrier.
    pub fn rows_before(&self, checkpoint: CheckpointId) -> usize {
        let queue = self.lock();
        let at = queue.barrier(checkpoint).unwrap_or(0);
        queue.batches_before(at).map(|batch| batch.rows()).sum()
    }

    /// The receiver records the rows before a checkpoint's barrier.
    pub fn record(
        &self,
        checkpoint: CheckpointId,
        recorded: &mut Recorded,
        room: usize,
    ) -> Result<(), Unfit> {
        let Some(flight) = &self.flight else { return Ok(()) };
        let queue = self.lock();
        let at = queue.barrier(checkpoint).unwrap_or(0);
        let mut batches = queue.batches_before(at);
        batches.try_for_each(|batch| recorded.add(flight, Phase::Received, batch, room))
    }

    /// The receiver takes out a checkpoint's barrier from among the rows, which it has
    /// recorded.
    pub fn take_barrier(&self, checkpoint: CheckpointId) {
        self.remove(&mut self.lock(), checkpoint);
    }

    fn remove(&self, queue: &mut Queue, checkpoint: CheckpointId) -> Option<Element> {
        let at = queue.barrier(checkpoint)?;
        if queue.announced.as_ref().is_some_and(|b| b.checkpoint == checkpoint) {
            self.forget_announced(queue);
        }
        queue.elements.remove(at)
    }

    /// The sender puts a checkpoint's barrier in front of the rows before it, and gets those,
    /// if there is room for them: at once, for what is in front may leave at any time.
    pub fn put_in_front(&self, checkpoint: CheckpointId, room: usize) -> Result<Recorded, Unfit> {
        let mut recorded = Recorded::default();
        let Some(flight) = &self.flight else { return Ok(recorded) };
        let mut queue = self.lock();
        let Some(at) = queue.barrier(checkpoint) else { return Ok(recorded) };
        for batch in queue.batches_before(at) {
            recorded.add(flight, Phase::Sent, batch, room)?;
        }
        if let Some(barrier) = self.remove(&mut queue, checkpoint) {
            queue.elements.push_front(barrier);
        }
        drop(queue);
        self.receiver.wake();
        Ok(recorded)
    }

    /// Gives an emptied batch back to the sender.
    pub fn recycle(&self, batch: Box<dyn AnyBatch>) {
        let mut queue = self.lock();
        if queue.recycled.len() < CHANNEL_BATCHES {
            queue.recycled.push(batch);
        }
    }

    /// Batches waiting: for metrics.
    pub fn waiting(&self) -> usize {
        self.lock().batches
    }
}
