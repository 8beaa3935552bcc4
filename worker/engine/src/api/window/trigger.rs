//! Triggers: when a window is fired. Pure: state and timers are arguments.

use crate::api::window::assign::{TimeDomain, Window};
use crate::data::{Data, Fun, TS_MAX, Ts};
use crate::time::millis;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is to be done with a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum TriggerResult {
    /// Nothing.
    Continue,
    /// Emit its result; its contents stay.
    Fire,
    /// Forget its contents.
    Purge,
    /// Emit its result, then forget its contents.
    FireAndPurge,
}

impl TriggerResult {
    /// Whether the result is emitted.
    pub fn fires(self) -> bool {
        matches!(self, Self::Fire | Self::FireAndPurge)
    }

    /// Whether the contents go.
    pub fn purges(self) -> bool {
        matches!(self, Self::Purge | Self::FireAndPurge)
    }
}

/// A timer of one window of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timer {
    /// Reached by the watermark.
    Event(Ts),
    /// Reached by the clock.
    Processing(Ts),
}

/// What a trigger knows and may do.
pub struct TriggerCx<'a> {
    window: Window,
    complete_at: Ts,
    /// The clock whose `complete_at` the operator watches anyway.
    watched: Option<TimeDomain>,
    watermark: Ts,
    now: Ts,
    timers: &'a mut Vec<Timer>,
}

impl<'a> TriggerCx<'a> {
    /// For tests of triggers: a window that ends by no clock of its own.
    pub fn new(window: Window, watermark: Ts, now: Ts, timers: &'a mut Vec<Timer>) -> Self {
        Self { window, complete_at: window.end, watched: None, watermark, now, timers }
    }

    pub(crate) fn watching(mut self, watched: Option<TimeDomain>, complete_at: Ts) -> Self {
        (self.watched, self.complete_at) = (watched, complete_at);
        self
    }

    /// The window's bounds; of a session: with the row.
    pub fn window(&self) -> Window {
        self.window
    }

    /// When the window is complete: its end, and for a session 1 ms later, as a row at
    /// the very end still belongs to it.
    pub fn complete_at(&self) -> Ts {
        self.complete_at
    }

    /// No earlier event time is expected.
    pub fn watermark(&self) -> Ts {
        self.watermark
    }

    /// The clock: milliseconds since the epoch.
    pub fn processing_time(&self) -> Ts {
        self.now
    }

    /// Asks for [`Trigger::on_event_time`] when the watermark reaches `time`; at its next
    /// advance if it has already. Asking twice is asking once. At the end of the input (the
    /// watermark is [`TS_MAX`]) a window that never ends gets no more calls than it had asked
    /// for before: there would be no last one.
    pub fn register_event_time(&mut self, time: Ts) {
        self.register(TimeDomain::Event, time, Timer::Event(time));
    }

    /// Asks for [`Trigger::on_processing_time`] at `time`.
    pub fn register_processing_time(&mut self, time: Ts) {
        self.register(TimeDomain::Processing, time, Timer::Processing(time));
    }

    fn register(&mut self, domain: TimeDomain, time: Ts, timer: Timer) {
        let watched = self.watched == Some(domain) && time == self.complete_at;
        let over = domain == TimeDomain::Event && self.is_over();
        if !watched && !over && !self.timers.contains(&timer) {
            self.timers.push(timer);
        }
    }

    /// Whether this is the end of the input, for a window that has no end of its own.
    fn is_over(&self) -> bool {
        self.watermark == TS_MAX && self.complete_at == TS_MAX
    }

    /// Takes back [`TriggerCx::register_event_time`]. The call at a window's end stays.
    pub fn delete_event_time(&mut self, time: Ts) {
        self.timers.retain(|t| *t != Timer::Event(time));
    }

    /// Takes back [`TriggerCx::register_processing_time`].
    pub fn delete_processing_time(&mut self, time: Ts) {
        self.timers.retain(|t| *t != Timer::Processing(time));
    }
}

/// Decides when a window is fired.
///
/// There is one [`Trigger::State`] per key and window; it and the timers are part of
/// checkpoints. What the trigger object itself captures is not: keep it to settings.
/// Besides the timers that were registered, `on_event_time` (of a window in processing
/// time: `on_processing_time`) is called when the window is complete.
pub trait Trigger<T>: Fun {
    /// What is kept per key and window. A state equal to its default may be forgotten
    /// when the window is empty.
    type State: Data + Default + PartialEq;

    /// A row has come. `cx.window()` is the window with the row.
    fn on_element(
        &self,
        row: &T,
        ts: Ts,
        state: &mut Self::State,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult;

    /// The watermark has reached `time`, which was registered or completes the window.
    fn on_event_time(
        &self,
        _time: Ts,
        _state: &mut Self::State,
        _cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        TriggerResult::Continue
    }

    /// The clock has reached `time`.
    fn on_processing_time(
        &self,
        _time: Ts,
        _state: &mut Self::State,
        _cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        TriggerResult::Continue
    }

    /// Two windows become one: takes the state of the other in. Timers of both stay.
    fn on_merge(&self, state: &mut Self::State, other: Self::State, cx: &mut TriggerCx<'_>);

    /// Whether [`Trigger::on_merge`] does what it should, so that sessions may have this
    /// trigger; else that is an error before the job starts.
    fn can_merge(&self) -> bool {
        true
    }

    /// Whether it fires exactly when an event-time window is complete, and for each late
    /// row that is still allowed: then operators may share panes.
    #[doc(hidden)]
    fn is_event_time_only(&self) -> bool {
        false
    }
}

/// What an assigner's windows have unless told otherwise: fires when the window is
/// complete by its own clock (a global window: never), and again for each late row that
/// is still allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultTrigger {
    /// [`EventTimeTrigger`].
    EventTime,
    /// [`ProcessingTimeTrigger`].
    ProcessingTime,
    /// Never.
    Never,
}

impl<T> Trigger<T> for DefaultTrigger {
    type State = ();

    #[inline]
    fn on_element(&self, row: &T, ts: Ts, state: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        match self {
            Self::EventTime => EventTimeTrigger.on_element(row, ts, state, cx),
            Self::ProcessingTime => ProcessingTimeTrigger.on_element(row, ts, state, cx),
            Self::Never => TriggerResult::Continue,
        }
    }

    fn on_event_time(&self, time: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        complete(*self == Self::EventTime && time >= cx.complete_at)
    }

    fn on_processing_time(&self, time: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        complete(*self == Self::ProcessingTime && time >= cx.complete_at)
    }

    fn on_merge(&self, _: &mut (), _: (), _: &mut TriggerCx<'_>) {}

    fn is_event_time_only(&self) -> bool {
        *self == Self::EventTime
    }
}

fn complete(is: bool) -> TriggerResult {
    if is { TriggerResult::Fire } else { TriggerResult::Continue }
}

/// Fires when the watermark reaches the window's end, and again for each late row that is
/// still allowed. On a global window: when a bounded input ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventTimeTrigger;

impl<T> Trigger<T> for EventTimeTrigger {
    type State = ();

    #[inline]
    fn on_element(&self, _: &T, _: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        if cx.complete_at <= cx.watermark {
            return TriggerResult::Fire;
        }
        cx.register_event_time(cx.complete_at);
        TriggerResult::Continue
    }

    fn on_event_time(&self, time: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        complete(time >= cx.complete_at)
    }

    fn on_merge(&self, _: &mut (), _: (), _: &mut TriggerCx<'_>) {}

    fn is_event_time_only(&self) -> bool {
        true
    }
}

/// Fires when the clock reaches the window's end.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessingTimeTrigger;

impl<T> Trigger<T> for ProcessingTimeTrigger {
    type State = ();

    #[inline]
    fn on_element(&self, _: &T, _: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        if cx.complete_at < TS_MAX {
            cx.register_processing_time(cx.complete_at);
        }
        TriggerResult::Continue
    }

    fn on_processing_time(&self, time: Ts, _: &mut (), cx: &mut TriggerCx<'_>) -> TriggerResult {
        complete(time >= cx.complete_at)
    }

    fn on_merge(&self, _: &mut (), _: (), _: &mut TriggerCx<'_>) {}
}

/// Fires after every `n` rows of a key in a window. Rows of a window that ends with fewer
/// are not emitted.
#[derive(Debug, Clone, Copy)]
pub struct CountTrigger(u64);

impl CountTrigger {
    /// After every `n` rows; 0 counts as 1.
    pub fn of(n: u64) -> Self {
        Self(n.max(1))
    }
}

impl<T> Trigger<T> for CountTrigger {
    type State = u64;

    #[inline]
    fn on_element(&self, _: &T, _: Ts, count: &mut u64, _: &mut TriggerCx<'_>) -> TriggerResult {
        *count += 1;
        if *count < self.0 {
            return TriggerResult::Continue;
        }
        *count = 0;
        TriggerResult::Fire
    }

    fn on_merge(&self, count: &mut u64, other: u64, _: &mut TriggerCx<'_>) {
        *count += other;
    }
}

/// Fires at multiples of an interval of event time while the window is open, and when it
/// is complete. On a global window: also, once, when a bounded input ends.
#[derive(Debug, Clone, Copy)]
pub struct ContinuousEventTimeTrigger(Ts);

impl ContinuousEventTimeTrigger {
    /// Every `interval`; less than 1 ms counts as 1 ms.
    pub fn of(interval: Duration) -> Self {
        Self(millis(interval).max(1))
    }
}

/// The first multiple of `interval` after `time`.
fn after(time: Ts, interval: Ts) -> Ts {
    time.div_euclid(interval).saturating_add(1).saturating_mul(interval)
}

/// The earlier of two times that may not be.
fn earlier(a: Option<Ts>, b: Option<Ts>) -> Option<Ts> {
    a.into_iter().chain(b).min()
}

impl<T> Trigger<T> for ContinuousEventTimeTrigger {
    /// When it fires next.
    type State = Option<Ts>;

    fn on_element(
        &self,
        _: &T,
        ts: Ts,
        next: &mut Option<Ts>,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        if cx.complete_at <= cx.watermark {
            return TriggerResult::Fire;
        }
        cx.register_event_time(cx.complete_at);
        if next.is_none() {
            let time = after(ts, self.0);
            if time < cx.complete_at {
                *next = Some(time);
                cx.register_event_time(time);
            }
        }
        TriggerResult::Continue
    }

    fn on_event_time(
        &self,
        time: Ts,
        next: &mut Option<Ts>,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        if time >= cx.complete_at {
            return TriggerResult::Fire;
        }
        if *next != Some(time) || cx.is_over() {
            return TriggerResult::Continue;
        }
        let time = time.saturating_add(self.0);
        *next = Some(time).filter(|t| *t < cx.complete_at);
        if next.is_some() {
            cx.register_event_time(time);
        }
        TriggerResult::Fire
    }

    fn on_merge(&self, next: &mut Option<Ts>, other: Option<Ts>, _: &mut TriggerCx<'_>) {
        *next = earlier(*next, other);
    }
}

/// Fires at multiples of an interval of the clock, from a window's first row on.
#[derive(Debug, Clone, Copy)]
pub struct ContinuousProcessingTimeTrigger(Ts);

impl ContinuousProcessingTimeTrigger {
    /// Every `interval`; less than 1 ms counts as 1 ms.
    pub fn of(interval: Duration) -> Self {
        Self(millis(interval).max(1))
    }
}

impl<T> Trigger<T> for ContinuousProcessingTimeTrigger {
    /// When it fires next.
    type State = Option<Ts>;

    fn on_element(
        &self,
        _: &T,
        _: Ts,
        next: &mut Option<Ts>,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        if next.is_none() {
            let time = after(cx.now, self.0);
            *next = Some(time);
            cx.register_processing_time(time);
        }
        TriggerResult::Continue
    }

    fn on_processing_time(
        &self,
        time: Ts,
        next: &mut Option<Ts>,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        if *next != Some(time) {
            return TriggerResult::Continue;
        }
        let time = after(cx.now.max(time), self.0);
        *next = Some(time);
        cx.register_processing_time(time);
        TriggerResult::Fire
    }

    fn on_merge(&self, next: &mut Option<Ts>, other: Option<Ts>, _: &mut TriggerCx<'_>) {
        *next = earlier(*next, other);
    }
}

/// Fires as another trigger does, and forgets the window's contents each time.
#[derive(Debug, Clone, Copy)]
pub struct PurgingTrigger<G>(G);

impl<G> PurgingTrigger<G> {
    /// As `trigger`, and purges.
    pub fn of(trigger: G) -> Self {
        Self(trigger)
    }
}

fn purging(result: TriggerResult) -> TriggerResult {
    if result.fires() { TriggerResult::FireAndPurge } else { result }
}

impl<T, G: Trigger<T>> Trigger<T> for PurgingTrigger<G> {
    type State = G::State;

    #[inline]
    fn on_element(
        &self,
        row: &T,
        ts: Ts,
        state: &mut G::State,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        purging(self.0.on_element(row, ts, state, cx))
    }

    fn on_event_time(
        &self,
        time: Ts,
        state: &mut G::State,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        purging(self.0.on_event_time(time, state, cx))
    }

    fn on_processing_time(
        &self,
        time: Ts,
        state: &mut G::State,
        cx: &mut TriggerCx<'_>,
    ) -> TriggerResult {
        purging(self.0.on_processing_time(time, state, cx))
    }

    fn on_merge(&self, state: &mut G::State, other: G::State, cx: &mut TriggerCx<'_>) {
        self.0.on_merge(state, other, cx);
    }

    fn can_merge(&self) -> bool {
        self.0.can_merge()
    }
}
