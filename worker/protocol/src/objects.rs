//! All object keys: built and parsed here and nowhere else.
//!
//! ```text
//! incarnations/<n>                   which life of the job's name owns the home
//! <job uid>/head/<version>           the chain; 20 digits
//! <job uid>/floor/<block>            "versions of this block may be gone"
//! <job uid>/data/<attempt>/<name>    data files, manifests m-<checkpoint>
//! <job uid>/config/<hash>            body of an accepted configuration
//! <id>/_manifest, <id>/data/<n>      in a savepoint's target
//! ```
//! No key is both an object and a prefix of others.

use crate::head::Version;
use crate::ids::{Attempt, CheckpointId, JobUid, Slot};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Name of an object in a store: segments of `A-Z a-z 0-9 . _ - =`, none with a
/// leading dot, joined by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

/// What keys to list: those that begin with it. Empty, or ends with `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

/// Text that is no object key.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{0:?} cannot be part of an object's key: use letters, digits and . _ - =")]
pub struct BadKey(pub String);

fn segment_is_fine(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-=".contains(&b);
    // A leading dot is for the stores' own files.
    !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(allowed)
}

impl ObjectKey {
    /// Checks a key's text.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        if text.split('/').all(segment_is_fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadKey(text.to_owned()))
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Prefix {
    /// Everything in the store.
    pub fn all() -> Self {
        Self(String::new())
    }

    /// The prefix's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` begins with it.
    pub fn holds(&self, key: &ObjectKey) -> bool {
        key.0.starts_with(&self.0)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = BadKey;

    fn try_from(text: String) -> Result<Self, BadKey> {
        Self::parse(&text)
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> String {
        key.0
    }
}

/// The keys of one life of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(JobUid);

/// What a key of a [`Home`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// An entry of the chain.
    Head(Version),
    /// The floor of a block of versions.
    Floor(u64),
    /// A checkpoint's manifest.
    Manifest(Attempt, CheckpointId),
    /// A state file.
    State(Attempt, CheckpointId),
    /// Something else that an attempt wrote; its sinks see to it.
    Staged(Attempt),
    /// A configuration's body.
    Config,
}

impl Object {
    /// The attempt that wrote it, of what attempts write.
    pub fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::Manifest(attempt, _) | Self::State(attempt, _) | Self::Staged(attempt) => {
                Some(*attempt)
            }
            Self::Head(_) | Self::Floor(_) | Self::Config => None,
        }
    }

    /// The checkpoint that it was written for, of what checkpoints consist of.
    pub fn checkpoint(&self) -> Option<CheckpointId> {
        match self {
            Self::Manifest(_, checkpoint) | Self::State(_, checkpoint) => Some(*checkpoint),
            Self::Head(_) | Self::Floor(_) | Self::Staged(_) | Self::Config => None,
        }
    }
}

impl Home {
    /// The keys of this job.
    pub fn new(job: &JobUid) -> Result<Self, BadKey> {
        if segment_is_fine(job.as_str()) && job.as_str() != INCARNATIONS {
            Ok(Self(job.clone()))
        } else {
            Err(BadKey(job.as_str().to_owned()))
        }
    }

    /// The job.
    pub fn job(&self) -> &JobUid {
        &self.0
    }

    /// A version of the chain.
    pub fn head(&self, version: Version) -> ObjectKey {
        ObjectKey(format!("{}/head/{:020}", self.0, version.0))
    }

    /// The prefix of all versions.
    pub fn heads(&self) -> Prefix {
        Prefix(format!("{}/head/", self.0))
    }

    /// The floor of a block of versions.
    pub fn floor(&self, block: u64) -> ObjectKey {
        ObjectKey(format!("{}/floor/{block}", self.0))
    }

    /// A checkpoint's manifest.
    pub fn manifest(&self, attempt: Attempt, checkpoint: CheckpointId) -> ObjectKey {
        ObjectKey(format!("{}/data/{attempt}/m-{checkpoint}", self.0))
    }

    /// A state file: the `index`th that `slot` writes for `checkpoint`.
    pub fn state_file(
        &self,
        attempt: Attempt,
        checkpoint: CheckpointId,
        slot: Slot,
        index: u32,
    ) -> ObjectKey {
        ObjectKey(format!("{}/data/{attempt}/s{slot}-c{checkpoint}-{index}", self.0))
    }

    /// The prefix of everything that attempts wrote.
    pub fn data(&self) -> Prefix {
        Prefix(format!("{}/data/", self.0))
    }

    /// The prefix of everything that one attempt wrote.
    pub fn data_of(&self, attempt: Attempt) -> Prefix {
        Prefix(format!("{}/data/{attempt}/", self.0))
    }

    /// A configuration's body.
    pub fn config(&self, hash: &str) -> Result<ObjectKey, BadKey> {
        ObjectKey::parse(&format!("{}/config/{hash}", self.0))
    }

    /// What `key` names; `None` if it is no key of this home.
    pub fn parse(&self, key: &ObjectKey) -> Option<Object> {
        let rest = key.as_str().strip_prefix(self.0.as_str())?.strip_prefix('/')?;
        let (kind, rest) = rest.split_once('/')?;
        match kind {
            "head" if rest.len() == 20 => Some(Object::Head(Version(rest.parse().ok()?))),
            "floor" => Some(Object::Floor(rest.parse().ok()?)),
            "config" => Some(Object::Config),
            "data" => {
                let (attempt, name) = rest.split_once('/')?;
                let attempt = Attempt(attempt.parse().ok()?);
                let checkpoint = name.strip_prefix("m-").and_then(|c| c.parse().ok());
                let state = || {
                    let (slot, rest) = name.strip_prefix('s')?.split_once("-c")?;
                    slot.parse::<u16>().ok()?;
                    rest.split_once('-')?.0.parse().ok()
                };
                Some(match (checkpoint, state()) {
                    (Some(c), _) => Object::Manifest(attempt, CheckpointId(c)),
                    (_, Some(c)) => Object::State(attempt, CheckpointId(c)),
                    _ => Object::Staged(attempt),
                })
            }
            _ => None,
        }
    }
}

const INCARNATIONS: &str = "incarnations";

/// The record of the `n`th life of a job's name.
pub fn incarnation(n: u64) -> ObjectKey {
    ObjectKey(format!("{INCARNATIONS}/{n}"))
}

/// The prefix of all incarnations.
pub fn incarnations() -> Prefix {
    Prefix(format!("{INCARNATIONS}/"))
}

/// The number of an incarnation.
pub fn parse_incarnation(key: &ObjectKey) -> Option<u64> {
    key.as_str().strip_prefix(INCARNATIONS)?.strip_prefix('/')?.parse().ok()
}

/// The manifest of a savepoint, in its target; put last, when all else is there.
pub fn savepoint_manifest(id: &str) -> Result<ObjectKey, BadKey> {
    ObjectKey::parse(&format!("{id}/_manifest"))
}

/// The `n`th file of a savepoint, in its target.
pub fn savepoint_file(id: &str, n: usize) -> Result<ObjectKey, BadKey> {
    ObjectKey::parse(&format!("{id}/data/{n}"))
}

/// The key with which the start-up probe asks whether a store honours put-if-absent.
pub fn probe(nonce: &str) -> Result<ObjectKey, BadKey> {
    ObjectKey::parse(&format!("probe/{nonce}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_parsed() {
        let home = Home::new(&JobUid::from("j1")).unwrap();
        let (a, c) = (Attempt(3), CheckpointId(7));
        for (key, object) in [
            (home.head(Version(12)), Object::Head(Version(12))),
            (home.floor(2), Object::Floor(2)),
            (home.manifest(a, c), Object::Manifest(a, c)),
            (home.state_file(a, c, Slot(1), 0), Object::State(a, c)),
            (home.config("abc").unwrap(), Object::Config),
        ] {
            assert_eq!(home.parse(&key), Some(object));
            assert_eq!(ObjectKey::parse(key.as_str()), Ok(key));
        }
        assert_eq!(home.head(Version(12)).as_str(), "j1/head/00000000000000000012");
        let other = Home::new(&JobUid::from("j")).unwrap();
        assert_eq!(other.parse(&home.floor(2)), None);
        assert_eq!(parse_incarnation(&incarnation(4)), Some(4));
    }

    #[test]
    fn keys_cannot_leave_the_store() {
        for text in ["", "/a", ".a", "a/.b", "a//b", "../a", "a/..", "a/", "a b", "a\\b", "ä"] {
            assert!(ObjectKey::parse(text).is_err(), "{text}");
        }
        assert!(Home::new(&JobUid::from("a/b")).is_err());
        assert!(Home::new(&JobUid::from("incarnations")).is_err());
    }
}
