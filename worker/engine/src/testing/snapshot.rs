//! The state of a harness as bytes.

use crate::data::{Fail, Res, TS_MIN, Ts};
use crate::graph::Restore;
use crate::runtime::snapshot::ListBlob;
use crate::state::StateTable;
use crate::state::restore::{Restore as Files, RestoreFile};
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::{Redistribution, ShapeBytes};
use millrace_protocol::objects::ObjectKey;
use serde::{Deserialize, Serialize};

/// A list state of one subtask.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ListPart {
    uid: Uid,
    state: String,
    redistribution: Redistribution,
    subtask: u16,
    items: Vec<Vec<u8>>,
}

/// A state file of one subtask: what changed since the snapshot before.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StateFile {
    groups: KeyGroupRange,
    bytes: Vec<u8>,
}

/// All state at a moment, to go on from with [`super::Harness::restore`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    pub(super) checkpoint: CheckpointId,
    pub(super) max: MaxParallelism,
    lists: Vec<ListPart>,
    watermarks: Vec<(Uid, KeyGroupRange, Ts)>,
    /// Oldest first.
    files: Vec<StateFile>,
}

impl Snapshot {
    /// An empty one that goes on from another's files.
    pub(super) fn after(
        base: Option<&Self>,
        checkpoint: CheckpointId,
        max: MaxParallelism,
    ) -> Self {
        let files = base.map(|b| b.files.clone()).unwrap_or_default();
        Self { checkpoint, max, lists: Vec::new(), watermarks: Vec::new(), files }
    }

    pub(super) fn add_list(&mut self, subtask: u16, list: ListBlob) {
        let ListBlob { uid, state, redistribution, items, .. } = list;
        self.lists.push(ListPart { uid, state, redistribution, subtask, items });
    }

    pub(super) fn add_watermark(&mut self, uid: Uid, groups: KeyGroupRange, watermark: Ts) {
        self.watermarks.push((uid, groups, watermark));
    }

    pub(super) fn add_file(&mut self, groups: KeyGroupRange, bytes: Vec<u8>) {
        self.files.push(StateFile { groups, bytes });
    }

    /// The snapshot as bytes.
    pub fn to_bytes(&self) -> Res<Vec<u8>> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// A snapshot from [`Snapshot::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Res<Self> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

/// The same rules as for a job's checkpoints.
impl Restore for Snapshot {
    fn is_fresh(&self) -> bool {
        false
    }

    fn list(&self, uid: &Uid, state: &str, subtask: u16, parallelism: u16) -> Res<Vec<Vec<u8>>> {
        let parts = self.lists.iter().filter(|l| l.uid == *uid && l.state == state);
        let mut items = Vec::new();
        for (index, (part, item)) in
            parts.flat_map(|p| p.items.iter().map(move |item| (p, item))).enumerate()
        {
            let mine = match part.redistribution {
                Redistribution::Union => true,
                Redistribution::Even => {
                    index % usize::from(parallelism.max(1)) == usize::from(subtask)
                }
                Redistribution::PerSubtask => part.subtask % parallelism.max(1) == subtask,
            };
            if mine {
                items.push(item.clone());
            }
        }
        Ok(items)
    }

    /// Items of a harness carry their shapes themselves.
    fn list_shape(&self, _: &Uid, _: &str) -> ShapeBytes {
        ShapeBytes::default()
    }

    fn watermark(&self, uid: &Uid, range: KeyGroupRange) -> Ts {
        let mine = |(of, groups, _): &&(Uid, KeyGroupRange, Ts)| {
            of == uid && (range.is_empty() || !groups.intersect(range).is_empty())
        };
        self.watermarks.iter().filter(mine).map(|(_, _, w)| *w).min().unwrap_or(TS_MIN)
    }

    fn table(
        &self,
        uid: &Uid,
        state: &str,
        range: KeyGroupRange,
        table: &mut dyn StateTable,
    ) -> Res {
        let files = self.files.iter().enumerate().map(|(index, file)| RestoreFile {
            name: format!("snapshot file {index}"),
            groups: file.groups,
            footer_crc32: None,
            data: Box::new(file.bytes.clone()),
        });
        Files::open(files.collect(), self.max)?.load(uid, state, range, table)?;
        table.restored(Some(self.checkpoint));
        Ok(())
    }

    fn bytes(&self, key: &ObjectKey, _: u64, _: usize) -> Res<Vec<u8>> {
        Err(Fail::from(format!("{key}: a harness keeps no rows in flight")))
    }
}
