//! The model's slots: they read rows, write state files and prepare output.

use super::model::{LIMIT, SLOTS};
use super::world::{Staged, World, home};
use crate::coordinator::*;
use millrace_protocol::ids::{Attempt, CheckpointId, Slot, Subtask, Uid};
use millrace_protocol::manifest::*;
use std::collections::VecDeque;

/// A slot: reads rows 0.. up to the limit; state is how far it came, written as
/// files that each hold a part of the way.
pub struct SimSlot {
    pub id: u64,
    pub position: u64,
    pub snapshot: u64,
    pub files: Vec<FileRef>,
    /// Output from here on is not prepared, or open.
    pub output: u64,
    pub names: u64,
    pub barriers: VecDeque<(CheckpointId, bool, BarrierKind)>,
}

pub struct Tasks {
    pub attempt: Attempt,
    pub slots: Vec<SimSlot>,
    pub stopped: bool,
    pub end_sent: bool,
}

impl SimSlot {
    pub fn prepare(
        &mut self,
        attempt: Attempt,
        open: bool,
        world: &mut World,
    ) -> Vec<PreparedCommit> {
        if self.output == self.position {
            return Vec::new();
        }
        let (attempt, slot, n) = (attempt.0, self.id, self.names);
        let staged = Staged { attempt, slot, n, from: self.output, to: self.position };
        world.stage(staged);
        if !open {
            self.output = self.position;
            self.names += 1;
        }
        vec![PreparedCommit {
            sink: Uid::from("sink"),
            subtask: Subtask(self.id as u16),
            connector: "test".into(),
            options: Vec::new(),
            when: if open { When::OnRestore } else { When::Ready },
            payload: staged.encode(),
            shape: ShapeBytes::default(),
        }]
    }

    pub fn snapshot(
        &mut self,
        attempt: Attempt,
        checkpoint: CheckpointId,
        full: bool,
        prepared: Vec<PreparedCommit>,
        world: &mut World,
    ) -> SlotSnapshot {
        let from = if full { 0 } else { self.snapshot };
        if full {
            self.files.clear();
        }
        if from < self.position {
            let key = home().state_file(attempt, checkpoint, Slot(self.id as u16), 0);
            let bytes = [from.to_le_bytes(), self.position.to_le_bytes()].concat();
            self.files.push(FileRef {
                key: key.clone(),
                len: 16,
                crc32: 0,
                order: FileOrder { checkpoint, index: 0 },
                sections: Vec::new(),
            });
            world.upload(key, bytes);
        }
        self.snapshot = self.position;
        let subtask = Subtask(self.id as u16);
        let items = vec![self.position.to_le_bytes().to_vec()];
        SlotSnapshot {
            slot: Slot(self.id as u16),
            files: self.files.clone(),
            operators: vec![SubtaskState {
                operator: Uid::from("source"),
                subtask,
                lists: vec![ListState {
                    name: "position".into(),
                    shape: ShapeBytes::default(),
                    redistribution: Redistribution::PerSubtask,
                    parts: vec![ListPart { subtask, items }],
                }],
                watermark: None,
                ended: self.position == LIMIT,
            }],
            prepared,
            stats: SnapshotStats::default(),
        }
    }
}

/// Restores slots; an error if a file is gone or is not what the base says.
pub fn deploy(world: &World, attempt: Attempt, base: Option<Base>) -> Result<Tasks, String> {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    let mut slots = Vec::new();
    for id in 0..SLOTS {
        let (mut position, mut files) = (0, Vec::new());
        if let Some(base) = &base {
            let source = base.manifest.operator(&Uid::from("source")).ok_or("no source")?;
            position = number(&source.lists[0].parts[id as usize].items[0], 0);
            let mine = format!("/s{id}-");
            files = base.manifest.files.clone();
            files.retain(|file| file.key.as_str().contains(&mine));
        }
        let mut reached = 0;
        for file in &files {
            let bytes = world.objects.get(&file.key).ok_or(format!("{} is gone", file.key))?;
            if number(bytes, 0) != reached {
                return Err(format!("{} does not follow on {reached}", file.key));
            }
            reached = number(bytes, 8);
        }
        if reached != position {
            return Err(format!("slot {id}: state at {reached}, source at {position}"));
        }
        slots.push(SimSlot {
            id,
            position,
            snapshot: position,
            files,
            output: position,
            names: 0,
            barriers: VecDeque::new(),
        });
    }
    Ok(Tasks { attempt, slots, stopped: false, end_sent: false })
}
