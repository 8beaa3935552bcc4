//! The job as processes of its own: started, looked at, disturbed.

use crate::cpu;
use anyhow::{Context, Result, bail, ensure};
use millrace_s3::Location;
use millrace_s3::testing::Server;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked at where a gap is measured.
const LOOK: Duration = Duration::from_millis(10);

/// A running job; killed when dropped.
pub struct Job {
    child: Child,
    storage: String,
    directory: tempfile::TempDir,
}

/// How it is.
pub struct Seen {
    pub attempt: u64,
    /// That reached the sink in this attempt.
    pub rows: u64,
    pub state_bytes: u64,
    /// Number of the newest complete checkpoint.
    pub completed: u64,
    pub checkpoint: Value,
}

fn program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("big-state"))
}

impl Job {
    /// Starts it with a bucket of its own, on two processes of one slot.
    pub fn start(server: &Server, keys: u64, options: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut place = server.bucket();
        place.prefix = "state".to_owned();
        place.endpoint = Some(server.endpoint());
        let storage = Location(place).to_string();
        let log = File::create(directory.path().join("log"))?;
        let child = Command::new(program()?)
            .args(["run", "--workers", "2", "--parallelism", "2", "--slots-per-worker", "1"])
            .args(["--keys", &keys.to_string(), "--storage", &storage])
            .args(options)
            .env("XDG_CACHE_HOME", directory.path().join("home"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("is big-state built?")?;
        Ok(Self { child, storage, directory })
    }

    /// Starts it, loads its state at full speed, and goes on at a rate.
    pub fn start_loaded(server: &Server, keys: u64, rate: &str, options: &[&str]) -> Result<Self> {
        let mut job = Self::start(server, keys, options)?;
        job.loaded(keys)?;
        job.ask(&["stop"])?;
        ensure!(job.child.wait()?.success(), "it did not stop:\n{}", job.log()?);
        let log = File::create(job.directory.path().join("log"))?;
        job.child = Command::new(program()?)
            .args(["run", "--workers", "2", "--parallelism", "2", "--slots-per-worker", "1"])
            .args(["--keys", &keys.to_string(), "--storage", &job.storage, "--rate", rate])
            .args(options)
            .env("XDG_CACHE_HOME", job.home())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        job.until(|seen| seen.rows > 0 && seen.completed > 0)?;
        std::thread::sleep(Duration::from_secs(5));
        Ok(job)
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Seconds of a core that its processes have spent.
    pub fn spent(&self) -> Result<f64> {
        cpu::spent_below(self.child.id())
    }

    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.path().join("log"))?)
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.args(words).args(["--storage", &self.storage]);
        command.env("XDG_CACHE_HOME", self.home()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }

    fn ask(&self, words: &[&str]) -> Result<Option<Vec<u8>>> {
        let asked = self.command(words)?.stdout(Stdio::piped()).output()?;
        Ok(asked.status.success().then_some(asked.stdout))
    }

    /// How it is, if it answers.
    fn look(&self) -> Result<Option<Seen>> {
        let Some(text) = self.ask(&["status", "--json"])? else { return Ok(None) };
        let view: Value = serde_json::from_slice(&text)?;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let operators = view["operators"].as_array().cloned().unwrap_or_default();
        let sum = |name: &str, field: &str| {
            operators.iter().filter(|o| o["name"] == name).map(|o| number(&o[field])).sum()
        };
        Ok(Some(Seen {
            attempt: number(&view["attempt"]),
            rows: sum("out", "rows_in"),
            state_bytes: sum("entries", "state_bytes"),
            completed: number(&view["checkpoint"]["id"]),
            checkpoint: view["checkpoint"].clone(),
        }))
    }

    pub fn status(&self) -> Result<Seen> {
        self.look()?.context("the job does not answer")
    }

    fn until(&mut self, enough: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let begun = Instant::now();
        loop {
            match self.look()? {
                Some(seen) if enough(&seen) => return Ok(seen),
                _ if self.child.try_wait()?.is_some() => bail!("it ended:\n{}", self.log()?),
                _ if begun.elapsed() > PATIENCE => bail!("it does not go on:\n{}", self.log()?),
                _ => std::thread::sleep(LOOK),
            }
        }
    }

    /// Waits until all keys are there, and ten seconds more.
    pub fn loaded(&mut self, keys: u64) -> Result<()> {
        self.until(|seen| seen.rows > keys)?;
        std::thread::sleep(Duration::from_secs(10));
        Ok(())
    }

    /// Does something to it by a process, and measures how long no rows reach the sink.
    pub fn gap(&mut self, disturb: impl FnOnce(&Self) -> Result<Child>) -> Result<Duration> {
        let before = self.status()?;
        let mut disturbance = disturb(self)?;
        let (mut last, mut rows) = (Instant::now(), before.rows);
        let begun = Instant::now();
        // What was on its way may arrive yet; then the next attempt's rows count from 0.
        let end = loop {
            let asked = Instant::now();
            if let Some(seen) = self.look()? {
                if seen.attempt > before.attempt && seen.rows > 0 {
                    break Instant::now();
                }
                if seen.attempt == before.attempt && seen.rows > rows {
                    (last, rows) = (asked, seen.rows);
                }
            }
            if begun.elapsed() > PATIENCE {
                bail!("no rows any more:\n{}", self.log()?);
            }
            std::thread::sleep(LOOK);
        };
        ensure!(disturbance.wait()?.success(), "it could not be disturbed");
        // A whole checkpoint later, so that the next disturbance finds it steady.
        let attempt = self.status()?.attempt;
        self.until(|seen| seen.attempt == attempt && seen.completed > before.completed + 3)?;
        Ok(end - last)
    }

    /// Kills the worker of this ordinal.
    pub fn kill(&self, ordinal: u16) -> Result<Child> {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        for pid in children.split_whitespace() {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            if line.contains(&format!("\0--index\0{ordinal}\0")) {
                return Ok(Command::new("kill").args(["-KILL", pid]).spawn()?);
            }
        }
        bail!("there is no worker {ordinal}")
    }

    /// Asks for another number of workers and another parallelism.
    pub fn rescale(&self, workers: u16, parallelism: u16) -> Result<Child> {
        let (workers, parallelism) = (workers.to_string(), parallelism.to_string());
        let words = ["rescale", "--workers", &workers, "--parallelism", &parallelism];
        Ok(self.command(&words)?.spawn()?)
    }

    /// Removes all copies of checkpoint files on this machine.
    pub fn remove_copies(&self) -> Result<()> {
        remove_below(&self.home(), false)
    }

    /// From the death of a process to its next life being up, the last time.
    pub fn process_start(&self) -> Result<Option<Duration>> {
        let log = self.log()?;
        let lines: Vec<Value> =
            log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let says = |line: &&Value, text: &str| line["message"] == text && line["worker"] == 1;
        let died = lines.iter().rposition(|l| says(&l, "a process died and is started again"));
        let Some(died) = died else { return Ok(None) };
        let up = lines[died..].iter().find(|l| says(l, "worker is up"));
        let millis = |line: &Value| line["timestamp"].as_str().and_then(millis_of);
        Ok(up
            .and_then(millis)
            .zip(millis(&lines[died]))
            .map(|(up, died)| Duration::from_millis(up.saturating_sub(died))))
    }
}

/// Milliseconds of the day of `2026-11-23T00:46:59.701207Z`.
fn millis_of(timestamp: &str) -> Option<u64> {
    let (_, time) = timestamp.trim_end_matches('Z').split_once('T')?;
    let mut parts = time.split(':');
    let hours: f64 = parts.next()?.parse().ok()?;
    let minutes: f64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some(((hours * 60.0 + minutes) * 60_000.0 + seconds * 1000.0) as u64)
}

fn remove_below(directory: &Path, inside: bool) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => remove_below(&path, inside || path.ends_with("copies"))?,
            false if inside => fs::remove_file(&path)?,
            false => {}
        }
    }
    Ok(())
}

impl Drop for Job {
    fn drop(&mut self) {
        // Its processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
