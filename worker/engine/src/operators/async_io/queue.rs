//! Rows without an emitted result, their results, and the watermarks among them. Pure
//! but for the handles, which stop a request when its row is dropped.

use super::requests::Handle;
use crate::api::async_io::AsyncOrder;
use crate::data::Ts;
use std::collections::{BTreeMap, VecDeque};

struct Slot<T, U> {
    input: (Ts, T),
    result: Option<U>,
    /// Stops the request.
    handle: Option<Handle>,
}

/// Rows between two watermarks, by id.
struct Segment<T, U> {
    /// Lowest id that it may hold.
    from: u64,
    rows: BTreeMap<u64, Slot<T, U>>,
    /// Rows with a result, in order of its arrival.
    ready: VecDeque<u64>,
    /// The watermark behind the rows.
    end: Option<Ts>,
}

impl<T, U> Segment<T, U> {
    fn new(from: u64) -> Self {
        Self { from, rows: BTreeMap::new(), ready: VecDeque::new(), end: None }
    }
}

/// What is to be emitted.
pub(super) enum Next<U> {
    Row(Ts, U),
    Watermark(Ts),
}

/// The queue.
pub(super) struct Queue<T, U> {
    order: AsyncOrder,
    /// Never empty; all but the last have an end.
    segments: VecDeque<Segment<T, U>>,
    next_id: u64,
    rows: usize,
}

impl<T, U> Queue<T, U> {
    pub fn new(order: AsyncOrder) -> Self {
        Self { order, segments: VecDeque::from([Segment::new(0)]), next_id: 0, rows: 0 }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are neither rows nor watermarks.
    pub fn is_empty(&self) -> bool {
        self.rows == 0 && self.segments.len() <= 1
    }

    /// Puts a row in; answers its id.
    pub fn add(&mut self, ts: Ts, row: T) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.rows += 1;
        if let Some(last) = self.segments.back_mut() {
            last.rows.insert(id, Slot { input: (ts, row), result: None, handle: None });
        }
        id
    }

    pub fn attach(&mut self, id: u64, handle: Handle) {
        if let Some(slot) = self.segments.back_mut().and_then(|s| s.rows.get_mut(&id)) {
            slot.handle = Some(handle);
        }
    }

    /// A watermark stands behind all rows so far.
    pub fn watermark(&mut self, watermark: Ts) {
        let count = self.segments.len();
        let empty = self.segments.back().is_some_and(|s| s.rows.is_empty());
        if empty && count > 1 {
            if let Some(before) = self.segments.get_mut(count - 2) {
                before.end = before.end.max(Some(watermark));
            }
            return;
        }
        if let Some(last) = self.segments.back_mut() {
            last.end = Some(watermark);
        }
        self.segments.push_back(Segment::new(self.next_id));
    }

    fn segment(&mut self, id: u64) -> Option<&mut Segment<T, U>> {
        let at = self.segments.partition_point(|s| s.from <= id);
        self.segments.get_mut(at.checked_sub(1)?)
    }

    /// The row of an id, if it has no result.
    pub fn input(&mut self, id: u64) -> Option<&T> {
        let slot = self.segment(id)?.rows.get(&id)?;
        slot.result.is_none().then_some(&slot.input.1)
    }

    /// A result has come.
    pub fn answer(&mut self, id: u64, result: U) {
        let Some(segment) = self.segment(id) else { return };
        if let Some(slot) = segment.rows.get_mut(&id)
            && slot.result.is_none()
        {
            slot.result = Some(result);
            slot.handle = None;
            segment.ready.push_back(id);
        }
    }

    /// The id of the row that may be emitted.
    fn first_ready(&self) -> Option<u64> {
        let segment = self.segments.front()?;
        match self.order {
            AsyncOrder::Unordered => segment.ready.front().copied(),
            AsyncOrder::Ordered => {
                let (id, slot) = segment.rows.first_key_value()?;
                slot.result.is_some().then_some(*id)
            }
        }
    }

    /// Whether [`Queue::next`] has something.
    pub fn is_ready(&self) -> bool {
        self.first_ready().is_some()
            || self.segments.front().is_some_and(|s| s.rows.is_empty() && s.end.is_some())
    }

    /// Takes what is to be emitted next.
    pub fn next(&mut self) -> Option<Next<U>> {
        if let Some(id) = self.first_ready() {
            let segment = self.segments.front_mut()?;
            if self.order == AsyncOrder::Unordered {
                segment.ready.pop_front();
            }
            let slot = segment.rows.remove(&id)?;
            self.rows -= 1;
            return Some(Next::Row(slot.input.0, slot.result?));
        }
        let segment = self.segments.front()?;
        let end = segment.end.filter(|_| segment.rows.is_empty())?;
        self.segments.pop_front();
        Some(Next::Watermark(end))
    }

    /// All rows, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &(Ts, T)> {
        self.segments.iter().flat_map(|s| s.rows.values().map(|slot| &slot.input))
    }
}
