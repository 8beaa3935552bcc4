//! Writes the parts of one subtask. Bytes go to the file system on the slot's
//! thread; making them last is the side pool's work.

use super::names::{Places, is_sub_path, sync_dir};
use super::part::{Part, Sealed};
use super::{Config, Error, FileCommit};
use crate::format::{Encode, Encoder};
use millrace_engine::connector::{Pending, Prepared, SinkCx, Writer};
use millrace_engine::data::{Res, Rows};
use std::collections::BTreeMap;
use std::time::Instant;

/// Writes the rows of one subtask.
pub struct FileWriter<T, F: Encode<T>> {
    config: Config<T, F>,
    places: Places,
    cx: SinkCx,
    extension: String,
    /// Open parts by partition.
    parts: BTreeMap<String, Part<F::Encoder>>,
    /// Closed since the last barrier.
    closed: Vec<(FileCommit, Option<Sealed>)>,
    next_part: u64,
    /// Whether the stage has entries that may not last yet.
    new_entries: bool,
    partition: String,
}

impl<T, F: Encode<T>> FileWriter<T, F> {
    pub(super) fn new(config: Config<T, F>, places: Places, cx: SinkCx) -> Self {
        let extension = format!(".{}{}", config.format.extension(), config.compression.extension());
        Self {
            config,
            places,
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
            let commit = Places::part(&self.cx, &self.partition, counter, &self.extension);
            let part = Part::create(
                self.places.staged(&commit),
                commit,
                counter,
                self.config.compression,
                self.config.format.encoder(),
                now,
            )
            .map_err(Error::into_fail)?;
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
            if part.len() >= max_bytes {
                let partition = std::mem::take(&mut self.partition);
                self.close(&partition)?;
                self.partition = partition;
            }
        }
        Ok(())
    }
}

impl<T: 'static, F: Encode<T>> Writer<T, FileCommit> for FileWriter<T, F> {
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
        Ok(())
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
        let mut prepared = Prepared { commit: Vec::new(), open: Vec::new() };
        let mut to_sync = Vec::new();
        for (commit, sealed) in self.closed.drain(..) {
            prepared.commit.push(commit);
            to_sync.extend(sealed);
        }
        for part in self.parts.values_mut() {
            to_sync.extend(part.seal(|encoder, bytes| encoder.drain(bytes))?);
            prepared.open.push(part.commit.clone());
        }
        let new_entries = std::mem::take(&mut self.new_entries);
        let stage = self.places.stage.clone();
        Ok(Box::new(move || {
            for sealed in to_sync {
                sealed.sync().map_err(Error::into_fail)?;
            }
            if new_entries {
                sync_dir(&stage).map_err(|e| Error::write(&stage, e).into_fail())?;
            }
            Ok(prepared)
        }))
    }
}
