//! From files to tables. Pure: bytes come from a [`RangeRead`].
//!
//! Files are applied oldest to newest: a newer entry replaces an older one, a
//! tombstone removes it, and a newer file's `dead_before` keeps older panes out.

use super::delta::{BlockIndex, Section, StateSchema};
use super::reader::{Block, DeltaReader, FileError, RangeRead, overlaps};
use super::row::RowReader;
use super::snapshot::StateTable;
use crate::data::Res;
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::{KeyGroup, KeyGroupRange, MaxParallelism};
use millrace_protocol::shape::{self, Fit, Incompatible};
use std::collections::BTreeMap;
use thiserror::Error;

/// A file of a manifest, and the groups for which it counts.
pub struct RestoreFile {
    /// How errors name it.
    pub name: String,
    /// The groups for which the manifest names it (older files are clipped by folds).
    pub groups: KeyGroupRange,
    /// Checksum of its footer, if the manifest has it.
    pub footer_crc32: Option<u32>,
    /// Its bytes.
    pub data: Box<dyn RangeRead>,
}

/// State that the program cannot read, because its types have changed.
#[derive(Debug, Error)]
#[error(
    "operator {operator} state {state}: its type has changed so that what is stored cannot be \
     read: {change}. Give new fields a serde default, or rename the state to start it empty"
)]
pub struct TypeChanged {
    /// The operator.
    pub operator: Uid,
    /// The state.
    pub state: String,
    /// The difference.
    #[source]
    pub change: Incompatible,
}

/// The files of a checkpoint, opened.
pub struct Restore {
    max: MaxParallelism,
    files: Vec<(DeltaReader, KeyGroupRange)>,
}

/// What of a file counts for a table.
struct Part<'a> {
    file: &'a DeltaReader,
    /// Of the section.
    index: u16,
    section: &'a Section,
    wanted: KeyGroupRange,
    /// What newer files declare dead, by groups.
    newer: Vec<(KeyGroupRange, i64)>,
}

impl Part<'_> {
    fn wants(&self, block: &BlockIndex) -> bool {
        let groups = block.first.max(self.wanted.start)..=block.last.min(self.wanted.end - 1);
        overlaps(block, self.wanted)
            && groups.into_iter().any(|g| self.lives(block.namespace, KeyGroup(g)))
    }

    fn lives(&self, namespace: i64, group: KeyGroup) -> bool {
        !self.newer.iter().any(|(groups, before)| namespace < *before && groups.contains(group))
    }
}

impl Restore {
    /// Opens files, in the manifest's order (oldest first). One file may come
    /// several times, with disjoint groups.
    pub fn open(files: Vec<RestoreFile>, max: MaxParallelism) -> Result<Self, FileError> {
        files.iter().for_each(|file| DeltaReader::expect_open(file.data.as_ref()));
        let open = |file: RestoreFile| {
            let reader = DeltaReader::open(&file.name, file.data)?;
            reader.check_groups(max)?;
            if let Some(crc32) = file.footer_crc32 {
                reader.check_footer(crc32)?;
            }
            Ok((reader, file.groups))
        };
        Ok(Self { max, files: files.into_iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The states that the files hold: (operator uid, state), each once.
    pub fn states(&self) -> Vec<(Uid, String)> {
        let sections = self.files.iter().flat_map(|(f, _)| &f.footer().sections);
        let mut states: Vec<_> = sections.map(|s| (s.operator.clone(), s.state.clone())).collect();
        states.sort();
        states.dedup();
        states
    }

    /// Fails if what the files hold of a state cannot be read by a program with
    /// this schema.
    pub fn check(
        &self,
        operator: &Uid,
        state: &str,
        schema: &StateSchema,
    ) -> Result<(), TypeChanged> {
        for (file, _) in &self.files {
            if let Some((_, section)) = file.section(operator.as_str(), state) {
                row_reader(section, schema)?;
            }
        }
        Ok(())
    }

    /// Loads a state's entries in `range` into a table that has none of them. Answers the
    /// number of entries read. The caller then says [`StateTable::restored`].
    pub fn load(
        &self,
        operator: &Uid,
        state: &str,
        range: KeyGroupRange,
        table: &mut dyn StateTable,
    ) -> Res<u64> {
        let schema = table.schema()?;
        let parts = self.parts(operator, state, range);
        for part in &parts {
            part.file.expect(part.section, |block| part.wants(block));
        }
        for (namespace, entries) in expected(&parts) {
            table.expect(namespace, range, entries);
        }
        let mut entries = 0;
        for part in &parts {
            let Part { file, index, section, .. } = *part;
            let reader = row_reader(section, &schema)?;
            file.blocks(
                (index, section),
                |block| part.wants(block),
                |block, body| {
                    let take =
                        |group| part.wanted.contains(group) && part.lives(block.namespace, group);
                    let decoded = Block::new(body, &reader, &take)
                        .ok_or_else(|| file.corrupt(section, "lengths do not add up".to_owned()))?;
                    entries += u64::from(block.entries);
                    table.load(&decoded).map_err(|e| {
                        let what = format!("the block at {}: {e}", block.offset);
                        file.corrupt(section, what)
                    })?;
                    Ok(())
                },
            )?;
        }
        Ok(entries)
    }

    fn parts(&self, operator: &Uid, state: &str, range: KeyGroupRange) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        for (at, (file, clip)) in self.files.iter().enumerate() {
            let wanted = range.intersect(*clip);
            let Some((index, section)) = file.section(operator.as_str(), state) else { continue };
            if !wanted.is_empty() {
                let newer = self.dead_before(at, operator, state);
                parts.push(Part { file, index, section, wanted, newer });
            }
        }
        parts
    }

    /// About how many entries of a state there are, by namespace; see [`expected`].
    #[cfg(test)]
    pub fn expected(
        &self,
        operator: &Uid,
        state: &str,
        range: KeyGroupRange,
    ) -> BTreeMap<i64, u64> {
        expected(&self.parts(operator, state, range))
    }

    /// What files newer than that at `at` declare dead, by groups.
    fn dead_before(&self, at: usize, operator: &Uid, state: &str) -> Vec<(KeyGroupRange, i64)> {
        let newer = self.files.iter().skip(at + 1);
        newer
            .filter(|(file, _)| file.name() != self.files[at].0.name())
            .filter_map(|(file, clip)| {
                let (_, section) = file.section(operator.as_str(), state)?;
                (section.dead_before > i64::MIN)
                    .then(|| (section.groups.intersect(*clip), section.dead_before))
            })
            .collect()
    }

    /// The number of key groups.
    pub fn max_parallelism(&self) -> MaxParallelism {
        self.max
    }
}

/// About how many entries there are by namespace: those of groups that were written whole,
/// taken to be spread evenly over the groups of their block. What came later is mostly the
/// same keys again.
fn expected(parts: &[Part<'_>]) -> BTreeMap<i64, u64> {
    let mut expected = BTreeMap::new();
    for part in parts {
        let whole = part.section.whole.intersect(part.wanted);
        for block in part.section.blocks.iter().filter(|block| part.wants(block)) {
            let groups = KeyGroupRange { start: block.first, end: block.last.saturating_add(1) };
            let share = u64::from(groups.intersect(whole).len());
            let entries = u64::from(block.entries) * share / u64::from(groups.len().max(1));
            if entries > 0 {
                *expected.entry(block.namespace).or_insert(0) += entries;
            }
        }
    }
    expected
}

fn row_reader(section: &Section, schema: &StateSchema) -> Result<RowReader, TypeChanged> {
    let changed = |change| TypeChanged {
        operator: section.operator.clone(),
        state: section.state.clone(),
        change,
    };
    let (old, new) = (&section.schema.key, &schema.key);
    if shape::compatible(old, new) != Ok(Fit::Fast) {
        let change = Incompatible::new("the key", &old.to_string(), &new.to_string());
        return Err(changed(change));
    }
    if section.schema.panes != schema.panes {
        let kind = |panes| if panes { "state by pane" } else { "state without panes" };
        let change = Incompatible::new("", kind(section.schema.panes), kind(schema.panes));
        return Err(changed(change));
    }
    RowReader::new(&section.schema.row, &schema.row).map_err(changed)
}
