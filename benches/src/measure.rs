//! Runs a thing several times and takes medians.

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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Resident bytes of this process.
pub fn resident_bytes() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| std::io::Error::other("no VmRSS in /proc/self/status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted() {
        let times = [5, 1, 9].map(Duration::from_secs);
        assert_eq!(median(times.to_vec()), Duration::from_secs(5));
    }
}
