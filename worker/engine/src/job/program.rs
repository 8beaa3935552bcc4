//! What the coordinator must know of a graph. Pure.

use crate::coordinator::{ListSpec, OperatorSpec, ProgramSpec, Role};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::state::RowReader;
use crate::state::delta::StateSchema;
use millrace_protocol::key::HASH_VERSION;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::{KeyedState, Redistribution, ShapeBytes};

/// The program as the coordinator and its manifests see it.
pub fn describe(graph: &Graph, default: u16, max: MaxParallelism) -> ProgramSpec {
    let parallelisms = graph.parallelisms(default);
    let mut operators = Vec::new();
    for (node, parallelism) in graph.nodes().iter().zip(parallelisms) {
        let (kind, role) = match node.kind {
            NodeKind::Enumerator | NodeKind::Chained => continue,
            NodeKind::Source => ("source", Role::Source),
            NodeKind::Operator => ("operator", Role::Operator),
            NodeKind::Sink => ("sink", Role::Sink),
        };
        let keyed = node
            .states
            .iter()
            .map(|s| KeyedState { name: s.name.clone(), shape: schema_bytes(&s.schema) });
        operators.push(OperatorSpec {
            uid: node.uid.clone(),
            uid_by_user: node.explicit_uid,
            name: node.name.clone(),
            kind: kind.to_owned(),
            role,
            parallelism,
            keyed: keyed.collect(),
            lists: node.lists.iter().cloned().chain(in_flight(graph, node.id)).collect(),
            committable: node.committable.clone(),
        });
    }
    ProgramSpec {
        fingerprint: graph.fingerprint(),
        max_parallelism: max,
        hash_version: HASH_VERSION,
        operators,
        committers: Vec::new(),
    }
}

/// The lists that hold rows in flight to an operator.
fn in_flight(graph: &Graph, to: NodeId) -> impl Iterator<Item = ListSpec> {
    let none = KeyGroupRange { start: 0, end: 0 };
    let edges = graph.edges().iter().filter(move |e| e.to == to);
    edges.filter_map(move |e| graph.flight(e.id, 0, none)).map(|flight| ListSpec {
        name: flight.state,
        shape: flight.shape,
        redistribution: Redistribution::Union,
        in_flight: true,
    })
}

/// The parallelism of operators that say nothing else, in an attempt of `program`.
pub fn default_parallelism(graph: &Graph, program: &ProgramSpec) -> u16 {
    let says_nothing = |node: &&crate::graph::Node| {
        let head = graph.node(graph.task_of(node.id));
        head.parallelism.is_none() && head.kind != NodeKind::Enumerator
    };
    let mut specs =
        graph.nodes().iter().filter(says_nothing).filter_map(|n| program.operator(&n.uid));
    specs.next().map_or(1, |spec| spec.parallelism)
}

/// A schema as it stands in manifests.
pub fn schema_bytes(schema: &StateSchema) -> ShapeBytes {
    ShapeBytes(serde_json::to_vec(schema).unwrap_or_default())
}

/// Whether state of one schema can be read as another.
pub fn check_shapes(stored: &ShapeBytes, wanted: &ShapeBytes) -> Result<(), String> {
    if stored == wanted || stored.0.is_empty() || wanted.0.is_empty() {
        return Ok(());
    }
    let schema = |bytes: &ShapeBytes| {
        serde_json::from_slice::<StateSchema>(&bytes.0)
            .map_err(|e| format!("unreadable shape: {e}"))
    };
    let (stored, wanted) = (schema(stored)?, schema(wanted)?);
    if stored.key != wanted.key {
        return Err(format!("its key was {} and is now {}", stored.key, wanted.key));
    }
    if stored.panes != wanted.panes {
        return Err("it was windowed and is no longer, or the other way round".to_owned());
    }
    RowReader::new(&stored.row, &wanted.row).map(|_| ()).map_err(|e| e.to_string())
}
