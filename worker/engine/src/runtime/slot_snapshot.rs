//! A slot's part of checkpoints: one file of changed entries, list states, and what
//! sinks prepared.
//!
//! Tables are frozen as their tasks pass the barrier, and drained in bounded turns
//! between rounds. Blocks go to a side job, which writes the file, then runs the sinks'
//! sealing work, and acknowledges. Side jobs of a slot follow one another, so that
//! answers come in the order of checkpoints.

use crate::coordinator::{
    Event, Failure, PreparedCommit, SlotSnapshot, SnapshotStats, SubtaskState,
};
use crate::data::{Fail, Res, TS_MIN};
use crate::runtime::channel::Channel;
use crate::runtime::flight::{Recorded, Sealed, Tries};
use crate::runtime::pool::Pool;
use crate::runtime::signal::Signal;
use crate::runtime::slot::{Report, Tell};
use crate::runtime::snapshot::{Barrier, ListBlob, PrepareJob, SnapshotParts};
use crate::runtime::source::wall_clock;
use crate::runtime::task::Task;
use crate::state::SnapshotSpec;
use crate::state::delta::{DeltaWriter, Written};
use crate::state::fold::Folding;
use crate::store::{ObjectStore, StoreError};
use millrace_protocol::ids::{Attempt, CheckpointId, Slot, Subtask, Uid};
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::manifest::{FileOrder, FileRef, ListPart, ListState, Section, When};
use millrace_protocol::objects::{Home, ObjectKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Entries looked at in one turn: about half a millisecond.
const TURN_ENTRIES: usize = 4096;

/// With more files than this, a part of the key groups is folded at every checkpoint,
/// however little changes: so their number stays bounded.
const MANY_FILES: usize = 64;

/// Number of the file of rows in flight among a slot's files of a checkpoint.
const ROWS_IN_FLIGHT: u32 = 1;

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

/// What the side job needs once all is drained.
struct Seal {
    written: Written,
    files: Vec<FileRef>,
    own: Option<FileRef>,
    operators: BTreeMap<Uid, SubtaskState>,
    /// What the barrier overtook, and where that is to go.
    in_flight: (Recorded, ObjectKey),
    prepare: Vec<(Uid, PrepareJob)>,
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

    /// Bytes of rows that there is room for in the checkpoint under way.
    pub fn room(&self) -> usize {
        let taken = self.current.as_ref().map_or(0, |c| c.in_flight.bytes());
        self.to.most_in_flight.saturating_sub(taken)
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

    /// The key groups that a task writes whole.
    fn fold(&mut self, index: usize, barrier: &Barrier, live: u64) -> KeyGroupRange {
        let range = self.groups[index];
        let Some(base) = barrier.base else { return range };
        let folding = self.foldings.entry(index).or_insert_with(|| Folding::new(range));
        let turn = folding.turn(self.last_written, live);
        let files = self.files.get(&base).map_or(0, |e| e.files.len());
        if files > MANY_FILES { self.sweep_fold(index, turn) } else { turn }
    }

    /// At least a sixteenth of a task's key groups, in turn.
    fn sweep_fold(&mut self, index: usize, turn: KeyGroupRange) -> KeyGroupRange {
        let range = self.groups[index];
        let share = range.len().div_ceil(16);
        if turn.len() >= share {
            return turn;
        }
        let next = self.swept.entry(index).or_insert(range.start);
        let start = if *next >= range.end { range.start } else { *next };
        let end = start.saturating_add(share).min(range.end);
        *next = end;
        KeyGroupRange { start, end }
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

    /// Lets the barrier overtake what waits in this process for leave to be sent.
    fn overtake(&mut self) {
        let mut room = self.room();
        let Some(current) = &mut self.current else { return };
        if !current.barrier.may_overtake(wall_clock()) {
            return;
        }
        let checkpoint = current.barrier.checkpoint;
        for (channel, tries) in self.outgoing.iter().zip(&mut current.tries) {
            if channel.announced().is_none_or(|b| b.checkpoint != checkpoint) {
                continue;
            }
            let rows = channel.rows_before(checkpoint);
            if !tries.again(checkpoint, rows) {
                continue;
            }
            match channel.put_in_front(checkpoint, room) {
                Ok(overtaken) => {
                    room = room.saturating_sub(overtaken.bytes());
                    current.in_flight.append(overtaken);
                }
                Err(why) => {
                    if tries.failed(checkpoint, rows) {
                        let slot = self.to.slot;
                        tracing::info!(%checkpoint, %slot, rows, %why, "a barrier waits for rows");
                    }
                }
            }
        }
    }

    /// Whether the barrier is among rows that wait for leave to be sent, and may yet
    /// overtake them.
    fn waits_for_leave(&self) -> bool {
        let Some(current) = &self.current else { return false };
        let checkpoint = current.barrier.checkpoint;
        self.outgoing.iter().any(|c| c.announced().is_some_and(|b| b.checkpoint == checkpoint))
    }

    /// All tasks have passed and all tables are drained.
    fn seal(&mut self, tasks: &mut [Box<dyn Task>]) -> Res {
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
        for (ended, parts) in current.ended.into_iter().zip(&mut self.parts) {
            let parts = std::mem::take(parts);
            for list in parts.lists {
                let operator = operators
                    .entry(list.uid.clone())
                    .or_insert_with(|| empty_state(&list.uid, slot));
                // A task that passed the barrier of an aborted checkpoint too has put it twice.
                operator.lists.retain(|l| l.name != list.state);
                operator.lists.push(list_state(list, slot));
            }
            for (uid, watermark) in parts.watermarks {
                let operator =
                    operators.entry(uid.clone()).or_insert_with(|| empty_state(&uid, slot));
                operator.watermark = Some(watermark).filter(|w| *w != TS_MIN);
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

    fn start_side_job(
        &mut self,
        barrier: &Barrier,
        key: ObjectKey,
        blocks: Blocks,
        seal: Receiver<Seal>,
    ) {
        let (done, next_previous) = channel::<()>();
        let previous = self.previous.replace(next_previous);
        let (store, reports) = (Arc::clone(&self.to.store), Arc::clone(&self.to.reports));
        let (slot, attempt, checkpoint) = (self.to.slot, self.to.attempt, barrier.checkpoint);
        self.to.pool.spawn("snapshot", move || {
            let written = write_file(store.as_ref(), &key, &blocks);
            // What cannot be written is not kept either, nor does the slot wait for it.
            let _ = blocks.each(|_| Ok::<(), ()>(()));
            if let Some(previous) = previous {
                // Ends when the job before is done, and with it its sender dropped.
                let _ = previous.recv();
            }
            if let Ok(seal) = seal.recv() {
                let event = answer(slot, attempt, checkpoint, (store.as_ref(), written), seal);
                reports(Report::Event(event));
            }
            drop(done);
        });
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

fn empty_state(uid: &Uid, slot: Slot) -> SubtaskState {
    SubtaskState {
        operator: uid.clone(),
        subtask: Subtask(slot.0),
        lists: Vec::new(),
        watermark: None,
        ended: false,
    }
}

fn list_state(list: ListBlob, slot: Slot) -> ListState {
    ListState {
        name: list.state,
        shape: list.shape,
        redistribution: list.redistribution,
        parts: vec![ListPart { subtask: Subtask(slot.0), items: list.items }],
    }
}

/// Takes `fold` out of what older files count for.
fn clip(files: &mut Vec<FileRef>, operator: &Uid, fold: KeyGroupRange) {
    if fold.is_empty() {
        return;
    }
    for file in files.iter_mut() {
        let mut kept = Vec::with_capacity(file.sections.len());
        for section in file.sections.drain(..) {
            if section.operator != *operator || section.groups.intersect(fold).is_empty() {
                kept.push(section);
                continue;
            }
            let (start, end) = (section.groups.start, section.groups.end);
            for groups in [
                KeyGroupRange { start, end: fold.start.min(end) },
                KeyGroupRange { start: fold.end.max(start), end },
            ] {
                if !groups.is_empty() {
                    kept.push(Section { operator: section.operator.clone(), groups });
                }
            }
        }
        file.sections = kept;
    }
    files.retain(|f| !f.sections.is_empty());
}

/// Blocks of a file on their way to the store.
struct Blocks {
    blocks: Receiver<Vec<u8>>,
    under_way: Arc<AtomicU64>,
    signal: Arc<Signal>,
}

impl Blocks {
    /// Takes each block as it comes, until `take` fails or there are no more.
    fn each<E>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for block in &self.blocks {
            let taken = take(&block);
            self.under_way.fetch_sub(block.len() as u64, Ordering::AcqRel);
            self.signal.wake(0);
            taken?;
        }
        Ok(())
    }
}

/// An object with all of its blocks, but not there yet.
type Object = Result<Option<Box<dyn crate::store::ObjectWriter>>, StoreError>;

/// Writes the blocks as they come; nothing is left behind if the snapshot was given up.
fn write_file(store: &dyn ObjectStore, key: &ObjectKey, blocks: &Blocks) -> Object {
    let mut writer = None;
    blocks.each(|block| {
        if block.is_empty() {
            return Ok(());
        }
        let open = match &mut writer {
            Some(open) => open,
            None => writer.insert(store.create(key)?),
        };
        open.write(block)
    })?;
    Ok(writer)
}

fn answer(
    slot: Slot,
    attempt: Attempt,
    checkpoint: CheckpointId,
    (store, written): (&dyn ObjectStore, Object),
    mut seal: Seal,
) -> Event {
    let mut prepared = Vec::new();
    for (sink, job) in seal.prepare {
        let bytes = match job() {
            Ok(bytes) => bytes,
            Err(cause) => {
                let failure = Failure {
                    operator: Some(sink.0),
                    subtask: Some(Subtask(slot.0)),
                    cause: format!("could not seal its output: {cause}"),
                };
                return Event::TaskFailed { attempt, failure };
            }
        };
        let commit = |payload, when| PreparedCommit {
            sink: sink.clone(),
            subtask: Subtask(slot.0),
            connector: String::new(),
            options: Vec::new(),
            when,
            payload,
            shape: bytes.shape.clone(),
        };
        // A sink that sealed for an aborted checkpoint too is here twice: what was open
        // then is open still, or closed since.
        prepared.retain(|p: &PreparedCommit| p.sink != sink || p.when == When::Ready);
        prepared.extend(bytes.commit.into_iter().map(|p| commit(p, When::Ready)));
        prepared.extend(bytes.open.into_iter().map(|p| commit(p, When::OnRestore)));
    }
    let stored = written.and_then(|writer| match (writer, &seal.own) {
        (Some(writer), Some(_)) => writer.finish().map(|_| ()),
        (Some(writer), None) => {
            writer.abort();
            Ok(())
        }
        (None, _) => Ok(()),
    });
    let stored = stored.map_err(|error| error.to_string());
    let in_flight = stored.and_then(|()| {
        let order = FileOrder { checkpoint, index: u32::from(slot.0) };
        let (recorded, key) = seal.in_flight;
        keep(recorded.seal(&key, order)?, slot, store, &mut seal.operators)
    });
    let in_flight = match in_flight {
        Ok(file) => file,
        Err(reason) => return Event::Declined { attempt, checkpoint, slot, reason, prepared },
    };
    let bytes = seal.own.iter().chain(&in_flight).map(|file| file.len).sum();
    Event::Acknowledge {
        attempt,
        checkpoint,
        snapshot: SlotSnapshot {
            slot,
            files: seal.files.into_iter().chain(in_flight).collect(),
            operators: seal.operators.into_values().collect(),
            prepared,
            stats: SnapshotStats { bytes, entries: seal.written.entries },
        },
    }
}

/// Writes rows in flight, if there are any, and notes with their operators where they are.
fn keep(
    rows: Option<Sealed>,
    slot: Slot,
    store: &dyn ObjectStore,
    operators: &mut BTreeMap<Uid, SubtaskState>,
) -> Result<Option<FileRef>, String> {
    let Some(rows) = rows else { return Ok(None) };
    rows.write(store).map_err(|error| error.to_string())?;
    for list in rows.lists {
        let operator = operators.entry(list.uid.clone());
        let operator = operator.or_insert_with(|| empty_state(&list.uid, slot));
        operator.lists.push(list_state(list, slot));
    }
    Ok(Some(rows.file))
}
