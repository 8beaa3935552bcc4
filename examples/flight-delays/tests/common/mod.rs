//! Running the example as a process, and reading what it wrote.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

pub mod job;
mod relay;

/// The directory of the example.
pub fn example() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
}

/// Departures of January.
pub fn january() -> PathBuf {
    example().join("data/flights-2013-01.csv.gz")
}

/// How the example is run.
pub struct Run<'a> {
    pub input: &'a Path,
    pub output: &'a Path,
    pub storage: &'a Path,
    pub parallelism: u16,
    pub interval: &'a str,
    pub more: &'a [&'a str],
}

impl Run<'_> {
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flight-delays"));
        command.arg("run").arg("--input").arg(self.input).arg("--output").arg(self.output);
        command.arg("--storage").arg(self.storage);
        command.arg("--parallelism").arg(self.parallelism.to_string());
        command.arg("--checkpoint-interval").arg(self.interval).args(self.more);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self) -> Child {
        self.command().spawn().unwrap()
    }

    /// Runs to the end; panics with the program's log if it fails.
    pub fn finish(&self) {
        let (code, log) = wait(self.start());
        assert_eq!(code, Some(0), "{log}");
    }
}

/// Waits for a process; its exit code (none: killed) and log.
pub fn wait(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The files of an output directory that its readers see, in order of their names.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        let hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
        match (hidden, path.is_dir()) {
            (true, _) => {}
            (false, true) => found.extend(files(&path)),
            (false, false) => found.push(path),
        }
    }
    found.sort();
    found
}

/// The lines of all files of a directory without their headers, in order of names.
pub fn lines(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for path in files(dir) {
        let text = std::fs::read_to_string(&path).unwrap();
        lines.extend(text.lines().skip(1).map(str::to_owned));
    }
    lines
}

/// The lines of a gzip'd or plain file without the header.
pub fn golden(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap();
    let mut text = String::new();
    if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    text.lines().skip(1).map(str::to_owned).collect()
}

/// Rows by how often they come.
pub fn multiset(lines: Vec<String>) -> BTreeMap<String, usize> {
    let mut set = BTreeMap::new();
    for line in lines {
        *set.entry(line).or_insert(0) += 1;
    }
    set
}

/// Outputs, and whether their rows come in the same order each time: sessions wait for
/// the names of airlines, which are read side by side with the flights.
pub const OUTPUTS: [(&str, bool); 3] = [("delays", true), ("late", true), ("sessions", false)];

/// Of what is random in a test.
pub fn seed() -> u64 {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MILLRACE_SEED={seed}");
    seed
}

/// Faults that each of the tests of `workers` injects before it is content, in their order.
pub const OF_WORKERS: [usize; 3] = [40, 40, 30];
/// The same of the tests of `s3`; what fails in the server comes on top.
pub const OF_S3: [usize; 4] = [30, 20, 20, 20];

const fn sum(of: &[usize]) -> usize {
    match of {
        [] => 0,
        [first, rest @ ..] => *first + sum(rest),
    }
}

/// However fast the machine is, CI's run has as many, beside the kills of `chaos`.
const _: () = assert!(sum(&OF_WORKERS) + sum(&OF_S3) >= 200);

/// Says how many faults a test has injected, and of what kinds, and how many all tests of
/// this program have until now: past what holds back the output of tests that pass.
pub fn tell_faults(faults: usize, kinds: &str) {
    static ALL: AtomicUsize = AtomicUsize::new(0);
    let all = ALL.fetch_add(faults, Ordering::SeqCst) + faults;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let told = format!("{test}: {faults} faults ({kinds}); {all} with those of other tests\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
}

/// What the input begins with.
pub const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour";

/// Input that takes long enough to be killed in: January several times over, each a
/// month later, so that event time goes on.
pub fn long_input(dir: &Path, months: usize) -> std::path::PathBuf {
    let lines = golden(&january());
    let path = dir.join("flights.csv");
    let mut text = format!("{HEADER}\n");
    for month in 0..months {
        let (year, month) = (2013 + month / 12, month % 12 + 1);
        for line in &lines {
            // Days 29 to 31 are left out, for February's sake.
            let (head, hour) = line.rsplit_once(",2013-01-").unwrap_or((line, ""));
            if hour.is_empty() || hour[..2].parse::<u32>().unwrap() > 28 {
                continue;
            }
            text.push_str(&format!("{head},{year}-{month:02}-{hour}\n"));
        }
    }
    std::fs::write(&path, text).unwrap();
    path
}

/// Lines in order.
pub fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Panics, and shows where, unless both are the same.
pub fn same(expected: &[String], found: &[String], name: &str, seed: u64) {
    let at = expected.iter().zip(found).position(|(e, f)| e != f);
    let at = at.unwrap_or(expected.len().min(found.len()));
    assert!(
        expected == found,
        "{name}, seed {seed}: {} rows instead of {}; from row {at} on:\n{:#?}\ninstead of\n{:#?}",
        found.len(),
        expected.len(),
        found.iter().skip(at).take(3).collect::<Vec<_>>(),
        expected.iter().skip(at).take(3).collect::<Vec<_>>(),
    );
}
