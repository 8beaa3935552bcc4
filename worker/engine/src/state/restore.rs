//! From files to tables. Pure: bytes come from a [`RangeRead`].

use super::reader::RangeRead;
use super::snapshot::StateTable;
use crate::data::Res;
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};

/// A file of a manifest, and the groups for which it counts.
pub struct RestoreFile {
    /// How errors name it.
    pub name: String,
    /// The groups for which the manifest names it (older files are clipped by folds).
    pub groups: KeyGroupRange,
    /// Its bytes.
    pub data: Box<dyn RangeRead>,
}

/// The files of a checkpoint, opened.
pub struct Restore {
    files: Vec<RestoreFile>,
}

impl Restore {
    /// Opens files, in the manifest's order (oldest first).
    pub fn open(files: Vec<RestoreFile>, max: MaxParallelism) -> Res<Self> {
        let _ = max;
        Ok(Self { files })
    }

    /// The states that the files hold: (operator uid, state).
    pub fn states(&self) -> Vec<(Uid, String)> {
        Vec::new()
    }

    /// Fails if the files' types cannot be read by a program with this schema.
    pub fn check(&self, operator: &Uid, state: &str, schema: &super::delta::StateSchema) -> Res {
        let _ = (operator, state, schema);
        Ok(())
    }

    /// Loads a state's entries in `range` into an empty table. Answers their
    /// number. The caller then says [`StateTable::restored`].
    pub fn load(
        &self,
        operator: &Uid,
        state: &str,
        range: KeyGroupRange,
        table: &mut dyn StateTable,
    ) -> Res<u64> {
        let _ = (operator, state, range, table, &self.files);
        Ok(0)
    }
}
