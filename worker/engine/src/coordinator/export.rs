//! Savepoints outside the job's home, exported and found again: IO, called by
//! the shell in the side pool.

use super::event::FoundManifest;
use crate::store::opener::{join, split};
use crate::store::{Access, ObjectStore, Opener, Put, StoreError, StoreResult};
use millrace_protocol::format::FormatError;
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid};
use millrace_protocol::manifest::{Manifest, ManifestKind, sha256_hex};
use millrace_protocol::objects::{self, BadKey, ObjectKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// How much is copied at a time.
const BLOCK: usize = 4 << 20;

/// Why a savepoint could not be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// One of the stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The savepoint's id cannot be part of a key.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// A manifest cannot be written or read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The id is taken.
    #[error(
        "there is a savepoint {id} already, and it is job {job}'s: choose another id or another \
         target, or delete that savepoint"
    )]
    Taken {
        /// Of the savepoint.
        id: String,
        /// Whose it is.
        job: JobUid,
    },
    /// A file is not what the manifest says.
    #[error("{key} has {found} bytes instead of {len}")]
    Length {
        /// The file.
        key: ObjectKey,
        /// Its length now; none: it is gone.
        found: u64,
        /// As in the manifest.
        len: u64,
    },
}

/// A savepoint that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// The checkpoint that it is made of, as its manifest says.
    pub at: (Attempt, CheckpointId),
    /// Bytes of its files and its manifest.
    pub bytes: u64,
}

impl Exported {
    fn of(manifest: &Manifest, encoded: &[u8]) -> Self {
        let bytes = manifest.state_bytes().saturating_add(encoded.len() as u64);
        Self { at: (manifest.attempt, manifest.checkpoint), bytes }
    }
}

/// The savepoint `id` of `job` in `target`, if it is there. One of another job is an error.
pub fn exported(
    target: &dyn ObjectStore,
    id: &str,
    job: &JobUid,
) -> Result<Option<Exported>, ExportError> {
    let name = objects::savepoint_manifest(id)?;
    let Some(bytes) = target.get(&name)? else { return Ok(None) };
    let manifest = Manifest::decode(name.as_str(), &bytes)?;
    if manifest.job != *job {
        return Err(ExportError::Taken { id: id.to_owned(), job: manifest.job });
    }
    Ok(Some(Exported::of(&manifest, &bytes)))
}

/// Copies the files of `manifest` from `home` to `target` as savepoint `id`, and
/// puts its manifest last. If it is there already nothing happens, and what is there is
/// answered.
pub fn export(
    home: &dyn ObjectStore,
    target: &dyn ObjectStore,
    id: &str,
    manifest: &Manifest,
) -> Result<Exported, ExportError> {
    let name = objects::savepoint_manifest(id)?;
    if let Some(there) = exported(target, id, &manifest.job)? {
        return Ok(there);
    }
    let mut savepoint = manifest.clone();
    savepoint.kind = ManifestKind::Savepoint;
    // Committables stay with the job: nobody else commits or aborts them.
    savepoint.pending.clear();
    let mut copied: BTreeMap<ObjectKey, ObjectKey> = BTreeMap::new();
    for file in &mut savepoint.files {
        let to = match copied.get(&file.key) {
            Some(to) => to.clone(),
            None => {
                let to = objects::savepoint_file(id, copied.len())?;
                let found = home.size(&file.key)?.unwrap_or(0);
                if found != file.len {
                    let key = file.key.clone();
                    return Err(ExportError::Length { key, found, len: file.len });
                }
                copy(home, &file.key, file.len, target, &to)?;
                copied.insert(file.key.clone(), to.clone());
                to
            }
        };
        file.key = to;
    }
    let bytes = savepoint.encode()?;
    if target.put_if_absent(&name, &bytes)? == Put::Exists
        && let Some(there) = exported(target, id, &manifest.job)?
    {
        return Ok(there);
    }
    Ok(Exported::of(&savepoint, &bytes))
}

fn copy(
    from: &dyn ObjectStore,
    key: &ObjectKey,
    len: u64,
    to: &dyn ObjectStore,
    name: &ObjectKey,
) -> StoreResult<()> {
    let mut writer = to.create(name)?;
    let mut offset = 0;
    while offset < len {
        let block = usize::try_from(len - offset).unwrap_or(BLOCK).min(BLOCK);
        writer.write(&from.get_range(key, offset, block)?)?;
        offset += block as u64;
    }
    writer.finish().map(drop)
}

/// Name of a savepoint's manifest in its directory.
const MANIFEST: &str = "_manifest";

/// Reads the manifest that a user pointed at: that of the savepoint at `location`, or the
/// object `location` itself. An error is the user's to resolve.
pub fn find(opener: &dyn Opener, location: &str) -> Result<FoundManifest, String> {
    let (name, bytes) = match get(opener, location, MANIFEST)? {
        Some(bytes) => (join(location, MANIFEST), bytes),
        None => {
            let bytes = match split(location) {
                Some((place, name)) => get(opener, &place, &name)?,
                None => None,
            };
            let none = || {
                format!(
                    "cannot read {location}: there is no savepoint and no manifest; give a \
                     savepoint's directory or a manifest"
                )
            };
            (location.to_owned(), bytes.ok_or_else(none)?)
        }
    };
    let manifest = Manifest::decode(&name, &bytes).map_err(|error| error.to_string())?;
    Ok(FoundManifest { manifest: Arc::new(manifest), sha256: sha256_hex(&bytes) })
}

fn get(opener: &dyn Opener, place: &str, name: &str) -> Result<Option<Vec<u8>>, String> {
    // What is no key names nothing in a store.
    let Ok(key) = ObjectKey::parse(name) else { return Ok(None) };
    let store = opener.open(place, Access::Read).map_err(|error| error.to_string())?;
    store.get(&key).map_err(|error| error.to_string())
}

/// The place from which the file keys of the savepoint at `location` count
/// ([`super::FilesIn::Savepoint`]).
pub fn target_of(location: &str) -> Option<String> {
    let (place, name) = split(location)?;
    match name.as_str() {
        MANIFEST => split(&place).map(|(target, _)| target),
        _ => Some(place),
    }
}
