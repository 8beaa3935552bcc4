//! What would become of a checkpoint's state under a program, without running it. Pure.

use crate::coordinator::Unclaimed;
use crate::coordinator::preflight::check_program_on;
use crate::graph::Graph;
use crate::job::program::{check_shapes, describe};
use crate::runtime::flight::IN_FLIGHT;
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::manifest::{Manifest, OperatorState};

/// How a program and a checkpoint fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Operators whose state is kept.
    pub keeps: usize,
    /// Operators whose state is dropped, as the user allowed.
    pub drops: usize,
}

/// Compares a program with a checkpoint of a job that is to be stopped for it, by the check
/// that a start makes; an error says what does not fit and what to do. Rows in flight are
/// left out: a stop's checkpoint holds none.
pub fn compare(
    graph: &Graph,
    parallelism: u16,
    max: MaxParallelism,
    base: &Manifest,
    unclaimed: &Unclaimed,
) -> Result<Comparison, String> {
    let program = describe(graph, parallelism, max);
    let mut base = base.clone();
    let lists = base.operators.iter_mut().map(|o| &mut o.lists);
    lists.for_each(|lists| lists.retain(|list| !list.name.starts_with(IN_FLIGHT)));
    check_program_on(&program, &base, unclaimed, check_shapes).map_err(|e| e.to_string())?;
    let stateful = |o: &&OperatorState| !o.keyed.is_empty() || !o.lists.is_empty();
    let (kept, dropped): (Vec<_>, Vec<_>) = base
        .operators
        .iter()
        .filter(stateful)
        .partition(|stored| program.operator(&stored.uid).is_some());
    Ok(Comparison { keeps: kept.len(), drops: dropped.len() })
}
