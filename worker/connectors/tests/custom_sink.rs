//! A two-phase sink of one's own, worked out: a ledger service that takes rows
//! in named transactions.
//!
//! What there is to decide:
//! - **Names**: everything that is left outside carries job, sink, attempt,
//!   subtask and a counter, so that leftovers are found and none is met twice.
//! - **Prepare**: after it nothing may be able to fail but the network. The slow
//!   part goes into the closure; the acknowledgement waits for it.
//! - **Commit**: by name, again and again, and honest: a transaction that is
//!   unknown is [`Committed::Lost`], never a silent success.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use millrace_connectors::contract::{self, Guarantee, SinkUnderTest};
use millrace_engine::connector::{Committed, Committer, Pending, Prepared, Sink, SinkCx, Writer};
use millrace_engine::data::{Res, Rows};
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// The far end. It remembers which transactions it has committed.
#[derive(Default)]
struct Ledger {
    staged: BTreeMap<String, Vec<u64>>,
    committed: BTreeSet<String>,
    rows: Vec<u64>,
}

/// The sink itself holds only what it takes to connect.
#[derive(Clone, Default)]
struct LedgerSink(Arc<Mutex<Ledger>>);

/// What a checkpoint stores: enough to commit from any process, at any later time.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Transaction {
    name: String,
}

impl Sink<u64> for LedgerSink {
    type Commit = Transaction;
    type Writer = LedgerWriter;
    type Committer = LedgerCommitter;

    fn writer(&self, cx: SinkCx) -> Res<LedgerWriter> {
        Ok(LedgerWriter { sink: self.clone(), cx, next: 0, rows: Vec::new() })
    }

    fn committer(&self, job: &JobUid, uid: &Uid) -> Res<LedgerCommitter> {
        Ok(LedgerCommitter { sink: self.clone(), prefix: prefix(job, uid) })
    }
}

fn prefix(job: &JobUid, uid: &Uid) -> String {
    format!("{job}/{uid}/")
}

struct LedgerWriter {
    sink: LedgerSink,
    cx: SinkCx,
    next: u64,
    rows: Vec<u64>,
}

impl Writer<u64, Transaction> for LedgerWriter {
    /// Backpressure: beyond this the input waits for the next barrier.
    fn has_room(&mut self) -> bool {
        self.rows.len() < 100_000
    }

    fn write(&mut self, rows: &mut Rows<u64>) -> Res {
        self.rows.append(&mut rows.values);
        rows.clear();
        Ok(())
    }

    fn prepare(&mut self, _last: bool) -> Res<Pending<Transaction>> {
        if self.rows.is_empty() {
            return Ok(Box::new(|| Ok(Prepared::default())));
        }
        let SinkCx { job, uid, attempt, subtask } = &self.cx;
        let name = format!("{}{attempt}/{subtask}/{}", prefix(job, uid), self.next);
        self.next += 1;
        let (sink, rows) = (self.sink.clone(), std::mem::take(&mut self.rows));
        Ok(Box::new(move || {
            sink.0.lock().unwrap().staged.insert(name.clone(), rows);
            Ok(Prepared { commit: vec![Transaction { name }], open: Vec::new() })
        }))
    }
}

struct LedgerCommitter {
    sink: LedgerSink,
    prefix: String,
}

impl Committer<Transaction> for LedgerCommitter {
    fn commit(&mut self, transaction: &Transaction) -> Res<Committed> {
        let mut ledger = self.sink.0.lock().unwrap();
        let name = &transaction.name;
        if ledger.committed.contains(name) {
            return Ok(Committed::Before);
        }
        let Some(rows) = ledger.staged.remove(name) else {
            return Ok(Committed::Lost(format!("the ledger knows no transaction `{name}`")));
        };
        ledger.rows.extend(rows);
        ledger.committed.insert(name.clone());
        Ok(Committed::Done)
    }

    fn abort_others(&mut self, attempt: Attempt, keep: &[Transaction]) -> Res {
        // Only of this job and sink: the ledger is not ours alone.
        let keep: BTreeSet<&String> = keep.iter().map(|transaction| &transaction.name).collect();
        let mut ledger = self.sink.0.lock().unwrap();
        let earlier = |name: &str| {
            let by = name.strip_prefix(&self.prefix).and_then(|name| name.split('/').next());
            by.and_then(|by| by.parse().ok()).is_some_and(|by: u64| by < attempt.0)
        };
        ledger.staged.retain(|name, _| !earlier(name) || keep.contains(name));
        Ok(())
    }
}

#[test]
fn the_ledger_keeps_the_contract() {
    contract::sink(|| {
        let sink = LedgerSink::default();
        let (ledger, same) = (sink.0.clone(), sink.0.clone());
        SinkUnderTest {
            sink,
            committed: Box::new(move || ledger.lock().unwrap().rows.clone()),
            staged: Box::new(move || same.lock().unwrap().staged.len()),
            guarantee: Guarantee::ExactlyOnce,
        }
    });
}

#[test]
fn a_loss_is_said() {
    let sink = LedgerSink::default();
    let mut committer = sink.committer(&"job".into(), &"ledger".into()).unwrap();
    let gone = Transaction { name: "job/ledger/1/0/0".into() };
    assert!(matches!(committer.commit(&gone).unwrap(), Committed::Lost(_)));
}
