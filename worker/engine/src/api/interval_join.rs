//! Joins of two keyed streams by the distance of their rows in event time.

use crate::api::connect::{KeyedCoProcess, KeyedConnected};
use crate::api::keyed::{KeySelector, KeyedStream};
use crate::api::process::{Cx, Timer};
use crate::api::stream::DataStream;
use crate::api::tags::{OutputTag, SideOutputs};
use crate::data::{Data, Fun, Res, Ts};
use crate::operators::interval_join::{Buffers, Sorted};
use crate::runtime::metrics::NodeMetrics;
use std::marker::PhantomData;
use std::sync::Arc;

/// Two keyed streams that are joined by time: see [`KeyedStream::interval_join`].
pub struct IntervalJoin<A, S: KeySelector<A>, B, R: KeySelector<B>> {
    streams: KeyedConnected<A, S, B, R>,
    bounds: Bounds,
    late_left: Option<OutputTag<A>>,
    late_right: Option<OutputTag<B>>,
}

/// How far a right row may lie behind a left one, both inclusive, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    lower: Ts,
    upper: Ts,
}

impl<A: Data + Clone, S: KeySelector<A>> KeyedStream<A, S> {
    /// Joins each row of this stream with the rows of the same key in `right` whose
    /// timestamp lies between its own plus `lower` and its own plus `upper`:
    /// milliseconds, either may be negative, both bounds count in. Event time only.
    ///
    /// Both sides' rows are kept until the watermark says that no partner can come any
    /// more. A row earlier than the watermark is late: it is not joined, but counted and
    /// dropped unless it is sent to a side output.
    pub fn interval_join<B: Data + Clone, R: KeySelector<B, Key = S::Key>>(
        self,
        right: KeyedStream<B, R>,
        lower: Ts,
        upper: Ts,
    ) -> IntervalJoin<A, S, B, R> {
        IntervalJoin {
            streams: self.connect(right),
            bounds: Bounds { lower, upper },
            late_left: None,
            late_right: None,
        }
    }
}

impl<A, S, B, R> IntervalJoin<A, S, B, R>
where
    A: Data + Clone,
    S: KeySelector<A>,
    B: Data + Clone,
    R: KeySelector<B, Key = S::Key>,
{
    /// The lower bound itself does not count in.
    pub fn lower_exclusive(mut self) -> Self {
        self.bounds.lower = self.bounds.lower.saturating_add(1);
        self
    }

    /// The upper bound itself does not count in.
    pub fn upper_exclusive(mut self) -> Self {
        self.bounds.upper = self.bounds.upper.saturating_sub(1);
        self
    }

    /// Late rows of the left stream go to this side output.
    pub fn late_left_to(mut self, tag: &OutputTag<A>) -> Self {
        self.late_left = Some(*tag);
        self
    }

    /// Late rows of the right stream go to this side output.
    pub fn late_right_to(mut self, tag: &OutputTag<B>) -> Self {
        self.late_right = Some(*tag);
        self
    }

    /// Makes a row of each pair, with the later of their timestamps. `uid` identifies
    /// the state. Bounds between which nothing lies are an error before the start.
    pub fn process<O: Send + 'static>(
        self,
        uid: &str,
        f: impl FnMut(&S::Key, &A, &B) -> O + Fun,
    ) -> DataStream<O> {
        let Self { streams, bounds, late_left, late_right } = self;
        if bounds.lower > bounds.upper {
            streams.env().graph_mut().error(format!(
                "the interval of join {uid:?} is empty: its lower bound lies above its upper bound"
            ));
        }
        let tags =
            late_left.iter().map(OutputTag::any).chain(late_right.iter().map(OutputTag::any));
        let declared = SideOutputs::new(tags.collect());
        streams.run("interval join", uid, declared, move |metrics| Join {
            f: f.clone(),
            bounds,
            late_left,
            late_right,
            metrics: Arc::clone(metrics),
            _rows: PhantomData,
        })
    }
}

struct Join<A, B, F> {
    f: F,
    bounds: Bounds,
    late_left: Option<OutputTag<A>>,
    late_right: Option<OutputTag<B>>,
    metrics: Arc<NodeMetrics>,
    _rows: PhantomData<fn(A, B)>,
}

impl<A, B, F: Clone> Clone for Join<A, B, F> {
    fn clone(&self) -> Self {
        let Self { f, bounds, late_left, late_right, metrics, .. } = self;
        Self {
            f: f.clone(),
            bounds: *bounds,
            late_left: *late_left,
            late_right: *late_right,
            metrics: Arc::clone(metrics),
            _rows: PhantomData,
        }
    }
}

impl<A, B, F> Join<A, B, F> {
    fn late<K, O, T: Send + 'static>(
        &self,
        tag: Option<OutputTag<T>>,
        row: T,
        cx: &mut Cx<'_, K, O>,
    ) {
        match tag {
            Some(tag) => cx.side(&tag, row),
            None => self.metrics.late_dropped.add(1),
        }
    }

    /// When a left row has no use any more: no partner can be as late as that.
    fn left_ends(&self, ts: Ts) -> Ts {
        ts.saturating_add(self.bounds.upper).saturating_add(1)
    }

    fn right_ends(&self, ts: Ts) -> Ts {
        ts.saturating_sub(self.bounds.lower).saturating_add(1)
    }
}

/// Puts a row in its place; the key has one timer per side, for that side's first row.
fn keep<K, O, T: Data>(
    side: &mut Sorted<T>,
    ends: impl Fn(Ts) -> Ts,
    row: T,
    cx: &mut Cx<'_, K, O>,
) {
    let (ts, before) = (cx.timestamp(), side.first());
    side.insert(ts, row);
    if before.is_none_or(|first| ts < first) {
        // The timer of the row that was the first may stand: it then finds little to do.
        cx.register(Timer::Event(ends(ts)));
    }
}

/// Drops rows without use, and sees to the timer of the first that is left.
fn clean<K, O, T: Data>(side: &mut Sorted<T>, ends: impl Fn(Ts) -> Ts, cx: &mut Cx<'_, K, O>) {
    let watermark = cx.watermark();
    side.drop_while(|ts| ends(ts) <= watermark);
    if let Some(first) = side.first() {
        cx.register(Timer::Event(ends(first)));
    }
}

impl<K, A, B, O, F> KeyedCoProcess<K, A, B> for Join<A, B, F>
where
    K: millrace_protocol::key::Key,
    A: Data + Clone,
    B: Data + Clone,
    O: Send + 'static,
    F: FnMut(&K, &A, &B) -> O + Fun,
{
    type Out = O;
    type State = Buffers<A, B>;

    fn first(&mut self, row: A, st: &mut Buffers<A, B>, cx: &mut Cx<'_, K, O>) -> Res {
        let ts = cx.timestamp();
        if ts < cx.watermark() {
            self.late(self.late_left, row, cx);
            return Ok(());
        }
        let range = ts.saturating_add(self.bounds.lower)..=ts.saturating_add(self.bounds.upper);
        for (at, partner) in st.right.range(range) {
            let joined = (self.f)(cx.key(), &row, partner);
            cx.emit_at(ts.max(*at), joined);
        }
        let ends = self.left_ends(ts);
        if ends > cx.watermark() {
            keep(&mut st.left, |ts| self.left_ends(ts), row, cx);
        }
        Ok(())
    }

    fn second(&mut self, row: B, st: &mut Buffers<A, B>, cx: &mut Cx<'_, K, O>) -> Res {
        let ts = cx.timestamp();
        if ts < cx.watermark() {
            self.late(self.late_right, row, cx);
            return Ok(());
        }
        let range = ts.saturating_sub(self.bounds.upper)..=ts.saturating_sub(self.bounds.lower);
        for (at, partner) in st.left.range(range) {
            let joined = (self.f)(cx.key(), partner, &row);
            cx.emit_at(ts.max(*at), joined);
        }
        let ends = self.right_ends(ts);
        if ends > cx.watermark() {
            keep(&mut st.right, |ts| self.right_ends(ts), row, cx);
        }
        Ok(())
    }

    fn on_timer(&mut self, _: Timer, st: &mut Buffers<A, B>, cx: &mut Cx<'_, K, O>) -> Res {
        clean(&mut st.left, |ts| self.left_ends(ts), cx);
        clean(&mut st.right, |ts| self.right_ends(ts), cx);
        Ok(())
    }
}
