//! The output of jobs, read from the files that it is in, and what must be true of it.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files below a directory that readers of the output see, in order of their names.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !dir.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match (name.starts_with(['.', '_']), path.is_dir()) {
            (true, _) => {}
            (false, true) => found.extend(files(&path)?),
            (false, false) => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

/// The rows of all CSV files below a directory, sorted, without their headers.
pub fn csv_rows(dir: &Path) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for file in files(dir)? {
        let mut reader = csv::Reader::from_path(&file)?;
        for record in reader.records() {
            let record = record.with_context(|| format!("cannot read {}", file.display()))?;
            rows.push(record.iter().map(str::to_owned).collect());
        }
    }
    rows.sort();
    Ok(rows)
}

/// The lines of all files below a directory, sorted.
pub fn lines(dir: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for file in files(dir)? {
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    Ok(lines)
}

/// The output of the job `counts`: how often each key has each number.
#[derive(Debug, Default)]
pub struct Numbers {
    seen: BTreeMap<u64, BTreeMap<u64, u64>>,
}

impl Numbers {
    /// Reads what is committed below a directory.
    pub fn read(dir: &Path) -> Result<Self> {
        Self::of(csv_rows(dir)?)
    }

    fn of(rows: Vec<Vec<String>>) -> Result<Self> {
        let mut numbers = Self::default();
        for row in rows {
            let [key, number] = row.as_slice() else { bail!("a row of counts is {row:?}") };
            let of_key = numbers.seen.entry(key.parse()?).or_default();
            *of_key.entry(number.parse()?).or_default() += 1;
        }
        Ok(numbers)
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.seen.values().flat_map(BTreeMap::values).sum()
    }

    /// Each key has the numbers 1 to n once each: no row was lost, none came twice. To
    /// be asked of a job at rest, for files appear one by one.
    pub fn exactly_once(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for (key, numbers) in &self.seen {
            let last = numbers.keys().next_back().copied().unwrap_or(0);
            let lost = (1..=last).filter(|n| !numbers.contains_key(n)).count();
            let doubled = numbers.values().filter(|times| **times > 1).count();
            if lost + doubled > 0 {
                wrong.push(format!("key {key}: of {last} rows {lost} lost, {doubled} doubled"));
            }
        }
        match wrong.len() {
            0 => Ok(()),
            keys => bail!(
                "not exactly once, in {keys} of {} keys:\n{}",
                self.seen.len(),
                wrong.into_iter().take(10).collect::<Vec<_>>().join("\n")
            ),
        }
    }
}

impl Numbers {
    /// It goes on from a state that another job had after some of the rows of `first`:
    /// each key begins with a number that is not 1 and leaves no gap to the other's last.
    pub fn continues(&self, first: &Self) -> Result<()> {
        for (key, numbers) in &self.seen {
            let before = first.seen.get(key).and_then(|of| of.keys().next_back()).copied();
            let (before, begin) = (before.unwrap_or(0), numbers.keys().next().copied());
            let (begin, end) = (begin.unwrap_or(0), numbers.keys().next_back().copied());
            ensure!(
                begin > 1 && begin <= before + 1,
                "key {key} goes on with {begin} after {before}"
            );
            let complete = (begin..=end.unwrap_or(0)).all(|n| numbers.get(&n) == Some(&1));
            ensure!(complete, "key {key}: not each number from {begin} on is there once");
        }
        ensure!(self.seen.len() == first.seen.len(), "it has other keys");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(rows: &[[u64; 2]]) -> Numbers {
        let rows = rows.iter().map(|row| row.iter().map(u64::to_string).collect()).collect();
        Numbers::of(rows).unwrap()
    }

    #[test]
    fn once_each_is_right() {
        let numbers = numbers(&[[1, 1], [1, 2], [2, 1]]);
        assert_eq!(numbers.rows(), 3);
        numbers.exactly_once().unwrap();
    }

    #[test]
    fn what_goes_on_may_repeat_and_leaves_no_gap() {
        let first = numbers(&[[1, 1], [1, 2]]);
        numbers(&[[1, 2], [1, 3]]).continues(&first).unwrap();
        numbers(&[[1, 3]]).continues(&first).unwrap();
        let error = numbers(&[[1, 4]]).continues(&first).unwrap_err().to_string();
        assert!(error.contains("key 1 goes on with 4 after 2"), "{error}");
        assert!(numbers(&[[1, 1], [1, 2], [1, 3]]).continues(&first).is_err(), "from nothing");
        assert!(numbers(&[[1, 2], [1, 4]]).continues(&first).is_err());
    }

    #[test]
    fn a_gap_and_a_double_are_told() {
        let error = numbers(&[[1, 1], [1, 3], [2, 1], [2, 1]]).exactly_once().unwrap_err();
        let error = error.to_string();
        assert!(error.contains("key 1: of 3 rows 1 lost, 0 doubled"), "{error}");
        assert!(error.contains("key 2: of 1 rows 0 lost, 1 doubled"), "{error}");
    }
}
