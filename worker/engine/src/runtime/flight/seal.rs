//! What was recorded as an object and as list states.
//!
//! The object is `magic, format: u32` (little-endian) and the batches. Its format is that
//! of batches too: whoever changes how a codec writes them raises it and reads the older.

use super::Recorded;
use crate::runtime::snapshot::ListBlob;
use crate::store::{ObjectStore, StoreError};
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::{FileOrder, FileRef, Redistribution};
use millrace_protocol::objects::ObjectKey;
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"MILLROWS";

/// The newest format known here.
const FORMAT: u32 = 1;

/// Bytes before the first batch.
const HEADER: usize = 12;

/// Where a batch is: an item of the list state.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// The object's.
    pub format: u32,
    /// See [`super::Phase`].
    pub phase: u8,
    /// The subtask that sent it.
    pub up: u16,
    /// Counts those of a list in an object.
    pub number: u32,
    /// The key groups of the subtask that was to receive it.
    pub groups: KeyGroupRange,
    /// The object.
    pub key: ObjectKey,
    /// Its first byte.
    pub at: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Its checksum.
    pub crc32: u32,
}

impl Piece {
    /// What it is sorted by: the rows of a channel keep their order.
    pub fn order(&self) -> (u8, u16, u32) {
        (self.phase, self.up, self.number)
    }

    /// Whether this build can read it.
    pub fn check_format(&self) -> Result<(), String> {
        check_format(self.format)
    }
}

fn check_format(found: u32) -> Result<(), String> {
    if found > FORMAT {
        return Err(format!(
            "it is of format {found}, and this build knows those up to {FORMAT}: use a newer one"
        ));
    }
    Ok(())
}

/// Recorded rows, ready to be written.
pub struct Sealed {
    /// The operators' list states.
    pub lists: Vec<ListBlob>,
    /// The object: it has no sections, and its checksum is that of all bytes.
    pub file: FileRef,
    chunks: Vec<Vec<u8>>,
}

impl Recorded {
    /// Lays out what is to be written at `key`: `None` if there is nothing, or why it
    /// cannot be.
    pub fn seal(self, key: &ObjectKey, order: FileOrder) -> Result<Option<Sealed>, String> {
        if self.lists.is_empty() {
            return Ok(None);
        }
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT.to_le_bytes());
        let mut at = header.len() as u64;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header);
        let mut chunks = vec![header];
        let mut lists = Vec::new();
        for ((uid, state), list) in self.lists {
            let mut items = Vec::new();
            for (number, batch) in (0..).zip(list.batches) {
                crc.update(&batch.bytes);
                let piece = Piece {
                    format: FORMAT,
                    phase: batch.phase as u8,
                    up: batch.up,
                    number,
                    groups: batch.groups,
                    key: key.clone(),
                    at,
                    len: u32::try_from(batch.bytes.len()).map_err(|e| e.to_string())?,
                    crc32: crc32fast::hash(&batch.bytes),
                };
                at += batch.bytes.len() as u64;
                items.push(postcard::to_stdvec(&piece).map_err(|e| e.to_string())?);
                chunks.push(batch.bytes);
            }
            let (shape, redistribution) = (list.shape, Redistribution::Union);
            lists.push(ListBlob { uid, state, redistribution, shape, items });
        }
        let (key, sections) = (key.clone(), Vec::new());
        let file = FileRef { key, len: at, crc32: crc.finalize(), order, sections };
        Ok(Some(Sealed { lists, file, chunks }))
    }
}

impl Sealed {
    /// Writes the object.
    pub fn write(&self, store: &dyn ObjectStore) -> Result<(), StoreError> {
        let mut writer = store.create(&self.file.key)?;
        for chunk in &self.chunks {
            writer.write(chunk)?;
        }
        writer.finish()?;
        // It is read once, by those that need it, if at all.
        store.drop_copy(&self.file.key);
        Ok(())
    }
}

/// What is wrong with the bytes of such an object, if anything.
pub fn check(bytes: &[u8], crc32: u32) -> Result<(), String> {
    let header = bytes.get(..HEADER).ok_or_else(|| format!("only {} bytes", bytes.len()))?;
    let (magic, format) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("it holds no rows in flight".to_owned());
    }
    check_format(format.try_into().map_or(0, u32::from_le_bytes))?;
    match crc32fast::hash(bytes) == crc32 {
        true => Ok(()),
        false => Err("its checksum does not match".to_owned()),
    }
}
