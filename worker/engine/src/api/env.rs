//! The graph under construction, and the sources that begin it.

use crate::api::pipe::Head;
use crate::api::stream::DataStream;
use crate::connector::{Source, SourceCx};
use crate::data::{Data, Res};
use crate::exchange::codec::{Codec, Columnar};
use crate::graph::{
    BuildCx, Graph, Node, NodeId, NodeKind, NodeSpec, Output, Partitioning, splits_of,
};
use crate::runtime::alignment::AlignmentGroup;
use crate::runtime::gate::Gate;
use crate::runtime::source::{
    COMPLETE, EnumeratorParts, EnumeratorTask, KNOWN, POSITIONS, ReaderParts, ReaderTask, Restored,
    SourceShapes, split_marks,
};
use crate::runtime::task::Task;
use crate::state::value::ValueReader;
use crate::time::Watermarks;
use millrace_protocol::ids::{Subtask, Uid};
use std::any::type_name;
use std::cell::{Ref, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The graph under construction.
#[derive(Clone, Default)]
pub struct Env {
    graph: Rc<RefCell<Graph>>,
    groups: Rc<RefCell<HashMap<String, AlignmentGroup>>>,
}

impl Env {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// The graph that was built. Streams that are still held must not be used afterwards.
    pub fn into_graph(self) -> Graph {
        std::mem::take(&mut *self.graph.borrow_mut())
    }

    pub(crate) fn graph(&self) -> Ref<'_, Graph> {
        self.graph.borrow()
    }

    pub(crate) fn graph_mut(&self) -> RefMut<'_, Graph> {
        self.graph.borrow_mut()
    }

    /// Adds a source. `uid` identifies its positions across program versions.
    pub fn source<S: Source>(
        &self,
        uid: &str,
        source: S,
        watermarks: Watermarks<S::Out>,
    ) -> DataStream<S::Out> {
        let alignment = watermarks.alignment().map(|(name, drift)| {
            (self.groups.borrow_mut().entry(name.to_owned()).or_default().clone(), drift)
        });
        let mut graph = self.graph.borrow_mut();
        let spec = |name: &str, kind, types| NodeSpec {
            name: name.to_owned(),
            uid: Some(uid.to_owned()),
            kind,
            parallelism: None,
            head: None,
            states: Vec::new(),
            types,
        };
        let enumerator = graph.add(spec(
            &splits_of(uid),
            NodeKind::Enumerator,
            type_name::<S::Split>().to_owned(),
        ));
        let reader = graph.add(spec(uid, NodeKind::Source, type_name::<S::Out>().to_owned()));
        let codec = Arc::new(Columnar::<S::Split>::new());
        let edge = graph.add_edge(enumerator, reader, 0, Partitioning::Splits, codec);
        let shapes = SourceShapes::of::<S::Split>().unwrap_or_else(|error| {
            graph.error(format!("splits of source {uid:?}: {error}"));
            SourceShapes::default()
        });
        graph.node_mut(reader).lists = shapes.lists();
        let output = Output::new(reader);
        {
            let (source, shapes) = (source.clone(), shapes.clone());
            graph.set_factory(
                enumerator,
                Box::new(move |cx| {
                    let Node { name, uid, .. } = cx.graph.node(reader);
                    let (name, uid) = (name.clone(), uid.clone());
                    let restored = if cx.attempt.restore.is_fresh() {
                        None
                    } else {
                        let known = restored(cx, &uid, KNOWN, 0, 1)?;
                        let complete: Vec<bool> = restored(cx, &uid, COMPLETE, 0, 1)?;
                        Some((known, complete.first().copied().unwrap_or(false)))
                    };
                    let task: Box<dyn Task> = Box::new(EnumeratorTask::new(EnumeratorParts {
                        name,
                        uid,
                        source: source.clone(),
                        restored,
                        readers: cx.outgoing(edge),
                        pool: Arc::clone(&cx.attempt.pool),
                        waker: cx.waker.clone(),
                        shapes: shapes.clone(),
                        metrics: cx.metrics(enumerator),
                    }));
                    Ok(task)
                }),
            );
        }
        {
            let output = output.clone();
            graph.set_factory(
                reader,
                Box::new(move |cx| {
                    let Node { name, uid, .. } = cx.graph.node(reader);
                    let (name, uid) = (name.clone(), uid.clone());
                    let parallelism = cx.parallelism(reader);
                    let restored: Vec<Restored<S::Split>> =
                        restored(cx, &uid, POSITIONS, cx.subtask, parallelism)?;
                    let waker = cx.waker.clone();
                    let source_cx = SourceCx {
                        uid: uid.clone(),
                        subtask: Subtask(cx.subtask),
                        parallelism,
                        waker: Arc::new(move || waker.wake()),
                        dead_letters: Arc::clone(&cx.attempt.dead_letters),
                    };
                    let task: Box<dyn Task> = Box::new(ReaderTask::<S>::new(ReaderParts {
                        name,
                        uid,
                        subtask: cx.subtask,
                        reader: source.reader(source_cx)?,
                        watermarks: watermarks.clone(),
                        restored,
                        gate: Gate::new(cx.incoming(reader), vec![split_marks::<S::Split>]),
                        out: output.build(cx)?,
                        aligned: alignment.as_ref().map(|(group, drift)| {
                            group.join(cx.attempt.attempt, *drift, cx.waker.clone())
                        }),
                        shape: shapes.positions.clone(),
                        budget: cx.budget(),
                        metrics: cx.metrics(reader),
                    })?);
                    Ok(task)
                }),
            );
        }
        drop(graph);
        DataStream::new(self.clone(), output, Head::new())
    }

    pub(crate) fn edge(
        &self,
        from: NodeId,
        to: NodeId,
        input: usize,
        partitioning: Partitioning,
        codec: Arc<dyn Codec>,
    ) -> crate::graph::EdgeId {
        self.graph_mut().add_edge(from, to, input, partitioning, codec)
    }
}

/// The items of a list state that a subtask gets.
fn restored<T: Data>(
    cx: &BuildCx<'_>,
    uid: &Uid,
    state: &str,
    subtask: u16,
    parallelism: u16,
) -> Res<Vec<T>> {
    let restore = &cx.attempt.restore;
    let reader = ValueReader::new(&restore.list_shape(uid, state))?;
    reader.read_all(&restore.list(uid, state, subtask, parallelism)?)
}
