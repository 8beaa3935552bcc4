//! The row of a keyed function: the user's state and the key's timers. Pure.

use super::timers::Timers;
use crate::data::{Res, Ts};
use crate::state::row::{Row, RowReader, RowShape};
use crate::state::{Change, Field, Keyed, State, Ttl, Visit, VisitMut};
use millrace_protocol::shape::ShapeError;

/// A row of user state with timers.
///
/// The state's time to live is not that of the timers: a timer fires although the state
/// has expired, and then finds it empty.
#[derive(Debug)]
pub(crate) struct TimedRow<S> {
    user: Keyed<S>,
    pub timers: Timers,
}

impl<S: State> TimedRow<S> {
    pub fn new() -> Self {
        Self { user: Keyed::new(), timers: Timers::default() }
    }

    /// State and timers for a call of the user's function.
    #[inline]
    pub fn open(&mut self, now: Ts) -> (&mut S, &mut Timers) {
        (self.user.open(now), &mut self.timers)
    }

    /// After the call: what became of the row.
    #[inline]
    pub fn close(&mut self, now: Ts, timers_changed: bool) -> Change {
        match self.user.close(now) {
            Change::Removed if self.timers.is_empty() => Change::Removed,
            Change::Removed => {
                self.user = Keyed::new();
                Change::Changed
            }
            Change::Kept if timers_changed => {
                if self.timers.is_empty() && self.user.is_empty() {
                    Change::Removed
                } else {
                    Change::Changed
                }
            }
            change => change,
        }
    }
}

impl<S: State> Row for TimedRow<S> {
    fn write(&self, out: &mut Vec<u8>) -> Res {
        self.user.write(out)?;
        Field::write(&self.timers, out)
    }

    fn read(bytes: &mut &[u8], reader: &RowReader) -> Res<Self> {
        let (both, expires) = Keyed::<WithTimers<S>>::read(bytes, reader)?.into_parts();
        Ok(Self { user: Keyed::from_parts(both.user, expires), timers: both.timers })
    }

    fn shape() -> Result<RowShape, ShapeError> {
        Keyed::<WithTimers<S>>::shape()
    }

    const EXPIRES: bool = Keyed::<S>::EXPIRES;

    #[inline]
    fn expires_at(&self) -> Ts {
        if self.timers.is_empty() { self.user.expires_at() } else { Ts::MAX }
    }

    #[inline]
    fn waits(&self) -> bool {
        !self.timers.is_empty()
    }

    /// When the index of timers looks at the key: it keeps what it has of keys whose
    /// rows are in the tier.
    const BESIDE: bool = true;

    fn write_beside(&self, out: &mut Vec<u8>) {
        self.timers.write_indexed(out);
    }

    fn read_beside(&mut self, bytes: &[u8]) -> Res {
        self.timers.read_indexed(bytes)
    }

    fn heap_bytes(&self) -> usize {
        self.user.heap_bytes() + Field::heap_bytes(&self.timers)
    }
}

/// The fields of a [`TimedRow`] as they stand in checkpoints: the timers are one more
/// field, so that the state's evolution rules hold for the row.
#[derive(Default)]
struct WithTimers<S> {
    user: S,
    timers: Timers,
}

impl<S: State> State for WithTimers<S> {
    const TTL: Option<Ttl> = S::TTL;

    fn visit<V: Visit>(&self, visitor: &mut V) -> Res {
        self.user.visit(visitor)?;
        visitor.field(Timers::FIELD, &self.timers)
    }

    fn visit_mut<V: VisitMut>(&mut self, visitor: &mut V) -> Res {
        self.user.visit_mut(visitor)?;
        visitor.field(Timers::FIELD, &mut self.timers)
    }
}
