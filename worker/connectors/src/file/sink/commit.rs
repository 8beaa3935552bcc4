//! Makes parts visible.

use super::place::Place;
use super::{Error, FileCommit};
use millrace_engine::connector::{Committed, Committer};
use millrace_engine::data::Res;
use millrace_protocol::ids::Attempt;
use std::sync::Arc;

/// Commits the parts of one sink of one job.
pub struct FileCommitter {
    place: Arc<dyn Place>,
}

impl FileCommitter {
    pub(super) fn new(place: Arc<dyn Place>) -> Self {
        Self { place }
    }
}

impl Committer<FileCommit> for FileCommitter {
    fn commit(&mut self, commit: &FileCommit) -> Res<Committed> {
        self.place.commit(commit).map_err(Error::into_fail)
    }

    fn abort_others(&mut self, attempt: Attempt, keep: &[FileCommit]) -> Res {
        self.place.abort_others(attempt, keep).map_err(Error::into_fail)
    }
}
