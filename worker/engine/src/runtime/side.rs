//! Side outputs of an operator: typed streams under a tag, beside its main output.

use crate::data::{Fail, Res, Ts};
use crate::runtime::emit::Emitter;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use std::any::Any;

/// A side output whose type is known at its two ends only.
pub trait AnyEmitter: Any {
    /// For a downcast to `Emitter<T>`.
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// See [`Emitter::mark`].
    fn mark(&mut self, watermark: Ts) -> Res;
    /// See [`Emitter::idle`].
    fn idle(&mut self, idle: bool) -> Res;
    /// See [`Emitter::barrier`].
    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res;
    /// See [`Emitter::end`].
    fn end(&mut self) -> Res;
    /// See [`Emitter::flush`].
    fn flush(&mut self, all: bool) -> Res;
    /// See [`Emitter::force`].
    fn force(&mut self) -> Res;
    /// See [`Emitter::gives_way`].
    fn gives_way(&self) -> bool;
    /// See [`Emitter::blocked`].
    fn blocked(&self) -> bool;
}

impl<T: 'static> AnyEmitter for Emitter<T> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn mark(&mut self, watermark: Ts) -> Res {
        Emitter::mark(self, watermark)
    }

    fn idle(&mut self, idle: bool) -> Res {
        Emitter::idle(self, idle)
    }

    fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        Emitter::barrier(self, barrier, parts)
    }

    fn end(&mut self) -> Res {
        Emitter::end(self)
    }

    fn flush(&mut self, all: bool) -> Res {
        Emitter::flush(self, all)
    }

    fn force(&mut self) -> Res {
        Emitter::force(self)
    }

    fn gives_way(&self) -> bool {
        Emitter::gives_way(self)
    }

    fn blocked(&self) -> bool {
        Emitter::blocked(self)
    }
}

/// The side outputs of one subtask. A declared tag that nobody reads has no emitter.
#[derive(Default)]
pub struct Sides {
    tags: Vec<(&'static str, Option<Box<dyn AnyEmitter>>)>,
}

impl Sides {
    /// From declared tags with the emitters of those that are read.
    pub fn new(tags: Vec<(&'static str, Option<Box<dyn AnyEmitter>>)>) -> Self {
        Self { tags }
    }

    /// Emits to `tag`; false if nobody reads it. An undeclared tag is an error.
    pub fn emit<T: 'static>(&mut self, tag: &'static str, ts: Ts, value: T) -> Res<bool> {
        let Some((_, emitter)) = self.tags.iter_mut().find(|(name, _)| *name == tag) else {
            return Err(Fail::from(format!(
                "side output {tag:?} was not declared by the operator: add it to its side_outputs()"
            )));
        };
        let Some(emitter) = emitter else { return Ok(false) };
        match emitter.as_any_mut().downcast_mut::<Emitter<T>>() {
            Some(emitter) => emitter.emit(ts, value).map(|()| true),
            None => Err(Fail::from(format!(
                "side output {tag:?} does not carry {}",
                std::any::type_name::<T>()
            ))),
        }
    }

    fn each(&mut self, mut f: impl FnMut(&mut dyn AnyEmitter) -> Res) -> Res {
        self.tags.iter_mut().filter_map(|(_, e)| e.as_mut()).try_for_each(|e| f(e.as_mut()))
    }

    /// Whether one of them is full; tries to empty it first.
    pub fn blocked(&mut self) -> Res<bool> {
        let mut blocked = false;
        self.each(|e| {
            if e.blocked() {
                e.flush(false)?;
                blocked |= e.blocked();
            }
            Ok(())
        })?;
        Ok(blocked)
    }

    /// A watermark for all.
    pub fn watermark(&mut self, watermark: Ts) -> Res {
        self.each(|e| e.mark(watermark))
    }

    /// Idle or active again, for all.
    pub fn idle(&mut self, idle: bool) -> Res {
        self.each(|e| e.idle(idle))
    }

    /// A barrier for all.
    pub fn barrier(&mut self, barrier: &Barrier, parts: &mut SnapshotParts) -> Res {
        self.each(|e| e.barrier(barrier, parts))
    }

    /// The end, for all.
    pub fn end(&mut self) -> Res {
        self.each(|e| e.end())
    }

    /// See [`Emitter::flush`].
    pub fn flush(&mut self, all: bool) -> Res {
        self.each(|e| e.flush(all))
    }

    /// See [`Emitter::force`].
    pub fn force(&mut self) -> Res {
        self.each(|e| e.force())
    }

    /// See [`Emitter::gives_way`].
    pub fn gives_way(&self) -> bool {
        self.tags.iter().filter_map(|(_, e)| e.as_ref()).all(|e| e.gives_way())
    }
}
