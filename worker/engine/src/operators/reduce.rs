//! Running reduce: one row per key, emitted after every input row.

use crate::api::keyed::KeySelector;
use crate::data::{AnyBatch, Data, Fun, Res};
use crate::runtime::emit::Emitter;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, LookAhead, Operator, drive, fetch_ahead, marks_of};
use crate::state::{Plain, StateTable, Table};

/// Name of its state.
pub const REDUCED: &str = "reduced";

/// The operator.
pub struct Reduce<T: Data, S: KeySelector<T>, F> {
    selector: S,
    f: F,
    table: Table<S::Key, Plain<T>>,
}

impl<T: Data + Clone, S: KeySelector<T>, F: FnMut(&mut T, T) -> Res + Fun> Reduce<T, S, F> {
    /// Over an empty table.
    pub fn new(selector: S, f: F, table: Table<S::Key, Plain<T>>) -> Self {
        Self { selector, f, table }
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<T>) -> Res {
        fetch_ahead(&mut self.table, &self.selector, rows)?;
        let mut ahead = LookAhead::default();
        while !out.blocked() {
            ahead.step(&self.table, rows);
            let Some((ts, hash, row)) = rows.next() else { break };
            let table = &mut self.table;
            let result = match self.selector.with(&row, |key| table.get_mut(hash, key)) {
                Some(acc) => {
                    (self.f)(&mut acc.0, row)?;
                    acc.0.clone()
                }
                None => {
                    let first = || Plain(row.clone());
                    self.selector.with(&row, |key| table.get_or_insert_with(hash, key, first));
                    row
                }
            };
            out.emit(ts, result)?;
        }
        self.table.tend();
        Ok(())
    }
}

impl<T: Data + Clone, S: KeySelector<T>, F: FnMut(&mut T, T) -> Res + Fun> Operator
    for Reduce<T, S, F>
{
    type Out = T;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<T>]
    }

    fn batch(&mut self, _: usize, batch: &mut dyn AnyBatch, out: &mut Emitter<T>) -> Res<Flow> {
        drive(self, batch, out, Self::rows, |op, w, out| op.watermark(w, out))
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        vec![(REDUCED, &mut self.table)]
    }
}
