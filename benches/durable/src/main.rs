//! `millrace-bench-durable`: a job of two processes with a gigabyte of state in S3: what
//! checkpoints cost it, how long it is silent when one of its processes is killed, and when
//! it is rescaled. See ../README.md for how to read it.

mod cpu;
mod job;

use anyhow::{Result, ensure};
use job::Job;
use millrace_s3::testing::Server;
use std::time::{Duration, Instant};

/// How long rows are counted for a throughput.
const WINDOW: Duration = Duration::from_secs(20);
/// Rows a second where a gap is measured: so many that backpressure has no part in it.
const STEADY: u64 = 100_000;
/// A process that lived so long is started again at once when it dies.
const SOUND: Duration = Duration::from_secs(11);

fn main() -> Result<()> {
    let argument = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |given| given != name);
        arguments.nth(1).and_then(|value| value.parse::<u64>().ok())
    };
    let keys = argument("--keys").unwrap_or(8_000_000);
    let times = argument("--times").unwrap_or(3);
    let server = Server::start("versitygw");
    println!("{keys} keys; medians of {times}; the S3 server has its share of the same cores\n");
    checkpoints(&server, keys, times)?;
    gaps(&server, keys, times)
}

/// What a job did in a [`WINDOW`].
struct Done {
    /// Millions a second.
    rows: f64,
    /// Cores that its processes had.
    cores: f64,
    /// Cores that the S3 server had.
    server: f64,
}

fn work(server: &Server, keys: u64, interval: &str) -> Result<Done> {
    let mut job = Job::start(server, keys, &["--checkpoint-interval", interval])?;
    job.loaded(keys)?;
    let spent = |job: &Job| {
        let (own, all) = (job.spent()?, cpu::spent_below(std::process::id())?);
        anyhow::Ok((own, all - own))
    };
    let (before, begun, at) = (job.status()?, Instant::now(), spent(&job)?);
    std::thread::sleep(WINDOW);
    let (then, seconds) = (spent(&job)?, begun.elapsed().as_secs_f64());
    // An answer takes a while on cores without rest: its rows are those of its end.
    let (after, counted) = (job.status()?, begun.elapsed().as_secs_f64());
    ensure!(before.attempt == after.attempt, "the job restarted");
    if interval != "0s" {
        println!("  state: {:.2} GB in memory", after.state_bytes as f64 / 1e9);
        println!("  the last checkpoint: {}", after.checkpoint);
        println!("  checkpoints in {WINDOW:?}: {}", after.completed - before.completed);
    }
    Ok(Done {
        rows: (after.rows - before.rows) as f64 / counted / 1e6,
        cores: (then.0 - at.0) / seconds,
        server: (then.1 - at.1) / seconds,
    })
}

/// Throughput with a checkpoint a second beside throughput without.
fn checkpoints(server: &Server, keys: u64, times: u64) -> Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..times {
        let (without, with) = (work(server, keys, "0s")?, work(server, keys, "1s")?);
        let ratio = with.rows / without.rows;
        let own = (with.rows / with.cores) / (without.rows / without.cores);
        println!(
            "with a checkpoint a second {:.2} M rows/s of {:.2} cores, the S3 server {:.2} cores; \
             without {:.2} of {:.2}: {ratio:.2}x, by the job's own cores {own:.2}x",
            with.rows, with.cores, with.server, without.rows, without.cores
        );
        ratios.push((ratio, own));
    }
    let mut median = |of: fn(&(f64, f64)) -> f64| {
        ratios.sort_by(|a, b| of(a).total_cmp(&of(b)));
        ratios.get(ratios.len() / 2).map_or(0.0, of)
    };
    let (all, own) = (median(|r| r.0), median(|r| r.1));
    println!("checkpoints: {all:.2}x of the throughput, {own:.2}x by the job's own cores\n");
    Ok(())
}

/// How long there is no output.
fn gaps(server: &Server, keys: u64, times: u64) -> Result<()> {
    let rate = STEADY.to_string();
    let options = ["--checkpoint-interval", "1s", "--restart", "backoff:10ms:1s"];
    let mut job = Job::start_loaded(server, keys, &rate, &options)?;
    let mut copies = Vec::new();
    let mut remote = Vec::new();
    for _ in 0..times {
        std::thread::sleep(SOUND);
        copies.push(job.gap(|job| job.kill(1))?);
        std::thread::sleep(SOUND);
        remote.push(job.gap(|job| {
            job.remove_copies()?;
            job.kill(1)
        })?);
    }
    let mut more = Vec::new();
    let mut fewer = Vec::new();
    for _ in 0..times {
        more.push(job.gap(|job| job.rescale(4, 4))?);
        fewer.push(job.gap(|job| job.rescale(2, 2))?);
    }
    println!("a process to be up: {:?}", job.process_start()?);
    println!("a worker is killed, copies at hand: silent for {:?}", median(&mut copies));
    println!("a worker is killed, all from S3:    silent for {:?}", median(&mut remote));
    println!("rescaled from 2 to 4: silent for {:?}", median(&mut more));
    println!("rescaled from 4 to 2: silent for {:?}", median(&mut fewer));
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
