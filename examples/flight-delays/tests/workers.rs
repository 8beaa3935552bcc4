//! The example in several processes, of which any is killed at random moments, beside a run
//! in one that nothing disturbed.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests panic as tests do

#[allow(dead_code)]
mod common;

use common::{OUTPUTS, Run, lines, long_input, same, seed, sorted, wait};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a job may take to do what it must in the end.
const PATIENCE: Duration = Duration::from_secs(240);

struct Job {
    output: PathBuf,
    storage: PathBuf,
    child: Child,
}

impl Job {
    fn start(dir: &Path, input: &Path, workers: u16, parallelism: u16) -> Self {
        let (output, storage) = (dir.join("out"), dir.join("storage"));
        let workers = workers.to_string();
        let more =
            ["--workers", &workers, "--slots-per-worker", "2", "--restart", "backoff:10ms:1s"];
        let run = Run {
            input,
            output: &output,
            storage: &storage,
            parallelism,
            interval: "50ms",
            more: &more,
        };
        let child = run.start();
        Self { output, storage, child }
    }

    /// Its processes: ordinal and process id.
    fn processes(&self) -> Vec<(u16, u32)> {
        let parent = self.child.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        let Ok(children) = std::fs::read_to_string(children) else { return Vec::new() };
        let ordinal = |pid: u32| -> Option<(u16, u32)> {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut words = line.split(|b| *b == 0);
            words.find(|word| *word == b"--index")?;
            Some((std::str::from_utf8(words.next()?).ok()?.parse().ok()?, pid))
        };
        children.split_whitespace().filter_map(|pid| ordinal(pid.parse().ok()?)).collect()
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn status(&self) -> Option<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_flight-delays"))
            .args(["status", "--json", "--storage"])
            .arg(&self.storage)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until its tasks run; false if it has ended.
    fn runs(&mut self) -> bool {
        let begun = Instant::now();
        while !self.is_over() {
            assert!(begun.elapsed() < PATIENCE, "it does not run: {:?}", self.status());
            let running = "\"state\": \"running\"";
            if self.status().is_some_and(|status| status.contains(running)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Waits for its end.
    fn finish(mut self) -> PathBuf {
        let begun = Instant::now();
        while !self.is_over() {
            assert!(begun.elapsed() < PATIENCE, "it does not end: {:?}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
        let (code, log) = wait(self.child);
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        self.output
    }
}

fn signal(pid: u32, signal: &str) {
    // One that has just ended is no error.
    let mut kill = Command::new("kill");
    kill.args([signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

fn calm(dir: &Path, input: &Path) -> PathBuf {
    let (output, storage) = (dir.join("out"), dir.join("storage"));
    let more: &[&str] = &[];
    Run { input, output: &output, storage: &storage, parallelism: 2, interval: "1s", more }
        .finish();
    output
}

fn compare(expected: &Path, found: &Path, seed: u64) {
    for (name, _) in OUTPUTS {
        let expected = sorted(lines(&expected.join(name)));
        assert!(!expected.is_empty(), "no {name} in the undisturbed run");
        same(&expected, &sorted(lines(&found.join(name))), name, seed);
    }
}

#[test]
fn several_processes_give_what_one_gives() {
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), 2);
    let expected = calm(&dir.path().join("calm"), &input);
    let job = Job::start(&dir.path().join("wild"), &input, 3, 5);
    compare(&expected, &job.finish(), 0);
}

/// Kills workers, the leader, or pauses one; rescales in between.
fn disturbed(faults: usize, months: usize, rescales: bool) {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let input = long_input(dir.path(), months);
    let expected = calm(&dir.path().join("calm"), &input);
    let mut job = Job::start(&dir.path().join("wild"), &input, 3, 4);
    let mut done = 0;
    while done < faults && job.runs() {
        std::thread::sleep(Duration::from_millis(rng.u64(..200)));
        let processes = job.processes();
        if processes.is_empty() {
            continue;
        }
        match rng.u8(..10) {
            0..2 if rescales => {
                let workers = rng.u16(2..5);
                let parallelism = rng.u16(1..=workers * 2).to_string();
                let asked = Command::new(env!("CARGO_BIN_EXE_flight-delays"))
                    .arg("rescale")
                    .args(["--workers", &workers.to_string(), "--parallelism", &parallelism])
                    .arg("--storage")
                    .arg(&job.storage)
                    .output()
                    .unwrap();
                let told = String::from_utf8_lossy(&asked.stderr).into_owned();
                assert!(asked.status.success() || job.is_over(), "seed {seed}: {told}");
            }
            2 => {
                for (_, pid) in processes {
                    signal(pid, "-KILL");
                }
            }
            3 => {
                let (_, pid) = processes[rng.usize(..processes.len())];
                signal(pid, "-STOP");
                std::thread::sleep(Duration::from_millis(rng.u64(..300)));
                signal(pid, "-CONT");
            }
            _ => {
                let (_, pid) = processes[rng.usize(..processes.len())];
                signal(pid, "-KILL");
            }
        }
        done += 1;
    }
    println!("{done} faults before the end");
    assert!(done >= faults / 2, "seed {seed}: only {done} of {faults} faults came before the end");
    compare(&expected, &job.finish(), seed);
}

#[test]
fn killed_workers_and_leaders_change_nothing() {
    disturbed(10, 60, false);
}

#[test]
fn killed_while_it_is_rescaled_it_gives_what_an_undisturbed_run_gives() {
    disturbed(10, 60, true);
}

#[test]
#[ignore = "takes minutes: make chaos"]
fn two_hundred_faults() {
    for _ in 0..4 {
        disturbed(50, 240, true);
    }
}
