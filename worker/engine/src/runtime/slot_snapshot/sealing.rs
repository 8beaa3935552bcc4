//! All of a slot is drained: what its part of the checkpoint consists of.

use super::folds::clip;
use super::{Extent, Seal, SlotSnapshots};
use crate::coordinator::SubtaskState;
use crate::data::Res;
use crate::runtime::snapshot::ListBlob;
use crate::runtime::task::Task;
use millrace_protocol::ids::{Slot, Subtask, Uid};
use millrace_protocol::manifest::{FileOrder, FileRef, ListPart, ListState, Section};
use std::collections::BTreeMap;

/// Number of the file of rows in flight among a slot's files of a checkpoint.
const ROWS_IN_FLIGHT: u32 = 1;

impl SlotSnapshots {
    /// All tasks have passed and all tables are drained.
    pub(super) fn seal(&mut self, tasks: &mut [Box<dyn Task>]) -> Res {
        let Some(current) = self.current.take() else { return Ok(()) };
        let checkpoint = current.barrier.checkpoint;
        let written = current.writer.finish()?;
        self.last_written = written.bytes;
        let Extent { mut files, dead_before } = match current.barrier.base {
            Some(base) => self.files.get(&base).cloned().unwrap_or_default(),
            None => Extent::default(),
        };
        let mut sections = Vec::new();
        for (index, task) in tasks.iter_mut().enumerate() {
            if task.tables().is_empty() {
                continue;
            }
            let uid = task.uid().clone();
            clip(&mut files, &uid, current.folds[index]);
            sections.push(Section { operator: uid, groups: self.groups[index] });
        }
        let mut own = None;
        // A file without entries matters too: it says which panes of older files have fired.
        let news = written.entries + written.dead > 0 || written.dead_before != dead_before;
        if news && !(sections.is_empty() || files.is_empty() && written.entries == 0) {
            let file = FileRef {
                key: current.key,
                len: written.bytes,
                crc32: written.footer_crc32,
                order: FileOrder { checkpoint, index: u32::from(self.to.slot.0) },
                sections,
            };
            files.push(file.clone());
            own = Some(file);
        }
        let dead_before = written.dead_before.clone();
        self.files.insert(checkpoint, Extent { files: files.clone(), dead_before });
        let slot = self.to.slot;
        let mut operators: BTreeMap<Uid, SubtaskState> = BTreeMap::new();
        let mut prepare = Vec::new();
        let tasks = current.ended.into_iter().zip(&self.groups).zip(&mut self.parts);
        for ((ended, groups), parts) in tasks {
            let parts = std::mem::take(parts);
            for list in parts.lists {
                let operator = operators
                    .entry(list.uid.clone())
                    .or_insert_with(|| empty_state(&list.uid, slot));
                // A task that passed the barrier of an aborted checkpoint too has put it twice.
                operator.lists.retain(|l| l.name != list.state);
                operator.lists.push(list_state(list, slot));
            }
            for (uid, time) in parts.event_times {
                let operator =
                    operators.entry(uid.clone()).or_insert_with(|| empty_state(&uid, slot));
                operator.watermarks = time.by_range(*groups);
                operator.ended |= ended;
            }
            prepare.extend(parts.prepare);
        }
        let home = &self.to.home;
        let key = home.state_file(self.to.attempt, checkpoint, slot, ROWS_IN_FLIGHT);
        let in_flight = (current.in_flight, key);
        // If the side job is gone, its drop has been reported already.
        let _ = current.finish.send(Seal { written, files, own, operators, in_flight, prepare });
        Ok(())
    }
}

pub(super) fn empty_state(uid: &Uid, slot: Slot) -> SubtaskState {
    SubtaskState {
        operator: uid.clone(),
        subtask: Subtask(slot.0),
        lists: Vec::new(),
        watermarks: Vec::new(),
        ended: false,
    }
}

pub(super) fn list_state(list: ListBlob, slot: Slot) -> ListState {
    ListState {
        name: list.state,
        shape: list.shape,
        redistribution: list.redistribution,
        parts: vec![ListPart { subtask: Subtask(slot.0), items: list.items }],
    }
}
