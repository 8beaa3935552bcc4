//! The committing halves of sinks, called in the side pool.

use crate::api::stream::{Controls, controls};
use crate::connector::Committed;
use crate::coordinator::{CommitOutcome, Hindrance};
use crate::data::{Fail, Res};
use crate::graph::Graph;
use crate::runtime::slot::panic_text;
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use millrace_protocol::manifest::{CommitId, PendingCommit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// The sinks' committing halves, made when first needed.
#[derive(Clone)]
pub struct Committers {
    graph: Arc<Graph>,
    /// As whom they were made: while a home is taken over, the old job commits first.
    made: Arc<Mutex<Option<(JobUid, Controls)>>>,
}

impl Committers {
    /// Of the sinks of a graph.
    pub fn new(graph: &Arc<Graph>) -> Self {
        Self { graph: Arc::clone(graph), made: Arc::default() }
    }

    fn with<T>(&self, job: &JobUid, f: impl FnOnce(&mut Controls) -> Res<T>) -> Res<T> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.as_ref().is_some_and(|(of, _)| of != job) {
            *made = None;
        }
        let made = match made.as_mut() {
            Some((_, made)) => made,
            None => &mut made.insert((job.clone(), controls(&self.graph, job)?)).1,
        };
        catch_unwind(AssertUnwindSafe(|| f(made))).unwrap_or_else(|panic| {
            Err(Fail::from(format!("a committer panicked: {}", panic_text(panic.as_ref()))))
        })
    }

    /// Commits each of `items`.
    pub fn commit(&self, job: &JobUid, items: &[PendingCommit]) -> Vec<(CommitId, CommitOutcome)> {
        let one = |item: &PendingCommit| -> Res<CommitOutcome> {
            self.with(job, |made| {
                let Some(control) = made.get_mut(&item.sink) else {
                    return Err(Fail::from(format!("the program has no sink {:?}", item.sink.0)));
                };
                Ok(match control.commit(item)? {
                    Committed::Done | Committed::Before => CommitOutcome::Done,
                    Committed::Lost(why) => CommitOutcome::Lost(why),
                })
            })
        };
        let outcome = |item| one(item).unwrap_or_else(|e| CommitOutcome::Failed(Hindrance::of(&e)));
        items.iter().map(|item| (item.id, outcome(item))).collect()
    }

    /// Removes what earlier attempts staged and nothing lists.
    pub fn abort_others(
        &self,
        job: &JobUid,
        attempt: Attempt,
        sinks: &[(Uid, Vec<PendingCommit>)],
    ) -> Res {
        self.with(job, |made| {
            for (uid, keep) in sinks {
                if let Some(control) = made.get_mut(uid) {
                    control.abort_others(attempt, keep)?;
                }
            }
            Ok(())
        })
    }
}
