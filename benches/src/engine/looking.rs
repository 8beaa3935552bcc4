//! A sink that shows its batches to something on the slot, and commits nothing.

use millrace_engine::connector::{Committed, Committer, Pending, Prepared, Sink, SinkCx, Writer};
use millrace_engine::data::{Fun, Res, Rows};
use millrace_protocol::ids::{Attempt, JobUid, Uid};

/// Looks at the batches of one subtask.
pub trait Look<T>: 'static {
    /// A batch has arrived.
    fn batch(&mut self, rows: &[T]);
}

/// A sink that makes one `L` a subtask.
#[derive(Debug, Clone)]
pub struct Looking<M>(pub M);

impl<T: 'static, L: Look<T>, M: Fn() -> L + Fun> Sink<T> for Looking<M> {
    type Commit = ();
    type Writer = Eye<L>;
    type Committer = Nothing;

    fn writer(&self, _: SinkCx) -> Res<Eye<L>> {
        Ok(Eye((self.0)()))
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Nothing> {
        Ok(Nothing)
    }
}

/// The writer.
#[derive(Debug)]
pub struct Eye<L>(L);

impl<T, L: Look<T>> Writer<T, ()> for Eye<L> {
    fn write(&mut self, rows: &mut Rows<T>) -> Res {
        self.0.batch(&rows.values);
        rows.clear();
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<()>> {
        Ok(Box::new(|| Ok(Prepared::default())))
    }
}

/// The committer.
#[derive(Debug)]
pub struct Nothing;

impl Committer<()> for Nothing {
    fn commit(&mut self, (): &()) -> Res<Committed> {
        Ok(Committed::Done)
    }

    fn abort_others(&mut self, _: Attempt, _: &[()]) -> Res {
        Ok(())
    }
}
