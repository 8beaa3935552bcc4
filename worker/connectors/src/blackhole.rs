//! A sink that drops its rows: for benchmarks. There is nothing to guarantee.

use millrace_engine::connector::{Committed, Committer, Pending, Prepared, Sink, SinkCx, Writer};
use millrace_engine::data::{Res, Rows};
use millrace_protocol::ids::{Attempt, JobUid, Uid};

/// Drops every row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Blackhole;

impl<T: 'static> Sink<T> for Blackhole {
    type Commit = ();
    type Writer = Self;
    type Committer = Nothing;

    fn writer(&self, _: SinkCx) -> Res<Self> {
        Ok(*self)
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Nothing> {
        Ok(Nothing)
    }
}

impl<T> Writer<T, ()> for Blackhole {
    fn write(&mut self, rows: &mut Rows<T>) -> Res {
        rows.clear();
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<()>> {
        Ok(Box::new(|| Ok(Prepared::default())))
    }
}

/// Commits nothing: for sinks that stage nothing.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Committer<()> for Nothing {
    fn commit(&mut self, (): &()) -> Res<Committed> {
        Ok(Committed::Before)
    }

    fn abort_others(&mut self, _: Attempt, _: &[()]) -> Res {
        Ok(())
    }
}
