//! What is done with a snapshot beside the slot: its blocks are written, then sinks seal what
//! they prepared, then it is acknowledged.

use super::SlotSnapshots;
use super::sealing::{empty_state, list_state};
use crate::coordinator::{
    Event, Failure, PreparedCommit, SlotSnapshot, SnapshotStats, SubtaskState,
};
use crate::runtime::flight::{Recorded, Sealed};
use crate::runtime::signal::Signal;
use crate::runtime::slot::Report;
use crate::runtime::snapshot::{Barrier, PrepareJob};
use crate::state::delta::Written;
use crate::store::{ObjectStore, StoreError};
use millrace_protocol::ids::{Attempt, CheckpointId, Slot, Subtask, Uid};
use millrace_protocol::manifest::{FileOrder, FileRef, When};
use millrace_protocol::objects::ObjectKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

/// What the side job needs once all is drained.
pub(super) struct Seal {
    pub(super) written: Written,
    pub(super) files: Vec<FileRef>,
    pub(super) own: Option<FileRef>,
    pub(super) operators: BTreeMap<Uid, SubtaskState>,
    /// What the barrier overtook, and where that is to go.
    pub(super) in_flight: (Recorded, ObjectKey),
    pub(super) prepare: Vec<(Uid, PrepareJob)>,
}

/// Blocks of a file on their way to the store.
pub(super) struct Blocks {
    pub(super) blocks: Receiver<Vec<u8>>,
    pub(super) under_way: Arc<AtomicU64>,
    pub(super) signal: Arc<Signal>,
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

impl SlotSnapshots {
    pub(super) fn start_side_job(
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
