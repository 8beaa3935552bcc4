//! A rolling aggregate: one accumulator per key, its result emitted after every row.

use crate::api::keyed::KeySelector;
use crate::api::window::Aggregate;
use crate::data::{AnyBatch, Fun, Res};
use crate::runtime::emit::Emitter;
use crate::runtime::gate::Marks;
use crate::runtime::operator::{Cursor, Flow, LookAhead, Operator, drive, fetch_ahead, marks_of};
use crate::state::{Plain, StateTable, Table};

/// Name of its state.
pub(crate) const ACC: &str = "accumulator";

/// The operator.
pub(crate) struct Rolling<T, S: KeySelector<T>, A: Aggregate<T>, E> {
    selector: S,
    aggregate: A,
    emit: E,
    table: Table<S::Key, Plain<A::Acc>>,
}

impl<T, S, A, E, O> Rolling<T, S, A, E>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Aggregate<T>,
    E: FnMut(&S::Key, A::Out) -> O + Fun,
    O: Send + 'static,
{
    pub fn new(selector: S, aggregate: A, emit: E, table: Table<S::Key, Plain<A::Acc>>) -> Self {
        Self { selector, aggregate, emit, table }
    }

    fn rows(&mut self, rows: &mut Cursor<'_, '_, T>, out: &mut Emitter<O>) -> Res {
        fetch_ahead(&mut self.table, &self.selector, rows)?;
        let mut ahead = LookAhead::default();
        while !out.blocked() {
            ahead.step(&self.table, rows);
            let Some((ts, hash, row)) = rows.next() else { break };
            let Self { selector, aggregate, emit, table } = self;
            selector.with(&row, |key| {
                let acc = table.get_or_insert_with(hash, key, || Plain(aggregate.create()));
                aggregate.add(&mut acc.0, &row);
                out.emit(ts, emit(key, aggregate.result(&acc.0)))
            })?;
        }
        self.table.tend();
        Ok(())
    }
}

impl<T, S, A, E, O> Operator for Rolling<T, S, A, E>
where
    T: Send + 'static,
    S: KeySelector<T>,
    A: Aggregate<T>,
    E: FnMut(&S::Key, A::Out) -> O + Fun,
    O: Send + 'static,
{
    type Out = O;

    fn inputs() -> Vec<Marks> {
        vec![marks_of::<T>]
    }

    fn batch(&mut self, _: usize, batch: &mut dyn AnyBatch, out: &mut Emitter<O>) -> Res<Flow> {
        drive(self, batch, out, Self::rows, |op, w, out| op.watermark(w, out))
    }

    fn tables(&mut self) -> Vec<(&'static str, &mut dyn StateTable)> {
        vec![(ACC, &mut self.table)]
    }
}
