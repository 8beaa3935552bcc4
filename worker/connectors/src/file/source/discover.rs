//! Finds files and cuts them into splits.

use super::{Error, FileSplit};
use crate::file::input::Packing;
use crate::file::place::Files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What was seen of files that may still be growing.
#[derive(Debug, Clone, Default)]
pub(super) struct Discovery {
    growing: BTreeMap<PathBuf, (u64, Option<SystemTime>)>,
}

impl Discovery {
    /// Splits of files that are not in `known`, in the order of paths. A file
    /// is cut every `split_bytes` if given. `settled`: leave out files that have
    /// changed since the last look.
    pub(super) fn look(
        &mut self,
        place: &dyn Files,
        root: &Path,
        known: &[FileSplit],
        split_bytes: Option<u64>,
        settled: bool,
    ) -> Result<Vec<FileSplit>, Error> {
        let known: BTreeSet<&str> = known.iter().map(|split| split.path.as_str()).collect();
        let mut growing = BTreeMap::new();
        let mut splits = Vec::new();
        for found in place.look(root)? {
            let file = found.path;
            let name = file.to_str().ok_or_else(|| Error::Name { path: file.clone() })?.to_owned();
            if known.contains(name.as_str()) {
                continue;
            }
            let state = (found.len, found.modified);
            if settled && self.growing.get(&file) != Some(&state) {
                growing.insert(file, state);
                continue;
            }
            cut(place, &file, &name, found.len, split_bytes, &mut splits)?;
        }
        self.growing = growing;
        Ok(splits)
    }
}

fn cut(
    place: &dyn Files,
    file: &Path,
    name: &str,
    len: u64,
    split_bytes: Option<u64>,
    splits: &mut Vec<FileSplit>,
) -> Result<(), Error> {
    // Opened in any case: what cannot be read is to be said at the start.
    let plain = Packing::detect(place, file)?.0 == Packing::Plain;
    let split =
        |start, end| FileSplit { path: name.to_owned(), start, end, offset: start, rows: 0 };
    match split_bytes {
        Some(bytes) if plain && len > bytes => {
            // Even parts; the last one ends with the file.
            let parts = len.div_ceil(bytes);
            let bound = |part: u64| (u128::from(len) * u128::from(part) / u128::from(parts)) as u64;
            splits.extend(
                (0..parts)
                    .map(|part| split(bound(part), (part + 1 < parts).then(|| bound(part + 1)))),
            );
        }
        _ => splits.push(split(0, None)),
    }
    Ok(())
}
