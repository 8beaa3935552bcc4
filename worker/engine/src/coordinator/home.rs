//! Which life of the job's name owns the home: found, or begun. Pure.

use super::chain::Next;
use super::effect::StoreCall;
use super::event::StoreAnswer;
use millrace_protocol::format::FormatError;
use millrace_protocol::head::Incarnation;
use millrace_protocol::ids::JobUid;
use millrace_protocol::objects;
use std::sync::Arc;

/// The newest format of incarnation records known here.
pub const INCARNATION_FORMAT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    List,
    Get(u64),
    Put,
}

/// Finds the job of a home, or makes it.
#[derive(Debug, Clone)]
pub struct FindHome {
    at: At,
    fresh: Arc<[u8]>,
    fresh_job: JobUid,
    job: Option<JobUid>,
}

impl FindHome {
    /// Begins; `fresh` is what to put if there is nothing yet.
    pub fn begin(fresh: &Incarnation) -> Result<(Self, StoreCall), FormatError> {
        let bytes = serde_json::to_vec(fresh)
            .map_err(|error| FormatError::damaged("incarnation", error.to_string()))?;
        let find =
            Self { at: At::List, fresh: Arc::from(bytes), fresh_job: fresh.job.clone(), job: None };
        let call = find.call();
        Ok((find, call))
    }

    fn call(&self) -> StoreCall {
        match self.at {
            At::List => StoreCall::List { prefix: objects::incarnations() },
            At::Get(n) => StoreCall::Get { key: objects::incarnation(n) },
            At::Put => {
                let bytes = Arc::clone(&self.fresh);
                StoreCall::PutIfAbsent { key: objects::incarnation(0), bytes }
            }
        }
    }

    fn go(&mut self, at: At) -> Next<Result<JobUid, FormatError>> {
        self.at = at;
        Next::Call(self.call())
    }

    /// What follows from an answer to the last call.
    pub fn answered(&mut self, answer: StoreAnswer) -> Next<Result<JobUid, FormatError>> {
        match (self.at, answer) {
            (At::List, StoreAnswer::Keys(keys)) => {
                let newest = keys.iter().filter_map(objects::parse_incarnation).max();
                self.go(At::Get(newest.unwrap_or(0)))
            }
            (At::Get(n), StoreAnswer::Got(Some(bytes))) => {
                match decode(objects::incarnation(n).as_str(), &bytes) {
                    Ok(incarnation) => self.job = Some(incarnation.job),
                    Err(error) => return Next::Done(Err(error)),
                }
                self.go(At::Get(n + 1))
            }
            (At::Get(_), StoreAnswer::Got(None)) => match self.job.take() {
                Some(job) => Next::Done(Ok(job)),
                None => self.go(At::Put),
            },
            (At::Put, StoreAnswer::Created) => Next::Done(Ok(self.fresh_job.clone())),
            (At::Put, StoreAnswer::Exists) => self.go(At::Get(0)),
            _ => Next::Again(self.call()),
        }
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
