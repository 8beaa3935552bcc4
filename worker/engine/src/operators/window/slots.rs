//! The windows of one key, and the row of the generic operator's table that they make up.
//! Pure.

use crate::api::window::assign::{TimeDomain, Window};
use crate::api::window::trigger::Timer;
use crate::data::{Data, Res, Ts};
use crate::operators::due;
use crate::state::Plain;
use crate::state::row::{Row, RowReader, RowShape, heap_of};
use millrace_protocol::shape::ShapeError;
use serde::{Deserialize, Serialize};

/// A window of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slot<A, G> {
    pub window: Window,
    /// `None`: purged, or nothing yet.
    pub acc: Option<A>,
    pub trigger: G,
    pub timers: Vec<Timer>,
}

/// All windows of a key, in order of their start (and end).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slots<A, G> {
    /// The time of this key's entry among the event timers; not after the first due.
    pub wake: Option<Ts>,
    /// The same among the processing timers.
    pub wake_processing: Option<Ts>,
    pub slots: Vec<Slot<A, G>>,
}

/// The row: as [`Plain`] of the windows, but that it knows what memory they take, and that
/// when they are to be woken may change without it.
#[derive(Debug)]
pub(crate) struct SlotsRow<A, G>(pub Slots<A, G>);

impl<A: Data, G: Data> Row for SlotsRow<A, G> {
    fn write(&self, out: &mut Vec<u8>) -> Res {
        crate::state::row::encode(&self.0, out)
    }

    fn read(bytes: &mut &[u8], reader: &RowReader) -> Res<Self> {
        Ok(Self(Plain::read(bytes, reader)?.0))
    }

    fn shape() -> Result<RowShape, ShapeError> {
        Plain::<Slots<A, G>>::shape()
    }

    /// When its key is to be woken: what timers have of keys whose rows are in the tier, and
    /// which may be later than a checkpoint says.
    const BESIDE: bool = true;

    fn write_beside(&self, out: &mut Vec<u8>) {
        due::write([self.0.wake, self.0.wake_processing], out);
    }

    fn read_beside(&mut self, bytes: &[u8]) -> Res {
        [self.0.wake, self.0.wake_processing] = due::read(bytes)?;
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        heap_of(&self.0) + self.0.slots.capacity() * size_of::<Slot<A, G>>()
    }
}

impl<A, G> Default for Slots<A, G> {
    fn default() -> Self {
        Self { wake: None, wake_processing: None, slots: Vec::new() }
    }
}

/// What an operator knows of the times of its windows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub domain: TimeDomain,
    /// Whether time ends windows.
    pub ends: bool,
    pub merges: bool,
    /// In milliseconds.
    pub lateness: Ts,
}

impl Ends {
    /// When a window is complete: see `TriggerCx::complete_at`.
    pub fn complete_at(&self, window: Window) -> Ts {
        window.end.saturating_add(Ts::from(self.merges))
    }

    /// When it goes.
    pub fn gone_at(&self, window: Window) -> Ts {
        self.complete_at(window).saturating_add(self.lateness)
    }

    /// Whether time ends windows by this clock.
    pub fn by(&self, domain: TimeDomain) -> bool {
        self.ends && self.domain == domain
    }

    /// Whether a row of this window is late.
    pub fn is_late(&self, window: Window, watermark: Ts) -> bool {
        self.by(TimeDomain::Event) && self.gone_at(window) <= watermark
    }
}

impl<A, G> Slot<A, G> {
    /// The first moment after `handled` at which event time does something to it.
    fn due_event(&self, ends: &Ends, handled: Ts) -> Option<Ts> {
        let timers = self.timers.iter().filter_map(|t| match t {
            Timer::Event(t) => Some(*t),
            Timer::Processing(_) => None,
        });
        let own = [ends.complete_at(self.window), ends.gone_at(self.window)];
        let own = own.into_iter().filter(|t| ends.by(TimeDomain::Event) && *t > handled);
        timers.chain(own).min()
    }

    fn due_processing(&self, ends: &Ends) -> Option<Ts> {
        let timers = self.timers.iter().filter_map(|t| match t {
            Timer::Processing(t) => Some(*t),
            Timer::Event(_) => None,
        });
        let own = Some(ends.complete_at(self.window)).filter(|_| ends.by(TimeDomain::Processing));
        timers.chain(own).min()
    }
}

impl<A, G: Default + PartialEq> Slot<A, G> {
    /// Whether nothing would be lost with it.
    pub fn is_idle(&self) -> bool {
        self.acc.is_none() && self.timers.is_empty() && self.trigger == G::default()
    }
}

impl<A, G> Slots<A, G> {
    /// When the key wants to be woken, given that all up to `handled` was done.
    pub fn due(&self, domain: TimeDomain, ends: &Ends, handled: Ts) -> Option<Ts> {
        match domain {
            TimeDomain::Event => self.slots.iter().filter_map(|s| s.due_event(ends, handled)).min(),
            TimeDomain::Processing => {
                self.slots.iter().filter_map(|s| s.due_processing(ends)).min()
            }
        }
    }

    /// See the fields.
    pub fn wake_mut(&mut self, domain: TimeDomain) -> &mut Option<Ts> {
        match domain {
            TimeDomain::Event => &mut self.wake,
            TimeDomain::Processing => &mut self.wake_processing,
        }
    }

    /// See the fields.
    pub fn wake(&self, domain: TimeDomain) -> Option<Ts> {
        match domain {
            TimeDomain::Event => self.wake,
            TimeDomain::Processing => self.wake_processing,
        }
    }

    /// Most keys have one window: room for it alone is made at first.
    fn insert(&mut self, at: usize, slot: Slot<A, G>) {
        if self.slots.capacity() == 0 {
            self.slots.reserve_exact(1);
        }
        self.slots.insert(at, slot);
    }

    /// The windows that would become one with `window`: those that overlap or touch it.
    pub fn touching(&self, window: Window) -> std::ops::Range<usize> {
        // Sessions are disjoint, so their ends are in order too.
        let from = self.slots.partition_point(|s| s.window.end < window.start);
        let to = self.slots.partition_point(|s| s.window.start <= window.end);
        from..to.max(from)
    }

    /// The index of a window, if it is there.
    pub fn find(&self, window: Window) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&window, |s| s.window)
    }
}

impl<A, G: Default> Slots<A, G> {
    /// The index of a window, made if it is not there.
    pub fn find_or_insert(&mut self, window: Window) -> usize {
        match self.find(window) {
            Ok(at) => at,
            Err(at) => {
                let slot = Slot { window, acc: None, trigger: G::default(), timers: Vec::new() };
                self.insert(at, slot);
                at
            }
        }
    }

    /// Makes `window` and all that touch it one; `merge` takes the second slot's contents
    /// into the first. The index of the result.
    pub fn merge(
        &mut self,
        window: Window,
        mut merge: impl FnMut(&mut Slot<A, G>, Slot<A, G>),
    ) -> usize {
        let range = self.touching(window);
        let at = range.start;
        if range.is_empty() {
            let slot = Slot { window, acc: None, trigger: G::default(), timers: Vec::new() };
            self.insert(at, slot);
            return at;
        }
        if range.len() > 1 {
            let others: Vec<_> = self.slots.drain(at + 1..range.end).collect();
            let first = &mut self.slots[at];
            for mut other in others {
                first.window.end = first.window.end.max(other.window.end);
                for timer in other.timers.drain(..) {
                    if !first.timers.contains(&timer) {
                        first.timers.push(timer);
                    }
                }
                merge(first, other);
            }
        }
        let first = &mut self.slots[at];
        first.window.start = first.window.start.min(window.start);
        first.window.end = first.window.end.max(window.end);
        at
    }
}
