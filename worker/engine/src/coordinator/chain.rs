//! The chain of head records. Pure: each machine here answers a store's answer
//! with the next call or with its result.
//!
//! Claims and completions are entries of one sequence of put-if-absent objects,
//! so a claim freezes every older attempt. An owner appends only to its own
//! last won version, one entry at a time. Old entries are deleted in blocks,
//! behind a *floor*; a put that arrives after that, into the gap, finds the
//! floor and is lost.

use super::effect::StoreCall;
use super::event::StoreAnswer;
use millrace_protocol::format::FormatError;
use millrace_protocol::head::{HeadRecord, Version};
use millrace_protocol::objects::{Home, Object};
use std::sync::Arc;

/// Where a chain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The job's keys.
    pub home: Home,
    /// Versions per block of truncation.
    pub block: u64,
    /// Leaves the floor unread: a mutation that the model must catch.
    #[cfg(test)]
    pub skip_floor: bool,
}

/// What a machine wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<T> {
    /// This call.
    Call(StoreCall),
    /// The call gave no answer: this one, after a pause.
    Again(StoreCall),
    /// Nothing: the result.
    Done(T),
}

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The record is the chain's entry of its version.
    Won,
    /// It is not and never will be: another's is, or was.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    Put,
    Whose,
    Floor,
}

/// One append: put, and find out whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    chain: Chain,
    version: Version,
    bytes: Arc<[u8]>,
    at: At,
}

impl Append {
    /// Begins to append `record` at its version; the caller has read or won the
    /// version before.
    pub fn begin(chain: &Chain, record: &HeadRecord) -> Result<(Self, StoreCall), FormatError> {
        let bytes = Arc::from(record.encode()?);
        let append = Self { chain: chain.clone(), version: record.version, bytes, at: At::Put };
        let call = append.call();
        Ok((append, call))
    }

    fn call(&self) -> StoreCall {
        let key = self.chain.home.head(self.version);
        match self.at {
            At::Put => StoreCall::PutIfAbsent { key, bytes: Arc::clone(&self.bytes) },
            At::Whose => StoreCall::Get { key },
            At::Floor => {
                let floor = self.chain.home.floor(self.version.0 / self.chain.block);
                StoreCall::Get { key: floor }
            }
        }
    }

    fn go(&mut self, at: At) -> Next<Verdict> {
        #[cfg(test)]
        if at == At::Floor && self.chain.skip_floor {
            return Next::Done(Verdict::Won);
        }
        self.at = at;
        Next::Call(self.call())
    }

    /// What follows from an answer to the last call.
    pub fn answered(&mut self, answer: &StoreAnswer) -> Next<Verdict> {
        match (self.at, answer) {
            (At::Put, StoreAnswer::Created) => self.go(At::Floor),
            // Perhaps by this very put, whose answer was lost.
            (At::Put, StoreAnswer::Exists) => self.go(At::Whose),
            // The bytes hold the nonce, so equal bytes are one's own.
            (At::Whose, StoreAnswer::Got(Some(bytes))) if *bytes == self.bytes => {
                self.go(At::Floor)
            }
            (At::Whose, StoreAnswer::Got(_)) => Next::Done(Verdict::Lost),
            (At::Floor, StoreAnswer::Got(None)) => Next::Done(Verdict::Won),
            (At::Floor, StoreAnswer::Got(Some(_))) => Next::Done(Verdict::Lost),
            _ => Next::Again(self.call()),
        }
    }
}

/// What a chain was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The newest record; `None`: there seems to be no chain yet.
    pub head: Option<HeadRecord>,
    /// The oldest version that was listed.
    pub oldest: Version,
}

/// Finds the newest record: a list gives a start, then upward until there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    chain: Chain,
    /// The version asked for; `None` while listing.
    at: Option<Version>,
    listed: bool,
    found: Found,
}

impl Read {
    /// Begins.
    pub fn begin(chain: &Chain) -> (Self, StoreCall) {
        let found = Found { head: None, oldest: Version(1) };
        let read = Self { chain: chain.clone(), at: None, listed: false, found };
        let call = read.call();
        (read, call)
    }

    fn call(&self) -> StoreCall {
        match self.at {
            None => StoreCall::List { prefix: self.chain.home.heads() },
            Some(version) => StoreCall::Get { key: self.chain.home.head(version) },
        }
    }

    /// What follows from an answer to the last call.
    pub fn answered(&mut self, answer: StoreAnswer) -> Next<Result<Found, FormatError>> {
        match (self.at, answer) {
            (None, StoreAnswer::Keys(keys)) => {
                let versions = keys.iter().filter_map(|key| match self.chain.home.parse(key) {
                    Some(Object::Head(version)) => Some(version),
                    _ => None,
                });
                let (oldest, newest) = versions.fold((None, None), |(low, high), v| {
                    (Some(low.unwrap_or(v).min(v)), Some(high.unwrap_or(v).max(v)))
                });
                self.listed = newest.is_some();
                self.found.oldest = oldest.unwrap_or(Version(1));
                self.at = Some(newest.unwrap_or(Version(1)));
                Next::Call(self.call())
            }
            (Some(version), StoreAnswer::Got(Some(bytes))) => {
                let key = self.chain.home.head(version);
                match self.check(HeadRecord::decode(key.as_str(), &bytes), key.as_str(), version) {
                    Ok(record) => self.found.head = Some(record),
                    Err(error) => return Next::Done(Err(error)),
                }
                self.at = Some(version.next());
                Next::Call(self.call())
            }
            // The list named what is deleted by now: there is a newer one.
            (Some(_), StoreAnswer::Got(None)) if self.listed && self.found.head.is_none() => {
                self.at = None;
                Next::Again(self.call())
            }
            (Some(_), StoreAnswer::Got(None)) => Next::Done(Ok(self.found.clone())),
            _ => Next::Again(self.call()),
        }
    }

    fn check(
        &self,
        record: Result<HeadRecord, FormatError>,
        key: &str,
        version: Version,
    ) -> Result<HeadRecord, FormatError> {
        let record = record?;
        if record.version != version || record.job != *self.chain.home.job() {
            let why = format!("it is version {} of job {}", record.version, record.job);
            return Err(FormatError::damaged(key, why));
        }
        Ok(record)
    }
}

/// Deletes one block of old versions, behind its floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    chain: Chain,
    block: u64,
    floored: bool,
}

impl Truncate {
    /// The highest block that an owner whose last won version is `won` may truncate.
    pub fn highest(chain: &Chain, won: Version) -> Option<u64> {
        (won.0 / chain.block).checked_sub(2)
    }

    /// Begins to truncate `block`, which is at most [`Truncate::highest`].
    pub fn begin(chain: &Chain, block: u64) -> (Self, StoreCall) {
        let truncate = Self { chain: chain.clone(), block, floored: false };
        let call = truncate.call();
        (truncate, call)
    }

    fn call(&self) -> StoreCall {
        if self.floored {
            let first = self.block * self.chain.block;
            let versions = (first..first + self.chain.block).map(Version);
            StoreCall::Delete { keys: versions.map(|v| self.chain.home.head(v)).collect() }
        } else {
            let key = self.chain.home.floor(self.block);
            StoreCall::PutIfAbsent { key, bytes: Arc::from([]) }
        }
    }

    /// What follows from an answer to the last call.
    pub fn answered(&mut self, answer: &StoreAnswer) -> Next<()> {
        match (self.floored, answer) {
            (false, StoreAnswer::Created | StoreAnswer::Exists) => {
                self.floored = true;
                Next::Call(self.call())
            }
            (true, StoreAnswer::Deleted) => Next::Done(()),
            _ => Next::Again(self.call()),
        }
    }
}
