//! Windows over keyed streams.
//!
//! `keyed.window(assigner)` cuts each key's rows into windows ([`assign`]); a trigger
//! ([`trigger`]) says when a window is fired, an evictor ([`evict`]) which of its rows are
//! left out; an aggregate ([`aggregate`]), a reduce function or a window function
//! ([`function`]) makes rows of it.
//!
//! **Watermarks.** A watermark `w` says that no row earlier than `w` is expected; a window
//! `[start, end)` is complete when the watermark reaches `end`. Its results carry the
//! timestamp `end - 1`.
//!
//! **Lateness.** A window is kept until the watermark reaches its end plus the allowed
//! lateness. A row that comes after its window was complete and before it is gone fires it
//! anew at once, with all its rows so far. A row all of whose windows are gone is *late*:
//! it goes to the side output of `late_to`, or is counted (`late_dropped`) and dropped. A
//! row without a timestamp in event-time windows fails the job: only its user can mend it.
//!
//! **Order.** Windows fire in order of time, and keys within a moment in an order that
//! depends only on the keys. Rows that a window function emits beyond the room downstream
//! wait; no other window is fired meanwhile.

pub mod aggregate;
pub mod assign;
pub mod evict;
mod evicted;
pub mod function;
#[cfg(test)]
mod tests;
pub mod trigger;

pub use aggregate::{Aggregate, Count};
pub use assign::{
    Aligned, DynamicGap, Gap, GlobalWindows, SessionWindows, SlidingWindows, StaticGap, TimeDomain,
    TumblingWindows, Window, WindowAssigner,
};
pub use evict::{CountEvictor, DeltaEvictor, Elements, Evictor, EvictorCx, TimeEvictor};
pub use evicted::EvictedStream;
pub use function::{ProcessWindowFunction, WindowCx};
pub use trigger::{
    ContinuousEventTimeTrigger, ContinuousProcessingTimeTrigger, CountTrigger, DefaultTrigger,
    EventTimeTrigger, ProcessingTimeTrigger, PurgingTrigger, Timer, Trigger, TriggerCx,
    TriggerResult,
};

use crate::api::keyed::{KeySelector, KeyedStream, declare};
use crate::api::stream::DataStream;
use crate::api::tags::{AnyTag, OutputTag, SideOutputs};
use crate::data::{Data, Fun, Res, Ts};
use crate::exchange::codec::Either;
use crate::graph::{BuildCx, NodeId, StageFactory, StateDecl};
use crate::operators::window::body::{Body, Buffered, Incremental};
use crate::operators::window::generic::{WindowOperator, WindowParts};
use crate::operators::window::sliding::{Sliding, SlidingParts};
use crate::operators::window::slots::Slots;
use crate::operators::window::tumbling::{Tumbling, TumblingParts};
use crate::operators::window::{LateRows, PANES, WINDOWS};
use crate::runtime::combine::{Panes, Partial, combine};
use crate::runtime::side::Sides;
use crate::state::Plain;
use crate::time::millis;
use aggregate::{Accumulate, ByAggregate, ByReduce};
use evict::KeepAll;
use function::{EmitEach, EmitReduced, Fire, WithFunction, WithReduced, WithRows};
use std::sync::Arc;
use std::time::Duration;

/// A keyed stream cut into windows.
pub struct WindowedStream<T, S: KeySelector<T>, W, G = DefaultTrigger> {
    keyed: KeyedStream<T, S>,
    assigner: W,
    trigger: G,
    lateness: Ts,
    late: Option<OutputTag<T>>,
}

/// Rows of a count window: see [`KeyedStream::count_window`].
pub type CountWindowedStream<T, S> =
    WindowedStream<T, S, GlobalWindows, PurgingTrigger<CountTrigger>>;

/// See [`KeyedStream::sliding_count_window`].
pub type SlidingCountWindowedStream<T, S> =
    EvictedStream<T, S, GlobalWindows, CountTrigger, CountEvictor>;

impl<T: Send + 'static, S: KeySelector<T>> KeyedStream<T, S> {
    /// Cuts the stream into windows.
    pub fn window<W: WindowAssigner<T>>(self, windows: W) -> WindowedStream<T, S, W> {
        let trigger = match (windows.ends(), windows.domain()) {
            (false, _) => DefaultTrigger::Never,
            (true, TimeDomain::Event) => DefaultTrigger::EventTime,
            (true, TimeDomain::Processing) => DefaultTrigger::ProcessingTime,
        };
        WindowedStream { keyed: self, assigner: windows, trigger, lateness: 0, late: None }
    }

    /// Windows of `size` rows of a key (at least 1). Results carry the timestamp of the
    /// row that filled the window. Rows of a window that is not full when the input ends
    /// are not emitted.
    pub fn count_window(self, size: u64) -> CountWindowedStream<T, S> {
        self.window(GlobalWindows).trigger(PurgingTrigger::of(CountTrigger::of(size)))
    }

    /// The last `size` rows of a key, after every `slide` rows of it (at least 1). Keeps
    /// the rows themselves.
    pub fn sliding_count_window(self, size: usize, slide: u64) -> SlidingCountWindowedStream<T, S> {
        self.window(GlobalWindows).trigger(CountTrigger::of(slide)).evictor(CountEvictor::of(size))
    }
}

impl<T, S, W, G> WindowedStream<T, S, W, G>
where
    T: Send + 'static,
    S: KeySelector<T>,
    W: WindowAssigner<T>,
    G: Trigger<T>,
{
    /// When windows fire, instead of when they are complete. A trigger without
    /// [`Trigger::can_merge`] on sessions is an error before the job starts.
    pub fn trigger<H: Trigger<T>>(self, trigger: H) -> WindowedStream<T, S, W, H> {
        let Self { keyed, assigner, lateness, late, .. } = self;
        WindowedStream { keyed, assigner, trigger, lateness, late }
    }

    /// Which rows of a window are left out when it fires. Windows then keep their rows,
    /// also for an aggregate.
    pub fn evictor<E: Evictor<T>>(self, evictor: E) -> EvictedStream<T, S, W, G, E> {
        EvictedStream { windowed: self, evictor }
    }

    /// How long after a window's end (in event time) a row may still change it. No effect
    /// on processing time and on global windows, for which no row is late.
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = millis(lateness);
        self
    }

    /// Rows that are too late go to this side output instead of being dropped.
    pub fn late_to(mut self, tag: &OutputTag<T>) -> Self {
        self.late = Some(*tag);
        self
    }

    /// Aggregates each key's rows per window; `emit` makes the output row of key, window
    /// and result.
    pub fn aggregate<A: Aggregate<T>, O: Send + 'static>(
        self,
        uid: &str,
        aggregate: A,
        emit: impl FnMut(&S::Key, Window, A::Out) -> O + Fun,
    ) -> DataStream<O> {
        self.incremental(uid, ByAggregate(aggregate), EmitEach(emit), Vec::new())
    }

    /// Aggregates incrementally; a window function sees the result, and emits 0 to n rows.
    pub fn aggregate_with<A: Aggregate<T>, O: Send + 'static>(
        self,
        uid: &str,
        aggregate: A,
        function: impl ProcessWindowFunction<S::Key, A::Out, O>,
    ) -> DataStream<O> {
        let tags = function.side_outputs();
        self.incremental(uid, ByAggregate(aggregate), WithFunction(function), tags)
    }

    /// Folds each key's rows per window into one with `f`, and emits that. `f` must be
    /// associative.
    pub fn reduce(self, uid: &str, f: impl FnMut(&mut T, T) + Fun) -> DataStream<T>
    where
        T: Data + Clone,
    {
        self.incremental(uid, ByReduce(f), EmitReduced, Vec::new())
    }

    /// Folds incrementally; a window function sees the folded row, and emits 0 to n rows.
    pub fn reduce_with<O: Send + 'static>(
        self,
        uid: &str,
        f: impl FnMut(&mut T, T) + Fun,
        function: impl ProcessWindowFunction<S::Key, T, O>,
    ) -> DataStream<O>
    where
        T: Data + Clone,
    {
        let tags = function.side_outputs();
        self.incremental(uid, ByReduce(f), WithReduced(function), tags)
    }

    /// A window function sees all rows of a window, in order of arrival. They are kept
    /// until then, in each window that they belong to: where an aggregate will do, it is
    /// cheaper by far.
    pub fn process<O: Send + 'static>(
        self,
        uid: &str,
        function: impl ProcessWindowFunction<S::Key, [T], O>,
    ) -> DataStream<O>
    where
        T: Data + Clone,
    {
        let tags = function.side_outputs();
        self.buffered(uid, KeepAll, WithRows(function), tags)
    }

    fn buffered<E, F, O>(self, uid: &str, evictor: E, fire: F, tags: Vec<AnyTag>) -> DataStream<O>
    where
        T: Data + Clone,
        E: Evictor<T>,
        F: for<'a> Fire<S::Key, &'a [T], O>,
        O: Send + 'static,
    {
        self.generic(uid, tags, move || Buffered::new(evictor.clone(), fire.clone()))
    }

    fn incremental<A, F, O>(
        self,
        uid: &str,
        accumulate: A,
        fire: F,
        tags: Vec<AnyTag>,
    ) -> DataStream<O>
    where
        A: Accumulate<T>,
        F: Fire<S::Key, A::Out, O>,
        O: Send + 'static,
    {
        let windows = match self.assigner.aligned() {
            Some(windows) if self.trigger.is_event_time_only() => windows,
            _ => {
                return self.generic(uid, tags, move || {
                    Incremental::new(accumulate.clone(), fire.clone())
                });
            }
        };
        let mut states = declare::<S::Key, Plain<A::Acc>>(self.keyed.env(), uid, PANES, true);
        self.check(uid, &mut states);
        let outputs = Outputs::new(self.late, tags);
        let (selector, lateness) = (self.keyed.selector.clone(), self.lateness);
        let Aligned { size, slide, offset } = windows;
        let (size, slide) = (size.max(1), slide.max(1));
        let windows = Aligned { size, slide, offset };
        let build = outputs.clone();
        let stream = if size == slide {
            let has_late = self.late.is_some();
            let folding = (selector.clone(), accumulate.clone());
            let make = move |cx: &mut BuildCx<'_>, node| -> Res<_> {
                let (late, sides) = build.build(cx, node)?;
                Ok(Tumbling::new(TumblingParts {
                    selector: selector.clone(),
                    accumulate: accumulate.clone(),
                    fire: fire.clone(),
                    size,
                    offset,
                    lateness,
                    late,
                    sides,
                    panes: cx.spilling_panes(node)?,
                }))
            };
            // See `runtime::combine` for why not with lateness or a late side output.
            if A::COMBINES && lateness == 0 && !has_late {
                let stage = move |edge| -> StageFactory<T> {
                    Box::new(move |cx| {
                        let (selector, accumulate) = folding.clone();
                        let (max, channels) = (cx.attempt.max_parallelism, cx.outgoing(edge));
                        let panes = Panes { size, offset };
                        Ok(Box::new(combine(selector, accumulate, panes, max, channels)))
                    })
                };
                let codec = Either::<Partial<S::Key, A::Acc>>::new(Arc::clone(&self.keyed.codec));
                let codec = Arc::new(codec);
                self.keyed.operator_behind("window", uid, states, codec, stage, make)
            } else {
                self.keyed.operator("window", uid, states, make)
            }
        } else {
            self.keyed.operator("window", uid, states, move |cx, node| -> Res<_> {
                let (late, sides) = build.build(cx, node)?;
                Ok(Sliding::new(SlidingParts {
                    selector: selector.clone(),
                    accumulate: accumulate.clone(),
                    fire: fire.clone(),
                    windows,
                    lateness,
                    late,
                    sides,
                    panes: cx.panes(node),
                    max: cx.attempt.max_parallelism,
                    budget: cx.budget(),
                }))
            })
        };
        stream.with_sides(outputs.declared)
    }

    fn generic<B>(
        self,
        uid: &str,
        tags: Vec<AnyTag>,
        body: impl Fn() -> B + Send + 'static,
    ) -> DataStream<B::Out>
    where
        B: Body<S::Key, T>,
    {
        let mut states = declare::<S::Key, Plain<Slots<B::Acc, G::State>>>(
            self.keyed.env(),
            uid,
            WINDOWS,
            false,
        );
        self.check(uid, &mut states);
        let outputs = Outputs::new(self.late, tags);
        let build = outputs.clone();
        let (assigner, trigger, lateness) = (self.assigner, self.trigger, self.lateness);
        let selector = self.keyed.selector.clone();
        let stream = self.keyed.operator("window", uid, states, move |cx, node| -> Res<_> {
            let (late, sides) = build.build(cx, node)?;
            Ok(WindowOperator::new(WindowParts {
                selector: selector.clone(),
                assigner: assigner.clone(),
                trigger: trigger.clone(),
                body: body(),
                lateness,
                late,
                take_late: LateRows::take::<T>,
                sides,
                table: cx.spilling_table(node)?,
            }))
        });
        stream.with_sides(outputs.declared)
    }

    /// Tells mistakes before the job starts.
    fn check(&self, uid: &str, states: &mut Vec<StateDecl>) {
        let mut wrong = self.assigner.check().err();
        if self.assigner.merges() && !self.trigger.can_merge() {
            wrong = Some("its trigger cannot be used with windows that merge".to_owned());
        }
        if let Some(wrong) = wrong {
            states.clear();
            let mut graph = self.keyed.env().graph_mut();
            graph.error(format!("the windows of {uid:?} are not right: {wrong}"));
        }
    }
}

/// The side outputs of a window operator.
#[derive(Clone)]
struct Outputs {
    late: Option<&'static str>,
    declared: SideOutputs,
}

impl Outputs {
    fn new<T: Send + 'static>(late: Option<OutputTag<T>>, mut tags: Vec<AnyTag>) -> Self {
        tags.extend(late.iter().map(OutputTag::any));
        Self { late: late.map(|t| t.name()), declared: SideOutputs::new(tags) }
    }

    fn build(&self, cx: &mut BuildCx<'_>, node: NodeId) -> Res<(LateRows, Sides)> {
        let late = LateRows { tag: self.late, second: None, metrics: cx.metrics(node) };
        Ok((late, self.declared.build(cx)?))
    }
}
