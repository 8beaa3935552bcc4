//! Writes the parts of one subtask. Bytes go to their place from the slot's
//! thread; making them last is the side pool's work.

use super::names::{self, is_sub_path};
use super::part::Part;
use super::place::{Place, Seal};
use super::{Config, Error, FileCommit};
use crate::format::{Encode, Encoder};
use millrace_engine::connector::{Pending, Prepared, SinkCx, Writer};
use millrace_engine::data::{Res, Rows};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// A subtask holds about so many bytes in memory, where parts are in memory.
const HELD: usize = 64 << 20;

/// Writes the rows of one subtask.
pub struct FileWriter<T, F: Encode<T>> {
    config: Config<T, F>,
    place: Arc<dyn Place>,
    cx: SinkCx,
    extension: String,
    /// Open parts by partition.
    parts: BTreeMap<String, Part<F::Encoder>>,
    /// Closed since the last barrier.
    closed: Vec<(FileCommit, Option<Seal>)>,
    next_part: u64,
    /// Whether the stage has entries that may not last yet.
    new_entries: bool,
    partition: String,
}

impl<T, F: Encode<T>> FileWriter<T, F> {
    pub(super) fn new(config: Config<T, F>, place: Arc<dyn Place>, cx: SinkCx) -> Self {
        let extension = format!(".{}{}", config.format.extension(), config.compression.extension());
        Self {
            config,
            place,
            cx,
            extension,
            parts: BTreeMap::new(),
            closed: Vec::new(),
            next_part: 0,
            new_entries: false,
            partition: String::new(),
        }
    }

    /// The open part of `self.partition`.
    fn part(&mut self, now: Instant) -> Res<&mut Part<F::Encoder>> {
        // Twice, as a reference that is returned from one branch is held in both.
        if !self.parts.contains_key(&self.partition) {
            if !is_sub_path(&self.partition) {
                return Err(Error::Partition { path: self.partition.clone() }.into_fail());
            }
            if self.parts.len() >= self.config.max_open {
                let first = self.parts.iter().min_by_key(|(_, part)| part.counter);
                if let Some(partition) = first.map(|(partition, _)| partition.clone()) {
                    self.close(&partition)?;
                }
            }
            let counter = self.next_part;
            let (job, partition) = (self.place.job(), &self.partition);
            let mut commit = names::part(&self.cx, job, partition, counter, &self.extension);
            commit.at = self.config.dir.to_str().map(str::to_owned);
            let body = self.place.begin(&commit).map_err(Error::into_fail)?;
            let (compression, encoder) = (self.config.compression, self.config.format.encoder());
            let part = Part::new(body, commit, counter, compression, encoder, now);
            self.next_part += 1;
            self.new_entries = true;
            self.parts.insert(self.partition.clone(), part);
        }
        match self.parts.get_mut(&self.partition) {
            Some(part) => Ok(part),
            None => Err("the part that was just opened is gone".into()),
        }
    }

    fn close(&mut self, partition: &str) -> Res {
        if let Some(mut part) = self.parts.remove(partition) {
            let sealed = part.seal(|encoder, bytes| encoder.drain(bytes))?;
            part.commit.closed = true;
            self.closed.push((part.commit, sealed));
        }
        Ok(())
    }

    /// Closes the largest part if too much is in memory.
    fn let_go(&mut self) -> Res {
        let held = self.parts.values().map(Part::held).sum::<usize>();
        let largest = self.parts.iter().max_by_key(|(_, part)| part.held());
        match largest.map(|(partition, _)| partition.clone()) {
            Some(partition) if held > HELD => self.close(&partition),
            _ => Ok(()),
        }
    }

    /// Writes rows that belong to `self.partition`.
    fn write_run<'r>(&mut self, rows: impl Iterator<Item = &'r T>, now: Instant) -> Res
    where
        T: 'r,
    {
        let max_bytes = self.config.rolling.max_bytes;
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let part = self.part(now)?;
            for row in rows.by_ref() {
                part.encoder.encode(row)?;
                part.took_row(|encoder, bytes| encoder.drain(bytes))?;
                if part.len() >= max_bytes {
                    break;
                }
            }
            if part.len() >= max_bytes || part.is_full() {
                let partition = std::mem::take(&mut self.partition);
                self.close(&partition)?;
                self.partition = partition;
            }
        }
        Ok(())
    }
}

impl<T: 'static, F: Encode<T>> Writer<T, FileCommit> for FileWriter<T, F> {
    fn has_room(&mut self) -> bool {
        self.parts.values_mut().all(Part::has_room)
    }

    fn write(&mut self, rows: &mut Rows<T>) -> Res {
        let now = Instant::now();
        match self.config.partition.clone() {
            None => self.write_run(rows.values.iter(), now)?,
            Some(partition) => {
                let mut next = String::new();
                let mut rest = &rows.values[..];
                while let Some(first) = rest.first() {
                    self.partition.clear();
                    partition(first, &mut self.partition);
                    let same = rest[1..].iter().take_while(|row| {
                        next.clear();
                        partition(row, &mut next);
                        next == self.partition
                    });
                    let (run, after) = rest.split_at(1 + same.count());
                    self.write_run(run.iter(), now)?;
                    rest = after;
                }
            }
        }
        rows.clear();
        self.let_go()
    }

    fn prepare(&mut self, last: bool) -> Res<Pending<FileCommit>> {
        let now = Instant::now();
        let max_age = self.config.rolling.max_age;
        let due = |part: &Part<_>| last || now.duration_since(part.opened) >= max_age;
        let closing: Vec<String> =
            self.parts.iter().filter(|(_, part)| due(part)).map(|(p, _)| p.clone()).collect();
        for partition in closing {
            self.close(&partition)?;
        }
        let mut closed = std::mem::take(&mut self.closed);
        let mut open = Vec::new();
        for part in self.parts.values_mut() {
            let seal = part.seal(|encoder, bytes| encoder.drain(bytes))?;
            open.push((part.commit.clone(), seal));
        }
        let new_entries = std::mem::take(&mut self.new_entries);
        let place = Arc::clone(&self.place);
        Ok(Box::new(move || {
            for (commit, seal) in closed.iter_mut().chain(&mut open) {
                if let Some(seal) = seal.take() {
                    seal(commit).map_err(Error::into_fail)?;
                }
            }
            if new_entries {
                place.settle().map_err(Error::into_fail)?;
            }
            let commits = |of: Vec<(FileCommit, _)>| of.into_iter().map(|(c, _)| c).collect();
            Ok(Prepared { commit: commits(closed), open: commits(open) })
        }))
    }
}
