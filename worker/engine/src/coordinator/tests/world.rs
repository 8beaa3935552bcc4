//! The model's world: a store, sinks, and an observer that knows the true chain
//! and says what was broken.

use crate::coordinator::effect::StoreCall;
use crate::coordinator::event::StoreAnswer;
use crate::store::{Certainty, Fault, StoreError};
use millrace_protocol::head::{HeadRecord, Phase, Version};
use millrace_protocol::ids::{Attempt, JobUid};
use millrace_protocol::manifest::{Manifest, PendingCommit};
use millrace_protocol::objects::{Home, Object, ObjectKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A staged output: who wrote it, and which of the slot's rows are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Staged {
    pub attempt: u64,
    pub slot: u64,
    pub n: u64,
    pub from: u64,
    pub to: u64,
}

impl Staged {
    fn name(self) -> (u64, u64, u64) {
        (self.attempt, self.slot, self.n)
    }

    pub fn encode(self) -> Vec<u8> {
        [self.attempt, self.slot, self.n, self.from, self.to]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect()
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let n = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
        Self { attempt: n(0), slot: n(1), n: n(2), from: n(3), to: n(4) }
    }
}

/// What a store call in the world may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Fine,
    AnswerLost,
    Vanishes,
    Late,
    Doubled,
    Fails,
}

#[derive(Default)]
pub struct World {
    pub objects: BTreeMap<ObjectKey, Arc<[u8]>>,
    /// Keys as they were, for stale lists.
    pub before: BTreeSet<ObjectKey>,
    /// Calls that may happen at any later time.
    pub limbo: Vec<StoreCall>,
    /// The true chain: entries that were put where no floor was.
    pub chain: BTreeMap<Version, HeadRecord>,
    reach: BTreeSet<ObjectKey>,
    /// Payloads of committables in complete checkpoints.
    listed: BTreeSet<Vec<u8>>,
    staged: BTreeMap<(u64, u64, u64), Staged>,
    committed: BTreeMap<(u64, u64, u64), Staged>,
    pub violation: Option<String>,
    pub block: u64,
    /// Puts into a gap of the chain.
    pub overs: usize,
}

pub fn home() -> Home {
    Home::new(&JobUid::from("job")).unwrap()
}

impl World {
    pub fn new(block: u64) -> Self {
        Self { block, ..Self::default() }
    }

    pub fn broken(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn head(&self) -> Option<&HeadRecord> {
        self.chain.last_key_value().map(|(_, record)| record)
    }

    fn manifest(&self, key: &ObjectKey) -> Option<Manifest> {
        Manifest::decode(key.as_str(), self.objects.get(key)?).ok()
    }

    /// Makes a store call, as `fate` has it.
    pub fn call(&mut self, call: &StoreCall, fate: Fate, stale: bool) -> StoreAnswer {
        let error = |certainty| {
            StoreAnswer::Error(StoreError {
                action: "call",
                object: String::new(),
                certainty,
                fault: Fault::Other,
                reason: "injected".into(),
            })
        };
        match fate {
            Fate::Fine => self.apply(call, stale),
            Fate::AnswerLost => {
                self.apply(call, stale);
                error(Certainty::Unknown)
            }
            Fate::Vanishes => error(Certainty::Unknown),
            Fate::Fails => error(Certainty::Failed),
            Fate::Late => {
                self.limbo.push(call.clone());
                error(Certainty::Unknown)
            }
            Fate::Doubled => {
                self.limbo.push(call.clone());
                self.apply(call, stale)
            }
        }
    }

    pub fn apply(&mut self, call: &StoreCall, stale: bool) -> StoreAnswer {
        match call {
            StoreCall::PutIfAbsent { key, bytes } => {
                if self.objects.contains_key(key) {
                    return StoreAnswer::Exists;
                }
                self.objects.insert(key.clone(), Arc::clone(bytes));
                if let Some(Object::Head(version)) = home().parse(key) {
                    self.head_put(version, bytes);
                }
                StoreAnswer::Created
            }
            StoreCall::Get { key } => StoreAnswer::Got(self.objects.get(key).cloned()),
            StoreCall::List { prefix } => {
                let now: BTreeSet<ObjectKey> = self.objects.keys().cloned().collect();
                let keys = if stale { self.before.clone() } else { now.clone() };
                self.before = now;
                StoreAnswer::Keys(keys.into_iter().filter(|key| prefix.holds(key)).collect())
            }
            // Only what is finished is modelled.
            StoreCall::ListUnfinished { .. } => StoreAnswer::Keys(Vec::new()),
            StoreCall::DiscardUnfinished { .. } => StoreAnswer::Deleted,
            StoreCall::Delete { keys } => {
                for key in keys {
                    if self.reach.contains(key) {
                        self.broken(format!("{key} is deleted, and the head needs it"));
                    }
                    self.objects.remove(key);
                }
                StoreAnswer::Deleted
            }
        }
    }

    /// A data file, by a slot.
    pub fn upload(&mut self, key: ObjectKey, bytes: Vec<u8>) {
        if self.objects.insert(key.clone(), Arc::from(bytes)).is_some() {
            self.broken(format!("{key} is written twice"));
        }
    }

    fn head_put(&mut self, version: Version, bytes: &[u8]) {
        if self.objects.contains_key(&home().floor(version.0 / self.block)) {
            self.overs += 1;
            return; // Into the gap: whoever put it finds the floor.
        }
        let record = HeadRecord::decode("head", bytes).unwrap();
        if let Some(why) = self.what_is_wrong(version, &record) {
            self.broken(format!("entry {version}: {why}"));
        }
        let mut reach = BTreeSet::new();
        for at in record.checkpoints() {
            reach.insert(at.manifest.clone());
            match self.manifest(&at.manifest) {
                None => self.broken(format!("entry {version} names {}, not there", at.manifest)),
                Some(manifest) => {
                    reach.extend(manifest.files.iter().map(|file| file.key.clone()));
                    self.listed.extend(manifest.pending.into_iter().map(|item| item.payload));
                }
            }
        }
        let gone: Vec<_> =
            reach.iter().filter(|key| !self.objects.contains_key(key)).cloned().collect();
        for key in gone {
            self.broken(format!("entry {version} needs {key}, which is not there"));
        }
        self.reach = reach;
        self.chain.insert(version, record);
    }

    fn what_is_wrong(&self, version: Version, record: &HeadRecord) -> Option<&'static str> {
        let Some((last, before)) = self.chain.last_key_value() else {
            return (version != Version(1)).then_some("the chain does not begin at 1");
        };
        let same = record.attempt == before.attempt;
        if version != last.next() || record.version != version {
            return Some("the chain forks");
        }
        if record.attempt < before.attempt || record.attempt.0 > before.attempt.0 + 1 {
            return Some("the attempt is not the last one or the next");
        }
        if same && record.owner.process != before.owner.process {
            return Some("two processes share an attempt");
        }
        if !same && record.latest != before.latest {
            return Some("a claim changes latest");
        }
        let ended = matches!(record.phase, Phase::Suspended | Phase::Finished);
        if ended && record.latest.as_ref().is_some_and(|latest| latest.pending > 0) {
            return Some("it ends with something to commit");
        }
        None
    }

    pub fn stage(&mut self, staged: Staged) {
        self.staged.insert(staged.name(), staged);
    }

    pub fn commit(&mut self, item: &PendingCommit) {
        let staged = Staged::decode(&item.payload);
        if !self.listed.contains(&item.payload) {
            self.broken(format!("{staged:?} is committed and in no complete checkpoint"));
        }
        if let Some(known) = self.committed.get(&staged.name()) {
            if *known != staged {
                self.broken(format!("{known:?} is committed again as {staged:?}"));
            }
            return;
        }
        if !self.staged.contains_key(&staged.name()) {
            self.broken(format!("{staged:?} was aborted and cannot be committed"));
        }
        let overlaps = |other: &&Staged| {
            other.slot == staged.slot && other.from < staged.to && staged.from < other.to
        };
        if let Some(other) = self.committed.values().find(overlaps) {
            self.broken(format!("{staged:?} repeats output of {other:?}"));
        }
        self.committed.insert(staged.name(), staged);
    }

    pub fn abort_others(&mut self, attempt: Attempt, keep: &[PendingCommit]) {
        let keep: BTreeSet<_> =
            keep.iter().map(|item| Staged::decode(&item.payload).name()).collect();
        let committed = &self.committed;
        self.staged.retain(|name, staged| {
            staged.attempt >= attempt.0 || keep.contains(name) || committed.contains_key(name)
        });
    }

    /// Whether each slot's output is there once, up to `limit`.
    pub fn check_output(&mut self, slots: u64, limit: u64) {
        for slot in 0..slots {
            let mut parts: Vec<_> =
                self.committed.values().filter(|staged| staged.slot == slot).copied().collect();
            parts.sort_by_key(|staged| (staged.from, staged.to));
            let mut next = 0;
            for part in &parts {
                if part.from != next {
                    self.broken(format!("slot {slot}: output {next}..{} is lost", part.from));
                    return;
                }
                next = part.to;
            }
            if next != limit {
                self.broken(format!("slot {slot}: output ends at {next}, not at {limit}"));
            }
        }
    }
}
