//! Windows over keyed streams.

use crate::api::keyed::{KeySelector, KeyedStream, declare};
use crate::api::stream::DataStream;
use crate::api::tags::OutputTag;
use crate::data::{Data, Fun, Res, Ts};
use crate::operators::window::{PANES, Tumbling, TumblingParts};
use crate::state::Plain;
use crate::time::millis;
use std::time::Duration;

/// The bounds of a window, in milliseconds: `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First moment of the window.
    pub start: Ts,
    /// First moment after it.
    pub end: Ts,
}

impl Window {
    /// The last moment of the window: the timestamp of its results.
    pub fn last(self) -> Ts {
        self.end.saturating_sub(1)
    }
}

/// An incremental aggregate.
pub trait Aggregate<T>: Fun {
    /// What is kept per key and pane.
    type Acc: Data + Clone;
    /// The result.
    type Out;
    /// An empty accumulator.
    fn create(&self) -> Self::Acc;
    /// Takes a row in.
    fn add(&self, acc: &mut Self::Acc, row: &T);
    /// Takes another accumulator in. Associative.
    fn merge(&self, acc: &mut Self::Acc, other: &Self::Acc);
    /// The result so far.
    fn result(&self, acc: &Self::Acc) -> Self::Out;
}

/// Counts rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count;

impl<T> Aggregate<T> for Count {
    type Acc = u64;
    type Out = u64;

    fn create(&self) -> u64 {
        0
    }

    #[inline]
    fn add(&self, acc: &mut u64, _: &T) {
        *acc += 1;
    }

    fn merge(&self, acc: &mut u64, other: &u64) {
        *acc += other;
    }

    fn result(&self, acc: &u64) -> u64 {
        *acc
    }
}

/// Tumbling event-time windows.
#[derive(Debug, Clone, Copy)]
pub struct TumblingWindows {
    size: Ts,
    offset: Ts,
}

impl TumblingWindows {
    /// Windows of `size`, which begin at multiples of it.
    pub fn of(size: Duration) -> Self {
        Self { size: millis(size), offset: 0 }
    }

    /// Windows that begin `offset` later.
    pub fn offset(mut self, offset: Duration) -> Self {
        self.offset = millis(offset);
        self
    }
}

/// A keyed stream cut into windows.
pub struct WindowedStream<T, S: KeySelector<T>> {
    keyed: KeyedStream<T, S>,
    windows: TumblingWindows,
    lateness: Ts,
    late: Option<OutputTag<T>>,
}

impl<T: Send + 'static, S: KeySelector<T>> KeyedStream<T, S> {
    /// Cuts the stream into windows.
    pub fn window(self, windows: TumblingWindows) -> WindowedStream<T, S> {
        WindowedStream { keyed: self, windows, lateness: 0, late: None }
    }
}

impl<T: Send + 'static, S: KeySelector<T>> WindowedStream<T, S> {
    /// How long after a window's end a row may still change it.
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = millis(lateness);
        self
    }

    /// Rows that are too late go to this side output instead of being dropped.
    pub fn late_to(mut self, tag: &OutputTag<T>) -> Self {
        self.late = Some(*tag);
        self
    }

    /// Aggregates each key's rows per window; `emit` makes the output row.
    pub fn aggregate<A: Aggregate<T>, O: Send + 'static>(
        self,
        uid: &str,
        aggregate: A,
        emit: impl FnMut(&S::Key, Window, A::Out) -> O + Fun,
    ) -> DataStream<O> {
        let env = self.keyed.env().clone();
        let mut states = declare::<S::Key, Plain<A::Acc>>(&env, uid, PANES, true);
        if self.windows.size < 1 {
            states.clear();
            env.graph_mut().error(format!("windows of {uid:?} must be at least 1 ms long"));
        }
        let selector = self.keyed.selector.clone();
        let (windows, lateness, late) = (self.windows, self.lateness, self.late);
        let declared =
            crate::api::tags::SideOutputs::new(late.iter().map(OutputTag::any).collect());
        let sides = declared.clone();
        let stream = self.keyed.operator("window", uid, states, move |cx, node| -> Res<_> {
            Ok(Tumbling::new(TumblingParts {
                selector: selector.clone(),
                aggregate: aggregate.clone(),
                emit: emit.clone(),
                size: windows.size.max(1),
                offset: windows.offset,
                lateness,
                late: late.map(|t| t.name()),
                sides: sides.build(cx)?,
                panes: cx.panes(node),
                metrics: cx.metrics(node),
            }))
        });
        stream.with_sides(declared)
    }
}
