//! Streams that are not keyed.

use crate::api::env::Env;
use crate::api::keyed::{ByRef, ByValue, KeySelector, KeyedStream};
use crate::api::pipe::{Filter, FlatMap, Head, Map, Pipe, TryMap};
use crate::api::tags::{OutputTag, SideOutputs};
use crate::connector::{Committed, Committer, Sink, SinkCx};
use crate::data::{AnyBatch, Data, Fun, Res, Ts};
use crate::exchange::codec::Packets;
use crate::graph::{
    BuildCx, Edge, EdgeId, NodeId, NodeKind, NodeSpec, Output, Partitioning, SinkControl, StateDecl,
};
use crate::runtime::emit::{ChainStage, Emitter, End};
use crate::runtime::event_time::EventTime;
use crate::runtime::flight;
use crate::runtime::gate::{Gate, Marks};
use crate::runtime::operator::{Flow, Operator, drive, marks_of};
use crate::runtime::partition::{AtRandom, Broadcast, Custom, RoundRobin, Scatter};
use crate::runtime::sink::SinkEnd;
use crate::runtime::task::OperatorTask;
use crate::state::value::{ValueReader, shape_of};
use millrace_protocol::ids::{Attempt, JobUid, Subtask, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::manifest::{PendingCommit, ShapeBytes};
use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

/// A stream of `T`: a head's output with the closures since. `DataStream<T>` is the form
/// without closures, which can be named, stored and shared.
pub struct DataStream<T, P: Pipe<Out = T> = Head<T>> {
    pub(crate) env: Env,
    pub(crate) output: Output<P::In>,
    pub(crate) pipe: P,
    sides: SideOutputs,
    _row: PhantomData<fn() -> T>,
}

/// Two consumers of one stream. Each row is copied.
impl<T: Clone + Send + 'static> Clone for DataStream<T> {
    fn clone(&self) -> Self {
        self.output.share();
        Self::new(self.env.clone(), self.output.clone(), Head::new()).with_sides(self.sides.clone())
    }
}

impl<T: Send + 'static, P: Pipe<Out = T>> DataStream<T, P> {
    pub(crate) fn new(env: Env, output: Output<P::In>, pipe: P) -> Self {
        Self { env, output, pipe, sides: SideOutputs::default(), _row: PhantomData }
    }

    pub(crate) fn with_sides(mut self, sides: SideOutputs) -> Self {
        self.sides = sides;
        self
    }

    /// A side output of the operator that this stream comes from. A tag that the operator
    /// does not declare, or declares with another type, is an error before the job starts.
    pub fn side_output<U: Send + 'static>(&self, tag: &OutputTag<U>) -> DataStream<U> {
        let node = self.output.node;
        let output = match self.sides.output(node, tag) {
            Ok(output) => output,
            Err(why) => {
                let mut graph = self.env.graph_mut();
                let name = graph.node(node).name.clone();
                graph.error(format!("side output of operator {name:?}: {why}"));
                Output::new(node)
            }
        };
        DataStream::new(self.env.clone(), output, Head::new())
    }

    fn then<U: Send + 'static, Q: Pipe<In = P::In, Out = U>>(
        self,
        next: impl FnOnce(P) -> Q,
    ) -> DataStream<U, Q> {
        DataStream::new(self.env, self.output, next(self.pipe)).with_sides(self.sides)
    }

    /// One row for each. What the closure captures is lost at a restore: keep state in
    /// a keyed operator.
    pub fn map<U: Send + 'static>(
        self,
        f: impl FnMut(T) -> U + Fun,
    ) -> DataStream<U, impl Pipe<In = P::In, Out = U>> {
        self.then(|p| Map(p, f))
    }

    /// One row for each, or an error, which fails the attempt with the operator's name.
    pub fn try_map<U: Send + 'static>(
        self,
        f: impl FnMut(T) -> Res<U> + Fun,
    ) -> DataStream<U, impl Pipe<In = P::In, Out = U>> {
        self.then(|p| TryMap(p, f))
    }

    /// The rows that satisfy the predicate.
    pub fn filter(
        self,
        f: impl FnMut(&T) -> bool + Fun,
    ) -> DataStream<T, impl Pipe<In = P::In, Out = T>> {
        self.then(|p| Filter(p, f))
    }

    /// Any number of rows for each.
    pub fn flat_map<I>(
        self,
        f: impl FnMut(T) -> I + Fun,
    ) -> DataStream<I::Item, impl Pipe<In = P::In, Out = I::Item>>
    where
        I: IntoIterator<Item: Send + 'static> + 'static,
    {
        self.then(|p| FlatMap(p, f))
    }

    /// Names the stream's head, for metrics, logs and errors.
    pub fn name(self, name: &str) -> Self {
        self.env.graph_mut().set_name(self.output.node, name);
        self
    }

    /// The stable name of the head's state. Sources, sinks and operators with state take
    /// theirs when they are made; this changes it. Closures are part of the head that they
    /// stand behind: after `source.map(f)` it is the source that gets the uid.
    pub fn uid(self, uid: &str) -> Self {
        self.env.graph_mut().set_uid(self.output.node, uid);
        self
    }

    /// The parallelism of the stream's head.
    pub fn parallelism(self, parallelism: u16) -> Self {
        let mut graph = self.env.graph_mut();
        let task = graph.task_of(self.output.node);
        graph.node_mut(task).parallelism = Some(parallelism);
        drop(graph);
        self
    }

    /// Hangs a stage on the head, made for each subtask by `end`.
    pub(crate) fn attach<E: End<T> + 'static>(
        self,
        end: impl Fn(&mut BuildCx<'_>) -> Res<E> + Send + 'static,
    ) {
        let pipe = self.pipe;
        self.output.attach(Box::new(move |cx| {
            Ok(Box::new(ChainStage { pipe: pipe.clone(), end: end(cx)? }))
        }));
    }

    /// Adds a node that hangs on this stream's task.
    pub(crate) fn stage_node(&self, name: &str, uid: Option<&str>, kind: NodeKind) -> NodeId {
        let mut graph = self.env.graph_mut();
        let head = graph.task_of(self.output.node);
        graph.add(NodeSpec {
            name: name.to_owned(),
            uid: uid.map(str::to_owned),
            kind,
            parallelism: None,
            head: Some(head),
            states: Vec::new(),
            types: type_name::<T>().to_owned(),
        })
    }

    /// The stream with its closures hidden: a type that can be named, and a stream that
    /// can be cloned for several consumers. The closures run once.
    pub fn erase(self) -> DataStream<T> {
        let node = self.stage_node("chain", None, NodeKind::Chained);
        let env = self.env.clone();
        let output = Output::<T>::new(node);
        let (built, sides) = (output.clone(), self.sides.clone());
        self.attach(move |cx| Ok(Emitter::new(built.build(cx)?)));
        DataStream::new(env, output, Head::new()).with_sides(sides)
    }

    /// Keyed by a value that the closure makes: cheap keys (numbers, small tuples).
    pub fn key_by<K: Key>(
        self,
        key: impl Fn(&T) -> K + Fun,
    ) -> KeyedStream<T, impl KeySelector<T, Key = K>>
    where
        T: Data,
    {
        KeyedStream::new(self, ByValue::new(key))
    }

    /// Keyed by a part of the row: keys that are dear to clone (strings).
    pub fn key_by_ref<K: Key>(
        self,
        key: impl for<'a> Fn(&'a T) -> &'a K + Fun,
    ) -> KeyedStream<T, impl KeySelector<T, Key = K>>
    where
        T: Data,
    {
        KeyedStream::new(self, ByRef::new(key))
    }

    /// Spreads rows in turn over all subtasks.
    pub fn rebalance(self) -> DataStream<T>
    where
        T: Data,
    {
        self.exchange("rebalance", Partitioning::Rebalance, |cx, edge| {
            let channels = cx.outgoing(edge);
            Ok(Scatter::new(RoundRobin::new(usize::from(cx.subtask), channels.len()), channels))
        })
    }

    /// Spreads rows in turn over the subtasks next to this one, without crossing the others'.
    pub fn rescale(self) -> DataStream<T>
    where
        T: Data,
    {
        self.exchange("rescale", Partitioning::Rescale, |cx, edge| {
            let channels = cx.outgoing(edge);
            Ok(Scatter::new(RoundRobin::new(0, channels.len()), channels))
        })
    }

    /// Spreads rows at random.
    pub fn shuffle(self) -> DataStream<T>
    where
        T: Data,
    {
        self.exchange("shuffle", Partitioning::Shuffle, |cx, edge| {
            let channels = cx.outgoing(edge);
            let seed = cx.attempt.attempt.0 << 16 | u64::from(cx.subtask);
            Ok(Scatter::new(AtRandom::new(seed, channels.len()), channels))
        })
    }

    /// Every row to every subtask.
    pub fn broadcast_all(self) -> DataStream<T>
    where
        T: Data + Clone,
    {
        self.exchange("broadcast", Partitioning::Broadcast, |cx, edge| {
            Ok(Broadcast::new(cx.outgoing(edge)))
        })
    }

    /// Spreads rows by a function of row and parallelism; its answer counts modulo the parallelism.
    pub fn partition_custom(self, f: impl FnMut(&T, usize) -> usize + Fun) -> DataStream<T>
    where
        T: Data,
    {
        self.exchange("partition", Partitioning::Custom, move |cx, edge| {
            let channels = cx.outgoing(edge);
            Ok(Scatter::new(Custom::new(f.clone(), channels.len()), channels))
        })
    }

    fn exchange<E: End<T> + 'static>(
        self,
        name: &str,
        partitioning: Partitioning,
        end: impl Fn(&mut BuildCx<'_>, EdgeId) -> Res<E> + Send + 'static,
    ) -> DataStream<T>
    where
        T: Data,
    {
        let env = self.env.clone();
        let operator = OperatorSpec::new(name, None, Vec::new());
        let (node, output) = add_operator(&env, operator, |_| Ok(Pass::<T>(PhantomData)));
        let codec = Arc::new(Packets::<T>::new());
        let edge = env.edge(self.output.node, node, 0, partitioning, codec);
        self.attach(move |cx| end(cx, edge));
        DataStream::new(env, output, Head::new())
    }

    /// Sends the stream to input `input` of `node` as it is: subtask to subtask, or in
    /// turn where the parallelism differs.
    pub(crate) fn forward_to(self, node: NodeId, input: usize)
    where
        T: Data,
    {
        let codec = Arc::new(Packets::<T>::new());
        let edge = self.env.edge(self.output.node, node, input, Partitioning::Forward, codec);
        self.attach(move |cx| {
            let channels = cx.outgoing(edge);
            Ok(Scatter::new(RoundRobin::new(usize::from(cx.subtask), channels.len()), channels))
        });
    }

    /// The rows of this stream and of others, in the order of their arrival.
    pub fn union(self, others: Vec<DataStream<T>>) -> DataStream<T>
    where
        T: Data,
    {
        let env = self.env.clone();
        let operator = OperatorSpec::new("union", None, Vec::new());
        let (node, output) = add_operator(&env, operator, |_| Ok(Pass::<T>(PhantomData)));
        self.forward_to(node, 0);
        for other in others {
            other.forward_to(node, 0);
        }
        DataStream::new(env, output, Head::new())
    }

    /// Ends the stream in a sink.
    pub fn sink<S: Sink<T> + Sync>(self, uid: &str, sink: S) {
        let node = self.stage_node(uid, Some(uid), NodeKind::Sink);
        let uid = Uid::from(uid);
        let shape = match shape_of::<S::Commit>() {
            Ok(shape) => shape,
            Err(error) => {
                let what = format!("committables of sink {:?}: {error}", uid.as_str());
                self.env.graph_mut().error(what);
                ShapeBytes::default()
            }
        };
        self.env.graph_mut().node_mut(node).committable = Some(shape.clone());
        {
            let sink = sink.clone();
            self.env.graph_mut().add_control(
                uid,
                Box::new(move |job, uid| {
                    let committer = sink.committer(job, uid)?;
                    Ok(Box::new(Control::<T, S> { committer, _row: PhantomData }))
                }),
            );
        }
        self.attach(move |cx| {
            let uid = cx.graph.node(node).uid.clone();
            let writer = sink.writer(SinkCx {
                job: cx.attempt.job.clone(),
                uid: uid.clone(),
                attempt: cx.attempt.attempt,
                subtask: Subtask(cx.subtask),
            })?;
            Ok(SinkEnd::<T, S>::new(uid, writer, shape.clone(), cx.metrics(node)))
        });
    }
}

struct Control<T, S: Sink<T>> {
    committer: S::Committer,
    _row: PhantomData<fn(T)>,
}

impl<T, S: Sink<T>> SinkControl for Control<T, S> {
    fn commit(&mut self, item: &PendingCommit) -> Res<Committed> {
        self.committer.commit(&ValueReader::new(&item.shape)?.read(&item.payload)?)
    }

    fn abort_others(&mut self, attempt: Attempt, keep: &[PendingCommit]) -> Res {
        let read = |item: &PendingCommit| ValueReader::new(&item.shape)?.read(&item.payload);
        let keep = keep.iter().map(read).collect::<Res<Vec<S::Commit>>>()?;
        self.committer.abort_others(attempt, &keep)
    }
}

/// How an operator is entered in the graph.
pub(crate) struct OperatorSpec {
    pub name: String,
    pub uid: Option<String>,
    pub states: Vec<StateDecl>,
}

impl OperatorSpec {
    pub(crate) fn new(name: &str, uid: Option<&str>, states: Vec<StateDecl>) -> Self {
        Self { name: name.to_owned(), uid: uid.map(str::to_owned), states }
    }
}

/// Adds an operator behind an exchange; the caller adds its edges.
pub(crate) fn add_operator<O: Operator>(
    env: &Env,
    spec: OperatorSpec,
    make: impl Fn(&mut BuildCx<'_>) -> Res<O> + Send + 'static,
) -> (NodeId, Output<O::Out>) {
    let mut graph = env.graph_mut();
    let name = spec.name.clone();
    let node = graph.add(NodeSpec {
        name: spec.uid.clone().unwrap_or_else(|| spec.name.clone()),
        uid: spec.uid,
        kind: NodeKind::Operator,
        parallelism: None,
        head: None,
        states: spec.states,
        types: format!("{name} {}", type_name::<O::Out>()),
    });
    let output = Output::<O::Out>::new(node);
    let built = output.clone();
    graph.set_factory(
        node,
        Box::new(move |cx| {
            let mut operator = make(cx)?;
            let fanout = built.build(cx)?;
            let described = cx.graph.node(node);
            let (attempt, groups) = (cx.attempt, cx.key_groups(node));
            let (restore, max) = (&attempt.restore, attempt.max_parallelism);
            for (state, table) in operator.tables() {
                restore.table(&described.uid, state, groups, table)?;
            }
            // Rows without a key come to any subtask, whichever had them before: one that had
            // seen the end of its own input must not take those of another for late.
            let keyed = |e: &Edge| e.to == node && e.partitioning == Partitioning::Key;
            let watermarks = restore.watermarks(&described.uid);
            let time = if cx.graph.edges().iter().any(keyed) {
                EventTime::restored(max, groups, &watermarks)
            } else {
                EventTime::at(EventTime::restored(max, max.all(), &watermarks).watermark())
            };
            let mut gate = Gate::new(cx.incoming(node), O::inputs());
            gate.restore_rows(flight::restored(cx, node)?);
            let mut task = Box::new(OperatorTask::new(
                described.name.clone(),
                described.uid.clone(),
                cx.subtask,
                operator,
                Emitter::new(fanout),
                gate,
                cx.metrics(node),
            ));
            task.restore(time)?;
            Ok(task)
        }),
    );
    (node, output)
}

/// Hands rows on: what stands behind an exchange without an operator of its own.
pub(crate) struct Pass<T>(pub(crate) PhantomData<fn(T)>);

impl<T: Send + 'static> Operator for Pass<T> {
    type Out = T;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<T>]
    }

    fn batch(
        &mut self,
        _input: usize,
        batch: &mut dyn AnyBatch,
        out: &mut Emitter<T>,
    ) -> Res<Flow> {
        drive::<T, _, T>(
            self,
            batch,
            out,
            |_, rows, out| {
                while !out.blocked() {
                    let Some((ts, _, row)) = rows.next() else { break };
                    out.emit(ts, row)?;
                }
                Ok(())
            },
            |op, w: Ts, out| op.watermark(w, out),
        )
    }
}

/// The committing half of sinks by uid, for the coordinator's shell.
pub type Controls = std::collections::BTreeMap<Uid, Box<dyn SinkControl>>;

/// Makes the committing halves of all sinks of a graph.
pub fn controls(graph: &crate::graph::Graph, job: &JobUid) -> Res<Controls> {
    graph.controls().iter().map(|(uid, factory)| Ok((uid.clone(), factory(job, uid)?))).collect()
}
