//! Where a test reads what came out.

use super::{Stutter, lock};
use crate::data::{Res, TS_MIN, Ts};
use crate::runtime::emit::End;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What came out, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element<T> {
    /// A row with its event time in milliseconds.
    Row(Ts, T),
    /// A subtask's watermark in milliseconds.
    Watermark(Ts),
}

struct Collected<T> {
    elements: Vec<Element<T>>,
    /// By subtask.
    watermarks: BTreeMap<u16, Ts>,
}

/// An output of a [`super::Harness`]: what all subtasks gave.
pub struct Output<T>(Arc<Mutex<Collected<T>>>);

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Output<T> {
    pub(super) fn new() -> Self {
        let collected = Collected { elements: Vec::new(), watermarks: BTreeMap::new() };
        Self(Arc::new(Mutex::new(collected)))
    }

    /// Takes all that came out since the last time, watermarks too. With several
    /// subtasks their elements alternate in a fixed way that has no meaning.
    pub fn take_elements(&self) -> Vec<Element<T>> {
        std::mem::take(&mut lock(&self.0).elements)
    }

    /// Takes the rows that came out since the last time, with their timestamps.
    pub fn take_with_timestamps(&self) -> Vec<(Ts, T)> {
        let rows = self.take_elements().into_iter().filter_map(|e| match e {
            Element::Row(ts, row) => Some((ts, row)),
            Element::Watermark(_) => None,
        });
        rows.collect()
    }

    /// Takes the rows that came out since the last time.
    pub fn take(&self) -> Vec<T> {
        self.take_with_timestamps().into_iter().map(|(_, row)| row).collect()
    }

    /// The lowest watermark of the subtasks; [`TS_MIN`] before any.
    pub fn watermark(&self) -> Ts {
        lock(&self.0).watermarks.values().copied().min().unwrap_or(TS_MIN)
    }

    pub(super) fn restart(&self) {
        lock(&self.0).watermarks.clear();
    }
}

/// The end of a chain that fills an [`Output`].
pub(super) struct Collect<T> {
    pub to: Output<T>,
    pub subtask: u16,
    pub stutter: Stutter,
    pub blocked: bool,
}

impl<T: Send + 'static> End<T> for Collect<T> {
    fn push(&mut self, ts: Ts, value: T) -> Res {
        lock(&self.to.0).elements.push(Element::Row(ts, value));
        self.blocked = self.stutter.happens(16);
        Ok(())
    }

    fn mark(&mut self, watermark: Ts) -> Res {
        let mut collected = lock(&self.to.0);
        collected.watermarks.insert(self.subtask, watermark);
        if watermark != TS_MIN {
            collected.elements.push(Element::Watermark(watermark));
        }
        Ok(())
    }

    fn blocked(&self) -> bool {
        self.blocked
    }

    fn idle(&mut self, _: bool) -> Res {
        Ok(())
    }

    fn barrier(&mut self, _: &Barrier, _: &mut SnapshotParts) -> Res {
        Ok(())
    }

    fn end(&mut self) -> Res {
        Ok(())
    }

    fn flush(&mut self, _: bool) -> Res {
        self.blocked = self.blocked && !self.stutter.happens(3);
        Ok(())
    }

    fn force(&mut self) -> Res {
        self.blocked = false;
        Ok(())
    }
}
