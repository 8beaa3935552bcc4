//! `millrace-bench-durable`: a job of two processes with a gigabyte of state in S3: what
//! checkpoints cost it, how long it is silent when one of its processes is killed, and when
//! it is rescaled. See ../README.md for how to read it.

mod job;

use anyhow::{Result, ensure};
use job::Job;
use millrace_s3::testing::Server;
use std::time::Duration;

/// How long rows are counted for a throughput.
const WINDOW: Duration = Duration::from_secs(20);
/// Rows a second where a gap is measured: so many that backpressure has no part in it.
const STEADY: u64 = 100_000;

fn main() -> Result<()> {
    let argument = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |given| given != name);
        arguments.nth(1).and_then(|value| value.parse::<u64>().ok())
    };
    let keys = argument("--keys").unwrap_or(8_000_000);
    let times = argument("--times").unwrap_or(3);
    let server = Server::start("versitygw");
    println!("{keys} keys; medians of {times}; the S3 server has its share of the same cores\n");
    checkpoints(&server, keys)?;
    gaps(&server, keys, times)
}

/// Throughput with a checkpoint a second beside throughput without.
fn checkpoints(server: &Server, keys: u64) -> Result<()> {
    let mut rates = Vec::new();
    for interval in ["0s", "1s"] {
        let mut job = Job::start(server, keys, &["--checkpoint-interval", interval])?;
        job.loaded(keys)?;
        let before = job.status()?;
        std::thread::sleep(WINDOW);
        let after = job.status()?;
        ensure!(before.attempt == after.attempt, "the job restarted");
        rates.push((after.rows - before.rows) as f64 / WINDOW.as_secs_f64() / 1e6);
        if interval == "1s" {
            println!("state: {:.2} GB in memory", after.state_bytes as f64 / 1e9);
            println!("the last checkpoint: {}", after.checkpoint);
            println!("checkpoints in {WINDOW:?}: {}", after.completed - before.completed);
        }
    }
    let (without, with) = (rates[0], rates[1]);
    println!(
        "throughput: {with:.2} M rows/s with a checkpoint a second, {without:.2} without: {:.2}x",
        with / without
    );
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
        copies.push(job.gap(|job| job.kill(1))?);
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
