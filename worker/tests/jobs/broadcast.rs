//! Rows that go to several subtasks on other workers.

use crate::common::{assert_same, multiset, options, run_watched};
use millrace::connectors::{Collected, Generator};
use millrace::engine::coordinator::Outcome;
use millrace::engine::job::Handle;
use millrace::prelude::*;
use serde::{Deserialize, Serialize, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};

const ROWS: u64 = 20_000;

/// How often a row was encoded.
static ENCODED: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Deserialize)]
struct Counted(u64);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        to.serialize_newtype_struct("Counted", &self.0)
    }
}

#[test]
fn rows_for_several_subtasks_elsewhere_are_encoded_once() {
    let storage = tempfile::tempdir().unwrap();
    let out = Collected::new();
    let env = Env::new();
    let source = Generator::new(Counted).count(ROWS).splits(1);
    env.source("rows", source, Watermarks::monotonous(|row: &Counted| row.0 as i64))
        .parallelism(1)
        .broadcast_all()
        .parallelism(6)
        .map(|row| row.0)
        .sink("out", out.sink());
    let mut options = options(storage.path(), 6);
    // Of the six subtasks two are where the rows come from.
    options.loopback = Some(3);
    let ended = run_watched(&Handle::new(env.into_graph()), options).unwrap();
    assert_eq!(ended, Outcome::Finished);
    let everywhere = (0..ROWS).flat_map(|row| [row; 6]);
    assert_same(&multiset(out.rows()), &multiset(everywhere), "each row, six times");
    assert_eq!(ENCODED.load(Ordering::Relaxed), ROWS);
}
