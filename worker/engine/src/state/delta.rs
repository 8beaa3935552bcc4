//! The checkpoint file, format 1: writing. Pure: bytes go to a callback.
//!
//! ```text
//! file    = block* footer trailer
//! block   = header dead-keys keys rows crc32       (little endian throughout)
//! header  = section u16, first group u16, last group u16, 0 u16, namespace i64,
//!           entries u32, dead u32, bytes of dead keys u32, of keys u32, of rows u32
//! footer  = postcard of [`Footer`]: the sections, each with its types and the
//!           place, groups, namespace and checksum of its blocks
//! trailer = length of the footer u32, its crc32 u32, format version u32, magic
//! ```
//! A file is read from its end, as Parquet is. A block holds entries of one
//! state and namespace in columns: the keys in their canonical bytes, which
//! delimit themselves (and have a fixed width where the key type has), then the
//! rows, the same. Its dead keys are tombstones: they and `dead_before` remove
//! what *older* files hold, and a block's dead keys are applied before its
//! entries. Blocks are cut at 64 KiB and go through the key groups in order,
//! segment by segment of a table (unordered within one, whose groups the block
//! names all), so a range of groups is few ranges of bytes.

use super::row::RowShape;
use crate::data::Res;
use millrace_protocol::ids::Uid;
use millrace_protocol::key::HASH_VERSION;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};
use millrace_protocol::shape::Shape;
use serde::{Deserialize, Serialize};

/// The version that this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// The last bytes of a file.
pub const MAGIC: [u8; 8] = *b"MILLRACE";

pub(super) const TRAILER: usize = 20;
pub(super) const HEADER: usize = 36;

/// Blocks are cut at this many bytes of keys and rows.
const BLOCK: usize = 64 * 1024;
/// Bytes go to the callback when there are this many.
const HAND_OVER: usize = 1024 * 1024;

/// The types of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSchema {
    /// The key.
    pub key: Shape,
    /// The row.
    pub row: RowShape,
    /// Whether the state has namespaces.
    pub panes: bool,
}

/// The end of a file: what stands where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// Version of key hash and key bytes.
    pub hash_version: u32,
    /// Number of key groups of the job.
    pub max_parallelism: MaxParallelism,
    /// The states.
    pub sections: Vec<Section>,
}

/// One state of one operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The operator.
    pub operator: Uid,
    /// The state's name within it.
    pub state: String,
    /// The types it was written with.
    pub schema: StateSchema,
    /// The groups that the writer owned.
    pub groups: KeyGroupRange,
    /// The groups that are written whole: no older file is needed for them.
    pub whole: KeyGroupRange,
    /// Older files' entries with a namespace below this are dead.
    pub dead_before: i64,
    /// The blocks, in the order they stand in the file.
    pub blocks: Vec<BlockIndex>,
}

/// Where a block stands and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIndex {
    /// Of its header, in the file.
    pub offset: u64,
    /// With header and checksum.
    pub bytes: u32,
    /// Lowest group in it.
    pub first: u16,
    /// Highest group in it.
    pub last: u16,
    /// The namespace of its entries.
    pub namespace: i64,
    /// Number of entries.
    pub entries: u32,
    /// Number of tombstones.
    pub dead: u32,
    /// CRC32 of all but the checksum itself.
    pub crc: u32,
}

/// Takes the file's bytes, in blocks of about 1 MB.
pub type Put = Box<dyn FnMut(Vec<u8>) -> Res>;

/// Writes the file of one slot and checkpoint: a section for each state.
pub struct DeltaWriter {
    put: Put,
    out: Vec<u8>,
    /// Bytes given to `put` so far.
    given: u64,
    footer: Footer,
    section: usize,
    open: OpenBlock,
}

/// The block that is being filled.
#[derive(Default)]
struct OpenBlock {
    namespace: i64,
    groups: Option<(u16, u16)>,
    entries: u32,
    dead: u32,
    dead_keys: Vec<u8>,
    keys: Vec<u8>,
    rows: Vec<u8>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// Entries in it.
    pub entries: u64,
    /// Tombstones in it.
    pub dead: u64,
    /// CRC32 of the footer, which holds offsets and checksums of all else.
    pub footer_crc32: u32,
    /// `dead_before` of each section: a file without entries is needed for it too.
    pub dead_before: Vec<i64>,
}

impl DeltaWriter {
    /// Begins a file; its bytes go to `put` in order.
    pub fn new(max: MaxParallelism, put: Put) -> Self {
        let footer =
            Footer { hash_version: HASH_VERSION, max_parallelism: max, sections: Vec::new() };
        let (out, open) = (Vec::with_capacity(HAND_OVER + 2 * BLOCK), OpenBlock::default());
        Self { put, out, given: 0, footer, section: 0, open }
    }

    /// Opens the section of a state; what is drained next goes there.
    pub fn section(&mut self, operator: &Uid, state: &str, schema: &StateSchema) -> Res {
        self.cut()?;
        let known =
            self.footer.sections.iter().position(|s| s.operator == *operator && s.state == state);
        self.section = match known {
            Some(at) => at,
            None => {
                u16::try_from(self.footer.sections.len())?;
                self.footer.sections.push(Section {
                    operator: operator.clone(),
                    state: state.to_owned(),
                    schema: schema.clone(),
                    groups: KeyGroupRange { start: 0, end: 0 },
                    whole: KeyGroupRange { start: 0, end: 0 },
                    dead_before: i64::MIN,
                    blocks: Vec::new(),
                });
                self.footer.sections.len() - 1
            }
        };
        Ok(())
    }

    /// Says what the open section covers.
    pub(super) fn covers(&mut self, groups: KeyGroupRange, whole: KeyGroupRange, dead_before: i64) {
        if let Some(section) = self.footer.sections.get_mut(self.section) {
            (section.groups, section.whole) = (groups, whole.intersect(groups));
            section.dead_before = dead_before;
        }
    }

    /// What follows is of this namespace.
    pub(super) fn namespace(&mut self, namespace: i64) -> Res {
        if self.open.namespace != namespace {
            self.cut()?;
            self.open.namespace = namespace;
        }
        Ok(())
    }

    /// Adds an entry of one of these groups, which `write` appends to the columns
    /// of keys and rows.
    #[inline]
    pub(super) fn entry(
        &mut self,
        (first, last): (u16, u16),
        write: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>) -> Res,
    ) -> Res {
        let open = &mut self.open;
        open.widen(first, last);
        write(&mut open.keys, &mut open.rows)?;
        open.entries += 1;
        self.cut_if_full()
    }

    /// Adds entries that are encoded already.
    pub(super) fn entries(
        &mut self,
        (first, last): (u16, u16),
        count: u32,
        keys: &[u8],
        rows: &[u8],
    ) -> Res {
        let open = &mut self.open;
        open.widen(first, last);
        open.keys.extend_from_slice(keys);
        open.rows.extend_from_slice(rows);
        open.entries += count;
        self.cut_if_full()
    }

    /// Adds a tombstone.
    pub(super) fn dead(&mut self, group: KeyGroup, write: impl FnOnce(&mut Vec<u8>)) -> Res {
        let open = &mut self.open;
        open.widen(group.0, group.0);
        write(&mut open.dead_keys);
        open.dead += 1;
        self.cut_if_full()
    }

    #[inline]
    fn cut_if_full(&mut self) -> Res {
        let open = &self.open;
        if open.keys.len() + open.rows.len() + open.dead_keys.len() < BLOCK {
            return Ok(());
        }
        self.cut()
    }

    /// Ends the block, if it holds anything.
    fn cut(&mut self) -> Res {
        let open = &mut self.open;
        let Some((first, last)) = open.groups.take() else { return Ok(()) };
        let Some(section) = self.footer.sections.get_mut(self.section) else {
            return Err("entries were drained before a section was opened".into());
        };
        let start = self.out.len();
        let out = &mut self.out;
        for word in [self.section as u16, first, last, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&open.namespace.to_le_bytes());
        out.extend_from_slice(&open.entries.to_le_bytes());
        out.extend_from_slice(&open.dead.to_le_bytes());
        for column in [&open.dead_keys, &open.keys, &open.rows] {
            out.extend_from_slice(&u32::try_from(column.len())?.to_le_bytes());
        }
        for column in [&mut open.dead_keys, &mut open.keys, &mut open.rows] {
            out.extend_from_slice(column);
            column.clear();
        }
        let crc = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
        section.blocks.push(BlockIndex {
            offset: self.given + start as u64,
            bytes: u32::try_from(out.len() - start)?,
            first,
            last,
            namespace: open.namespace,
            entries: std::mem::take(&mut open.entries),
            dead: std::mem::take(&mut open.dead),
            crc,
        });
        if self.out.len() >= HAND_OVER { self.hand_over(HAND_OVER + 2 * BLOCK) } else { Ok(()) }
    }

    fn hand_over(&mut self, next: usize) -> Res {
        let bytes = std::mem::replace(&mut self.out, Vec::with_capacity(next));
        self.given += bytes.len() as u64;
        (self.put)(bytes)
    }

    /// Ends the file.
    pub fn finish(mut self) -> Res<Written> {
        self.cut()?;
        let mut written = Written::default();
        written.dead_before.extend(self.footer.sections.iter().map(|s| s.dead_before));
        for block in self.footer.sections.iter().flat_map(|s| &s.blocks) {
            written.entries += u64::from(block.entries);
            written.dead += u64::from(block.dead);
        }
        let footer = postcard::to_stdvec(&self.footer)?;
        self.out.extend_from_slice(&footer);
        self.out.extend_from_slice(&u32::try_from(footer.len())?.to_le_bytes());
        written.footer_crc32 = crc32fast::hash(&footer);
        self.out.extend_from_slice(&written.footer_crc32.to_le_bytes());
        self.out.extend_from_slice(&FORMAT.to_le_bytes());
        self.out.extend_from_slice(&MAGIC);
        self.hand_over(0)?;
        written.bytes = self.given;
        Ok(written)
    }
}

impl OpenBlock {
    #[inline]
    fn widen(&mut self, first: u16, last: u16) {
        let (low, high) = self.groups.unwrap_or((first, last));
        self.groups = Some((low.min(first), high.max(last)));
    }
}
