//! The state that all subtasks of an operator share, in checkpoints.
//!
//! It is a list state with union redistribution, of which subtask 0 writes the only
//! item: the shape of the fields, then their bytes. All subtasks read it.

use crate::api::env::Env;
use crate::coordinator::ListSpec;
use crate::data::{Fail, Res, Ts};
use crate::graph::{BuildCx, NodeId};
use crate::runtime::snapshot::{ListBlob, SnapshotParts};
use crate::state::delta::StateSchema;
use crate::state::row::{decode, encode};
use crate::state::{Keyed, Row, RowReader, RowShape, State};
use millrace_protocol::ids::Uid;
use millrace_protocol::manifest::{Redistribution, ShapeBytes};
use millrace_protocol::shape::{self, ShapeError};

/// Name of the list state.
pub(crate) const SHARED: &str = "shared";

/// Shared state of one subtask.
pub(crate) struct Shared<S> {
    state: Keyed<S>,
    uid: Uid,
    shape: ShapeBytes,
    /// Whether this subtask writes it into checkpoints.
    writes: bool,
}

impl<S: State> Shared<S> {
    fn list_shape() -> Result<ShapeBytes, ShapeError> {
        let schema =
            StateSchema { key: shape::trace::<()>()?, row: Keyed::<S>::shape()?, panes: false };
        // The form in which the job compares keyed states' schemas too.
        Ok(ShapeBytes(serde_json::to_vec(&schema).unwrap_or_default()))
    }

    /// Notes the state in the graph, where it is compared with a checkpoint's.
    pub fn declare(env: &Env, node: NodeId) {
        let declared = Self::list_shape();
        let mut graph = env.graph_mut();
        match declared {
            Ok(shape) => {
                let redistribution = Redistribution::Union;
                let spec =
                    ListSpec { name: SHARED.to_owned(), shape, redistribution, in_flight: false };
                graph.node_mut(node).lists.push(spec);
            }
            Err(error) => {
                let uid = graph.node(node).uid.clone();
                graph.error(format!("shared state of operator {:?}: {error}", uid.as_str()));
            }
        }
    }

    /// The state as the attempt's checkpoint has it.
    pub fn restore(cx: &BuildCx<'_>, node: NodeId) -> Res<Self> {
        let uid = cx.graph.node(node).uid.clone();
        let items = cx.attempt.restore.list(&uid, SHARED, cx.subtask, cx.parallelism(node))?;
        let state = match items.first() {
            None => Keyed::new(),
            Some(item) => {
                let mut bytes = &item[..];
                let old: RowShape = decode(&mut bytes)?;
                let reader = RowReader::new(&old, &Keyed::<S>::shape()?).map_err(|change| {
                    Fail::from(format!(
                        "shared state: its type has changed so that what is stored cannot be \
                         read: {change}"
                    ))
                })?;
                Keyed::read(&mut bytes, &reader)?
            }
        };
        Ok(Self { state, uid, shape: Self::list_shape()?, writes: cx.subtask == 0 })
    }

    pub fn get(&self) -> &S {
        self.state.state()
    }

    pub fn get_mut(&mut self) -> &mut S {
        // Without an expiry: it has not expired at any time.
        self.state.open(Ts::MIN)
    }

    /// Puts it into a checkpoint.
    pub fn barrier(&self, parts: &mut SnapshotParts) -> Res {
        let mut items = Vec::new();
        if self.writes {
            let mut item = Vec::new();
            encode(&Keyed::<S>::shape()?, &mut item)?;
            self.state.write(&mut item)?;
            items.push(item);
        }
        parts.lists.push(ListBlob {
            uid: self.uid.clone(),
            state: SHARED.to_owned(),
            redistribution: Redistribution::Union,
            shape: self.shape.clone(),
            items,
        });
        Ok(())
    }
}
