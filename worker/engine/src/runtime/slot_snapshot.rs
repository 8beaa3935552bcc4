//! A slot's part of checkpoints: one file of changed entries, list states, and what
//! sinks prepared.
//!
//! Tables are frozen as their tasks pass the barrier, and drained in bounded turns
//! between rounds. Blocks go to a side job, which writes the file, then runs the sinks'
//! sealing work, and acknowledges. Side jobs of a slot follow one another, so that
//! answers come in the order of checkpoints.

mod folds;
mod overtaken;
mod sealing;
mod side_job;
#[cfg(test)]
mod tests;

use crate::data::{Fail, Res};
use crate::runtime::channel::Channel;
use crate::runtime::flight::{Recorded, Tries};
use crate::runtime::pool::Pool;
use crate::runtime::signal::Signal;
use crate::runtime::slot::Tell;
use crate::runtime::snapshot::{Barrier, SnapshotParts};
use crate::runtime::task::Task;
use crate::state::SnapshotSpec;
use crate::state::delta::DeltaWriter;
use crate::state::fold::Folding;
use crate::store::ObjectStore;
use millrace_protocol::ids::{Attempt, CheckpointId, Slot};
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::FileRef;
use millrace_protocol::objects::{Home, ObjectKey};
use side_job::{Blocks, Seal};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Entries looked at in one turn: about half a millisecond.
const TURN_ENTRIES: usize = 4096;

/// Where a slot's snapshots go.
pub struct SnapshotHome {
    /// The slot.
    pub slot: Slot,
    /// The attempt.
    pub attempt: Attempt,
    /// Number of key groups.
    pub max: MaxParallelism,
    /// Names of objects.
    pub home: Home,
    /// The job's store.
    pub store: Arc<dyn ObjectStore>,
    /// For the side jobs.
    pub pool: Arc<Pool>,
    /// Where acknowledgements go.
    pub reports: Tell,
    /// Bytes of blocks that may wait for the store; with more of them, no more is drained.
    pub most_under_way: u64,
    /// Bytes of rows in flight that a checkpoint has room for.
    pub most_in_flight: usize,
    /// Wakes the slot.
    pub signal: Arc<Signal>,
}

struct Draining {
    barrier: Barrier,
    passed: Vec<bool>,
    drained: Vec<bool>,
    /// Tasks that had passed their end on before the barrier.
    ended: Vec<bool>,
    /// What the barrier overtook.
    in_flight: Recorded,
    /// Of a barrier with too much before it to leave this process in front, by channel.
    tries: Vec<Tries>,
    /// Key groups written whole, by task.
    folds: Vec<KeyGroupRange>,
    /// The table that is being written: (task, table), its section open.
    open: Option<(usize, usize)>,
    writer: DeltaWriter,
    key: ObjectKey,
    finish: Sender<Seal>,
    /// Bytes of blocks that wait for the store.
    under_way: Arc<AtomicU64>,
}

/// What makes up a slot's state as of a checkpoint.
#[derive(Clone, Default)]
struct Extent {
    files: Vec<FileRef>,
    /// `dead_before` of each section of the newest file; empty: not known.
    dead_before: Vec<i64>,
}

/// See the module.
pub struct SlotSnapshots {
    to: SnapshotHome,
    /// Key groups of each task.
    groups: Vec<KeyGroupRange>,
    parts: Vec<SnapshotParts>,
    current: Option<Draining>,
    foldings: BTreeMap<usize, Folding>,
    /// Where the sweeping fold of a task goes on.
    swept: BTreeMap<usize, u16>,
    /// What makes up the slot's state as of checkpoints that may be a base.
    files: BTreeMap<CheckpointId, Extent>,
    newest: Option<CheckpointId>,
    previous: Option<Receiver<()>>,
    last_written: u64,
    /// Channels to other processes, whose rows the barrier may overtake.
    outgoing: Vec<Arc<Channel>>,
}

impl SlotSnapshots {
    /// For a slot whose tasks own `groups`; `base`: the checkpoint it was restored from,
    /// with the files that make up the slot's state; `outgoing`: the ends of its channels to
    /// other processes whose rows a barrier may overtake.
    pub fn new(
        to: SnapshotHome,
        groups: Vec<KeyGroupRange>,
        base: Option<(CheckpointId, Vec<FileRef>)>,
        outgoing: Vec<Arc<Channel>>,
    ) -> Self {
        Self {
            to,
            parts: groups.iter().map(|_| SnapshotParts::default()).collect(),
            groups,
            current: None,
            foldings: BTreeMap::new(),
            swept: BTreeMap::new(),
            files: base
                .into_iter()
                .map(|(checkpoint, files)| (checkpoint, Extent { files, dead_before: Vec::new() }))
                .collect(),
            newest: None,
            previous: None,
            last_written: 0,
            outgoing,
        }
    }

    /// Where a task puts its contributions.
    pub fn parts(&mut self, task: usize) -> &mut SnapshotParts {
        &mut self.parts[task]
    }

    /// A task passed a barrier, which overtook some rows: its tables are frozen now.
    pub fn passed(
        &mut self,
        index: usize,
        barrier: &Barrier,
        task: &mut dyn Task,
        overtaken: Recorded,
    ) -> Res {
        let known = self.newest.is_some_and(|n| n >= barrier.checkpoint);
        if self.current.as_ref().is_none_or(|c| c.barrier.checkpoint != barrier.checkpoint) {
            if known {
                // A barrier of a checkpoint given up meanwhile: what sinks prepared stays
                // in their parts for the next one; the rest is stale.
                return Ok(());
            }
            self.begin(barrier)?;
        }
        let live = |(_, t): &(_, &mut dyn crate::state::StateTable)| {
            let sizes = t.sizes();
            sizes.memory + sizes.spilled
        };
        let live: u64 = task.tables().iter().map(live).sum();
        let fold = self.fold(index, barrier, live);
        let Some(current) = &mut self.current else { return Ok(()) };
        current.passed[index] = true;
        current.in_flight.append(overtaken);
        current.ended[index] = task.ended();
        if task.tables().is_empty() {
            current.drained[index] = true;
            return Ok(());
        }
        current.folds[index] = fold;
        let spec = SnapshotSpec { checkpoint: barrier.checkpoint, base: barrier.base, fold };
        for (_, table) in task.tables() {
            table.begin(&spec)?;
        }
        Ok(())
    }

    fn begin(&mut self, barrier: &Barrier) -> Res {
        self.current = None;
        self.newest = Some(barrier.checkpoint);
        let tasks = self.parts.len();
        let key = self.to.home.state_file(self.to.attempt, barrier.checkpoint, self.to.slot, 0);
        let (blocks, to_write) = channel();
        let (finish, to_seal) = channel();
        let under_way = Arc::new(AtomicU64::new(0));
        let waiting = Arc::clone(&under_way);
        let writer = DeltaWriter::new(
            self.to.max,
            Box::new(move |block| {
                waiting.fetch_add(block.len() as u64, Ordering::AcqRel);
                blocks.send(block).map_err(|_| Fail::from("the snapshot's writer is gone"))
            }),
        );
        let to_write = Blocks {
            blocks: to_write,
            under_way: Arc::clone(&under_way),
            signal: Arc::clone(&self.to.signal),
        };
        self.start_side_job(barrier, key.clone(), to_write, to_seal);
        self.current = Some(Draining {
            barrier: barrier.clone(),
            passed: vec![false; tasks],
            drained: vec![false; tasks],
            ended: vec![false; tasks],
            in_flight: Recorded::default(),
            tries: self.outgoing.iter().map(|_| Tries::default()).collect(),
            folds: vec![KeyGroupRange { start: 0, end: 0 }; tasks],
            open: None,
            writer,
            key,
            finish,
            under_way,
        });
        Ok(())
    }

    /// Drains for a bounded time; true if there is more to do at once.
    pub fn turn(&mut self, tasks: &mut [Box<dyn Task>]) -> Res<bool> {
        self.overtake();
        let Some(current) = &mut self.current else { return Ok(false) };
        if current.under_way.load(Ordering::Acquire) > self.to.most_under_way {
            // The side job wakes the slot.
            return Ok(false);
        }
        let (index, table_index) = match current.open {
            Some(open) => open,
            None => {
                let ready = |i: &usize| current.passed[*i] && !current.drained[*i];
                match (0..tasks.len()).find(ready) {
                    Some(task) => (task, 0),
                    None => {
                        if current.drained.iter().all(|d| *d) {
                            if self.waits_for_leave() {
                                return Ok(false);
                            }
                            self.seal(tasks)?;
                            return Ok(true);
                        }
                        return Ok(false);
                    }
                }
            }
        };
        let task = &mut tasks[index];
        let uid = task.uid().clone();
        let mut tables = task.tables();
        let count = tables.len();
        let Some((state, table)) = tables.get_mut(table_index) else {
            current.drained[index] = true;
            current.open = None;
            return Ok(true);
        };
        if current.open.is_none() || current.open != Some((index, table_index)) {
            current.writer.section(&uid, state, &table.schema()?)?;
        }
        current.open = Some((index, table_index));
        if table.drain(&mut current.writer, TURN_ENTRIES)? {
            if table_index + 1 < count {
                let (state, table) = &mut tables[table_index + 1];
                current.writer.section(&uid, state, &table.schema()?)?;
                current.open = Some((index, table_index + 1));
            } else {
                current.open = None;
                current.drained[index] = true;
            }
        }
        Ok(true)
    }

    /// Whether a barrier that may overtake rows is on its way: then this wants to be asked
    /// often.
    pub fn waits(&self) -> bool {
        self.current.as_ref().is_some_and(|c| c.barrier.unaligned_at.is_some())
    }

    /// A checkpoint is complete.
    pub fn completed(&mut self, checkpoint: CheckpointId, tasks: &mut [Box<dyn Task>]) {
        let kept = self.files.split_off(&checkpoint);
        let replaced = std::mem::replace(&mut self.files, kept);
        self.drop_copies(replaced);
        for task in tasks {
            for (_, table) in task.tables() {
                table.completed(checkpoint);
            }
        }
    }

    /// Copies on this machine of files that count for no checkpoint any more.
    fn drop_copies(&self, replaced: BTreeMap<CheckpointId, Extent>) {
        let files = |extents: BTreeMap<CheckpointId, Extent>| -> BTreeSet<ObjectKey> {
            extents.into_values().flat_map(|e| e.files).map(|file| file.key).collect()
        };
        let mut gone = files(replaced);
        gone.retain(|key| !self.files.values().any(|e| e.files.iter().any(|f| f.key == *key)));
        if !gone.is_empty() {
            let store = Arc::clone(&self.to.store);
            self.to.pool.spawn("copies", move || gone.iter().for_each(|key| store.drop_copy(key)));
        }
    }

    /// A checkpoint was given up. What sinks prepared stays for the next one.
    pub fn aborted(&mut self, checkpoint: CheckpointId, tasks: &mut [Box<dyn Task>]) {
        if self.current.as_ref().is_some_and(|c| c.barrier.checkpoint == checkpoint) {
            self.current = None;
        }
        self.newest = self.newest.max(Some(checkpoint));
        for task in tasks {
            for (_, table) in task.tables() {
                table.aborted(checkpoint);
            }
        }
    }
}
