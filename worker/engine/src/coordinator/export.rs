//! Savepoints outside the job's home, exported and found again: IO, called by
//! the shell in the side pool.

use super::event::FoundManifest;
use crate::store::{ObjectStore, StoreError, StoreResult};
use millrace_protocol::format::FormatError;
use millrace_protocol::manifest::{Manifest, ManifestKind, sha256_hex};
use millrace_protocol::objects::{self, BadKey, ObjectKey};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    /// The manifest cannot be written.
    #[error(transparent)]
    Format(#[from] FormatError),
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

/// Copies the files of `manifest` from `home` to `target` as savepoint `id`, and
/// puts its manifest last. Nothing happens if it is there already.
pub fn export(
    home: &dyn ObjectStore,
    target: &dyn ObjectStore,
    id: &str,
    manifest: &Manifest,
) -> Result<(), ExportError> {
    let name = objects::savepoint_manifest(id)?;
    if target.size(&name)?.is_some() {
        return Ok(());
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
    target.put_if_absent(&name, &savepoint.encode()?)?;
    Ok(())
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

/// Reads the manifest that a user pointed at: that of the savepoint in directory
/// `path`, or the file `path` itself. An error is the user's to resolve.
pub fn find(path: &str) -> Result<FoundManifest, String> {
    let place = Path::new(path);
    let file = if place.is_dir() { place.join(MANIFEST) } else { place.to_owned() };
    let name = file.display().to_string();
    let bytes = std::fs::read(&file).map_err(|error| {
        format!("cannot read {name}: {error}; give a savepoint's directory or a manifest")
    })?;
    let manifest = Manifest::decode(&name, &bytes).map_err(|error| error.to_string())?;
    Ok(FoundManifest { manifest: Arc::new(manifest), sha256: sha256_hex(&bytes) })
}

/// The directory from which the file keys of the savepoint at `path` count
/// ([`super::FilesIn::Savepoint`]).
pub fn target_of(path: &str) -> Option<PathBuf> {
    let place = Path::new(path);
    let directory = match place.file_name() {
        Some(name) if name == MANIFEST => place.parent()?,
        _ => place,
    };
    directory.parent().map(Path::to_owned)
}
