//! Reads what a job's storage says of it, without owning it: the incarnation, the newest
//! head record, and the manifests it names.

use crate::cli::place::Place;
use crate::cli::trouble::Trouble;
use millrace_engine::store::opener::join;
use millrace_engine::store::{Access, ObjectStore};
use millrace_protocol::format::FormatError;
use millrace_protocol::head::{CheckpointRef, HeadRecord, Incarnation, Version};
use millrace_protocol::manifest::Manifest;
use millrace_protocol::objects::{self, Home, Object, ObjectKey};
use std::sync::Arc;

/// The job of a storage.
pub struct Stored {
    /// Where it is.
    location: String,
    store: Arc<dyn ObjectStore>,
    /// The newest entry of its chain; none: it has never begun.
    pub head: Option<HeadRecord>,
}

/// Whether a place is, or was, some job's storage.
pub fn is_storage(place: &Place) -> Result<bool, Trouble> {
    let store = place.open(Access::Read).map_err(Trouble::user)?;
    let lives = store.list(&objects::incarnations()).map_err(Trouble::user)?;
    Ok(!lives.is_empty())
}

impl Stored {
    /// Reads a storage. Writes nothing, and needs no lock: records are never changed once
    /// they are there.
    pub fn read(place: &Place) -> Result<Self, Trouble> {
        let store = place.open(Access::Read).map_err(Trouble::user)?;
        let mut stored = Self { location: place.location.clone(), store, head: None };
        let lives = stored.store.list(&objects::incarnations()).map_err(Trouble::user)?;
        let Some(newest) = lives.iter().filter_map(objects::parse_incarnation).max() else {
            return Ok(stored);
        };
        let key = objects::incarnation(newest);
        let Some(bytes) = stored.get(&key)? else { return Ok(stored) };
        let incarnation: Incarnation = serde_json::from_slice(&bytes).map_err(|error| {
            Trouble::user(FormatError::damaged(&stored.name(&key), error.to_string()))
        })?;
        let home = Home::new(&incarnation.job).map_err(Trouble::user)?;
        // A block of old entries may go between the list and the read: list again.
        for _ in 0..10 {
            let listed = stored.store.list(&home.heads()).map_err(Trouble::user)?;
            let versions = listed.iter().filter_map(|key| match home.parse(key) {
                Some(Object::Head(version)) => Some(version),
                _ => None,
            });
            let Some(mut version) = versions.max() else { break };
            while let Some(found) = stored.head_record(&home, version)? {
                stored.head = Some(found);
                version = version.next();
            }
            if stored.head.is_some() {
                break;
            }
        }
        Ok(stored)
    }

    /// The manifest of one of its checkpoints.
    pub fn manifest(&self, at: &CheckpointRef) -> Result<Manifest, Trouble> {
        let object = self.name(&at.manifest);
        let bytes = self
            .get(&at.manifest)?
            .ok_or_else(|| Trouble::user(FormatError::damaged(&object, "it is missing")))?;
        Manifest::decode_checked(&object, &bytes, &at.sha256).map_err(Trouble::user)
    }

    /// Its objects, for who owns it.
    pub fn store(&self) -> &dyn ObjectStore {
        self.store.as_ref()
    }

    fn name(&self, key: &ObjectKey) -> String {
        join(&self.location, key.as_str())
    }

    fn get(&self, key: &ObjectKey) -> Result<Option<Vec<u8>>, Trouble> {
        self.store.get(key).map_err(Trouble::user)
    }

    fn head_record(&self, home: &Home, version: Version) -> Result<Option<HeadRecord>, Trouble> {
        let key = home.head(version);
        let Some(bytes) = self.get(&key)? else { return Ok(None) };
        HeadRecord::decode(&self.name(&key), &bytes).map(Some).map_err(Trouble::user)
    }
}
