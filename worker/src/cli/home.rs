//! Reads what a storage directory says of its job, without owning it: the
//! incarnation, the newest head record, and the manifests it names.

use crate::cli::trouble::Trouble;
use millrace_engine::store::{DirectoryStore, ObjectStore};
use millrace_protocol::format::FormatError;
use millrace_protocol::head::{CheckpointRef, HeadRecord, Incarnation, Version};
use millrace_protocol::manifest::Manifest;
use millrace_protocol::objects::{self, Home, Object, ObjectKey};
use std::path::{Path, PathBuf};

/// The job of a storage directory.
pub struct Stored {
    /// The directory.
    pub directory: PathBuf,
    /// The newest entry of its chain; none: it has never begun.
    pub head: Option<HeadRecord>,
}

/// Whether a directory is, or was, some job's storage.
pub fn is_storage(directory: &Path) -> bool {
    directory.join(objects::incarnations().as_str()).is_dir()
}

/// Reads an object; the path is for errors.
fn read(directory: &Path, key: &ObjectKey) -> Result<Option<Vec<u8>>, Trouble> {
    let path = directory.join(key.as_str());
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Trouble::user(format!("cannot read {}: {error}", path.display()))),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

impl Stored {
    /// Reads a storage directory. Writes nothing, and needs no lock: records are
    /// never changed once they are there.
    pub fn read(directory: &Path) -> Result<Self, Trouble> {
        let directory = directory.to_owned();
        let newest = names(&directory.join(objects::incarnations().as_str()));
        let newest = newest.iter().filter_map(|name| name.parse::<u64>().ok()).max();
        let Some(newest) = newest else { return Ok(Self { directory, head: None }) };
        let key = objects::incarnation(newest);
        let Some(bytes) = read(&directory, &key)? else {
            return Ok(Self { directory, head: None });
        };
        let object = directory.join(key.as_str()).display().to_string();
        let incarnation: Incarnation = serde_json::from_slice(&bytes)
            .map_err(|error| Trouble::user(FormatError::damaged(&object, error.to_string())))?;
        let home = Home::new(&incarnation.job).map_err(Trouble::user)?;
        // A block of old entries may go between the list and the read: list again.
        for _ in 0..10 {
            let listed = names(&directory.join(home.heads().as_str()));
            let versions = listed.iter().filter_map(|name| {
                let key = ObjectKey::parse(&format!("{}{name}", home.heads().as_str())).ok()?;
                match home.parse(&key) {
                    Some(Object::Head(version)) => Some(version),
                    _ => None,
                }
            });
            let Some(mut version) = versions.max() else { break };
            let mut head = None;
            while let Some(found) = head_record(&directory, &home, version)? {
                head = Some(found);
                version = version.next();
            }
            if head.is_some() {
                return Ok(Self { directory, head });
            }
        }
        Ok(Self { directory, head: None })
    }

    /// The manifest of one of its checkpoints.
    pub fn manifest(&self, at: &CheckpointRef) -> Result<Manifest, Trouble> {
        let object = self.directory.join(at.manifest.as_str()).display().to_string();
        let bytes = read(&self.directory, &at.manifest)?
            .ok_or_else(|| Trouble::user(FormatError::damaged(&object, "it is missing")))?;
        Manifest::decode_checked(&object, &bytes, &at.sha256).map_err(Trouble::user)
    }

    /// Its objects, for who owns the directory.
    pub fn store(&self) -> Result<impl ObjectStore + use<>, Trouble> {
        DirectoryStore::open(&self.directory).map_err(Trouble::user)
    }
}

fn head_record(
    directory: &Path,
    home: &Home,
    version: Version,
) -> Result<Option<HeadRecord>, Trouble> {
    let key = home.head(version);
    let Some(bytes) = read(directory, &key)? else { return Ok(None) };
    let object = directory.join(key.as_str()).display().to_string();
    HeadRecord::decode(&object, &bytes).map(Some).map_err(Trouble::user)
}
