//! The tier of one table: what is young, above runs.

use crate::block::Block;
use crate::order::{Source, merge};
use crate::place::Counted;
use crate::run::Run;
use crate::work::{Dead, Made, What};
use crate::young::Young;
use crate::{Shared, key_hash};
use millrace_engine::data::{Res, Ts};
use millrace_engine::state::tier::{OnEntry, Packed, Tier};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// So many runs of about a size are made one.
const TOGETHER: usize = 4;
/// So many runs at most: whoever writes waits for merges then.
const MOST: usize = 24;

/// So much that is on its way to runs at most.
const FROZEN: usize = 2;

/// Written no more, on its way to a run.
struct Frozen {
    young: Arc<Young>,
    made: Made,
    _bytes: Counted,
}

/// Runs on their way to one.
struct Merging {
    runs: Vec<Arc<Run>>,
    made: Made,
}

#[derive(Default)]
struct Levels {
    young: Young,
    /// What `young` is counted with.
    counted: Option<Counted>,
    /// The newest first, as runs.
    frozen: VecDeque<Frozen>,
    runs: Vec<Arc<Run>>,
    merging: Option<Merging>,
    dead: Dead,
    /// Why what is here may not be all.
    broken: Option<String>,
}

pub(crate) struct DiskTier {
    shared: Arc<Shared>,
    levels: RefCell<Levels>,
}

impl DiskTier {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, levels: RefCell::default() }
    }
}

impl Levels {
    /// Fails from the first error on: what was to be written then is nowhere.
    fn whole(&self) -> Res {
        self.broken.as_ref().map_or(Ok(()), |why| Err(why.as_str().into()))
    }

    /// Writes what is young, where it is enough, and sees to the runs.
    fn settle(&mut self, shared: &Shared) -> Res {
        let settled = self.grown(shared).and_then(|()| self.tend(shared));
        settled.inspect_err(|error| self.broken = Some(error.to_string()))
    }

    /// Takes runs that are ready in; has merged what there is too much of.
    fn tend(&mut self, shared: &Shared) -> Res {
        while let Some(oldest) = self.frozen.back() {
            // Whoever writes faster than the disk waits.
            let Some(run) = oldest.made.take(self.frozen.len() > FROZEN)? else { break };
            self.frozen.pop_back();
            self.runs.splice(0..0, run.map(Arc::new));
        }
        if let Some(merging) = &self.merging {
            let Some(run) = merging.made.take(self.runs.len() >= MOST)? else { return Ok(()) };
            let merged = |run: &Arc<Run>| merging.runs.iter().any(|m| Arc::ptr_eq(m, run));
            let at = self.runs.iter().position(merged).unwrap_or(self.runs.len());
            self.runs.retain(|run| !merged(run));
            self.runs.splice(at..at, run.map(Arc::new));
            self.merging = None;
        }
        self.drop_dead();
        let sizes: Vec<u64> = self.runs.iter().map(|run| run.bytes()).collect();
        let half_dead = |dead: &Dead| self.runs.iter().position(|run| run.is_half_dead(dead));
        let which = match together(&sizes) {
            Some(newest) => 0..newest,
            None => half_dead(&self.dead).map_or(0..0, |at| at..at + 1),
        };
        if let Some(runs) = self.runs.get(which.clone()).filter(|runs| !runs.is_empty()) {
            let runs = runs.to_vec();
            let oldest = which.end == self.runs.len();
            let what = What::Runs(runs.clone());
            let made = shared.merges.make(what, self.dead.clone(), oldest)?;
            self.merging = Some(Merging { runs, made });
        }
        Ok(())
    }

    /// Runs in which all is dead go; those that become one just now, when they are one.
    fn drop_dead(&mut self) {
        let Self { runs, merging, dead, .. } = self;
        let busy = merging.as_ref().map_or(&[][..], |merging| &merging.runs);
        let is_busy = |run: &Arc<Run>| busy.iter().any(|busy| Arc::ptr_eq(busy, run));
        runs.retain(|run| run.last() >= dead.below.as_slice() || is_busy(run));
    }

    /// Sends what is young on its way, if it is enough.
    fn grown(&mut self, shared: &Shared) -> Res {
        if self.young.is_empty() {
            return Ok(());
        }
        let bytes = self.young.bytes() as u64;
        self.counted = None;
        let counted = Counted::new(bytes, &shared.young);
        if !shared.is_enough(bytes) {
            self.counted = Some(counted);
            return Ok(());
        }
        let young = Arc::new(std::mem::take(&mut self.young));
        let oldest = self.runs.is_empty() && self.frozen.is_empty();
        let what = What::Young(Arc::clone(&young));
        let made = shared.flushes.make(what, self.dead.clone(), oldest)?;
        self.frozen.push_front(Frozen { young, made, _bytes: counted });
        Ok(())
    }
}

/// How many of the newest runs are to become one: as many as leave none above an older one
/// of its size, if it is worth it.
fn together(sizes: &[u64]) -> Option<usize> {
    let (mut newer, mut best) = (0, 0);
    for (at, size) in sizes.iter().enumerate() {
        if at > 0 && *size <= newer {
            best = at + 1;
        }
        newer += size;
    }
    match best {
        best if best >= TOGETHER => Some(best),
        _ if sizes.len() > MOST / 2 => Some(best.max(sizes.len() / 2)),
        _ => None,
    }
}

impl Tier for DiskTier {
    fn write(&self, gone: &Packed, keys: &Packed, values: &Packed) -> Res {
        let levels = &mut *self.levels.borrow_mut();
        levels.whole()?;
        levels.young.add(gone, None)?;
        levels.young.add(keys, Some(values))?;
        levels.settle(&self.shared)
    }

    fn get(&self, keys: &Packed, found: &mut dyn FnMut(usize, &[u8]) -> Res) -> Res {
        let levels = &*self.levels.borrow();
        levels.whole()?;
        let Levels { young, frozen, runs, .. } = levels;
        let mut left = Vec::with_capacity(keys.len());
        'keys: for (at, key) in keys.iter().enumerate() {
            let hash = key_hash(key);
            for young in [young].into_iter().chain(frozen.iter().map(|f| &*f.young)) {
                if let Some(entry) = young.find(hash, key) {
                    if let Some(value) = entry.value {
                        found(at, value)?;
                    }
                    continue 'keys;
                }
            }
            left.push((at, hash, key));
        }
        let (mut bytes, mut there) = (Vec::new(), Vec::new());
        for run in runs {
            if left.is_empty() {
                break;
            }
            // Looks that do not wait for one another.
            there.clear();
            there.extend((0..left.len()).filter(|n| run.may_have(left[*n].1)));
            let mut any = false;
            for n in &there {
                let (at, _, key) = left[*n];
                let Some(block) = run.block_of(key) else { continue };
                run.read(block, &mut bytes)?;
                let Some(value) = Block::of(&bytes).find(key) else { continue };
                if let Some(value) = value {
                    found(at, value)?;
                }
                left[*n].0 = usize::MAX;
                any = true;
            }
            if any {
                left.retain(|(at, ..)| *at != usize::MAX);
            }
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], until: &[u8], entry: &mut OnEntry<'_>) -> Res {
        if from >= until {
            return Ok(());
        }
        let levels = &*self.levels.borrow();
        levels.whole()?;
        let Levels { young, frozen, runs, .. } = levels;
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for young in [young].into_iter().chain(frozen.iter().map(|f| &*f.young)) {
            if !young.is_empty() {
                sources.push(Box::new(young.range(from..until)));
            }
        }
        for run in runs.iter().filter(|run| from <= run.last()) {
            sources.push(Box::new(run.from(from)?));
        }
        merge(sources, |next| {
            let within = next.key < until;
            match next.value.filter(|_| within) {
                Some(value) => entry(next.key, value),
                None => Ok(within),
            }
        })
    }

    fn forget(&self, until: &[u8]) -> Res {
        let levels = &mut *self.levels.borrow_mut();
        levels.whole()?;
        if levels.dead.below.as_slice() < until {
            until.clone_into(&mut levels.dead.below);
            levels.drop_dead();
        }
        levels.settle(&self.shared)
    }

    fn expire(&self, now: Ts) {
        let dead = &mut self.levels.borrow_mut().dead;
        dead.expired = dead.expired.max(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::together;

    #[test]
    fn runs_of_about_a_size_are_made_one() {
        assert_eq!(together(&[]), None);
        assert_eq!(together(&[1, 1, 1]), None);
        assert_eq!(together(&[1, 1, 1, 1]), Some(4));
        assert_eq!(together(&[1, 1, 1, 4]), None);
        assert_eq!(together(&[1, 1, 1, 1, 4, 8]), Some(6));
        assert_eq!(together(&[1, 1, 1, 1, 100]), Some(4));
        // Where none is of another's size, half of them.
        let sizes: Vec<u64> = (0..14).map(|i| 3_u64.pow(i)).collect();
        assert_eq!(together(&sizes), Some(7));
    }

    /// However much is written, there are few runs, and each entry is written seldom.
    #[test]
    fn runs_stay_few_and_merges_cheap() {
        let (mut sizes, mut written, mut most) = (Vec::new(), 0, 0);
        for _ in 0..10_000 {
            sizes.insert(0, 1_u64);
            if let Some(newest) = together(&sizes) {
                let one = sizes.drain(..newest).sum();
                written += one;
                sizes.insert(0, one);
            }
            most = most.max(sizes.len());
        }
        assert!(most < 20, "{most} runs");
        assert!(written < 10_000 * 12, "each entry was written {} times", written / 10_000);
    }
}
