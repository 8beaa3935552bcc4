//! A sorted run: entries in order of their keys, in a file that is written once, with what
//! is kept in memory to find them there.
//!
//! The file is a row of blocks. A block is entries, where each begins (`u16` each), how many
//! there are (`u16`), and a CRC-32 of what is before it; it is closed once it has [`BLOCK`]
//! bytes. An entry is the lengths of key and value (LEB128; of the value one more, 0 for a
//! key that is gone), key, value. In memory are the first key of each block and a filter.
//!
//! The file has no name: it goes with its last user, however that ends.

use crate::block::{Block, Bounds, entry_at, write_length};
use crate::filter::Filter;
use crate::key_hash;
use crate::order::{Entry, Source, head};
use crate::place::{Counted, Place};
use crate::work::Dead;
use millrace_engine::data::{Res, Ts};
use millrace_engine::state::tier::{Packed, timed};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A block is closed once it has so many bytes.
const BLOCK: usize = 4 << 10;
/// Bytes that are written and read at once where a run is gone through.
const CHUNK: usize = 256 << 10;
/// Bits of the filter for each key.
const BITS: usize = 10;
/// Writes a run.
pub(crate) struct RunWriter {
    place: Arc<Place>,
    file: File,
    out: Vec<u8>,
    /// Where the block in hand begins in `out`.
    block: usize,
    begins: Vec<u16>,
    written: u64,
    firsts: Packed,
    offsets: Vec<u64>,
    last: Vec<u8>,
    filter: Filter,
    count: u64,
    times: Times,
}

impl RunWriter {
    /// For at most `count` entries. `oldest`: there is no older run, so that it may do without
    /// a filter if there is no room for one.
    pub fn new(place: &Arc<Place>, count: usize, oldest: bool) -> Res<Self> {
        let room = place.room();
        // Whoever looks into the oldest run finds the key mostly.
        let bits = if oldest && (count * BITS / 8) as u64 > room { 0 } else { BITS };
        Ok(Self {
            file: place.file()?,
            place: Arc::clone(place),
            out: Vec::with_capacity(CHUNK + 2 * BLOCK),
            block: 0,
            begins: Vec::new(),
            written: 0,
            firsts: Packed::default(),
            offsets: vec![0],
            last: Vec::new(),
            filter: Filter::new(count, bits),
            count: 0,
            times: Times::default(),
        })
    }

    /// The next entry, of a key above the last one's.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Res {
        if self.out.len() - self.block >= BLOCK {
            self.close()?;
        }
        let begin = self.out.len() - self.block;
        if self.begins.is_empty() {
            self.firsts.push(|out| out.extend_from_slice(key));
        }
        self.begins.push(u16::try_from(begin)?);
        write_length(key.len() as u64, &mut self.out);
        write_length(value.map_or(0, |value| value.len() as u64 + 1), &mut self.out);
        self.out.extend_from_slice(key);
        self.out.extend_from_slice(value.unwrap_or_default());
        self.filter.add(key_hash(key));
        if let Some((time, _)) = value.and_then(timed) {
            self.times.add(time);
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        self.count += 1;
        Ok(())
    }

    fn close(&mut self) -> Res {
        if self.begins.is_empty() {
            return Ok(());
        }
        for begin in &self.begins {
            self.out.extend_from_slice(&begin.to_le_bytes());
        }
        self.out.extend_from_slice(&u16::try_from(self.begins.len())?.to_le_bytes());
        let crc = crc32fast::hash(self.out.get(self.block..).unwrap_or_default());
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.begins.clear();
        self.block = self.out.len();
        self.offsets.push(self.written + self.block as u64);
        if self.out.len() >= CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Res {
        self.file.write_all(&self.out).map_err(|e| self.place.failed("write", &e))?;
        self.written += self.out.len() as u64;
        self.out.clear();
        self.block = 0;
        Ok(())
    }

    /// The run; `None` if nothing was written.
    pub fn finish(mut self) -> Res<Option<Run>> {
        self.close()?;
        self.flush()?;
        let Some(first) = self.firsts.get(0).map(<[u8]>::to_vec) else { return Ok(None) };
        let common = first.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        let heads: Vec<u64> = self.firsts.iter().map(|key| head(key, common)).collect();
        let Self { place, file, firsts, offsets, last, filter, count, written, times, .. } = self;
        let keys = firsts.bytes() + firsts.len() * size_of::<usize>();
        let memory = filter.bytes() + keys + (heads.len() + offsets.len()) * size_of::<u64>();
        Ok(Some(Run {
            _memory: Counted::new(memory as u64, &place.memory),
            _disk: Counted::new(written, &place.disk),
            place,
            file,
            firsts,
            heads,
            common,
            offsets,
            last,
            filter,
            count,
            median: times.median(),
        }))
    }
}

/// A sample of the times that values begin with.
#[derive(Default)]
struct Times {
    sample: Vec<Ts>,
    /// Each so many-th is taken.
    stride: u64,
    left: u64,
}

impl Times {
    fn add(&mut self, time: Ts) {
        if self.left > 0 {
            self.left -= 1;
            return;
        }
        self.left = self.stride;
        self.sample.push(time);
        if self.sample.len() == 1024 {
            let mut odd = false;
            self.sample.retain(|_| {
                odd = !odd;
                odd
            });
            self.stride = self.stride * 2 + 1;
        }
    }

    fn median(mut self) -> Option<Ts> {
        self.sample.sort_unstable();
        self.sample.get(self.sample.len() / 2).copied()
    }
}

/// A run on the disk.
pub(crate) struct Run {
    place: Arc<Place>,
    file: File,
    /// The first key of each block.
    firsts: Packed,
    /// Of each of these, eight bytes after what all keys begin with.
    heads: Vec<u64>,
    /// Bytes that all keys begin with.
    common: usize,
    /// Where each block begins, and where the last one ends.
    offsets: Vec<u64>,
    last: Vec<u8>,
    filter: Filter,
    count: u64,
    /// By then about half of the values have expired, if they begin with times.
    median: Option<Ts>,
    _memory: Counted,
    _disk: Counted,
}

impl Run {
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn bytes(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(0)
    }

    pub fn last(&self) -> &[u8] {
        &self.last
    }

    /// Whether it is worth writing anew for what is dead in it.
    pub fn is_half_dead(&self, dead: &Dead) -> bool {
        let late = dead.expired.zip(self.median).is_some_and(|(now, median)| median <= now);
        let below = self.block_of(&dead.below).unwrap_or(0);
        late || below > self.heads.len() / 2
    }

    pub fn may_have(&self, hash: u64) -> bool {
        self.filter.may_have(hash)
    }

    /// The block that a key would be in.
    pub fn block_of(&self, key: &[u8]) -> Option<usize> {
        let first = self.firsts.get(0)?;
        if key < first || key > self.last.as_slice() {
            return None;
        }
        // So it begins as all do.
        let wanted = head(key, self.common);
        let mut at = self.heads.partition_point(|head| *head < wanted);
        while self.heads.get(at) == Some(&wanted) && self.firsts.get(at).is_some_and(|f| f <= key) {
            at += 1;
        }
        at.checked_sub(1)
    }

    /// Reads a block, and checks it.
    pub fn read(&self, block: usize, bytes: &mut Vec<u8>) -> Res {
        let (Some(from), Some(to)) = (self.offsets.get(block), self.offsets.get(block + 1)) else {
            return Err(self.place.damaged());
        };
        bytes.resize(usize::try_from(to - from)?, 0);
        self.file.read_exact_at(bytes, *from).map_err(|e| self.place.failed("read", &e))?;
        self.check(bytes)
    }

    fn check(&self, block: &[u8]) -> Res {
        match block.split_last_chunk() {
            Some((body, crc)) if crc32fast::hash(body) == u32::from_le_bytes(*crc) => Ok(()),
            _ => Err(self.place.damaged()),
        }
    }

    /// All of it.
    pub fn all(self: &Arc<Self>) -> Res<RunSource> {
        let mut source = RunSource::new(self, 0, CHUNK);
        source.advance()?;
        Ok(source)
    }

    /// All from a key on.
    pub fn from(self: &Arc<Self>, key: &[u8]) -> Res<RunSource> {
        let block = self.block_of(key).unwrap_or(match key <= self.last.as_slice() {
            true => 0,
            false => self.heads.len(),
        });
        // Mostly a few blocks are wanted.
        let mut source = RunSource::new(self, block, 4 * BLOCK);
        source.advance()?;
        while source.entry().is_some_and(|entry| entry.key < key) {
            source.advance()?;
        }
        Ok(source)
    }
}

/// A run's entries in order.
pub(crate) struct RunSource {
    run: Arc<Run>,
    chunk: Vec<u8>,
    /// Bytes that are read at once.
    ahead: usize,
    /// The block after those in the chunk.
    next: usize,
    /// Where the blocks of the chunk end, the last one first.
    ends: Vec<usize>,
    /// Where the block in hand begins and ends.
    begin: usize,
    block: usize,
    at: usize,
    entries: usize,
    /// The entry in hand, within the chunk.
    entry: Option<Bounds>,
}

impl RunSource {
    fn new(run: &Arc<Run>, block: usize, ahead: usize) -> Self {
        Self {
            run: Arc::clone(run),
            chunk: Vec::new(),
            ahead,
            next: block,
            ends: Vec::new(),
            begin: 0,
            block: 0,
            at: 0,
            entries: 0,
            entry: None,
        }
    }

    /// Reads blocks ahead; whether there were any.
    fn fill(&mut self) -> Res<bool> {
        let Run { offsets, file, place, .. } = &*self.run;
        let Some(from) = offsets.get(self.next).copied().filter(|_| self.next + 1 < offsets.len())
        else {
            return Ok(false);
        };
        self.ends.clear();
        let first = self.next;
        while let Some(end) = offsets.get(self.next + 1)
            && (self.next == first || end - from <= self.ahead as u64)
        {
            self.ends.push(usize::try_from(end - from)?);
            self.next += 1;
        }
        self.chunk.resize(self.ends.last().copied().unwrap_or(0), 0);
        file.read_exact_at(&mut self.chunk, from).map_err(|e| place.failed("read", &e))?;
        self.ahead = (self.ahead * 2).min(CHUNK);
        self.ends.reverse();
        self.block = 0;
        Ok(true)
    }
}

impl Source for RunSource {
    fn entry(&self) -> Option<Entry<'_>> {
        entry_at(&self.chunk, self.entry?)
    }

    fn advance(&mut self) -> Res {
        self.entry = None;
        while self.at >= self.entries {
            if self.ends.is_empty() && !self.fill()? {
                return Ok(());
            }
            let Some(end) = self.ends.pop() else { return Ok(()) };
            (self.begin, self.block, self.at) = (self.block, end, 0);
            let block = self.chunk.get(self.begin..end).unwrap_or_default();
            self.run.check(block)?;
            self.entries = Block::of(block).len();
        }
        let block = self.chunk.get(self.begin..self.block).unwrap_or_default();
        let bounds = Block::of(block).bounds(self.at, self.entries);
        let (key, value, end) = bounds.ok_or_else(|| self.run.place.damaged())?;
        self.entry = Some((self.begin + key, self.begin + value, end.map(|end| self.begin + end)));
        self.at += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(entries: u32) -> Arc<Run> {
        let directory = tempfile::tempdir().unwrap();
        let place = Arc::new(Place::new(directory.path(), 1 << 20));
        let mut run = RunWriter::new(&place, entries as usize, false).unwrap();
        for i in 0..entries {
            let value = (i % 5 > 0).then_some(i.to_le_bytes());
            run.push(&i.to_be_bytes(), value.as_ref().map(|v| v.as_slice())).unwrap();
        }
        Arc::new(run.finish().unwrap().unwrap())
    }

    #[test]
    fn each_key_is_in_the_block_that_is_said() {
        for entries in [1, 300, 5_000] {
            let (run, mut bytes) = (run(entries), Vec::new());
            for i in 0..entries {
                let key = i.to_be_bytes();
                assert!(run.may_have(key_hash(&key)));
                run.read(run.block_of(&key).unwrap(), &mut bytes).unwrap();
                let found = Block::of(&bytes).find(&key).unwrap();
                assert_eq!(found.is_some(), i % 5 > 0, "{i}");
                assert!(found.is_none_or(|value| value == i.to_le_bytes()), "{i}");
            }
            assert_eq!(run.block_of(&entries.to_be_bytes()), None, "above the last");
        }
    }

    #[test]
    fn what_is_damaged_is_said_and_never_read() {
        let run = run(5_000);
        run.file.write_all_at(b"?", run.bytes() / 2).unwrap();
        let mut bytes = Vec::new();
        let damaged = (0..run.heads.len()).filter(|at| run.read(*at, &mut bytes).is_err());
        assert_eq!(damaged.count(), 1);
        let mut source = run.all().unwrap();
        let error = loop {
            match source.advance() {
                Ok(()) => assert!(source.entry().is_some(), "all was read"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("damaged"), "{error}");
        run.file.set_len(10).unwrap();
        let error = run.read(1, &mut bytes).unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
    }
}
