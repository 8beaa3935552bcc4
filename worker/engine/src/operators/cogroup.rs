//! Windows over two keyed streams: the generic window operator over rows of either.
//!
//! A window keeps both sides' rows. `co_group` sees both lists when it fires; a join emits
//! each pair, as many at a time as there is room for.

use crate::api::join::Either;
use crate::api::keyed::KeySelector;
use crate::api::window::assign::WindowAssigner;
use crate::api::window::function::WindowCx;
use crate::api::window::trigger::Trigger;
use crate::data::{AnyBatch, Data, Fun, Res, Ts};
use crate::operators::window::body::Body;
use crate::operators::window::generic::{WindowOperator, WindowParts};
use crate::runtime::emit::Emitter;
use crate::runtime::event_time::EventTime;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Flow, Operator, drive, marks_of};
use crate::runtime::side::Sides;
use crate::state::StateTable;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

/// Finds the key of a row of either stream.
pub(crate) struct EitherKey<SA, SB>(pub SA, pub SB);

impl<SA: Clone, SB: Clone> Clone for EitherKey<SA, SB> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1.clone())
    }
}

impl<A, B, SA, SB> KeySelector<Either<A, B>> for EitherKey<SA, SB>
where
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
{
    type Key = SA::Key;

    fn hash(&self, row: &Either<A, B>) -> u64 {
        match row {
            Either::Left(row) => self.0.hash(row),
            Either::Right(row) => self.1.hash(row),
        }
    }

    fn with<R>(&self, row: &Either<A, B>, f: impl FnOnce(&SA::Key) -> R) -> R {
        match row {
            Either::Left(row) => self.0.with(row, f),
            Either::Right(row) => self.1.with(row, f),
        }
    }

    fn owned(&self, row: &Either<A, B>) -> SA::Key {
        match row {
            Either::Left(row) => self.0.owned(row),
            Either::Right(row) => self.1.owned(row),
        }
    }
}

/// The rows of a window, in order of arrival.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Both<A, B> {
    left: Vec<A>,
    right: Vec<B>,
}

impl<A, B> Both<A, B> {
    fn new() -> Self {
        Self { left: Vec::new(), right: Vec::new() }
    }
}

impl<A: Clone, B: Clone> Both<A, B> {
    fn add(&mut self, row: &mut Option<Either<A, B>>, last: bool) {
        match if last { row.take() } else { row.clone() } {
            Some(Either::Left(row)) => self.left.push(row),
            Some(Either::Right(row)) => self.right.push(row),
            None => {}
        }
    }

    fn merge(&mut self, mut other: Self) {
        self.left.append(&mut other.left);
        self.right.append(&mut other.right);
    }
}

/// What `co_group` does with a window.
pub(crate) struct CoGroupBody<A, B, O, F> {
    function: F,
    _rows: PhantomData<fn(A, B) -> O>,
}

impl<A, B, O, F> CoGroupBody<A, B, O, F> {
    pub fn new(function: F) -> Self {
        Self { function, _rows: PhantomData }
    }
}

impl<K, A, B, O, F> Body<K, Either<A, B>> for CoGroupBody<A, B, O, F>
where
    A: Data + Clone,
    B: Data + Clone,
    O: Send + 'static,
    F: FnMut(&K, &[A], &[B], &mut WindowCx<'_, O>) -> Res + Fun,
{
    type Acc = Both<A, B>;
    type Out = O;

    fn create(&self) -> Both<A, B> {
        Both::new()
    }

    fn add(&mut self, acc: &mut Both<A, B>, _: Ts, row: &mut Option<Either<A, B>>, last: bool) {
        acc.add(row, last);
    }

    fn merge(&mut self, acc: &mut Both<A, B>, other: Both<A, B>) {
        acc.merge(other);
    }

    fn fire(&mut self, key: &K, acc: &mut Both<A, B>, cx: &mut WindowCx<'_, O>) -> Res {
        (self.function)(key, &acc.left, &acc.right, cx)
    }
}

/// Pairs that are being emitted.
struct Pairs<A, B> {
    both: Both<A, B>,
    /// The next pair.
    at: (usize, usize),
    timestamp: Ts,
}

/// What a join does with a window.
pub(crate) struct JoinBody<A, B, O, F> {
    function: F,
    pairs: Option<Pairs<A, B>>,
    _out: PhantomData<fn() -> O>,
}

impl<A, B, O, F> JoinBody<A, B, O, F> {
    pub fn new(function: F) -> Self {
        Self { function, pairs: None, _out: PhantomData }
    }
}

impl<K, A, B, O, F> Body<K, Either<A, B>> for JoinBody<A, B, O, F>
where
    A: Data + Clone,
    B: Data + Clone,
    O: Send + 'static,
    F: FnMut(&A, &B) -> O + Fun,
{
    type Acc = Both<A, B>;
    type Out = O;

    fn create(&self) -> Both<A, B> {
        Both::new()
    }

    fn add(&mut self, acc: &mut Both<A, B>, _: Ts, row: &mut Option<Either<A, B>>, last: bool) {
        acc.add(row, last);
    }

    fn merge(&mut self, acc: &mut Both<A, B>, other: Both<A, B>) {
        acc.merge(other);
    }

    fn fire(&mut self, _: &K, acc: &mut Both<A, B>, cx: &mut WindowCx<'_, O>) -> Res {
        if acc.left.is_empty() || acc.right.is_empty() {
            return Ok(());
        }
        if let Some(unfinished) = &mut self.pairs {
            // One row fired several windows: what is left of the first goes out at once.
            emit_pairs(&mut self.function, unfinished, cx.out, usize::MAX)?;
        }
        let mut pairs = Pairs { both: Both::new(), at: (0, 0), timestamp: cx.timestamp };
        if acc.left.len() * acc.right.len() <= AT_ONCE {
            // Few pairs: without a copy of the rows.
            std::mem::swap(&mut pairs.both, acc);
            let emitted = emit_pairs(&mut self.function, &mut pairs, cx.out, usize::MAX);
            std::mem::swap(&mut pairs.both, acc);
            self.pairs = None;
            return emitted.map(|_| ());
        }
        pairs.both = acc.clone();
        self.pairs = Some(pairs);
        Ok(())
    }

    fn emit_on(&mut self, out: &mut Emitter<O>) -> Res<bool> {
        while let Some(pairs) = &mut self.pairs {
            if out.blocked() {
                return Ok(false);
            }
            if emit_pairs(&mut self.function, pairs, out, AT_ONCE)? {
                self.pairs = None;
            }
        }
        Ok(true)
    }

    fn is_settled(&self) -> bool {
        self.pairs.is_none()
    }
}

/// Pairs emitted between two looks at the output.
const AT_ONCE: usize = 256;

/// Emits at most so many pairs; whether those were the last.
fn emit_pairs<A, B, O>(
    function: &mut impl FnMut(&A, &B) -> O,
    Pairs { both, at: (left, right), timestamp }: &mut Pairs<A, B>,
    out: &mut Emitter<O>,
    mut most: usize,
) -> Res<bool> {
    while let Some(a) = both.left.get(*left) {
        while let Some(b) = both.right.get(*right) {
            if most == 0 {
                return Ok(false);
            }
            most -= 1;
            *right += 1;
            out.emit(*timestamp, function(a, b))?;
        }
        (*left, *right) = (*left + 1, 0);
    }
    Ok(true)
}

/// The operator: the left stream is its input 0, the right one 1.
pub(crate) struct CoGroup<A, B, SA, SB, W, G, Y>(
    WindowOperator<Either<A, B>, EitherKey<SA, SB>, W, G, Y>,
)
where
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
    G: Trigger<Either<A, B>>,
    Y: Body<SA::Key, Either<A, B>>;

impl<A, B, SA, SB, W, G, Y> CoGroup<A, B, SA, SB, W, G, Y>
where
    A: Send + 'static,
    B: Send + 'static,
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
    W: WindowAssigner<Either<A, B>>,
    G: Trigger<Either<A, B>>,
    Y: Body<SA::Key, Either<A, B>>,
{
    pub fn new(parts: WindowParts<Either<A, B>, EitherKey<SA, SB>, W, G, Y>) -> Self {
        Self(WindowOperator::new(parts))
    }
}

impl<A, B, SA, SB, W, G, Y> Operator for CoGroup<A, B, SA, SB, W, G, Y>
where
    A: Send + 'static,
    B: Send + 'static,
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
    W: WindowAssigner<Either<A, B>>,
    G: Trigger<Either<A, B>>,
    Y: Body<SA::Key, Either<A, B>>,
{
    type Out = Y::Out;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<A>, marks_of::<B>]
    }

    fn batch(
        &mut self,
        input: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<Y::Out>,
    ) -> Res<Flow> {
        let flow = if input == 0 {
            drive::<A, Self, _>(
                self,
                batch,
                out,
                |op, rows, out| op.0.rows(rows, |key| &key.0, Either::Left, out),
                |op, w, out| op.watermark(w, out),
            )?
        } else {
            drive::<B, Self, _>(
                self,
                batch,
                out,
                |op, rows, out| op.0.rows(rows, |key| &key.1, Either::Right, out),
                |op, w, out| op.watermark(w, out),
            )?
        };
        self.0.settled(flow, out)
    }

    fn watermark(&mut self, watermark: Ts, out: &mut Emitter<Y::Out>) -> Res<Flow> {
        self.0.watermark(watermark, out)
    }

    fn processing_time(&mut self, now: Ts, out: &mut Emitter<Y::Out>) -> Res<Flow> {
        self.0.processing_time(now, out)
    }

    fn next_processing_time(&self) -> Option<Ts> {
        self.0.next_processing_time()
    }

    fn set_now(&mut self, now: Ts) {
        self.0.set_now(now);
    }

    fn is_settled(&self) -> bool {
        self.0.is_settled()
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        self.0.tables()
    }

    fn restored(&mut self, time: EventTime) -> Res {
        self.0.restored(time)
    }

    fn end(&mut self, out: &mut Emitter<Y::Out>) -> Res<Flow> {
        self.0.end(out)
    }

    fn sides(&mut self) -> Option<&mut Sides> {
        self.0.sides()
    }
}
