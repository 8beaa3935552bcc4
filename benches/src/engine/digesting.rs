//! A sink that adds up its rows, and shows the sum once they are committed.

use millrace_engine::connector::{Committed, Committer, Pending, Prepared, Sink, SinkCx, Writer};
use millrace_engine::data::{Res, Rows};
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The wrapping sum of all rows.
#[derive(Debug, Clone, Default)]
pub struct Digesting(Arc<AtomicU64>);

impl Digesting {
    /// The sum of what was committed.
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Sink<u64> for Digesting {
    type Commit = u64;
    type Writer = Sum;
    type Committer = Self;

    fn writer(&self, _: SinkCx) -> Res<Sum> {
        Ok(Sum(0))
    }

    fn committer(&self, _: &JobUid, _: &Uid) -> Res<Self> {
        Ok(self.clone())
    }
}

/// The sum since the last barrier.
#[derive(Debug)]
pub struct Sum(u64);

impl Writer<u64, u64> for Sum {
    fn write(&mut self, rows: &mut Rows<u64>) -> Res {
        self.0 = rows.values.iter().fold(self.0, |sum, row| sum.wrapping_add(*row));
        rows.clear();
        Ok(())
    }

    fn prepare(&mut self, _: bool) -> Res<Pending<u64>> {
        let sum = std::mem::take(&mut self.0);
        Ok(Box::new(move || Ok(Prepared { commit: vec![sum], open: vec![] })))
    }
}

impl Committer<u64> for Digesting {
    fn commit(&mut self, sum: &u64) -> Res<Committed> {
        // Not idempotent: nothing fails in a bench, so each comes once.
        self.0.fetch_add(*sum, Ordering::SeqCst);
        Ok(Committed::Done)
    }

    fn abort_others(&mut self, _: Attempt, _: &[u64]) -> Res {
        Ok(())
    }
}
