//! Runs a thing several times and takes medians.

use std::cmp::Ordering;
use std::io;
use std::time::{Duration, Instant};

/// How often a thing is measured.
#[derive(Debug, Clone, Copy)]
pub struct Runs {
    /// Measured runs, after one that is not.
    pub count: usize,
    /// Multiplies the number of rows; 1.0 is what the table asks for.
    pub scale: f64,
}

impl Runs {
    /// `rows` at this scale, at least one.
    pub fn rows(self, rows: u64) -> u64 {
        ((rows as f64 * self.scale) as u64).max(1)
    }

    /// The median time of `work`, and what it returned the last time.
    ///
    /// The first run warms up caches, clocks and the allocator and does not
    /// count. `work` must return something that depends on all it did, or the
    /// compiler may leave it out.
    pub fn median<T>(self, mut work: impl FnMut() -> T) -> (Duration, T) {
        let mut last = std::hint::black_box(work());
        let mut times = Vec::with_capacity(self.count);
        for _ in 0..self.count.max(1) {
            let start = Instant::now();
            last = std::hint::black_box(work());
            times.push(start.elapsed());
        }
        (median(times), last)
    }

    /// Millions of rows a second that `work` handles, which is told how many to
    /// make; with the checksum it returned.
    pub fn rate(self, rows: u64, mut work: impl FnMut(u64) -> u64) -> Rate {
        let rows = self.rows(rows);
        let (time, checksum) = self.median(|| work(std::hint::black_box(rows)));
        Rate { rows, mrows_per_s: rows as f64 / 1e6 / time.as_secs_f64(), checksum }
    }
}

/// What a loop over rows reached.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Rows of one run.
    pub rows: u64,
    /// Millions of rows a second, of the median run.
    pub mrows_per_s: f64,
    /// Checksum of one run's results.
    pub checksum: u64,
}

/// The middle of `values`, the upper one of two; none: the default.
pub fn median<T: PartialOrd + Copy + Default>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The least of `values` that the share `p` of them does not exceed; none: 0.
pub fn percentile(mut values: Vec<f64>, p: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() as f64 * p).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Resident bytes of a process: its id, or `self`.
pub fn resident_bytes(process: &str) -> io::Result<u64> {
    memory_of(process, "VmRSS:")
}

/// The most that were ever resident.
pub fn most_resident_bytes(process: &str) -> io::Result<u64> {
    memory_of(process, "VmHWM:")
}

fn memory_of(process: &str, field: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other(format!("no {field} in /proc/{process}/status")))
}

/// Time that a process has spent on a core, in itself and in the kernel for it.
pub fn process_cpu(process: &str) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    ticks(&stat)
        // The unit is USER_HZ, which is 100 wherever Linux runs on x86 or ARM.
        .map(|ticks| Duration::from_millis(10 * ticks))
        .ok_or_else(|| io::Error::other(format!("no times in /proc/{process}/stat")))
}

/// Fields 14 and 15, utime and stime: 12 and 13 after the name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted() {
        let times = [5, 1, 9].map(Duration::from_secs);
        assert_eq!(median(times.to_vec()), Duration::from_secs(5));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(values.clone(), 0.99), 198.0);
        assert_eq!(percentile(values, 1.0), 200.0);
        assert_eq!(percentile(vec![7.0], 0.5), 7.0);
        assert_eq!(percentile(vec![], 0.5), 0.0);
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S"), None);
    }
}
