//! Where a test puts rows in.

use super::{Stutter, lock};
use crate::data::{Res, Rows, TS_MAX, TS_MIN, Ts};
use crate::runtime::BATCH_ROWS;
use crate::runtime::emit::Fanout;
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::snapshot::Barrier;
use crate::runtime::task::{Progress, Task, Turn};
use crate::state::StateTable;
use millrace_protocol::ids::Uid;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

pub(super) enum Item<T> {
    Row(Ts, T),
    Watermark(Ts),
    Idle(bool),
    End,
}

pub(super) type Queue<T> = Arc<Mutex<VecDeque<Item<T>>>>;

/// An input of a [`super::Harness`]. What is put in waits until the harness runs.
pub struct Input<T> {
    queue: Queue<T>,
}

impl<T> Clone for Input<T> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue) }
    }
}

impl<T> Input<T> {
    pub(super) fn new(queue: Queue<T>) -> Self {
        Self { queue }
    }

    fn put(&self, item: Item<T>) -> &Self {
        lock(&self.queue).push_back(item);
        self
    }

    /// A row with its event time in milliseconds.
    pub fn push(&self, timestamp: Ts, row: T) -> &Self {
        self.put(Item::Row(timestamp, row))
    }

    /// The input's watermark, in milliseconds. An operator with several inputs goes by
    /// the lowest of theirs, and an input that has given none holds it back.
    pub fn watermark(&self, watermark: Ts) -> &Self {
        self.put(Item::Watermark(watermark))
    }

    /// The input is idle, and does not hold watermarks back; or no longer.
    pub fn idle(&self, idle: bool) -> &Self {
        self.put(Item::Idle(idle))
    }

    /// The input ends: its watermark becomes [`TS_MAX`].
    pub fn end(&self) -> &Self {
        self.put(Item::End)
    }
}

/// The task that hands on what the test put in.
pub(super) struct InputTask<T> {
    pub uid: Uid,
    pub queue: Queue<T>,
    pub out: Fanout<T>,
    pub rows: Rows<T>,
    pub stutter: Stutter,
    pub announced: bool,
    pub ended: bool,
    pub barrier: Option<Barrier>,
    pub metrics: Arc<NodeMetrics>,
}

impl<T: Send + 'static> InputTask<T> {
    fn deliver(&mut self) -> Res {
        if !self.rows.is_empty() {
            self.out.push(&mut self.rows)?;
        }
        Ok(())
    }

    /// Hands on up to a batch; true if there was anything.
    fn hand_on(&mut self) -> Res<bool> {
        let limit = self.stutter.batch(BATCH_ROWS);
        let mut any = false;
        while self.rows.len() < limit {
            let Some(item) = lock(&self.queue).pop_front() else { break };
            any = true;
            match item {
                Item::Row(ts, row) => self.rows.push(ts, row),
                Item::Watermark(w) if self.rows.is_empty() => self.out.watermark(w)?,
                Item::Watermark(w) => self.rows.mark(w),
                Item::Idle(idle) => {
                    self.deliver()?;
                    self.out.idle(idle)?;
                }
                Item::End => {
                    self.deliver()?;
                    self.out.watermark(TS_MAX)?;
                    self.out.end()?;
                    self.ended = true;
                }
            }
            if self.out.blocked() {
                break;
            }
        }
        self.deliver()?;
        Ok(any)
    }
}

impl<T: Send + 'static> Task for InputTask<T> {
    fn name(&self) -> &str {
        self.uid.as_str()
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }

    fn subtask(&self) -> u16 {
        0
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> Res<Progress> {
        if self.out.blocked() {
            self.out.flush(false)?;
        }
        if self.barrier.is_some() {
            self.out.flush(true)?;
        }
        if self.out.blocked() {
            return Ok(Progress::Blocked);
        }
        if let Some(barrier) = self.barrier.take() {
            self.out.barrier(&barrier, turn.parts)?;
            *turn.passed = Some(barrier);
            return Ok(Progress::Worked);
        }
        if !self.announced {
            self.announced = true;
            self.out.watermark(TS_MIN)?;
        }
        Ok(if self.hand_on()? { Progress::Worked } else { Progress::Idle })
    }

    fn flush(&mut self) -> Res<bool> {
        self.out.flush(true)?;
        Ok(self.out.blocked())
    }

    fn next_time(&self) -> Option<Ts> {
        None
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        Vec::new()
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn trigger(&mut self, barrier: Barrier) {
        self.barrier = Some(barrier);
    }

    fn metrics(&self) -> &Arc<NodeMetrics> {
        &self.metrics
    }
}
