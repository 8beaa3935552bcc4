//! Finds files and cuts them into splits.

use super::{Error, FileSplit};
use crate::file::input::Packing;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
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
        root: &Path,
        known: &[FileSplit],
        split_bytes: Option<u64>,
        settled: bool,
    ) -> Result<Vec<FileSplit>, Error> {
        let known: BTreeSet<&str> = known.iter().map(|split| split.path.as_str()).collect();
        let mut files = Vec::new();
        if fs::metadata(root).map_err(|e| Error::open(root, e))?.is_dir() {
            walk(root, &mut files)?;
            files.sort();
        } else {
            files.push(root.to_path_buf());
        }
        let mut growing = BTreeMap::new();
        let mut splits = Vec::new();
        for file in files {
            let name = file.to_str().ok_or_else(|| Error::Name { path: file.clone() })?.to_owned();
            if known.contains(name.as_str()) {
                continue;
            }
            let meta = match fs::metadata(&file) {
                Ok(meta) => meta,
                // Removed or renamed since it was listed.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && file != root => continue,
                Err(e) => return Err(Error::open(&file, e)),
            };
            let state = (meta.len(), meta.modified().ok());
            if settled && self.growing.get(&file) != Some(&state) {
                growing.insert(file, state);
                continue;
            }
            cut(&file, &name, meta.len(), split_bytes, &mut splits)?;
        }
        self.growing = growing;
        Ok(splits)
    }
}

/// All files below a directory but hidden ones.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|e| Error::open(dir, e))? {
        let entry = entry.map_err(|e| Error::open(dir, e))?;
        let name = entry.file_name();
        if matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_')) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn cut(
    file: &Path,
    name: &str,
    len: u64,
    split_bytes: Option<u64>,
    splits: &mut Vec<FileSplit>,
) -> Result<(), Error> {
    // Opened in any case: what cannot be read is to be said at the start.
    let plain = Packing::detect(file)?.0 == Packing::Plain;
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
