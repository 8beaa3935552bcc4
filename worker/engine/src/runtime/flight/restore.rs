//! Rows in flight at restore.

use super::Flight;
use super::seal::Piece;
use crate::data::{AnyBatch, Fail, Res, UserError};
use crate::graph::{BuildCx, NodeId};
use std::sync::Arc;

/// A batch that a checkpoint held.
pub struct Restored {
    /// What it is.
    pub flight: Arc<Flight>,
    /// The rows, without marks.
    pub batch: Box<dyn AnyBatch>,
}

/// The rows in flight that a subtask of `node` takes over, in their order.
pub fn restored(cx: &BuildCx<'_>, node: NodeId) -> Res<Vec<Restored>> {
    let mut all = Vec::new();
    if cx.attempt.restore.is_fresh() {
        return Ok(all);
    }
    for edge in cx.graph.edges().iter().filter(|e| e.to == node) {
        if let Some(flight) = cx.graph.flight(edge.id, 0, cx.key_groups(node)) {
            of_edge(cx, node, &Arc::new(flight), &mut all)?;
        }
    }
    Ok(all)
}

fn of_edge(cx: &BuildCx<'_>, node: NodeId, flight: &Arc<Flight>, all: &mut Vec<Restored>) -> Res {
    let (restore, parallelism) = (&cx.attempt.restore, cx.parallelism(node));
    let items = restore.list(&flight.uid, &flight.state, cx.subtask, parallelism)?;
    if items.is_empty() {
        return Ok(());
    }
    if restore.list_shape(&flight.uid, &flight.state) != flight.shape {
        return Err(UserError(format!(
            "the checkpoint holds rows on their way to operator {:?}, and their type has \
             changed: start from a savepoint, which holds no such rows",
            cx.graph.node(node).name
        ))
        .into());
    }
    let mut pieces = Vec::with_capacity(items.len());
    for item in &items {
        pieces.push(postcard::from_bytes::<Piece>(item)?);
    }
    pieces.sort_by_key(Piece::order);
    let max = cx.attempt.max_parallelism;
    let mine = |index: usize, piece: &Piece| match flight.keyed {
        true => !piece.groups.intersect(flight.groups).is_empty(),
        false => index % usize::from(parallelism.max(1)) == usize::from(cx.subtask),
    };
    for (_, piece) in pieces.iter().enumerate().filter(|(index, piece)| mine(*index, piece)) {
        let damaged = |why: String| {
            Fail::from(format!(
                "{}: the rows in flight at byte {} are damaged: {why}; put the file back from a \
                 copy, or start from another checkpoint or savepoint",
                piece.key, piece.at
            ))
        };
        piece.check_format().map_err(|why| UserError(format!("{}: {why}", piece.key)))?;
        let bytes = restore.bytes(&piece.key, piece.at, piece.len as usize)?;
        if crc32fast::hash(&bytes) != piece.crc32 {
            return Err(damaged("their checksum does not match".to_owned()));
        }
        let batch = flight.codec.decode(&bytes, None);
        let mut batch = batch.map_err(|error| damaged(error.to_string()))?;
        let owned = |hash| !flight.keyed || flight.groups.contains(max.group(hash));
        flight.codec.strip(batch.as_mut(), &mut |hash| owned(hash));
        if batch.rows() > 0 {
            all.push(Restored { flight: Arc::clone(flight), batch });
        }
    }
    Ok(())
}
