//! The model's tasks: they read rows, write state files and prepare output. Rows come in
//! lanes, which are spread over the slots anew whenever the parallelism changes.

use super::model::{LANES, LIMIT};
use super::world::{Staged, World, home};
use crate::coordinator::*;
use millrace_protocol::ids::{Attempt, CheckpointId, Slot, Subtask, Uid};
use millrace_protocol::manifest::*;
use std::collections::VecDeque;

/// A lane: reads rows 0.. up to the limit; state is how far it came, written as
/// files that each hold a part of the way.
#[derive(Clone)]
pub struct Lane {
    pub id: u64,
    pub position: u64,
    pub snapshot: u64,
    pub files: Vec<FileRef>,
    /// Output from here on is not prepared, or open.
    pub output: u64,
    pub names: u64,
}

/// A slot and its lanes.
#[derive(Clone)]
pub struct SimSlot {
    pub id: u64,
    pub attempt: Attempt,
    pub worker: WorkerId,
    pub lanes: Vec<Lane>,
    pub barriers: VecDeque<(CheckpointId, bool, BarrierKind)>,
    /// Sources are closed.
    pub stopped: bool,
}

pub struct Tasks {
    pub attempt: Attempt,
    pub slots: Vec<SimSlot>,
    pub end_sent: bool,
}

/// What a slot says of a barrier.
pub struct Answer {
    pub full: bool,
    pub open: bool,
    pub decline: bool,
}

impl SimSlot {
    pub fn is_at_end(&self) -> bool {
        self.lanes.iter().all(|lane| lane.position == LIMIT)
    }

    /// Reads a row of some lane; answers whether there was one.
    pub fn read(&mut self) -> bool {
        let lane = self.lanes.iter_mut().filter(|lane| lane.position < LIMIT);
        let lane = lane.min_by_key(|lane| lane.position).filter(|_| !self.stopped);
        lane.map(|lane| lane.position += 1).is_some()
    }

    /// Takes the next barrier; later ones may overtake it.
    pub fn barrier(
        &mut self,
        answer: &Answer,
        random: &mut fastrand::Rng,
        world: &mut World,
    ) -> Option<Event> {
        let (mut checkpoint, mut anew, mut kind) = self.barriers.pop_front()?;
        while random.bool() {
            let Some(next) = self.barriers.pop_front() else { break };
            self.stopped |= kind.is_last();
            (checkpoint, anew, kind) = next;
        }
        self.stopped |= kind.is_last();
        let (attempt, slot) = (self.attempt, Slot(self.id as u16));
        let open = answer.open && !kind.is_last();
        let mut prepared = Vec::new();
        for lane in &mut self.lanes {
            prepared.extend(lane.prepare(attempt, slot, open, world));
        }
        if answer.decline {
            let reason = "injected".to_owned();
            return Some(Event::Declined { attempt, checkpoint, slot, reason, prepared });
        }
        let (mut files, mut parts) = (Vec::new(), Vec::new());
        for lane in &mut self.lanes {
            lane.snapshot(attempt, checkpoint, slot, answer.full || anew, world);
            files.extend(lane.files.iter().cloned());
            let items = vec![lane.position.to_le_bytes().to_vec()];
            parts.push(ListPart { subtask: Subtask(lane.id as u16), items });
        }
        let snapshot = SlotSnapshot {
            slot,
            files,
            operators: vec![SubtaskState {
                operator: Uid::from("source"),
                subtask: Subtask(slot.0),
                lists: vec![ListState {
                    name: "position".into(),
                    shape: ShapeBytes::default(),
                    redistribution: Redistribution::PerSubtask,
                    parts,
                }],
                watermarks: Vec::new(),
                ended: self.is_at_end(),
            }],
            prepared,
            stats: SnapshotStats::default(),
        };
        Some(Event::Acknowledge { attempt, checkpoint, snapshot })
    }
}

impl Lane {
    fn prepare(
        &mut self,
        attempt: Attempt,
        slot: Slot,
        open: bool,
        world: &mut World,
    ) -> Option<PreparedCommit> {
        if self.output == self.position {
            return None;
        }
        let (lane, n) = (self.id, self.names);
        let staged =
            Staged { attempt: attempt.0, slot: lane, n, from: self.output, to: self.position };
        world.stage(staged);
        if !open {
            self.output = self.position;
            self.names += 1;
        }
        Some(PreparedCommit {
            sink: Uid::from("sink"),
            subtask: Subtask(slot.0),
            connector: "test".into(),
            options: Vec::new(),
            when: if open { When::OnRestore } else { When::Ready },
            payload: staged.encode(),
            shape: ShapeBytes::default(),
        })
    }

    fn snapshot(
        &mut self,
        attempt: Attempt,
        checkpoint: CheckpointId,
        slot: Slot,
        full: bool,
        world: &mut World,
    ) {
        let from = if full { 0 } else { self.snapshot };
        if full {
            self.files.clear();
        }
        if from < self.position {
            let key = home().state_file(attempt, checkpoint, slot, self.id as u32);
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
    }
}

/// Restores an attempt; an error if a file is gone or is not what the base says.
pub fn deploy(
    world: &World,
    attempt: Attempt,
    base: Option<Base>,
    placement: &[WorkerId],
) -> Result<Tasks, String> {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    let slot = |(id, worker): (u64, &WorkerId)| SimSlot {
        id,
        attempt,
        worker: worker.clone(),
        lanes: Vec::new(),
        barriers: VecDeque::new(),
        stopped: false,
    };
    let mut slots: Vec<_> = (0..).zip(placement).map(slot).collect();
    for id in 0..LANES {
        let (mut position, mut files) = (0, Vec::new());
        if let Some(base) = &base {
            let source = base.manifest.operator(&Uid::from("source")).ok_or("no source")?;
            let mut parts = source.lists.iter().flat_map(|list| &list.parts);
            let part = parts.find(|part| u64::from(part.subtask.0) == id).ok_or("no part")?;
            position = number(&part.items[0], 0);
            let mine = format!("-{id}");
            files = base.manifest.files.clone();
            files.retain(|file| file.key.as_str().ends_with(&mine));
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
            return Err(format!("lane {id}: state at {reached}, source at {position}"));
        }
        let at = (id % slots.len() as u64) as usize;
        let (snapshot, output) = (position, position);
        slots[at].lanes.push(Lane { id, position, snapshot, files, output, names: 0 });
    }
    Ok(Tasks { attempt, slots, end_sent: false })
}
