//! A table's traffic with the tier below it: which entries leave (see `leave`), how they
//! come back, and what a snapshot finds there. Pure but for the [`Tier`].
//!
//! **Where an entry is.** An entry that is in the table is not looked for in the tier:
//! the tier may still hold its bytes, even outdated ones. A key that is not in the table
//! has its entry in the tier, if it has one at all: what is removed from the table is
//! removed from the tier too, before the tier is asked or read the next time.
//!
//! **What may leave.** Entries whose last write is in a complete checkpoint, or of the
//! table's first epoch: the latter are in no file perhaps, but then the next snapshot
//! writes everything. So what is in the tier is owed only to a snapshot that writes its
//! key group whole, which goes through the tier as it passes a segment. While it is
//! inside a segment no entry of it leaves, and one that comes back is copied aside.

mod leave;

pub(super) use leave::{growth, hold_back};

use super::budget::{Budget, Reservation};
use super::delta::DeltaWriter;
use super::row::{Row, RowReader};
use super::segment::{Entry, Owing, Segment, Stamp, preserve};
use super::table::Table;
use super::tier::{Packed, Tier, timed};
use crate::data::{Fail, Res, Ts};
use hashbrown::HashTable;
use millrace_protocol::key::Key;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange};
use std::rc::Rc;
use std::sync::Arc;

/// What an entry of the tier counts in a snapshot's turn, in entries of a table.
const READ_COST: usize = 8;

/// About the bytes of the tier's rows that are brought back at once where all are to be.
const RANGE: u64 = if cfg!(test) { 1 << 10 } else { 1 << 20 };

/// What an entry takes in memory beside its bytes in the tier.
const ENTRY: u64 = 64;

/// What stands before each key of a table in its tier: the namespace, where several tables
/// share one; in order of namespace.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Prefix(Option<[u8; 8]>);

impl Prefix {
    pub fn of(namespace: i64) -> Self {
        Self(Some((namespace.cast_unsigned() ^ 1 << 63).to_be_bytes()))
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |bytes| bytes.as_slice())
    }
}

/// A table's side of its tier.
pub(crate) struct Spill<K> {
    tier: Rc<dyn Tier>,
    prefix: Prefix,
    pub held: Reservation,
    wanted: Vec<(u64, K)>,
    /// Of `wanted`, in the tier's form.
    keys: Packed,
    /// Keys removed from the table that the tier may hold.
    gone: Packed,
    /// Whether anything was ever put into the tier.
    used: bool,
    /// Entries that only the tier has: never less than there are.
    pub count: u64,
    /// About the bytes of these.
    pub bytes: u64,
    looked: u64,
    /// What expired by then the tier may have dropped.
    expired: Ts,
    /// The segment that sheds next.
    next: usize,
    /// Whether the table has been consumed: what the tier still has is of no key any more,
    /// but owed to the snapshot that drains.
    over: bool,
    /// What went wrong where no error can be returned; the next call that can, does.
    failed: Option<Fail>,
}

impl<K: Key> Spill<K> {
    pub fn new(tier: Rc<dyn Tier>, prefix: Prefix, held: Reservation) -> Self {
        Self {
            tier,
            prefix,
            held,
            wanted: Vec::new(),
            keys: Packed::default(),
            gone: Packed::default(),
            used: false,
            count: 0,
            bytes: 0,
            looked: 0,
            expired: Ts::MIN,
            next: 0,
            over: false,
            failed: None,
        }
    }

    /// A key has been removed from the table.
    #[inline(never)]
    pub fn removed(&mut self, group: KeyGroup, key: &K) {
        if self.used && !self.over {
            let prefix = self.prefix;
            self.gone.push(|out| write_key(prefix, group, key, out));
        }
    }

    /// The table has been consumed. `doomed`: what the tier has of it is dead anyway.
    pub fn consumed(&mut self, doomed: bool) -> Res {
        self.check()?;
        if doomed {
            self.over = true;
            return Ok(());
        }
        (self.count, self.bytes) = (0, 0);
        self.settle()
    }

    /// Of how many groups, of the `of` that the table has, the rows are brought back at once.
    fn stride(&self, of: u16) -> u16 {
        let each = (self.bytes + self.count * ENTRY) / u64::from(of.max(1));
        u16::try_from(RANGE / each.max(1)).unwrap_or(u16::MAX).max(1)
    }

    fn check(&mut self) -> Res {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Puts entries into the tier, after what is to go from there.
    fn put(&mut self, keys: &Packed, values: &Packed) -> Res {
        if self.gone.is_empty() && keys.is_empty() {
            return Ok(());
        }
        self.used |= !keys.is_empty();
        self.tier.write(&self.gone, keys, values)?;
        self.gone.clear();
        Ok(())
    }

    fn settle(&mut self) -> Res {
        self.put(&Packed::default(), &Packed::default())
    }

    /// Goes through the entries of some groups, from `from` on if it is given, until
    /// `entry` answers false: group, key, the row's bytes and what stands beside them.
    fn scan<R: Row>(
        &mut self,
        groups: KeyGroupRange,
        from: Option<&[u8]>,
        mut entry: impl FnMut(&[u8], KeyGroup, K, Value<'_>) -> Res<bool>,
    ) -> Res {
        self.settle()?;
        if self.count == 0 || groups.is_empty() {
            return Ok(());
        }
        // Groups are at most 32,768, so the end is one too.
        let [first, until] = [groups.start, groups.end]
            .map(|group| [self.prefix.bytes(), &group.to_be_bytes()].concat());
        let prefix = self.prefix;
        self.tier.scan(from.unwrap_or(&first), &until, &mut |packed, value| {
            let (group, key) = read_key::<K>(prefix, packed)?;
            entry(packed, group, key, Value::of::<R>(value)?)
        })
    }
}

/// A row as it stands in the tier.
struct Value<'a> {
    row: &'a [u8],
    beside: &'a [u8],
}

impl<'a> Value<'a> {
    fn of<R: Row>(bytes: &'a [u8]) -> Res<Self> {
        let bytes = match R::EXPIRES {
            true => timed(bytes).ok_or("a value without its time in the tier")?.1,
            false => bytes,
        };
        if !R::BESIDE {
            return Ok(Self { row: bytes, beside: &[] });
        }
        let (len, bytes) = bytes.split_last().ok_or("an empty value in the tier")?;
        let at = bytes.len().checked_sub(usize::from(*len)).ok_or("a short value in the tier")?;
        let (row, beside) = bytes.split_at(at);
        Ok(Self { row, beside })
    }

    fn read<R: Row>(&self) -> Res<R> {
        let mut bytes = self.row;
        let mut row = R::read(&mut bytes, &RowReader::same())?;
        if !bytes.is_empty() {
            return Err("a value in the tier is longer than its row".into());
        }
        if R::BESIDE {
            row.read_beside(self.beside)?;
        }
        Ok(row)
    }
}

fn write_value<R: Row>(row: &R, out: &mut Vec<u8>) -> Res {
    if R::EXPIRES {
        out.extend_from_slice(&row.expires_at().to_le_bytes());
    }
    row.write(out)?;
    if R::BESIDE {
        let before = out.len();
        row.write_beside(out);
        out.push(u8::try_from(out.len() - before)?);
    }
    Ok(())
}

fn write_key<K: Key>(prefix: Prefix, group: KeyGroup, key: &K, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix.bytes());
    out.extend_from_slice(&group.0.to_be_bytes());
    key.write(out);
}

fn read_key<K: Key>(prefix: Prefix, bytes: &[u8]) -> Res<(KeyGroup, K)> {
    let bytes = bytes.strip_prefix(prefix.bytes()).ok_or("a key of another table in the tier")?;
    let (group, mut rest) = bytes.split_first_chunk().ok_or("a short key in the tier")?;
    Ok((KeyGroup(u16::from_be_bytes(*group)), K::read(&mut rest)?))
}

impl<K: Key, R: Row> Table<K, R> {
    /// Gives the table a tier: from now on it holds no more than `budget` allows, but for
    /// what was written since the last complete checkpoint. Before
    /// [`Table::get`] and its kin are asked for a key, it has to be [wanted](Table::want)
    /// and [fetched](Table::fetch) since the last [`Table::tend`].
    pub fn spill_to(&mut self, tier: Box<dyn Tier>, budget: &Arc<Budget>) {
        // Of an attempt that has ended.
        budget.checkpoint_ended(true);
        let spill = Spill::new(Rc::from(tier), Prefix::default(), budget.reservation());
        self.spill = Some(Box::new(spill));
    }

    /// Whether there is a tier.
    #[inline]
    pub fn has_tier(&self) -> bool {
        self.spill.is_some()
    }

    /// The budget of a table with a tier.
    pub fn budget(&self) -> Option<&Arc<Budget>> {
        self.spill.as_ref().map(|s| s.held.budget())
    }

    /// Whether entries may be in a tier: else there is no need to want and fetch.
    #[inline]
    pub fn spills(&self) -> bool {
        self.spill.as_ref().is_some_and(|s| s.count > 0 && !s.over)
    }

    /// Whether the table has been consumed, and what the tier has of it is dead.
    pub(super) fn is_over(&self) -> bool {
        self.spill.as_ref().is_some_and(|s| s.over)
    }

    /// The next [`Table::fetch`] brings this key's row, if the tier has it.
    #[inline]
    pub fn want(&mut self, hash: u64, key: &K) {
        if !self.spills() {
            return;
        }
        let segment = &self.segments[self.segment_of(hash)];
        if segment.entries.find(hash, |e| e.key == *key).is_some() {
            return;
        }
        let Some(spill) = &mut self.spill else { return };
        let group = self.max.group(hash);
        let prefix = spill.prefix;
        spill.keys.push(|out| write_key(prefix, group, key, out));
        spill.wanted.push((hash, key.clone()));
    }

    /// Brings wanted rows from the tier into the table.
    #[inline]
    pub fn fetch(&mut self) -> Res {
        match &self.spill {
            Some(spill) if !spill.wanted.is_empty() || spill.failed.is_some() => self.fetch_now(),
            _ => Ok(()),
        }
    }

    #[inline(never)]
    fn fetch_now(&mut self) -> Res {
        let Some(mut spill) = self.spill.take() else { return Ok(()) };
        let result = self.fetch_from(&mut spill);
        spill.wanted.clear();
        spill.keys.clear();
        self.spill = Some(spill);
        result
    }

    fn fetch_from(&mut self, spill: &mut Spill<K>) -> Res {
        spill.check()?;
        spill.settle()?;
        // Not owed to a delta: every base's cut is at least the complete one's. A write in
        // an entry's own epoch leaves its stamp as it is, so that of the first epoch says
        // nothing of the tier.
        let epoch = self.oldest_kept();
        let same = !R::BESIDE && epoch < self.epochs.current;
        let stamp = Stamp::new(epoch, true).in_tier(same);
        let Spill { tier, wanted, keys, count, bytes, .. } = spill;
        tier.get(keys, &mut |at, value| {
            let Some((hash, key)) = wanted.get(at) else {
                return Err("the tier found what it was not asked for".into());
            };
            let row = Value::of::<R>(value)?.read()?;
            if self.bring_back(*hash, Entry { key: key.clone(), row, stamp }) {
                *count = count.saturating_sub(1);
                *bytes = bytes.saturating_sub(value.len() as u64);
            }
            Ok(())
        })
    }

    /// Puts an entry back, unless it is there already: a key may be wanted twice.
    fn bring_back(&mut self, hash: u64, entry: Entry<K, R>) -> bool {
        let at = self.segment_of(hash);
        let max = self.max;
        let Segment { entries, groups, aside, moves, .. } = &mut self.segments[at];
        if entries.find(hash, |e| e.key == entry.key).is_some() {
            return false;
        }
        if let Some(draining) = &self.epochs.draining
            && draining.inside.is_some()
            && draining.owing.passed == groups.start
        {
            // The walk may have been where it lands, and will not find it in the tier.
            preserve(draining, max, hash, &entry, &mut aside.side);
        }
        if entries.len() == entries.capacity() {
            *moves += 1;
        }
        entries.insert_unique(hash, entry, |e| e.key.hash64());
        true
    }

    /// Calls `f` with every key, row and hash that only the tier has, in order of key
    /// group and key.
    pub fn for_each_spilled(&mut self, mut f: impl FnMut(&K, &R, u64)) -> Res {
        if !self.spills() {
            return Ok(());
        }
        let Some(mut spill) = self.spill.take() else { return Ok(()) };
        let range = self.range;
        let result = spill.scan::<R>(range, None, |_, _, key, value| {
            let hash = key.hash64();
            if self.get(hash, &key).is_none() {
                f(&key, &value.read()?, hash);
            }
            Ok(true)
        });
        self.spill = Some(spill);
        result
    }

    /// Removes what the tier has of a key that a file says is gone.
    pub(super) fn forget_spilled(&mut self, hash: u64, key: &K) {
        let group = self.max.group(hash);
        if let Some(spill) = &mut self.spill {
            spill.removed(group, key);
        }
    }

    /// Rows that only the tier has and that have expired may go. They leave no mark in
    /// checkpoints: in older files they stand as what they are, expired.
    pub(super) fn expire_spilled(&mut self, now: Ts) {
        if let Some(spill) = self.spill.as_mut().filter(|s| s.used && s.expired < now) {
            spill.expired = now;
            spill.tier.expire(now);
        }
    }

    /// What a snapshot of the consumed table would still need is not needed any more.
    pub(super) fn drop_consumed(&mut self) {
        self.spill.take_if(|s| s.over);
    }

    /// Of how many groups rows are brought back at once, where all are to be.
    pub(super) fn stride(&self) -> u16 {
        self.spill.as_ref().map_or(u16::MAX, |s| s.stride(self.range.len()))
    }

    /// Calls `f` with the keys and rows that the tier has of some groups, in order of group
    /// and key; outdated ones too, of keys that are or were in memory.
    pub(super) fn read_spilled(&mut self, groups: KeyGroupRange, mut f: impl FnMut(K, R)) -> Res {
        let Some(spill) = &mut self.spill else { return Ok(()) };
        spill.check()?;
        spill.scan::<R>(groups, None, |_, _, key, value| {
            f(key, value.read()?);
            Ok(true)
        })
    }

    /// Fails if something went wrong earlier where no error could be returned.
    pub(super) fn check_spill(&mut self) -> Res {
        self.spill.as_mut().map_or(Ok(()), |s| s.check())
    }
}

/// Writes what a snapshot is owed of the entries that only the tier has, of the groups of
/// one segment; takes what it looks at off `budget`. Goes on from `from`; whether it is
/// through.
pub(super) fn write_spilled<K: Key, R: Row>(
    spill: &mut Spill<K>,
    (entries, groups): (&HashTable<Entry<K, R>>, KeyGroupRange),
    owing: Owing,
    from: &mut Option<Vec<u8>>,
    out: &mut DeltaWriter,
    budget: &mut usize,
) -> Res<bool> {
    spill.check()?;
    let whole = owing.whole(groups);
    // What is in a table that was consumed has come since, and outdates nothing.
    let (start, over) = (from.take(), spill.over);
    let mut stopped = None;
    spill.scan::<R>(whole, start.as_deref(), |packed, group, key, value| {
        if *budget == 0 {
            stopped = Some(packed.to_vec());
            return Ok(false);
        }
        *budget = budget.saturating_sub(READ_COST);
        let hash = key.hash64();
        if over || entries.find(hash, |e| e.key == key).is_none() {
            out.entry((group.0, group.0), |keys, rows| {
                key.write(keys);
                rows.extend_from_slice(value.row);
                Ok(())
            })?;
        }
        Ok(true)
    })?;
    *from = stopped;
    Ok(from.is_none())
}
