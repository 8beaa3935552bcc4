//! Functions over streams that are not keyed, with side outputs and list state.

use crate::api::env::Env;
use crate::api::keyed::add_operator_with_id;
use crate::api::pipe::{Head, Pipe};
use crate::api::stream::{DataStream, OperatorSpec};
use crate::api::tags::{AnyTag, SideOutputs};
use crate::coordinator::ListSpec;
use crate::data::{Data, Fail, Fun, Res};
use crate::graph::NodeId;
use crate::operators::process::function::{Function, Lists};
use crate::state::row::{Plain, Row, RowReader, RowShape, decode, encode};
use crate::state::value::shape_of;
use millrace_protocol::manifest::{Redistribution, ShapeBytes};
use millrace_protocol::shape::ShapeError;
use std::marker::PhantomData;

pub use crate::operators::process::plain::ProcessCx;

/// The name and item type of an operator's list state: a constant.
///
/// List state is small: it is written whole into every checkpoint, and each item with
/// the shape of its type, so that it stays readable when that changes as far as
/// serde's rules allow (fields added with a default, removed, reordered, widened).
pub struct ListTag<T> {
    name: &'static str,
    redistribution: Redistribution,
    _item: PhantomData<fn() -> T>,
}

impl<T> Clone for ListTag<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ListTag<T> {}

impl<T: Data> ListTag<T> {
    /// At a restore the items of all subtasks are dealt out evenly.
    pub const fn even(name: &'static str) -> Self {
        Self { name, redistribution: Redistribution::Even, _item: PhantomData }
    }

    /// At a restore every subtask gets the items of all.
    pub const fn union(name: &'static str) -> Self {
        Self { name, redistribution: Redistribution::Union, _item: PhantomData }
    }

    /// Without its type, for a function's declaration.
    pub fn any(&self) -> AnyList {
        AnyList { name: self.name, redistribution: self.redistribution, shape: shape_of::<T> }
    }
}

/// A [`ListTag`] without its type.
#[derive(Clone, Copy)]
pub struct AnyList {
    pub(crate) name: &'static str,
    pub(crate) redistribution: Redistribution,
    pub(crate) shape: fn() -> Result<ShapeBytes, ShapeError>,
}

/// What a checkpoint holds of a function's lists.
pub struct RestoredLists<'a> {
    pub(crate) lists: &'a [(AnyList, Vec<Vec<u8>>)],
}

impl RestoredLists<'_> {
    /// The items of a declared list that this subtask gets; none at a fresh start.
    pub fn get<T: Data>(&self, tag: &ListTag<T>) -> Res<Vec<T>> {
        let Some((_, items)) = self.lists.iter().find(|(list, _)| list.name == tag.name) else {
            return Err(undeclared(tag.name));
        };
        let new = Plain::<T>::shape()?;
        let read = |item: &Vec<u8>| -> Res<T> {
            let mut bytes = &item[..];
            let old: RowShape = decode(&mut bytes)?;
            let reader = RowReader::new(&old, &new).map_err(|change| {
                Fail::from(format!(
                    "list {:?}: its type has changed so that what is stored cannot be read: \
                     {change}",
                    tag.name
                ))
            })?;
            Ok(Plain::read(&mut bytes, &reader)?.0)
        };
        items.iter().map(read).collect()
    }
}

/// Where a function puts its lists at a checkpoint.
pub struct ListSnapshot<'a> {
    pub(crate) lists: &'a mut [(AnyList, Vec<Vec<u8>>)],
}

impl ListSnapshot<'_> {
    /// Adds an item to a declared list.
    pub fn add<T: Data>(&mut self, tag: &ListTag<T>, item: &T) -> Res {
        let Some((_, items)) = self.lists.iter_mut().find(|(list, _)| list.name == tag.name) else {
            return Err(undeclared(tag.name));
        };
        let mut bytes = Vec::new();
        encode(&Plain::<T>::shape()?, &mut bytes)?;
        encode(item, &mut bytes)?;
        items.push(bytes);
        Ok(())
    }
}

fn undeclared(name: &str) -> Fail {
    Fail::from(format!("list {name:?} was not declared by the function: add it to its lists()"))
}

/// A function over rows without a key, with side outputs and list state.
///
/// There is one instance per subtask. What it holds in its fields is lost at a restore
/// unless it puts it into a list in [`Process::snapshot`] and takes it out again in
/// [`Process::open`]. It has no timers: those belong to keys.
pub trait Process<T>: Fun {
    /// What it emits.
    type Out: Send + 'static;

    /// The side outputs that it emits to. Asked once, when the graph is built.
    fn side_outputs(&self) -> Vec<AnyTag> {
        Vec::new()
    }

    /// The lists that it keeps in checkpoints. Asked once, when the graph is built.
    fn lists(&self) -> Vec<AnyList> {
        Vec::new()
    }

    /// Called once per subtask and attempt, before any row.
    fn open(&mut self, _restored: &RestoredLists<'_>) -> Res {
        Ok(())
    }

    /// Takes a row.
    fn process(&mut self, row: T, cx: &mut ProcessCx<'_, Self::Out>) -> Res;

    /// A checkpoint is taken: what is to be kept goes into lists.
    fn snapshot(&mut self, _lists: &mut ListSnapshot<'_>) -> Res {
        Ok(())
    }
}

/// Notes lists in the graph, where they are compared with a checkpoint's.
pub(crate) fn declare_lists(env: &Env, node: NodeId, lists: &[AnyList]) {
    let mut graph = env.graph_mut();
    for list in lists {
        match (list.shape)() {
            Ok(shape) => {
                let (name, redistribution) = (list.name.to_owned(), list.redistribution);
                graph.node_mut(node).lists.push(ListSpec {
                    name,
                    shape,
                    redistribution,
                    in_flight: false,
                });
            }
            Err(error) => {
                let uid = graph.node(node).uid.clone();
                let (name, uid) = (list.name, uid.as_str());
                graph.error(format!("list {name:?} of operator {uid:?}: {error}"));
            }
        }
    }
}

impl<T: Data, P: Pipe<Out = T>> DataStream<T, P> {
    /// Runs a function with side outputs and list state over the rows; those of a
    /// subtask stay in it. `uid` identifies its lists across versions of the program.
    pub fn process<F: Process<T>>(self, uid: &str, f: F) -> DataStream<F::Out> {
        let env = self.env.clone();
        let declared = SideOutputs::new(f.side_outputs());
        let lists = f.lists();
        let (sides, kept) = (declared.clone(), lists.clone());
        let spec = OperatorSpec::new("process", Some(uid), Vec::new());
        let (node, output) = add_operator_with_id(&env, spec, move |cx, node| {
            let lists = Lists::restore(cx, node, &kept)?;
            Ok(Function::new(f.clone(), lists, sides.build(cx)?))
        });
        declare_lists(&env, node, &lists);
        self.forward_to(node, 0);
        DataStream::new(env, output, Head::new()).with_sides(declared)
    }
}
