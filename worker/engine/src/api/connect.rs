//! Two streams of different types behind one operator.

use crate::api::keyed::{KeySelector, KeyedStream, add_operator_with_id, declare};
use crate::api::pipe::{Head, Pipe};
use crate::api::process::{Cx, Timer};
use crate::api::stream::{DataStream, OperatorSpec, add_operator};
use crate::api::tags::{AnyTag, SideOutputs};
use crate::data::{Data, Fun, Res};
use crate::operators::process::connect::{CoFlatMap, CoProcess};
use crate::operators::process::core::{KeyedCore, STATE};
use crate::operators::process::row::TimedRow;
use crate::runtime::metrics::NodeMetrics;
use crate::state::State;
use millrace_protocol::key::Key;
use std::sync::Arc;

/// Two streams side by side.
///
/// Nothing orders the rows of one input against those of the other but watermarks: the
/// operator's is the lower of the two.
pub struct Connected<A, P: Pipe<Out = A>, B, Q: Pipe<Out = B>> {
    first: DataStream<A, P>,
    second: DataStream<B, Q>,
}

impl<A: Send + 'static, P: Pipe<Out = A>> DataStream<A, P> {
    /// Puts another stream beside this one, for an operator with two inputs.
    pub fn connect<B: Send + 'static, Q: Pipe<Out = B>>(
        self,
        other: DataStream<B, Q>,
    ) -> Connected<A, P, B, Q> {
        Connected { first: self, second: other }
    }
}

impl<A: Data, P: Pipe<Out = A>, B: Data, Q: Pipe<Out = B>> Connected<A, P, B, Q> {
    /// One row for each: co-map. What the closures capture is lost at a restore.
    pub fn map<O: Send + 'static>(
        self,
        mut first: impl FnMut(A) -> O + Fun,
        mut second: impl FnMut(B) -> O + Fun,
    ) -> DataStream<O> {
        self.flat_map(move |row| Some(first(row)), move |row| Some(second(row)))
    }

    /// Any number of rows for each: co-flat-map.
    pub fn flat_map<I, J>(
        self,
        first: impl FnMut(A) -> I + Fun,
        second: impl FnMut(B) -> J + Fun,
    ) -> DataStream<I::Item>
    where
        I: IntoIterator<Item: Send + 'static>,
        J: IntoIterator<Item = I::Item>,
    {
        let env = self.first.env.clone();
        let spec = OperatorSpec::new("co-flat-map", None, Vec::new());
        let (node, output) =
            add_operator(&env, spec, move |_| Ok(CoFlatMap::new(first.clone(), second.clone())));
        self.first.forward_to(node, 0);
        self.second.forward_to(node, 1);
        DataStream::new(env, output, Head::new())
    }
}

/// A function over two inputs with the same key, with state and timers of that key.
/// All that [`crate::api::process::KeyedProcess`] promises holds.
pub trait KeyedCoProcess<K: Key, A, B>: Fun {
    /// What it emits.
    type Out: Send + 'static;
    /// The state of a key, which both inputs share.
    type State: State;

    /// The side outputs that it emits to. Asked once, when the graph is built.
    fn side_outputs(&self) -> Vec<AnyTag> {
        Vec::new()
    }

    /// Called once per subtask and attempt, before any row.
    fn open(&mut self) -> Res {
        Ok(())
    }

    /// Takes a row of the first input.
    fn first(&mut self, row: A, state: &mut Self::State, cx: &mut Cx<'_, K, Self::Out>) -> Res;

    /// Takes a row of the second input.
    fn second(&mut self, row: B, state: &mut Self::State, cx: &mut Cx<'_, K, Self::Out>) -> Res;

    /// A timer of the key is due. It is no longer registered.
    fn on_timer(
        &mut self,
        _timer: Timer,
        _state: &mut Self::State,
        _cx: &mut Cx<'_, K, Self::Out>,
    ) -> Res {
        Ok(())
    }
}

/// Two streams with the same key side by side.
pub struct KeyedConnected<A, S: KeySelector<A>, B, R: KeySelector<B>> {
    first: KeyedStream<A, S>,
    second: KeyedStream<B, R>,
}

impl<A: Send + 'static, S: KeySelector<A>> KeyedStream<A, S> {
    /// Puts another stream with keys of the same type beside this one.
    pub fn connect<B: Send + 'static, R: KeySelector<B, Key = S::Key>>(
        self,
        other: KeyedStream<B, R>,
    ) -> KeyedConnected<A, S, B, R> {
        KeyedConnected { first: self, second: other }
    }
}

impl<A, S, B, R> KeyedConnected<A, S, B, R>
where
    A: Send + 'static,
    S: KeySelector<A>,
    B: Send + 'static,
    R: KeySelector<B, Key = S::Key>,
{
    /// Runs a function with state and timers per key over both streams. `uid` identifies
    /// its state.
    pub fn process<F: KeyedCoProcess<S::Key, A, B>>(self, uid: &str, f: F) -> DataStream<F::Out> {
        let declared = SideOutputs::new(f.side_outputs());
        self.run("co-process", uid, declared, move |_| f.clone())
    }

    pub(crate) fn env(&self) -> &crate::api::env::Env {
        self.first.env()
    }

    pub(crate) fn run<F: KeyedCoProcess<S::Key, A, B>>(
        self,
        name: &str,
        uid: &str,
        declared: SideOutputs,
        f: impl Fn(&Arc<NodeMetrics>) -> F + Send + 'static,
    ) -> DataStream<F::Out> {
        let env = self.first.env().clone();
        let states = declare::<S::Key, TimedRow<F::State>>(&env, uid, STATE, false);
        let selectors = (self.first.selector.clone(), self.second.selector.clone());
        let sides = declared.clone();
        let spec = OperatorSpec::new(name, Some(uid), states);
        let (node, output) = add_operator_with_id(&env, spec, move |cx, node| {
            let core = KeyedCore::new(cx.spilling_table(node)?, sides.build(cx)?);
            Ok(CoProcess::<A, B, S, R, F>::new(selectors.clone(), f(&cx.metrics(node)), core))
        });
        self.first.into_input(node, 0);
        self.second.into_input(node, 1);
        DataStream::new(env, output, Head::new()).with_sides(declared)
    }
}
