//! Every interleaving of a few appends, with every fate of every put, and a
//! truncation by whoever is ahead: at most one record is won per version, and
//! a record is won only if it is the chain's.

use super::world::home;
use crate::coordinator::chain::{Append, Chain, Next, Truncate, Verdict};
use crate::coordinator::effect::StoreCall;
use crate::coordinator::event::StoreAnswer;
use crate::store::{Certainty, Fault, StoreError};
use millrace_protocol::head::{ConfigRef, HeadRecord, Nonce, Owner, Phase, RestartBudget, Version};
use millrace_protocol::ids::{Attempt, CheckpointId};
use millrace_protocol::objects::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

thread_local! {
    static SKIP_FLOOR: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn chain() -> Chain {
    Chain { home: home(), block: 2, skip_floor: SKIP_FLOOR.get() }
}

fn record(version: u64, writer: u64) -> HeadRecord {
    HeadRecord {
        format: 1,
        version: Version(version),
        nonce: Nonce::new(version, writer),
        job: home().job().clone(),
        attempt: Attempt(writer),
        owner: Owner::default(),
        phase: Phase::Running,
        cause: None,
        config: ConfigRef::default(),
        latest: None,
        origin: None,
        last_checkpoint: CheckpointId(0),
        retained: Vec::new(),
        pins: Vec::new(),
        restart: RestartBudget::default(),
        restore_nonce: 0,
    }
}

/// A writer that appends from `next` up to `last`, and truncates when it may.
#[derive(Debug, Clone)]
struct Writer {
    id: u64,
    append: Option<(Append, u64)>,
    call: Option<StoreCall>,
    last: u64,
    truncate: Option<(Truncate, StoreCall)>,
    truncated: u64,
}

#[derive(Debug, Clone)]
struct State {
    objects: BTreeMap<ObjectKey, Arc<[u8]>>,
    /// First entry of each version that was put where no floor was.
    truth: BTreeMap<u64, Arc<[u8]>>,
    late: Vec<(ObjectKey, Arc<[u8]>)>,
    writers: Vec<Writer>,
    won: BTreeMap<u64, u64>,
    faults: u32,
}

fn unknown() -> StoreAnswer {
    StoreAnswer::Error(StoreError {
        action: "write",
        object: String::new(),
        certainty: Certainty::Unknown,
        fault: Fault::Other,
        reason: String::new(),
    })
}

impl Writer {
    fn begin(&mut self, version: u64) {
        if version > self.last {
            (self.append, self.call) = (None, None);
            return;
        }
        let (append, call) = Append::begin(&chain(), &record(version, self.id)).unwrap();
        (self.append, self.call) = (Some((append, version)), Some(call));
    }

    fn answered(
        &mut self,
        answer: &StoreAnswer,
        won: &mut BTreeMap<u64, u64>,
        truth: &BTreeMap<u64, Arc<[u8]>>,
    ) {
        let Some((append, version)) = &mut self.append else { return };
        let version = *version;
        match append.answered(answer) {
            Next::Call(call) | Next::Again(call) => self.call = Some(call),
            Next::Done(Verdict::Lost) => (self.append, self.call) = (None, None),
            Next::Done(Verdict::Won) => {
                let other = won.insert(version, self.id);
                assert_eq!(other, None, "version {version} is won twice");
                let mine = record(version, self.id).encode().unwrap();
                assert_eq!(truth.get(&version).map(|b| &b[..]), Some(&mine[..]), "won, not there");
                if let Some(block) = Truncate::highest(&chain(), Version(version))
                    && block >= self.truncated
                {
                    self.truncated = block + 1;
                    self.truncate = Some(Truncate::begin(&chain(), block));
                }
                self.begin(version + 1);
            }
        }
    }
}

impl State {
    fn put(&mut self, key: &ObjectKey, bytes: &Arc<[u8]>) -> StoreAnswer {
        if self.objects.contains_key(key) {
            return StoreAnswer::Exists;
        }
        self.objects.insert(key.clone(), Arc::clone(bytes));
        if let Some(millrace_protocol::objects::Object::Head(version)) = home().parse(key)
            && !self.objects.contains_key(&home().floor(version.0 / 2))
        {
            self.truth.entry(version.0).or_insert_with(|| Arc::clone(bytes));
        }
        StoreAnswer::Created
    }

    fn apply(&mut self, call: &StoreCall) -> StoreAnswer {
        match call {
            StoreCall::PutIfAbsent { key, bytes } => self.put(key, bytes),
            StoreCall::Get { key } => StoreAnswer::Got(self.objects.get(key).cloned()),
            StoreCall::Delete { keys } => {
                keys.iter().for_each(|key| drop(self.objects.remove(key)));
                StoreAnswer::Deleted
            }
            _ => unreachable!(),
        }
    }

    /// All states one move away.
    fn moves(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for at in 0..self.writers.len() {
            if let Some(call) = self.writers[at].call.clone() {
                let mut fine = self.clone();
                let answer = fine.apply(&call);
                fine.answer(at, &answer);
                next.push(fine);
                if self.faults > 0 {
                    self.faulty(at, &call, &mut next);
                }
            }
            if let Some((mut truncate, call)) = self.writers[at].truncate.clone() {
                let mut fine = self.clone();
                let answer = fine.apply(&call);
                fine.writers[at].truncate = match truncate.answered(&answer) {
                    Next::Call(call) | Next::Again(call) => Some((truncate, call)),
                    Next::Done(()) => None,
                };
                next.push(fine);
            }
        }
        for at in 0..self.late.len() {
            let mut arrived = self.clone();
            let (key, bytes) = arrived.late.swap_remove(at);
            arrived.put(&key, &bytes);
            next.push(arrived);
        }
        next
    }

    fn answer(&mut self, at: usize, answer: &StoreAnswer) {
        let (won, truth) = (&mut self.won, &self.truth);
        self.writers[at].answered(answer, won, truth);
    }

    fn faulty(&self, at: usize, call: &StoreCall, next: &mut Vec<Self>) {
        let mut lost = self.clone();
        lost.faults -= 1;
        let StoreCall::PutIfAbsent { key, bytes } = call else { return };
        let (mut late, mut doubled) = (lost.clone(), lost.clone());
        lost.apply(call);
        lost.answer(at, &unknown());
        next.push(lost);
        late.late.push((key.clone(), Arc::clone(bytes)));
        late.answer(at, &unknown());
        next.push(late);
        let answer = doubled.apply(call);
        doubled.late.push((key.clone(), Arc::clone(bytes)));
        doubled.answer(at, &answer);
        next.push(doubled);
    }

    fn key(&self) -> String {
        let Self { objects, late, writers, won, faults, .. } = self;
        let objects: Vec<_> = objects.iter().map(|(k, v)| (k.as_str(), nonce(v))).collect();
        let late: BTreeSet<_> = late.iter().map(|(k, v)| (k.as_str(), nonce(v))).collect();
        let writers: Vec<_> = writers
            .iter()
            .map(|w| {
                let call = w.call.as_ref().map(|c| format!("{c:?}").len());
                let kind = w.call.as_ref().map(std::mem::discriminant);
                let key = match &w.call {
                    Some(StoreCall::Get { key } | StoreCall::PutIfAbsent { key, .. }) => {
                        key.as_str()
                    }
                    _ => "",
                };
                let version = w.append.as_ref().map(|a| a.1);
                let truncate = w.truncate.as_ref().map(|t| std::mem::discriminant(&t.1));
                format!("{call:?} {kind:?} {key} {version:?} {truncate:?} {}", w.truncated)
            })
            .collect();
        format!("{objects:?} {late:?} {writers:?} {won:?} {faults}")
    }
}

/// Who wrote a record; enough to tell states apart.
fn nonce(bytes: &[u8]) -> Option<String> {
    HeadRecord::decode("", bytes).ok().map(|record| record.nonce.0)
}

/// Walks all states; answers how many there are.
fn explore(writers: &[(u64, u64)], faults: u32) -> usize {
    let writer = |(id, (first, last)): (usize, &(u64, u64))| {
        let mut writer = Writer {
            id: id as u64,
            append: None,
            call: None,
            last: *last,
            truncate: None,
            truncated: 0,
        };
        writer.begin(*first);
        writer
    };
    let start = State {
        objects: BTreeMap::new(),
        truth: BTreeMap::new(),
        late: Vec::new(),
        writers: writers.iter().enumerate().map(writer).collect(),
        won: BTreeMap::new(),
        faults,
    };
    let mut seen = BTreeSet::from([start.key()]);
    let mut todo = vec![start];
    while let Some(state) = todo.pop() {
        for next in state.moves() {
            if seen.insert(next.key()) {
                todo.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn three_racers_for_two_versions() {
    let states = explore(&[(1, 2), (1, 2), (1, 1)], 3);
    println!("{states} states");
    assert!(states > 1000);
}

/// One writer gets far enough to truncate what the other is about to append to.
#[test]
fn a_zombie_and_a_truncation() {
    let states = explore(&[(1, 5), (1, 2)], 3);
    println!("{states} states");
    assert!(states > 1000);
}

#[test]
#[should_panic(expected = "won")]
fn without_the_floor_a_zombie_would_believe_that_it_won() {
    SKIP_FLOOR.set(true);
    explore(&[(1, 5), (1, 2)], 0);
}
