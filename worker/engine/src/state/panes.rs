//! One table for each namespace: the panes of windows. Pure but for the tier.

mod below;

use super::delta::{DeltaWriter, StateSchema};
use super::kept::Kept;
use super::reader::Block;
use super::row::Row;
use super::segment::Epochs;
use super::snapshot::{Sizes, SnapshotError, SnapshotSpec, StateTable};
use super::table::Table;
use crate::data::{Res, Ts};
use below::Below;
use millrace_protocol::ids::CheckpointId;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};
use millrace_protocol::shape::ShapeError;

/// Tables in order of their namespace (a pane's start, say).
pub struct PaneTables<K, R> {
    pub(super) max: MaxParallelism,
    pub(super) range: KeyGroupRange,
    /// Ordered by namespace.
    pub(super) panes: Vec<(i64, Table<K, R>)>,
    /// Index of the pane asked for last.
    pub(super) last: usize,
    tended: usize,
    pub(super) dead_before: i64,
    /// What a new pane begins with.
    pub(super) epochs: Epochs,
    pub(super) draining: Option<PanesDraining>,
    /// An emptied table, whose memory the next pane gets.
    pub(super) spare: Option<Table<K, R>>,
    /// What lies below all of them, if anything does.
    below: Option<Below>,
}

/// A snapshot of all panes.
pub(super) struct PanesDraining {
    pub checkpoint: CheckpointId,
    pub whole: KeyGroupRange,
    /// What the section says; panes may die while it drains.
    pub dead_before: i64,
}

impl<K: Key, R: Row> PaneTables<K, R> {
    /// No panes yet, for the groups in `range`, of `max`.
    pub fn new(max: MaxParallelism, range: KeyGroupRange) -> Self {
        Self {
            max,
            range,
            panes: Vec::new(),
            last: 0,
            tended: 0,
            dead_before: i64::MIN,
            epochs: Epochs::new(),
            draining: None,
            spare: None,
            below: None,
        }
    }

    /// The table of a namespace, made if there is none.
    #[inline]
    pub fn pane(&mut self, namespace: i64) -> &mut Table<K, R> {
        match self.panes.get(self.last) {
            Some((ns, _)) if *ns == namespace => {}
            _ => self.last = self.find_or_make(namespace),
        }
        &mut self.panes[self.last].1
    }

    #[cold]
    fn find_or_make(&mut self, namespace: i64) -> usize {
        match self.panes.binary_search_by_key(&namespace, |(ns, _)| *ns) {
            Ok(at) => at,
            Err(at) => {
                let spare = self.spare.take();
                let mut table = spare.unwrap_or_else(|| Table::new(self.max, self.range));
                table.epochs = self.epochs.clone();
                table.epochs.draining = None;
                self.put_above(namespace, &mut table);
                self.panes.insert(at, (namespace, table));
                at
            }
        }
    }

    /// The table of a namespace, if there is one.
    pub fn get(&self, namespace: i64) -> Option<&Table<K, R>> {
        let at = self.panes.binary_search_by_key(&namespace, |(ns, _)| *ns).ok()?;
        self.panes.get(at).map(|(_, table)| table)
    }

    /// The table of a namespace to be changed, if there is one.
    pub fn get_mut(&mut self, namespace: i64) -> Option<&mut Table<K, R>> {
        let at = self.panes.binary_search_by_key(&namespace, |(ns, _)| *ns).ok()?;
        self.panes.get_mut(at).map(|(_, table)| table)
    }

    /// The lowest namespace that has rows.
    pub fn first(&self) -> Option<i64> {
        self.namespaces().next()
    }

    /// The namespaces that have rows, in order.
    pub fn namespaces(&self) -> impl Iterator<Item = i64> {
        self.panes.iter().filter(|(_, t)| !t.is_empty()).map(|(ns, _)| *ns)
    }

    /// Declares that what was written below `namespace` until now is dead once
    /// it is consumed or dropped: no tombstones are written for it. To be set
    /// before panes are fired. Only increases.
    pub fn set_dead_before(&mut self, namespace: i64) {
        self.dead_before = self.dead_before.max(namespace);
    }

    /// See [`PaneTables::set_dead_before`].
    pub fn dead_before(&self) -> i64 {
        self.dead_before
    }

    /// Takes rows out of a pane, at most `limit`, in order of key group, hash and
    /// key; answers whether that was the last, and the pane is gone. To be
    /// called until then; in between that pane must not be written to, and no
    /// snapshot begun.
    pub fn fire(&mut self, namespace: i64, limit: usize, f: impl FnMut(K, R, u64)) -> Res<bool> {
        let doomed = namespace < self.dead_before;
        let Some(table) = self.get_mut(namespace) else { return Ok(true) };
        let done = table.consume(limit, doomed, f)?;
        if done {
            self.retire(namespace);
            self.forget()?;
        }
        Ok(done)
    }

    /// Drops a pane with its rows.
    pub fn drop_pane(&mut self, namespace: i64) -> Res {
        let doomed = namespace < self.dead_before;
        let Some(table) = self.get_mut(namespace) else { return Ok(()) };
        table.discard(doomed)?;
        self.retire(namespace);
        self.forget()
    }

    /// Removes an empty pane, unless a snapshot or tombstones still need it. Its
    /// memory serves the next new pane, if there is no tier.
    fn retire(&mut self, namespace: i64) {
        let Ok(at) = self.panes.binary_search_by_key(&namespace, |(ns, _)| *ns) else { return };
        let table = &self.panes[at].1;
        if !table.is_empty() || table.epochs.draining.is_some() {
            return;
        }
        if namespace >= self.dead_before && table.has_dead() {
            return;
        }
        let (_, mut table) = self.panes.remove(at);
        self.last = 0;
        // With a tier memory is short: others may have it.
        if self.below.is_none() {
            table.recycle();
            self.spare = Some(table);
        }
    }

    /// Removes panes that were kept for a snapshot or for tombstones only.
    fn retire_all(&mut self) {
        let empty: Vec<i64> =
            self.panes.iter().filter(|(_, t)| t.is_empty()).map(|(ns, _)| *ns).collect();
        empty.into_iter().for_each(|namespace| self.retire(namespace));
    }

    /// Number of rows of all panes.
    pub fn len(&self) -> usize {
        self.panes.iter().map(|(_, t)| t.len()).sum()
    }

    /// Whether no pane has a row.
    pub fn is_empty(&self) -> bool {
        self.panes.iter().all(|(_, t)| t.is_empty())
    }

    /// Approximate bytes of memory held.
    pub fn bytes(&self) -> usize {
        let spare = self.spare.as_ref().map_or(0, Table::bytes);
        spare + self.panes.iter().map(|(_, t)| t.bytes()).sum::<usize>()
    }

    /// Housekeeping, to be called once per batch.
    #[inline]
    pub fn tend(&mut self) {
        if self.below.is_some() {
            self.tend_below();
        }
        if let Some((_, table)) = self.panes.get_mut(self.last) {
            table.tend_segments();
        }
        if self.panes.len() > 1 {
            // Rows of a batch may be of several panes: the others take turns.
            self.tended = if self.tended + 1 < self.panes.len() { self.tended + 1 } else { 0 };
            self.panes[self.tended].1.tend_segments();
        }
    }
}

impl<K: Key, R: Row> StateTable for PaneTables<K, R> {
    fn schema(&self) -> Result<StateSchema, ShapeError> {
        Ok(StateSchema { panes: true, ..Table::<K, R>::new(self.max, self.range).schema()? })
    }

    fn begin(&mut self, spec: &SnapshotSpec) -> Res {
        if self.panes.iter().any(|(_, t)| t.firing.is_some()) {
            return Err(SnapshotError::Firing { checkpoint: spec.checkpoint }.into());
        }
        if let Some(PanesDraining { checkpoint: draining, .. }) = self.draining {
            let next = spec.checkpoint;
            return Err(SnapshotError::StillDraining { next, draining }.into());
        }
        self.retire_all();
        self.forget()?;
        // Of panes that have been written to again: nothing is owed of them any more.
        self.panes.iter_mut().for_each(|(_, table)| table.drop_consumed());
        self.epochs.begin(spec, self.range.start)?;
        let owing = self.epochs.draining.take().map(|d| d.owing);
        let whole = owing.map_or(self.range, |o| o.whole(self.range));
        let (checkpoint, dead_before) = (spec.checkpoint, self.dead_before);
        self.draining = Some(PanesDraining { checkpoint, whole, dead_before });
        // A pane made anew below `dead_before` is written whole each time, because
        // its entries in older files are taken for dead.
        let anew = SnapshotSpec { base: None, ..spec.clone() };
        self.panes.iter_mut().try_for_each(|(namespace, table)| {
            table.begin(if *namespace < dead_before { &anew } else { spec })
        })
    }

    fn drain(&mut self, out: &mut DeltaWriter, budget: usize) -> Res<bool> {
        let Some(draining) = &self.draining else { return Ok(true) };
        out.covers(self.range, draining.whole, draining.dead_before);
        let mut left = budget;
        for (namespace, table) in &mut self.panes {
            if !table.is_draining() {
                continue;
            }
            out.namespace(*namespace)?;
            if !table.walk(out, &mut left)? {
                return Ok(false);
            }
        }
        self.draining = None;
        self.retire_all();
        self.forget()?;
        Ok(true)
    }

    fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    fn completed(&mut self, checkpoint: CheckpointId) {
        self.epochs.completed(checkpoint);
        self.panes.iter_mut().for_each(|(_, table)| table.completed(checkpoint));
        self.checkpoint_ended(true);
        self.retire_all();
    }

    fn aborted(&mut self, checkpoint: CheckpointId) {
        self.epochs.aborted(checkpoint);
        self.draining.take_if(|d| d.checkpoint == checkpoint);
        self.panes.iter_mut().for_each(|(_, table)| table.aborted(checkpoint));
        self.checkpoint_ended(false);
        self.retire_all();
    }

    fn keep(&mut self, checkpoint: CheckpointId) -> Option<Box<dyn Kept>> {
        self.keep_rows(checkpoint)
    }

    fn adopt(&mut self, kept: Box<dyn Kept>) -> Res {
        self.adopt_rows(kept)
    }

    fn expect(&mut self, namespace: i64, groups: KeyGroupRange, entries: u64) {
        self.pane(namespace).make_room(groups, entries);
    }

    fn load(&mut self, block: &Block<'_>) -> Res {
        self.pane(block.namespace).load_block(block)
    }

    fn restored(&mut self, checkpoint: Option<CheckpointId>) {
        self.epochs.restored(checkpoint);
        self.panes.iter_mut().for_each(|(_, table)| table.restored(checkpoint));
        self.retire_all();
    }

    fn sweep(&mut self, now: Ts, budget: usize) -> usize {
        let each = budget / self.panes.len().max(1) + 1;
        self.panes.iter_mut().map(|(_, table)| table.sweep(now, each)).sum()
    }

    fn sizes(&self) -> Sizes {
        let sizes = self.panes.iter().map(|(_, table)| table.sizes());
        let Sizes { keys, spilled, .. } = sizes.fold(Sizes::default(), Sizes::plus);
        Sizes { keys, memory: self.bytes() as u64, spilled }
    }
}
