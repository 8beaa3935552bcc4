//! Keyed streams: rows of one key meet in one subtask, in the order in which each
//! upstream subtask sent them.

use crate::api::env::Env;
use crate::api::pipe::{Head, Pipe};
use crate::api::stream::{DataStream, OperatorSpec, add_operator};
use crate::data::{Data, Fun, Res};
use crate::exchange::codec::{Codec, Packets};
use crate::graph::{BuildCx, EdgeId, NodeId, Output, Partitioning, StageFactory, StateDecl};
use crate::operators::reduce::{REDUCED, Reduce};
use crate::runtime::operator::Operator;
use crate::runtime::partition::{ByKey, Scatter};
use crate::state::{Plain, Row, StateTable, Table};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use std::any::{Any, TypeId};
use std::marker::PhantomData;
use std::sync::Arc;

/// How a row's key is found.
pub trait KeySelector<T>: Fun {
    /// The key.
    type Key: Key;
    /// The key's hash.
    fn hash(&self, row: &T) -> u64;
    /// Calls `f` with the key.
    fn with<R>(&self, row: &T, f: impl FnOnce(&Self::Key) -> R) -> R;
    /// The key, for keeps.
    fn owned(&self, row: &T) -> Self::Key;
}

/// By a closure that makes the key.
pub struct ByValue<K, F>(F, PhantomData<fn() -> K>);

impl<K, F> ByValue<K, F> {
    pub(crate) fn new(f: F) -> Self {
        Self(f, PhantomData)
    }
}

impl<K, F: Clone> Clone for ByValue<K, F> {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl<T, K: Key, F: Fn(&T) -> K + Fun> KeySelector<T> for ByValue<K, F> {
    type Key = K;

    #[inline(always)]
    fn hash(&self, row: &T) -> u64 {
        (self.0)(row).hash64()
    }

    #[inline(always)]
    fn with<R>(&self, row: &T, f: impl FnOnce(&K) -> R) -> R {
        f(&(self.0)(row))
    }

    #[inline(always)]
    fn owned(&self, row: &T) -> K {
        (self.0)(row)
    }
}

/// By a closure that points at the key in the row.
pub struct ByRef<K, F>(F, PhantomData<fn() -> K>);

impl<K, F> ByRef<K, F> {
    pub(crate) fn new(f: F) -> Self {
        Self(f, PhantomData)
    }
}

impl<K, F: Clone> Clone for ByRef<K, F> {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl<T, K: Key, F: for<'a> Fn(&'a T) -> &'a K + Fun> KeySelector<T> for ByRef<K, F> {
    type Key = K;

    #[inline(always)]
    fn hash(&self, row: &T) -> u64 {
        (self.0)(row).hash64()
    }

    #[inline(always)]
    fn with<R>(&self, row: &T, f: impl FnOnce(&K) -> R) -> R {
        f((self.0)(row))
    }

    #[inline(always)]
    fn owned(&self, row: &T) -> K {
        (self.0)(row).clone()
    }
}

/// What feeds a keyed edge.
enum Feed<T> {
    /// Each row goes to the subtask of its key.
    Scatter(EdgeId),
    /// A stage of the operator's own.
    Stage(StageFactory<T>),
}

/// A keyed stream.
pub struct KeyedStream<T, S: KeySelector<T>> {
    env: Env,
    node: NodeId,
    /// Hangs what feeds the edge on the upstream, once the edge is known.
    connect: Box<dyn FnOnce(Feed<T>)>,
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) selector: S,
    _row: PhantomData<fn(T)>,
}

impl<T: Send + 'static, S: KeySelector<T>> KeyedStream<T, S> {
    pub(crate) fn new<P: Pipe<Out = T>>(stream: DataStream<T, P>, selector: S) -> Self
    where
        T: Data,
    {
        let (env, node) = (stream.env.clone(), stream.output.node);
        let scatter = selector.clone();
        let connect = Box::new(move |feed: Feed<T>| match feed {
            Feed::Scatter(edge) => stream.attach(move |cx: &mut BuildCx<'_>| {
                let channels = cx.outgoing(edge);
                let selector = scatter.clone();
                let hash = move |row: &T| selector.hash(row);
                let route = ByKey::new(hash, cx.attempt.max_parallelism, channels.len() as u16);
                Ok(Scatter::new(route, channels))
            }),
            Feed::Stage(stage) => match (&stream.output as &dyn Any).downcast_ref::<Output<T>>() {
                // No closures since the head: its rows are ours.
                Some(head) if TypeId::of::<P>() == TypeId::of::<Head<T>>() => head.attach(stage),
                _ => stream.erase().output.attach(stage),
            },
        });
        let codec = Arc::new(Packets::<T>::new());
        Self { env, node, connect, codec, selector, _row: PhantomData }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// Connects the stream to input `input` of `node`.
    pub(crate) fn into_input(self, node: NodeId, input: usize) {
        let edge = self.env.edge(self.node, node, input, Partitioning::Key, self.codec);
        (self.connect)(Feed::Scatter(edge));
    }

    /// Connects the stream to `node`, whose only input a stage of its own feeds.
    fn into_stage(
        self,
        node: NodeId,
        codec: Arc<dyn Codec>,
        stage: impl FnOnce(EdgeId) -> StageFactory<T>,
    ) {
        let edge = self.env.edge(self.node, node, 0, Partitioning::Key, codec);
        (self.connect)(Feed::Stage(stage(edge)));
    }

    /// Puts an operator of one input behind the stream.
    pub(crate) fn operator<O: Operator>(
        self,
        name: &str,
        uid: &str,
        states: Vec<StateDecl>,
        make: impl Fn(&mut BuildCx<'_>, NodeId) -> Res<O> + Send + 'static,
    ) -> DataStream<O::Out> {
        let env = self.env.clone();
        let spec = OperatorSpec::new(name, Some(uid), states);
        let (node, output) = add_operator_with_id(&env, spec, make);
        self.into_input(node, 0);
        DataStream::new(env, output, Head::new())
    }

    /// As [`KeyedStream::operator`], fed by a stage that is made for each edge, whose
    /// batches `codec` knows.
    pub(crate) fn operator_behind<O: Operator>(
        self,
        name: &str,
        uid: &str,
        states: Vec<StateDecl>,
        codec: Arc<dyn Codec>,
        stage: impl FnOnce(EdgeId) -> StageFactory<T>,
        make: impl Fn(&mut BuildCx<'_>, NodeId) -> Res<O> + Send + 'static,
    ) -> DataStream<O::Out> {
        let env = self.env.clone();
        let spec = OperatorSpec::new(name, Some(uid), states);
        let (node, output) = add_operator_with_id(&env, spec, make);
        self.into_stage(node, codec, stage);
        DataStream::new(env, output, Head::new())
    }

    /// Folds each key's rows into one with `f`, and emits it after every row.
    pub fn reduce(self, uid: &str, f: impl FnMut(&mut T, T) + Fun) -> DataStream<T>
    where
        T: Data + Clone,
    {
        let states = declare::<S::Key, Plain<T>>(&self.env, uid, REDUCED, false);
        let selector = self.selector.clone();
        self.operator("reduce", uid, states, move |cx, node| {
            let mut f = f.clone();
            let f = move |acc: &mut T, row: T| {
                f(acc, row);
                Ok(())
            };
            Ok(Reduce::new(selector.clone(), f, cx.spilling_table(node)?))
        })
    }

    /// As [`KeyedStream::reduce`], with a function that may fail, which fails the attempt.
    pub fn try_reduce(self, uid: &str, f: impl FnMut(&mut T, T) -> Res + Fun) -> DataStream<T>
    where
        T: Data + Clone,
    {
        let states = declare::<S::Key, Plain<T>>(&self.env, uid, REDUCED, false);
        let selector = self.selector.clone();
        self.operator("reduce", uid, states, move |cx, node| {
            Ok(Reduce::new(selector.clone(), f.clone(), cx.spilling_table(node)?))
        })
    }
}

/// The declaration of a keyed state; a type that cannot be traced is told before the start.
pub(crate) fn declare<K: Key, R: Row>(
    env: &Env,
    uid: &str,
    name: &str,
    panes: bool,
) -> Vec<StateDecl> {
    let table = Table::<K, R>::new(MaxParallelism::DEFAULT, KeyGroupRange { start: 0, end: 0 });
    match table.schema() {
        Ok(mut schema) => {
            schema.panes = panes;
            vec![StateDecl { name: name.to_owned(), schema }]
        }
        Err(error) => {
            env.graph_mut().error(format!("state {name:?} of operator {uid:?}: {error}"));
            Vec::new()
        }
    }
}

/// As [`add_operator`], for factories that want to know their node.
pub(crate) fn add_operator_with_id<O: Operator>(
    env: &Env,
    spec: OperatorSpec,
    make: impl Fn(&mut BuildCx<'_>, NodeId) -> Res<O> + Send + 'static,
) -> (NodeId, crate::graph::Output<O::Out>) {
    let node = NodeId(env.graph().nodes().len() as u32);
    add_operator(env, spec, move |cx| make(cx, node))
}
