//! The dataflow graph that a program builds: nodes, edges, and the factories of their tasks.
//!
//! Every process of a job builds the same graph from the same function. Factories live
//! as long as the process: each attempt builds its tasks anew from them, at whatever
//! parallelism.

use crate::connector::{Committed, DeadLetters};
use crate::coordinator::ListSpec;
use crate::data::{Fail, Res, Rows};
use crate::exchange::codec::Codec;
use crate::runtime::channel::{Channel, TaskWaker};
use crate::runtime::emit::{CopyRows, Fanout, Stage};
use crate::runtime::flight::{Flight, IN_FLIGHT};
use crate::runtime::metrics::NodeMetrics;
use crate::runtime::pool::Pool;
use crate::runtime::task::Task;
use crate::state::budget::Budget;
use crate::state::delta::StateSchema;
use crate::state::tier::{Tier, TierFactory};
use crate::state::{PaneTables, Row, StateTable, Table};
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::{PendingCommit, RangeWatermark, ShapeBytes};
use millrace_protocol::objects::ObjectKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A node of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// An edge of the graph: an exchange between two tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeId(pub u32);

/// How an edge spreads rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioning {
    /// Subtask i to subtask i, or dealt out if the parallelism differs.
    Forward,
    /// By key group.
    Key,
    /// In turn over all subtasks.
    Rebalance,
    /// In turn over a few subtasks near by.
    Rescale,
    /// At random.
    Shuffle,
    /// To every subtask.
    Broadcast,
    /// By a function of the user.
    Custom,
    /// Splits from the enumerator.
    Splits,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Finds a source's splits; always of parallelism 1.
    Enumerator,
    /// A source's readers.
    Source,
    /// An operator behind an exchange.
    Operator,
    /// Stages called by the task they hang on: a shared chain.
    Chained,
    /// A sink, called by the task it hangs on.
    Sink,
}

/// Makes one subtask of a node.
pub type TaskFactory = Box<dyn Fn(&mut BuildCx<'_>) -> Res<Box<dyn Task>> + Send>;

/// A state that a node declares: compared with a checkpoint's before anything starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDecl {
    /// Its name within the operator.
    pub name: String,
    /// The traced shape of its keys and rows.
    pub schema: StateSchema,
}

/// A node of the graph.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Shown to people.
    pub name: String,
    /// Identifies its state across program versions.
    pub uid: Uid,
    /// Whether the user chose the uid.
    pub explicit_uid: bool,
    /// What it is.
    pub kind: NodeKind,
    /// Chosen parallelism; `None`: the job's.
    pub parallelism: Option<u16>,
    /// For stages: the task they hang on.
    pub head: Option<NodeId>,
    /// Keyed state.
    pub states: Vec<StateDecl>,
    /// List state.
    pub lists: Vec<ListSpec>,
    /// The traced shape of its committables, of a sink.
    pub committable: Option<ShapeBytes>,
    /// Types, for the fingerprint.
    pub types: String,
    factory: Option<Mutex<TaskFactory>>,
}

/// An edge of the graph.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Its id.
    pub id: EdgeId,
    /// The task that sends (a stage's head).
    pub from: NodeId,
    /// The task that receives.
    pub to: NodeId,
    /// Which input of the receiver.
    pub input: usize,
    /// How rows are spread.
    pub partitioning: Partitioning,
}

/// Type-erased committing half of a sink.
pub trait SinkControl: Send {
    /// Commits one committable, which may be of an older shape.
    fn commit(&mut self, item: &PendingCommit) -> Res<Committed>;
    /// Removes what attempts below this one left and no checkpoint holds; see
    /// [`crate::connector::Committer::abort_others`].
    fn abort_others(&mut self, attempt: Attempt, keep: &[PendingCommit]) -> Res;
}

/// Makes the committing half of a sink.
pub type ControlFactory = Box<dyn Fn(&JobUid, &Uid) -> Res<Box<dyn SinkControl>> + Send + Sync>;

/// The graph of a job.
#[derive(Default)]
pub struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    codecs: Vec<Arc<dyn Codec>>,
    /// Of the rows of each edge that barriers may overtake; empty: they may not.
    shapes: Vec<ShapeBytes>,
    controls: Vec<(Uid, ControlFactory)>,
    errors: Vec<String>,
}

impl Graph {
    /// All nodes, upstream before downstream.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All edges.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The sinks' committing halves.
    pub fn controls(&self) -> &[(Uid, ControlFactory)] {
        &self.controls
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The node that finds splits for a source, if `reader` is one.
    fn enumerator_of(&self, reader: NodeId) -> Option<NodeId> {
        let splits = |e: &&Edge| e.to == reader && e.partitioning == Partitioning::Splits;
        self.edges.iter().find(splits).map(|e| e.from)
    }

    /// Shows another name to people from now on.
    pub(crate) fn set_name(&mut self, id: NodeId, name: &str) {
        if let Some(enumerator) = self.enumerator_of(id) {
            self.node_mut(enumerator).name = splits_of(name);
        }
        self.node_mut(id).name = name.to_owned();
    }

    /// Gives a node the user's uid. Tasks take theirs from here when they are built.
    pub(crate) fn set_uid(&mut self, id: NodeId, uid: &str) {
        for id in self.enumerator_of(id).into_iter().chain([id]) {
            let node = self.node_mut(id);
            node.uid = Uid::from(uid);
            node.explicit_uid = true;
        }
    }

    /// Notes a mistake in the program, to be told before the job starts.
    pub(crate) fn error(&mut self, message: String) {
        self.errors.push(message);
    }

    pub(crate) fn add(&mut self, spec: NodeSpec) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        let explicit_uid = spec.uid.is_some();
        let uid = Uid(spec.uid.unwrap_or_else(|| format!("{}-{}", spec.name, id.0)));
        self.nodes.push(Node {
            id,
            name: spec.name,
            uid,
            explicit_uid,
            kind: spec.kind,
            parallelism: spec.parallelism,
            head: spec.head,
            states: spec.states,
            lists: Vec::new(),
            committable: None,
            types: spec.types,
            factory: None,
        });
        id
    }

    pub(crate) fn set_factory(&mut self, id: NodeId, factory: TaskFactory) {
        self.node_mut(id).factory = Some(Mutex::new(factory));
    }

    pub(crate) fn add_edge(
        &mut self,
        from: NodeId,
        to: NodeId,
        input: usize,
        partitioning: Partitioning,
        codec: Arc<dyn Codec>,
    ) -> EdgeId {
        let id = EdgeId(self.edges.len() as u32);
        let from = self.task_of(from);
        self.edges.push(Edge { id, from, to, input, partitioning });
        self.shapes.push(match Flight::may_be(partitioning) {
            true => codec.shape(),
            false => ShapeBytes::default(),
        });
        self.codecs.push(codec);
        id
    }

    /// How the batches of an edge travel between workers.
    pub fn codec(&self, edge: EdgeId) -> &Arc<dyn Codec> {
        &self.codecs[edge.0 as usize]
    }

    /// What the rows of an edge are from a subtask of its sender to the owner of `groups`,
    /// if barriers may overtake them.
    pub fn flight(&self, edge: EdgeId, up: u16, groups: KeyGroupRange) -> Option<Flight> {
        let of = &self.edges[edge.0 as usize];
        let into = |e: &&Edge| e.to == of.to && e.id < edge;
        let shape = &self.shapes[edge.0 as usize];
        (!shape.0.is_empty()).then(|| Flight {
            uid: self.node(of.to).uid.clone(),
            state: format!(
                "{IN_FLIGHT}{} from {}",
                self.edges.iter().filter(into).count(),
                self.node(of.from).uid
            ),
            input: of.input,
            keyed: of.partitioning == Partitioning::Key,
            groups,
            codec: Arc::clone(self.codec(edge)),
            shape: shape.clone(),
            up,
        })
    }

    pub(crate) fn add_control(&mut self, uid: Uid, control: ControlFactory) {
        self.controls.push((uid, control));
    }

    /// The task that a node belongs to: itself, or the one it hangs on.
    pub fn task_of(&self, id: NodeId) -> NodeId {
        self.node(id).head.unwrap_or(id)
    }

    /// Whether the node is a task of its own.
    pub fn is_task(&self, id: NodeId) -> bool {
        self.node(id).head.is_none()
    }

    /// The parallelism of every node when the job's is `default`.
    pub fn parallelisms(&self, default: u16) -> Vec<u16> {
        let of = |node: &Node| match node.kind {
            NodeKind::Enumerator => 1,
            _ => node.parallelism.unwrap_or(default).max(1),
        };
        self.nodes.iter().map(|n| of(self.node(n.head.unwrap_or(n.id)))).collect()
    }

    /// What is wrong with the graph, for its user.
    pub fn check(&self, default: u16, max: MaxParallelism) -> Result<(), String> {
        let mut errors = self.errors.clone();
        let mut seen: HashMap<&Uid, &str> = HashMap::new();
        for node in &self.nodes {
            if node.kind == NodeKind::Enumerator {
                continue; // shares its source's uid
            }
            if let Some(other) = seen.insert(&node.uid, &node.name) {
                errors.push(format!(
                    "uid {:?} is used twice (by {other:?} and {:?}): give each operator a uid of its own",
                    node.uid.as_str(),
                    node.name
                ));
            }
        }
        for (node, p) in self.nodes.iter().zip(self.parallelisms(default)) {
            if p > max.get() {
                errors.push(format!(
                    "operator {:?} has parallelism {p}, above the max parallelism {}: lower it, or start a new job with a higher max parallelism",
                    node.name,
                    max.get()
                ));
            }
        }
        if self.nodes.is_empty() {
            errors.push(
                "the job has no source: the program's build function added nothing".to_owned(),
            );
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
    }

    /// Text that is equal for equal graphs: kinds, uids, types, edges, states.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut text = String::new();
        for n in &self.nodes {
            text.push_str(&format!("{:?} {} {} {:?}\n", n.kind, n.uid, n.types, n.states));
            text.push_str(&format!("{:?} {:?}\n", n.lists, n.committable));
        }
        for e in &self.edges {
            text.push_str(&format!("{:?} {:?} {} {:?}\n", e.from, e.to, e.input, e.partitioning));
        }
        let digest = Sha256::digest(text.as_bytes());
        digest.iter().take(16).map(|b| format!("{b:02x}")).collect()
    }

    /// Makes a subtask of a node.
    pub fn build(&self, id: NodeId, cx: &mut BuildCx<'_>) -> Res<Box<dyn Task>> {
        let node = self.node(id);
        match &node.factory {
            Some(factory) => lock(factory)(cx),
            None => Err(Fail::from(format!("operator {:?} was never connected", node.name))),
        }
    }
}

/// The name of the node that finds the splits of a source.
pub(crate) fn splits_of(source: &str) -> String {
    format!("{source}: splits")
}

/// What a node is made from.
pub(crate) struct NodeSpec {
    pub name: String,
    pub uid: Option<String>,
    pub kind: NodeKind,
    pub parallelism: Option<u16>,
    pub head: Option<NodeId>,
    pub states: Vec<StateDecl>,
    pub types: String,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is the same for all tasks of an attempt.
pub struct AttemptCx {
    /// The job.
    pub job: JobUid,
    /// The attempt.
    pub attempt: Attempt,
    /// Number of key groups.
    pub max_parallelism: MaxParallelism,
    /// Parallelism of each node.
    pub parallelisms: Vec<u16>,
    /// For blocking work.
    pub pool: Arc<Pool>,
    /// Where bad rows go.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Channels by edge, upstream and downstream subtask.
    pub channels: HashMap<(EdgeId, u16, u16), Arc<Channel>>,
    /// Counters by node and subtask.
    pub metrics: HashMap<(NodeId, u16), Arc<NodeMetrics>>,
    /// What the attempt starts from.
    pub restore: Box<dyn Restore>,
    /// Where entries go that memory has no room for.
    pub spill: Option<SpillTo>,
}

/// A tier below the tables, and what these may hold.
#[derive(Clone)]
pub struct SpillTo {
    /// Makes the tier of each table.
    pub tiers: Arc<dyn TierFactory>,
    /// Of all tables of the process together.
    pub budget: Arc<Budget>,
}

/// What a subtask finds of its state when an attempt starts.
pub trait Restore: Send + Sync {
    /// Whether there is a checkpoint at all.
    fn is_fresh(&self) -> bool;
    /// Items of a list state, as they are given to this subtask.
    fn list(&self, uid: &Uid, state: &str, subtask: u16, parallelism: u16) -> Res<Vec<Vec<u8>>>;
    /// The shape that the items of a list state were written with; empty: this program's.
    fn list_shape(&self, uid: &Uid, state: &str) -> ShapeBytes;
    /// How far event time had come in an operator, by ranges of key groups; nothing of those
    /// that had come to none.
    fn watermarks(&self, uid: &Uid) -> Vec<RangeWatermark>;
    /// Loads a keyed table for a range of key groups.
    fn table(
        &self,
        uid: &Uid,
        state: &str,
        range: KeyGroupRange,
        table: &mut dyn StateTable,
    ) -> Res;
    /// Part of an object of the checkpoint.
    fn bytes(&self, key: &ObjectKey, at: u64, len: usize) -> Res<Vec<u8>>;
}

/// Nothing to restore.
pub struct Fresh;

impl Restore for Fresh {
    fn is_fresh(&self) -> bool {
        true
    }

    fn list(&self, _: &Uid, _: &str, _: u16, _: u16) -> Res<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn list_shape(&self, _: &Uid, _: &str) -> ShapeBytes {
        ShapeBytes::default()
    }

    fn watermarks(&self, _: &Uid) -> Vec<RangeWatermark> {
        Vec::new()
    }

    fn table(&self, _: &Uid, _: &str, _: KeyGroupRange, table: &mut dyn StateTable) -> Res {
        table.restored(None);
        Ok(())
    }

    fn bytes(&self, key: &ObjectKey, _: u64, _: usize) -> Res<Vec<u8>> {
        Err(Fail::from(format!("{key}: there is no checkpoint to read it from")))
    }
}

/// What a factory knows while it builds one subtask.
pub struct BuildCx<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The attempt.
    pub attempt: &'a AttemptCx,
    /// Index of the subtask.
    pub subtask: u16,
    /// Wakes the task.
    pub waker: TaskWaker,
}

impl BuildCx<'_> {
    /// Parallelism of a node.
    pub fn parallelism(&self, node: NodeId) -> u16 {
        self.attempt.parallelisms[node.0 as usize]
    }

    /// Counters of this subtask of a node.
    pub fn metrics(&self, node: NodeId) -> Arc<NodeMetrics> {
        self.attempt.metrics.get(&(node, self.subtask)).cloned().unwrap_or_default()
    }

    /// The key groups that this subtask of a node owns.
    pub fn key_groups(&self, node: NodeId) -> KeyGroupRange {
        self.attempt.max_parallelism.range(self.subtask, self.parallelism(node))
    }

    /// An empty table for what this subtask of a node owns.
    pub fn table<K: Key, R: Row>(&self, node: NodeId) -> Table<K, R> {
        Table::new(self.attempt.max_parallelism, self.key_groups(node))
    }

    /// As [`BuildCx::table`], for an operator that fetches the keys of a batch before it
    /// looks at them: entries may leave to the tier, if the job has one.
    pub fn spilling_table<K: Key, R: Row>(&self, node: NodeId) -> Res<Table<K, R>> {
        let mut table = self.table(node);
        if let Some(spill) = &self.attempt.spill {
            table.spill_to(self.tier(node, spill)?, &spill.budget);
        }
        Ok(table)
    }

    /// What tables of this process may hold, if there is a bound.
    pub fn budget(&self) -> Option<Arc<Budget>> {
        self.attempt.spill.as_ref().map(|spill| Arc::clone(&spill.budget))
    }

    /// A tier for the state of this subtask of a node.
    fn tier(&self, node: NodeId, spill: &SpillTo) -> Res<Box<dyn Tier>> {
        spill.tiers.open(&format!("{} of {}", self.subtask, self.graph.node(node).uid))
    }

    /// Empty pane tables for what this subtask of a node owns.
    pub fn panes<K: Key, R: Row>(&self, node: NodeId) -> PaneTables<K, R> {
        PaneTables::new(self.attempt.max_parallelism, self.key_groups(node))
    }

    /// As [`BuildCx::panes`], for an operator that fetches the keys of a batch before it
    /// looks at them: entries may leave to the tier, if the job has one.
    pub fn spilling_panes<K: Key, R: Row>(&self, node: NodeId) -> Res<PaneTables<K, R>> {
        let mut panes = self.panes(node);
        if let Some(spill) = &self.attempt.spill {
            panes.spill_to(self.tier(node, spill)?, &spill.budget);
        }
        Ok(panes)
    }

    /// Channels of an edge from this subtask, by downstream subtask.
    pub fn outgoing(&self, edge: EdgeId) -> Vec<Arc<Channel>> {
        let to = self.graph.edges[edge.0 as usize].to;
        let channel = |d| self.attempt.channels.get(&(edge, self.subtask, d)).cloned();
        (0..self.parallelism(to)).filter_map(channel).collect()
    }

    /// Channels into this subtask of a node, with their input.
    pub fn incoming(&self, node: NodeId) -> Vec<(usize, Arc<Channel>)> {
        let mut channels = Vec::new();
        for edge in self.graph.edges.iter().filter(|e| e.to == node) {
            for up in 0..self.parallelism(edge.from) {
                if let Some(channel) = self.attempt.channels.get(&(edge.id, up, self.subtask)) {
                    channels.push((edge.input, Arc::clone(channel)));
                }
            }
        }
        channels
    }
}

/// Whether an edge joins this pair of subtasks.
pub fn joined(partitioning: Partitioning, up: u16, ups: u16, down: u16, downs: u16) -> bool {
    match partitioning {
        Partitioning::Forward if ups == downs => up == down,
        Partitioning::Rescale => {
            // Contiguous shares of the larger side belong to each of the smaller.
            if ups >= downs {
                u32::from(up) * u32::from(downs) / u32::from(ups) == u32::from(down)
            } else {
                u32::from(down) * u32::from(ups) / u32::from(downs) == u32::from(up)
            }
        }
        _ => true,
    }
}

/// Makes a stage of one subtask.
pub type StageFactory<T> = Box<dyn Fn(&mut BuildCx<'_>) -> Res<Box<dyn Stage<T>>> + Send>;

struct OutputInner<T> {
    consumers: Vec<StageFactory<T>>,
    copy: Option<CopyRows<T>>,
}

/// The output of a head while the graph is built: consumers hang themselves on it.
pub struct Output<T> {
    /// The node whose output it is.
    pub node: NodeId,
    inner: Arc<Mutex<OutputInner<T>>>,
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        Self { node: self.node, inner: Arc::clone(&self.inner) }
    }
}

impl<T: Send + 'static> Output<T> {
    /// The output of `node`.
    pub fn new(node: NodeId) -> Self {
        let inner = OutputInner { consumers: Vec::new(), copy: None };
        Self { node, inner: Arc::new(Mutex::new(inner)) }
    }

    /// Adds a consumer.
    pub fn attach(&self, stage: StageFactory<T>) {
        lock(&self.inner).consumers.push(stage);
    }

    /// Allows more than one consumer.
    pub fn share(&self)
    where
        T: Clone,
    {
        let copy: CopyRows<T> = |rows: &Rows<T>| rows.clone();
        lock(&self.inner).copy = Some(copy);
    }

    /// Makes the fan-out of one subtask.
    pub fn build(&self, cx: &mut BuildCx<'_>) -> Res<Fanout<T>> {
        let inner = lock(&self.inner);
        let stages = inner.consumers.iter().map(|f| f(cx)).collect::<Res<Vec<_>>>()?;
        Ok(Fanout::new(stages, inner.copy, cx.metrics(self.node)))
    }
}
