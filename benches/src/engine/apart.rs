//! Jobs in processes of their own, where what a process takes is measured: this
//! program starts itself with [`FLAG`].

use super::INTERVAL;
use super::digesting::Digesting;
use super::loaded::Load;
use super::manifest::{self, MANIFEST};
use super::running::Running;
#[cfg(feature = "rocksdb")]
use super::spilled;
use crate::events::{Event, digest};
use crate::measure::{process_cpu, resident_bytes};
use anyhow::{Context, Result, bail};
use millrace::prelude::*;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The first argument of a process that is a job.
pub const FLAG: &str = "--apart";
const IDLE: &str = "idle";
const MEMORY: &str = "memory";
const READY: &str = "ready";

/// An idle job is looked at for so long: a hundredth of a second, which the
/// system counts in, is then 0.05 % of it.
const IDLE_FOR: Duration = Duration::from_secs(20);

/// What an idle job takes.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Resident MiB.
    pub resident_mib: f64,
    /// Percent of one core.
    pub core_percent: f64,
}

/// The main function of a process that is a job.
pub fn main(mut args: impl Iterator<Item = String>) -> Result<()> {
    match (args.next().as_deref(), args.next()) {
        (Some(IDLE), None) => be_idle(),
        (Some(MEMORY), Some(keys)) => be_large(keys.parse()?),
        (Some(MANIFEST), Some(checkpoints)) => manifest::be_coordinator(checkpoints.parse()?),
        #[cfg(feature = "rocksdb")]
        (Some(half @ (spilled::FILES | spilled::ROCKSDB | spilled::BARE)), Some(keys)) => {
            spilled::main(half, &keys, &args.next().context("no skew")?)
        }
        _ => bail!("{FLAG} is for this program's own use"),
    }
}

/// A process that is killed when it is no longer looked at.
pub(super) struct Apart(Child);

impl Apart {
    pub(super) fn start(args: &[&str]) -> Result<Self> {
        let program = std::env::current_exe()?;
        let child = Command::new(program).arg(FLAG).args(args).stdout(Stdio::piped()).spawn()?;
        Ok(Self(child))
    }

    /// The next line that it prints.
    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let out = self.0.stdout.as_mut().context("it has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A job that waits for files, with a keyed window behind, as another process
/// sees it over some seconds.
pub fn idle() -> Result<Idle> {
    let mut job = Apart::start(&[IDLE])?;
    if job.line()? != READY {
        bail!("the idle job did not start");
    }
    let process = job.0.id().to_string();
    // Past the first checkpoints.
    std::thread::sleep(Duration::from_secs(3));
    let (begun, cpu) = (Instant::now(), process_cpu(&process)?);
    let mut resident = 0;
    while begun.elapsed() < IDLE_FOR {
        std::thread::sleep(Duration::from_secs(1));
        resident = resident.max(resident_bytes(&process)?);
    }
    let spent = process_cpu(&process)?.saturating_sub(cpu).as_secs_f64();
    Ok(Idle {
        resident_mib: resident as f64 / f64::from(1 << 20),
        core_percent: 100.0 * spent / begun.elapsed().as_secs_f64(),
    })
}

fn be_idle() -> Result<()> {
    let (env, dir) = (Env::new(), tempfile::tempdir()?);
    let files = FileSource::<Event, _>::json_lines(dir.path()).watch(Duration::from_secs(1));
    env.source("files", files, Watermarks::monotonous(|event: &Event| event.ts))
        .key_by(|event| event.key)
        .window(TumblingWindows::of(Duration::from_secs(1)))
        .aggregate("count", Count, |key, window, n| digest(*key, window.start, n))
        .sink("sum", Digesting::default());
    let mut job = Running::start(env, Some(INTERVAL))?;
    job.until(|job| job.status().running)?;
    say(READY)?;
    // Whoever started it kills it; if that process is gone first, a minute is the end.
    // Nothing here may look at the job meanwhile: that would be most of what it takes.
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// Resident bytes a key of a running job whose state is so large.
pub fn bytes_per_key(keys: u64) -> Result<f64> {
    let line = Apart::start(&[MEMORY, &keys.to_string()])?.line()?;
    let bytes: u64 = line.parse().context("the job with large state did not run")?;
    Ok(bytes as f64 / keys as f64)
}

/// The most that the job is seen to take while its entries are updated and
/// checkpoints are taken, more than this process took before it.
fn be_large(keys: u64) -> Result<()> {
    let before = resident_bytes("self")?;
    let (mut job, _pace) = Load::uniform(keys).start(Some(INTERVAL))?;
    let mut most = 0;
    for _ in 0..50 {
        job.wait(Duration::from_millis(100))?;
        most = most.max(resident_bytes("self")?);
    }
    say(&most.saturating_sub(before).to_string())
}

pub(super) fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
