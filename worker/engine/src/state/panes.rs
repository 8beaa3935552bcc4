//! One table for each namespace: the panes of windows. Pure.

use super::row::Row;
use super::segment::Epochs;
use super::table::Table;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroupRange, MaxParallelism};

/// Tables in order of their namespace (a pane's start, say).
pub struct PaneTables<K, R> {
    pub(super) max: MaxParallelism,
    pub(super) range: KeyGroupRange,
    /// Ordered by namespace.
    pub(super) panes: Vec<(i64, Table<K, R>)>,
    /// Index of the pane asked for last.
    pub(super) last: usize,
    pub(super) dead_before: i64,
    pub(super) epochs: Epochs,
}

impl<K: Key, R: Row> PaneTables<K, R> {
    /// No panes yet, for the groups in `range`, of `max`.
    pub fn new(max: MaxParallelism, range: KeyGroupRange) -> Self {
        let (panes, epochs) = (Vec::new(), Epochs::new());
        Self { max, range, panes, last: 0, dead_before: i64::MIN, epochs }
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
                let mut table = Table::new(self.max, self.range);
                table.epochs = self.epochs.clone();
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
    pub fn fire(&mut self, namespace: i64, limit: usize, f: impl FnMut(K, R, u64)) -> bool {
        let doomed = namespace < self.dead_before;
        match self.get_mut(namespace) {
            Some(table) => table.consume(limit, doomed, f),
            None => true,
        }
    }

    /// Drops a pane with its rows.
    pub fn drop_pane(&mut self, namespace: i64) {
        let _ = namespace; // skeleton
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
        self.panes.iter().map(|(_, t)| t.bytes()).sum()
    }

    /// Housekeeping, to be called once per batch.
    #[inline]
    pub fn tend(&mut self) {
        if let Some((_, table)) = self.panes.get_mut(self.last) {
            table.tend();
        }
    }
}
