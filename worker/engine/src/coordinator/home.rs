//! Which life of the job's name owns the home: found, or begun. Pure.

use super::chain::Next;
use super::effect::StoreCall;
use super::event::StoreAnswer;
use millrace_protocol::format::FormatError;
use millrace_protocol::head::Incarnation;
use millrace_protocol::objects;
use std::sync::Arc;

/// The newest format of incarnation records known here.
pub const INCARNATION_FORMAT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Get(u64),
    Put(u64),
}

/// Whose home it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This job's.
    Mine {
        /// Which life it is.
        number: u64,
        /// Its record.
        incarnation: Incarnation,
    },
    /// Another's.
    Other {
        /// Which life that is.
        number: u64,
        /// Its record.
        incarnation: Incarnation,
    },
    /// It was this job's. It never will be again.
    Superseded {
        /// The newest life, or the tombstone.
        by: Incarnation,
    },
    /// Nobody's, although this job has been here before.
    Missing,
}

/// Finds the job of a home, or makes it where there is none.
#[derive(Debug, Clone)]
pub struct FindHome {
    at: At,
    bytes: Arc<[u8]>,
    fresh: Incarnation,
    /// Whatever job is there is this one.
    same: bool,
    /// The job has been here before.
    begun: bool,
    known: Vec<Incarnation>,
}

impl FindHome {
    /// Begins; `fresh` is what to put if there is nothing. `same`: the job that is there
    /// counts as this one, whatever its uid. `begun`: it is not to be made, for it was there.
    pub fn begin(
        fresh: &Incarnation,
        same: bool,
        begun: bool,
    ) -> Result<(Self, StoreCall), FormatError> {
        let bytes = serde_json::to_vec(fresh)
            .map_err(|error| FormatError::damaged("incarnation", error.to_string()))?;
        let (bytes, fresh) = (Arc::from(bytes), fresh.clone());
        let find = Self { at: At::Get(0), bytes, fresh, same, begun, known: Vec::new() };
        let call = find.call();
        Ok((find, call))
    }

    fn call(&self) -> StoreCall {
        match self.at {
            At::Get(n) => StoreCall::Get { key: objects::incarnation(n) },
            At::Put(n) => {
                let bytes = Arc::clone(&self.bytes);
                StoreCall::PutIfAbsent { key: objects::incarnation(n), bytes }
            }
        }
    }

    fn go(&mut self, at: At) -> Next<Result<Found, FormatError>> {
        self.at = at;
        Next::Call(self.call())
    }

    /// What follows from an answer to the last call.
    pub fn answered(&mut self, answer: StoreAnswer) -> Next<Result<Found, FormatError>> {
        match (self.at, answer) {
            (At::Get(n), StoreAnswer::Got(Some(bytes))) => {
                match decode(objects::incarnation(n).as_str(), &bytes) {
                    Ok(incarnation) => self.known.push(incarnation),
                    Err(error) => return Next::Done(Err(error)),
                }
                self.go(At::Get(n + 1))
            }
            (At::Get(n), StoreAnswer::Got(None)) => self.newest(n),
            (At::Put(number), StoreAnswer::Created) => {
                Next::Done(Ok(Found::Mine { number, incarnation: self.fresh.clone() }))
            }
            // Another's, or by this very put.
            (At::Put(n), StoreAnswer::Exists) => self.go(At::Get(n)),
            _ => Next::Again(self.call()),
        }
    }

    /// All `next` lives are known.
    fn newest(&mut self, next: u64) -> Next<Result<Found, FormatError>> {
        let Some(newest) = self.known.last() else {
            return if self.begun {
                Next::Done(Ok(Found::Missing))
            } else {
                self.go(At::Put(next))
            };
        };
        let incarnation = newest.clone();
        let number = next.saturating_sub(1);
        let mine = |incarnation: &Incarnation| incarnation.job == self.fresh.job;
        Next::Done(Ok(if !newest.deleted && (self.same || mine(newest)) {
            Found::Mine { number, incarnation }
        } else if self.known.iter().any(mine) {
            Found::Superseded { by: incarnation }
        } else if newest.deleted {
            return self.go(At::Put(next));
        } else {
            Found::Other { number, incarnation }
        }))
    }
}

fn decode(object: &str, bytes: &[u8]) -> Result<Incarnation, FormatError> {
    let incarnation: Incarnation = serde_json::from_slice(bytes)
        .map_err(|error| FormatError::damaged(object, error.to_string()))?;
    if incarnation.format > INCARNATION_FORMAT {
        let object = object.to_owned();
        let (found, known) = (incarnation.format, INCARNATION_FORMAT);
        return Err(FormatError::Newer { object, found, known });
    }
    Ok(incarnation)
}
