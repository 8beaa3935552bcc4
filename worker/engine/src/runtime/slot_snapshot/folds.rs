//! Key groups that a task writes whole into its file, so that older ones need not be read.

use super::SlotSnapshots;
use crate::runtime::snapshot::Barrier;
use crate::state::fold::Folding;
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::{FileRef, Section};

/// With more files than this, a part of the key groups is folded at every checkpoint,
/// however little changes: so their number stays bounded.
const MANY_FILES: usize = 64;

impl SlotSnapshots {
    /// The key groups that a task writes whole.
    pub(super) fn fold(&mut self, index: usize, barrier: &Barrier, live: u64) -> KeyGroupRange {
        let range = self.groups[index];
        let Some(base) = barrier.base else { return range };
        let folding = self.foldings.entry(index).or_insert_with(|| Folding::new(range));
        let turn = folding.turn(self.last_written, live);
        let files = self.files.get(&base).map_or(0, |e| e.files.len());
        if files > MANY_FILES { self.sweep_fold(index, turn) } else { turn }
    }

    /// At least a sixteenth of a task's key groups, in turn.
    fn sweep_fold(&mut self, index: usize, turn: KeyGroupRange) -> KeyGroupRange {
        let range = self.groups[index];
        let share = range.len().div_ceil(16);
        if turn.len() >= share {
            return turn;
        }
        let next = self.swept.entry(index).or_insert(range.start);
        let start = if *next >= range.end { range.start } else { *next };
        let end = start.saturating_add(share).min(range.end);
        *next = end;
        KeyGroupRange { start, end }
    }
}

/// Takes `fold` out of what older files count for.
pub(super) fn clip(files: &mut Vec<FileRef>, operator: &Uid, fold: KeyGroupRange) {
    if fold.is_empty() {
        return;
    }
    for file in files.iter_mut() {
        let mut kept = Vec::with_capacity(file.sections.len());
        for section in file.sections.drain(..) {
            if section.operator != *operator || section.groups.intersect(fold).is_empty() {
                kept.push(section);
                continue;
            }
            let (start, end) = (section.groups.start, section.groups.end);
            for groups in [
                KeyGroupRange { start, end: fold.start.min(end) },
                KeyGroupRange { start: fold.end.max(start), end },
            ] {
                if !groups.is_empty() {
                    kept.push(Section { operator: section.operator.clone(), groups });
                }
            }
        }
        file.sections = kept;
    }
    files.retain(|f| !f.sections.is_empty());
}
