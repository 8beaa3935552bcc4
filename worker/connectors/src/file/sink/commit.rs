//! Makes parts visible.
//!
//! A part is committed where it was staged: when the job's output has moved since, that is
//! in the directory it went to before. Only if it is not there, as when the whole directory
//! was given another name, the present one is looked at.

use super::place::{self, Place};
use super::{Error, FileCommit};
use millrace_engine::connector::{Committed, Committer};
use millrace_engine::data::Res;
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Commits the parts of one sink of one job.
pub struct FileCommitter {
    dir: PathBuf,
    job: JobUid,
    uid: Uid,
    place: Arc<dyn Place>,
    /// Where output went earlier, as far as something is left to do there.
    former: BTreeMap<String, Arc<dyn Place>>,
}

impl FileCommitter {
    pub(super) fn open(dir: &Path, job: &JobUid, uid: &Uid) -> Result<Self, Error> {
        let place = place::open(dir, job, uid)?;
        let (job, uid) = (job.clone(), uid.clone());
        Ok(Self { dir: dir.to_path_buf(), job, uid, place, former: BTreeMap::new() })
    }

    /// The directory that a part was staged in, if it is not the present one.
    fn left<'c>(&self, commit: &'c FileCommit) -> Option<&'c str> {
        commit.at.as_deref().filter(|at| Path::new(at) != self.dir)
    }

    fn former(&mut self, at: &str) -> Result<Arc<dyn Place>, Error> {
        if let Some(place) = self.former.get(at) {
            return Ok(Arc::clone(place));
        }
        let place = place::open_former(Path::new(at), &self.job, &self.uid)?;
        self.former.insert(at.to_owned(), Arc::clone(&place));
        Ok(place)
    }

    fn commit_left(&mut self, at: &str, commit: &FileCommit) -> Result<Committed, Error> {
        let there = self.former(at).and_then(|place| place.commit(commit));
        match there.map_err(|error| error.left(at, &self.dir))? {
            Committed::Lost(why) => match self.place.commit(commit)? {
                Committed::Lost(_) => Ok(Committed::Lost(why)),
                found => Ok(found),
            },
            done => Ok(done),
        }
    }
}

impl Committer<FileCommit> for FileCommitter {
    fn commit(&mut self, commit: &FileCommit) -> Res<Committed> {
        let committed = match self.left(commit) {
            Some(at) => self.commit_left(at, commit),
            None => self.place.commit(commit),
        };
        committed.map_err(Error::into_fail)
    }

    fn abort_others(&mut self, attempt: Attempt, keep: &[FileCommit]) -> Res {
        self.place.abort_others(attempt, keep).map_err(Error::into_fail)?;
        let left: Vec<&str> = keep.iter().filter_map(|commit| self.left(commit)).collect();
        for at in left {
            let there = self.former(at).and_then(|place| place.abort_others(attempt, keep));
            there.map_err(|error| error.left(at, &self.dir).into_fail())?;
        }
        Ok(())
    }
}
