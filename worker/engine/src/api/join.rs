//! Windows over two keyed streams: `join` and `co_group`.

use crate::api::keyed::{KeySelector, KeyedStream, add_operator_with_id, declare};
use crate::api::pipe::Head;
use crate::api::stream::{DataStream, OperatorSpec};
use crate::api::tags::{OutputTag, SideOutputs};
use crate::api::window::function::WindowCx;
use crate::api::window::trigger::{DefaultTrigger, Trigger};
use crate::api::window::{TimeDomain, WindowAssigner};
use crate::data::{Data, Fun, Res, Ts};
use crate::operators::cogroup::{CoGroup, CoGroupBody, EitherKey, JoinBody};
use crate::operators::window::body::Body;
use crate::operators::window::generic::WindowParts;
use crate::operators::window::slots::Slots;
use crate::operators::window::{LateRows, WINDOWS};
use crate::state::Plain;
use crate::time::millis;
use std::marker::PhantomData;
use std::time::Duration;

/// A row of one of two streams: what assigners and triggers of two streams look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Either<A, B> {
    /// Of the stream that `join` or `co_group` was called on.
    Left(A),
    /// Of the other.
    Right(B),
}

/// What is done with a window of two streams.
pub struct Joined;

/// See [`Joined`].
pub struct CoGrouped;

/// Two keyed streams, before they are cut into windows.
pub struct TwoStreams<A, B, SA: KeySelector<A>, SB: KeySelector<B>, M> {
    left: KeyedStream<A, SA>,
    right: KeyedStream<B, SB>,
    _mode: PhantomData<fn() -> M>,
}

/// Two keyed streams cut into the same windows.
pub struct WindowedTwoStreams<A, B, SA: KeySelector<A>, SB: KeySelector<B>, M, W, G> {
    streams: TwoStreams<A, B, SA, SB, M>,
    assigner: W,
    trigger: G,
    lateness: Ts,
    late: (Option<OutputTag<A>>, Option<OutputTag<B>>),
}

impl<A: Send + 'static, SA: KeySelector<A>> KeyedStream<A, SA> {
    /// Inner join with another stream of the same key, within windows: each pair of rows of
    /// one key and window.
    ///
    /// Rows of both sides are kept until their window goes. With allowed lateness a late
    /// row emits all pairs of its window anew; with a trigger that fires more than once,
    /// each firing emits all pairs that there are.
    pub fn join<B: Send + 'static, SB: KeySelector<B, Key = SA::Key>>(
        self,
        other: KeyedStream<B, SB>,
    ) -> TwoStreams<A, B, SA, SB, Joined> {
        TwoStreams { left: self, right: other, _mode: PhantomData }
    }

    /// Both streams' rows of one key and window as two lists, either of which may be empty:
    /// outer joins are made of it.
    pub fn co_group<B: Send + 'static, SB: KeySelector<B, Key = SA::Key>>(
        self,
        other: KeyedStream<B, SB>,
    ) -> TwoStreams<A, B, SA, SB, CoGrouped> {
        TwoStreams { left: self, right: other, _mode: PhantomData }
    }
}

impl<A, B, SA, SB, M> TwoStreams<A, B, SA, SB, M>
where
    A: Send + 'static,
    B: Send + 'static,
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
{
    /// Cuts both streams into windows. Sessions are those of both streams' rows together.
    pub fn window<W: WindowAssigner<Either<A, B>>>(
        self,
        windows: W,
    ) -> WindowedTwoStreams<A, B, SA, SB, M, W, DefaultTrigger> {
        let trigger = match (windows.ends(), windows.domain()) {
            (false, _) => DefaultTrigger::Never,
            (true, TimeDomain::Event) => DefaultTrigger::EventTime,
            (true, TimeDomain::Processing) => DefaultTrigger::ProcessingTime,
        };
        let late = (None, None);
        WindowedTwoStreams { streams: self, assigner: windows, trigger, lateness: 0, late }
    }
}

impl<A, B, SA, SB, M, W, G> WindowedTwoStreams<A, B, SA, SB, M, W, G>
where
    A: Data + Clone,
    B: Data + Clone,
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
    W: WindowAssigner<Either<A, B>>,
    G: Trigger<Either<A, B>>,
{
    /// When windows fire, instead of when they are complete.
    pub fn trigger<H: Trigger<Either<A, B>>>(
        self,
        trigger: H,
    ) -> WindowedTwoStreams<A, B, SA, SB, M, W, H> {
        let Self { streams, assigner, lateness, late, .. } = self;
        WindowedTwoStreams { streams, assigner, trigger, lateness, late }
    }

    /// How long after a window's end a row may still change it.
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = millis(lateness);
        self
    }

    /// Rows of the two streams that are too late go to these side outputs instead of being
    /// counted and dropped. The tags' names must differ.
    pub fn late_to(mut self, left: &OutputTag<A>, right: &OutputTag<B>) -> Self {
        self.late = (Some(*left), Some(*right));
        self
    }

    fn operator<Y>(
        self,
        name: &str,
        uid: &str,
        body: impl Fn() -> Y + Send + 'static,
    ) -> DataStream<Y::Out>
    where
        Y: Body<SA::Key, Either<A, B>>,
    {
        let TwoStreams { left, right, .. } = self.streams;
        let env = left.env().clone();
        let (assigner, trigger, lateness, late) =
            (self.assigner, self.trigger, self.lateness, self.late);
        let mut states =
            declare::<SA::Key, Plain<Slots<Y::Acc, G::State>>>(&env, uid, WINDOWS, false);
        let mut wrong = assigner.check().err();
        if assigner.merges() && !trigger.can_merge() {
            wrong = Some("its trigger cannot be used with windows that merge".to_owned());
        }
        if late.0.map(|t| t.name()).is_some_and(|name| late.1.is_some_and(|t| t.name() == name)) {
            wrong = Some("the side outputs for late rows have the same name".to_owned());
        }
        if let Some(wrong) = wrong {
            states.clear();
            let mut graph = env.graph_mut();
            graph.error(format!("the windows of {uid:?} are not right: {wrong}"));
        }
        let tags = late.0.iter().map(OutputTag::any).chain(late.1.iter().map(OutputTag::any));
        let declared = SideOutputs::new(tags.collect());
        let sides = declared.clone();
        let selector = EitherKey(left.selector.clone(), right.selector.clone());
        let spec = OperatorSpec::new(name, Some(uid), states);
        let (node, output) = add_operator_with_id(&env, spec, move |cx, node| -> Res<_> {
            let parts = WindowParts {
                selector: selector.clone(),
                assigner: assigner.clone(),
                trigger: trigger.clone(),
                body: body(),
                lateness,
                late: LateRows {
                    tag: late.0.map(|t| t.name()),
                    second: late.1.map(|t| t.name()),
                    metrics: cx.metrics(node),
                },
                take_late: LateRows::take_either::<A, B>,
                sides: sides.build(cx)?,
                table: cx.spilling_table(node)?,
            };
            Ok(CoGroup::new(parts))
        });
        left.into_input(node, 0);
        right.into_input(node, 1);
        DataStream::new(env, output, Head::new()).with_sides(declared)
    }
}

impl<A, B, SA, SB, W, G> WindowedTwoStreams<A, B, SA, SB, Joined, W, G>
where
    A: Data + Clone,
    B: Data + Clone,
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
    W: WindowAssigner<Either<A, B>>,
    G: Trigger<Either<A, B>>,
{
    /// Makes a row of each pair, left rows in order of arrival, for each the right ones.
    pub fn apply<O: Send + 'static>(
        self,
        uid: &str,
        f: impl FnMut(&A, &B) -> O + Fun,
    ) -> DataStream<O> {
        self.operator("join", uid, move || JoinBody::new(f.clone()))
    }
}

impl<A, B, SA, SB, W, G> WindowedTwoStreams<A, B, SA, SB, CoGrouped, W, G>
where
    A: Data + Clone,
    B: Data + Clone,
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
    W: WindowAssigner<Either<A, B>>,
    G: Trigger<Either<A, B>>,
{
    /// Calls `f` with key, both lists (in order of arrival; at least one row in all) and
    /// the window when it fires.
    pub fn apply<O: Send + 'static>(
        self,
        uid: &str,
        f: impl FnMut(&SA::Key, &[A], &[B], &mut WindowCx<'_, O>) -> Res + Fun,
    ) -> DataStream<O> {
        self.operator("co_group", uid, move || CoGroupBody::new(f.clone()))
    }
}
