//! What would become of a checkpoint's state under a program, without running it. Pure.

use crate::graph::Graph;
use crate::job::program::{check_shapes, describe};
use millrace_protocol::keygroup::MaxParallelism;
use millrace_protocol::manifest::{Manifest, ShapeBytes};

/// How a program and a checkpoint fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Operators whose state is kept.
    pub keeps: usize,
    /// Operators whose state is dropped, as the user allowed.
    pub drops: usize,
}

/// Compares a program with a checkpoint; an error says what does not fit and what to do.
/// `dropped`: uids of operators whose state may be lost.
pub fn compare(
    graph: &Graph,
    parallelism: u16,
    max: MaxParallelism,
    base: Option<&Manifest>,
    dropped: &[String],
) -> Result<Comparison, String> {
    let mut comparison = Comparison::default();
    let Some(base) = base else { return Ok(comparison) };
    let program = describe(graph, parallelism, max);
    if base.max_parallelism != max {
        return Err(format!(
            "the state has {} key groups and the program {}: put the old maxParallelism back",
            base.max_parallelism.get(),
            max.get()
        ));
    }
    let of = base.checkpoint;
    for stored in base.operators.iter().filter(|o| !o.keyed.is_empty() || !o.lists.is_empty()) {
        let uid = stored.uid.as_str();
        let Some(operator) = program.operator(&stored.uid) else {
            if dropped.iter().any(|allowed| allowed == uid) {
                comparison.drops += 1;
                continue;
            }
            return Err(format!(
                "checkpoint {of} holds state of operator {uid:?} ({:?}), which the program lacks: \
                 give an operator this uid, or list it in upgrade.dropState to lose its state",
                stored.name
            ));
        };
        let keyed = stored.keyed.iter().map(|s| {
            let wanted = operator.keyed.iter().find(|w| w.name == s.name);
            (&s.name, &s.shape, wanted.map(|w| &w.shape))
        });
        let lists = stored.lists.iter().map(|s| {
            let wanted = operator.lists.iter().find(|w| w.name == s.name);
            (&s.name, &s.shape, wanted.map(|w| &w.shape))
        });
        for (state, shape, wanted) in keyed.chain(lists) {
            fits(shape, wanted).map_err(|why| {
                format!("state {state:?} of operator {uid:?} in checkpoint {of}: {why}")
            })?;
        }
        comparison.keeps += 1;
    }
    Ok(comparison)
}

fn fits(stored: &ShapeBytes, wanted: Option<&ShapeBytes>) -> Result<(), String> {
    match wanted {
        Some(wanted) => check_shapes(stored, wanted),
        None => Err("the program's operator no longer has it: keep it, or give the operator \
                     another uid and list the old one in upgrade.dropState"
            .to_owned()),
    }
}
