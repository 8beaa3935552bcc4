//! Side outputs: named, typed streams beside an operator's main output.

use crate::data::Res;
use crate::graph::{BuildCx, NodeId, Output};
use crate::runtime::emit::Emitter;
use crate::runtime::side::{AnyEmitter, Sides};
use std::any::{Any, TypeId, type_name};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// The name and type of a side output: a constant shared by who emits and who reads.
pub struct OutputTag<T>(&'static str, PhantomData<fn() -> T>);

impl<T> Clone for OutputTag<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for OutputTag<T> {}

impl<T: Send + 'static> OutputTag<T> {
    /// A tag.
    pub const fn new(name: &'static str) -> Self {
        Self(name, PhantomData)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0
    }

    /// Without its type, for an operator's declaration.
    pub fn any(&self) -> AnyTag {
        AnyTag { name: self.0, of: TypeId::of::<T>(), type_name: type_name::<T>() }
    }
}

/// An [`OutputTag`] whose type is only known to compare equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnyTag {
    name: &'static str,
    of: TypeId,
    type_name: &'static str,
}

type BuildSide = Box<dyn Fn(&mut BuildCx<'_>) -> Res<Box<dyn AnyEmitter>> + Send>;

struct Read {
    output: Box<dyn Any + Send>,
    build: BuildSide,
}

/// The side outputs that an operator declares, with those that are read.
#[derive(Clone, Default)]
pub(crate) struct SideOutputs {
    tags: Vec<AnyTag>,
    read: Arc<Mutex<Vec<(&'static str, Read)>>>,
}

impl SideOutputs {
    pub(crate) fn new(tags: Vec<AnyTag>) -> Self {
        Self { tags, read: Arc::default() }
    }

    /// The output of a tag, made when it is first read.
    pub(crate) fn output<T: Send + 'static>(
        &self,
        node: NodeId,
        tag: &OutputTag<T>,
    ) -> Result<Output<T>, String> {
        match self.tags.iter().find(|t| t.name == tag.0) {
            None => {
                let known: Vec<&str> = self.tags.iter().map(|t| t.name).collect();
                return Err(format!("it has no side output {:?}; it declares {known:?}", tag.0));
            }
            Some(t) if t.of != TypeId::of::<T>() => {
                return Err(format!(
                    "side output {:?} carries {}, not {}",
                    tag.0,
                    t.type_name,
                    type_name::<T>()
                ));
            }
            Some(_) => {}
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = read.iter().find(|(name, _)| *name == tag.0);
        if let Some(output) = known.and_then(|(_, r)| r.output.downcast_ref::<Output<T>>()) {
            return Ok(output.clone());
        }
        let output = Output::<T>::new(node);
        let built = output.clone();
        let build: BuildSide = Box::new(move |cx| Ok(Box::new(Emitter::new(built.build(cx)?))));
        read.push((tag.0, Read { output: Box::new(output.clone()), build }));
        Ok(output)
    }

    /// The emitters of one subtask.
    pub(crate) fn build(&self, cx: &mut BuildCx<'_>) -> Res<Sides> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tags = Vec::with_capacity(self.tags.len());
        for tag in &self.tags {
            let found = read.iter().find(|(name, _)| *name == tag.name);
            tags.push((tag.name, found.map(|(_, r)| (r.build)(cx)).transpose()?));
        }
        Ok(Sides::new(tags))
    }
}
