//! What subtasks find of their state: a checkpoint's manifest and files.

use crate::coordinator::FilesIn;
use crate::data::{Fail, Res};
use crate::graph::Restore;
use crate::job::fetch::Ahead;
use crate::job::kept::InMemory;
use crate::job::order::BaseOrder;
use crate::state::StateTable;
use crate::state::kept::without;
use crate::state::reader::{DeltaReader, RangeRead};
use crate::state::restore::{Restore as Files, RestoreFile};
use crate::store::ObjectStore;
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::{
    FileRef, Manifest, RangeWatermark, Redistribution, Section, ShapeBytes,
};
use millrace_protocol::objects::ObjectKey;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A checkpoint to restore from.
pub struct FromManifest {
    manifest: Arc<Manifest>,
    store: Arc<dyn ObjectStore>,
    /// The attempt was stopped: there is no use in reading on.
    stopped: Arc<AtomicBool>,
    /// Whether the first snapshot may build on it.
    base: Option<CheckpointId>,
    /// What need not be read.
    kept: Mutex<InMemory>,
}

impl FromManifest {
    /// `base`'s files lie in `store` (a savepoint's in its target's); `kept` is of it.
    pub fn new(
        base: &BaseOrder,
        store: Arc<dyn ObjectStore>,
        stopped: Arc<AtomicBool>,
        kept: InMemory,
    ) -> Self {
        let checkpoint = base.manifest.checkpoint;
        let base_id = matches!(base.files, FilesIn::Home).then_some(checkpoint);
        let (manifest, kept) = (Arc::clone(&base.manifest), Mutex::new(kept));
        Self { manifest, store, stopped, base: base_id, kept }
    }

    /// The files that make up what a slot owns: `owned` as (operator, key groups).
    pub fn files_of(&self, owned: &[(Uid, KeyGroupRange)]) -> Option<(CheckpointId, Vec<FileRef>)> {
        let mut files = Vec::new();
        for file in &self.manifest.files {
            let mut clipped = file.clone();
            clipped.sections = file
                .sections
                .iter()
                .filter_map(|s| {
                    let (_, range) = owned.iter().find(|(uid, _)| *uid == s.operator)?;
                    let groups = s.groups.intersect(*range);
                    let operator = s.operator.clone();
                    (!groups.is_empty()).then_some(Section { operator, groups })
                })
                .collect();
            if !clipped.sections.is_empty() {
                files.push(clipped);
            }
        }
        self.base.map(|base| (base, files))
    }

    /// Loads a state's entries from files; how many.
    fn read(
        &self,
        uid: &Uid,
        state: &str,
        range: KeyGroupRange,
        table: &mut dyn StateTable,
    ) -> Res<u64> {
        let mut files: Vec<(&FileRef, KeyGroupRange)> = Vec::new();
        for file in &self.manifest.files {
            for section in file.sections.iter().filter(|s| s.operator == *uid) {
                let groups = section.groups.intersect(range);
                if !groups.is_empty() {
                    files.push((file, groups));
                }
            }
        }
        files.sort_by_key(|(f, _)| f.order);
        let ahead = Arc::new(Ahead::new(Arc::clone(&self.store)));
        let files = files
            .into_iter()
            .map(|(file, groups)| RestoreFile {
                name: file.key.as_str().to_owned(),
                groups,
                footer_crc32: Some(file.crc32),
                data: self.open(file, &ahead),
            })
            .collect();
        let files = Files::open(files, self.manifest.max_parallelism)?;
        files.load(uid, state, range, table)
    }

    /// A file, or its copy on this machine if that is what the checkpoint names, as far as
    /// its index tells: blocks are checked as they are read.
    fn open(&self, file: &FileRef, ahead: &Arc<Ahead>) -> Box<dyn RangeRead> {
        let original = || ObjectRange {
            ahead: Arc::clone(ahead),
            stopped: Arc::clone(&self.stopped),
            key: file.key.clone(),
            len: file.len,
        };
        let copy = || Some(CopyRange { copy: self.store.copy(&file.key)?, original: original() });
        let check =
            |copy| DeltaReader::open(file.key.as_str(), Box::new(copy))?.check_footer(file.crc32);
        if let Some(Err(damage)) = copy().map(check) {
            tracing::warn!(%damage, "a copy is not used: the original is read");
            self.store.drop_copy(&file.key);
        }
        match copy() {
            Some(copy) => Box::new(copy),
            None => Box::new(original()),
        }
    }
}

/// Reads ranges of a copy on this machine.
struct CopyRange {
    copy: File,
    original: ObjectRange,
}

impl RangeRead for CopyRange {
    fn len(&self) -> Res<u64> {
        match self.copy.metadata()?.len() {
            len if len == self.original.len => Ok(len),
            len => {
                let wanted = self.original.len;
                Err(Fail::from(format!("{len} bytes, where the checkpoint says {wanted}")))
            }
        }
    }

    fn read(&self, range: Range<u64>) -> Res<Vec<u8>> {
        // Its length was compared with the checkpoint's: no range is absurd.
        let len = range.end - range.start;
        let mut bytes = Vec::with_capacity(usize::try_from(len)?);
        let mut copy = &self.copy;
        copy.seek(SeekFrom::Start(range.start))?;
        match copy.take(len).read_to_end(&mut bytes)? as u64 {
            read if read == len => Ok(bytes),
            read => {
                Err(Fail::from(format!("it ends after {read} of {len} bytes at {}", range.start)))
            }
        }
    }

    fn original(&self) -> Option<&dyn RangeRead> {
        Some(&self.original)
    }
}

/// Reads ranges of an object.
struct ObjectRange {
    ahead: Arc<Ahead>,
    stopped: Arc<AtomicBool>,
    key: ObjectKey,
    len: u64,
}

impl ObjectRange {
    /// What is wrong with the object as a whole, once a read has failed.
    fn diagnosis(&self) -> Option<String> {
        match self.ahead.store().size(&self.key) {
            Ok(Some(len)) if len != self.len => Some(format!(
                "it is {len} bytes long instead of the {} that the checkpoint names: it was \
                 truncated or replaced; restore from an older checkpoint or a savepoint",
                self.len
            )),
            Ok(None) => Some(
                "the checkpoint names it, but it is not there: restore from an older \
                 checkpoint or a savepoint"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl RangeRead for ObjectRange {
    fn len(&self) -> Res<u64> {
        Ok(self.len)
    }

    fn read(&self, range: Range<u64>) -> Res<Vec<u8>> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Fail::from("the attempt is over"));
        }
        self.ahead.take(&self.key, &range).map_err(|error| match self.diagnosis() {
            Some(why) => Fail::from(why),
            None => Fail::from(error),
        })
    }

    fn expect(&self, ranges: &[Range<u64>]) {
        self.ahead.expect(&self.key, ranges);
    }
}

impl Restore for FromManifest {
    fn is_fresh(&self) -> bool {
        false
    }

    fn list(&self, uid: &Uid, state: &str, subtask: u16, parallelism: u16) -> Res<Vec<Vec<u8>>> {
        let operator = self.manifest.operator(uid);
        let Some(list) = operator.and_then(|o| o.lists.iter().find(|l| l.name == state)) else {
            return Ok(Vec::new());
        };
        let all = || list.parts.iter().flat_map(|p| p.items.iter().cloned());
        Ok(match list.redistribution {
            Redistribution::Union => all().collect(),
            Redistribution::Even => all()
                .enumerate()
                .filter(|(i, _)| i % usize::from(parallelism.max(1)) == usize::from(subtask))
                .map(|(_, item)| item)
                .collect(),
            Redistribution::PerSubtask => list
                .parts
                .iter()
                .filter(|p| p.subtask.0 % parallelism.max(1) == subtask)
                .flat_map(|p| p.items.iter().cloned())
                .collect(),
        })
    }

    fn list_shape(&self, uid: &Uid, state: &str) -> ShapeBytes {
        let lists = self.manifest.operator(uid).map(|o| &o.lists);
        let list = lists.into_iter().flatten().find(|l| l.name == state);
        list.map(|l| l.shape.clone()).unwrap_or_default()
    }

    fn watermarks(&self, uid: &Uid) -> Vec<RangeWatermark> {
        self.manifest.operator(uid).map(|o| o.watermarks.clone()).unwrap_or_default()
    }

    fn table(
        &self,
        uid: &Uid,
        state: &str,
        range: KeyGroupRange,
        table: &mut dyn StateTable,
    ) -> Res {
        let begun = Instant::now();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take(uid, state, range);
        let (mut adopted, mut kept_rows, mut entries) = (Vec::new(), 0, 0);
        for rows in kept {
            adopted.push(rows.groups());
            kept_rows += rows.rows();
            table.adopt(rows)?;
        }
        for range in without(range, &adopted) {
            entries += self.read(uid, state, range, table)?;
        }
        tracing::debug!(
            operator = %uid, state, entries, kept = kept_rows, took = ?begun.elapsed(),
            "state is there"
        );
        table.restored(self.base);
        Ok(())
    }

    fn bytes(&self, key: &ObjectKey, at: u64, len: usize) -> Res<Vec<u8>> {
        let bytes = self.store.get_range(key, at, len);
        bytes.map_err(|error| Fail::from(format!("rows in flight cannot be read: {error}")))
    }
}
