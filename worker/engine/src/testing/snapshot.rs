//! The state of a harness as bytes.

use crate::data::{Fail, Res};
use crate::graph::Restore;
use crate::runtime::event_time::EventTime;
use crate::runtime::snapshot::ListBlob;
use crate::state::StateTable;
use crate::state::restore::{Restore as Files, RestoreFile};
use millrace_protocol::ids::{CheckpointId, Uid};
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::{RangeWatermark, Redistribution, ShapeBytes};
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
    watermarks: Vec<(Uid, RangeWatermark)>,
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

    pub(super) fn add_event_time(&mut self, uid: &Uid, groups: KeyGroupRange, time: &EventTime) {
        self.watermarks.extend(time.by_range(groups).into_iter().map(|w| (uid.clone(), w)));
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

    fn watermarks(&self, uid: &Uid) -> Vec<RangeWatermark> {
        let of = self.watermarks.iter().filter(|(of, _)| of == uid);
        of.map(|(_, watermark)| *watermark).collect()
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

#[cfg(test)]
mod tests {
    use crate::api::window::{Count, TumblingWindows};
    use crate::testing::{Harness, Snapshot};
    use millrace_protocol::ids::Uid;
    use std::time::Duration;

    /// (first key group, one past the last, watermark) of the windows.
    fn times(snapshot: &Snapshot) -> Vec<(u16, u16, i64)> {
        let of = snapshot.watermarks.iter().filter(|(uid, _)| *uid == Uid::from("counts"));
        of.map(|(_, w)| (w.groups.start, w.groups.end, w.watermark)).collect()
    }

    #[test]
    fn event_times_of_key_groups_go_from_snapshot_to_snapshot() {
        let (mut harness, (input, out)) = Harness::at_parallelism(2, |env| {
            let (input, rows) = env.input::<(u64, u64)>("rows");
            let counts = rows
                .key_by(|row: &(u64, u64)| row.0)
                .window(TumblingWindows::of(Duration::from_millis(100)))
                .aggregate("counts", Count, |key, _, count| (*key, count));
            (input, env.output(counts))
        })
        .unwrap();
        (0..50).for_each(|key| {
            input.push(950, (key, 0));
        });
        input.watermark(500);
        let mut snapshot = harness.snapshot().unwrap();
        assert_eq!(times(&snapshot), [(0, 64, 500), (64, 128, 500)]);
        // As where barriers overtake rows: the second subtask had heard more.
        snapshot.watermarks.iter_mut().filter(|(_, w)| w.groups.start == 64).for_each(|(_, w)| {
            w.watermark = 900;
        });
        harness.restore(&snapshot, 3).unwrap();
        let snapshot = harness.snapshot().unwrap();
        assert_eq!(times(&snapshot), [(0, 43, 500), (43, 64, 500), (64, 86, 900), (86, 128, 900)]);
        harness.restore(&snapshot, 1).unwrap();
        input.watermark(700);
        let snapshot = harness.snapshot().unwrap();
        assert_eq!(times(&snapshot), [(0, 64, 700), (64, 128, 900)]);
        input.watermark(950);
        assert_eq!(times(&harness.snapshot().unwrap()), [(0, 128, 950)]);
        input.end();
        harness.run().unwrap();
        assert_eq!(out.take().len(), 50);
    }
}
