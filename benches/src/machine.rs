//! What the machine itself can do, so that figures of two machines can be read
//! side by side and a bound set by hardware is known as such.

use crate::measure::Runs;
use crate::plain;
use anyhow::Result;
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One figure of the machine: name, value, unit.
pub type Figure = (&'static str, f64, &'static str);

/// All figures.
pub fn measure(runs: Runs) -> Result<Vec<Figure>> {
    let generated = runs.rate(100_000_000, |n| plain::generate(n, 1_000));
    let mut figures = vec![
        ("generator alone", 1e3 / generated.mrows_per_s, "ns/row"),
        ("memcpy, one thread, 64 MiB", memcpy(runs), "GB/s"),
        ("dependent loads, 512 MiB", dependent_load_ns(runs), "ns"),
        ("file written and fsynced, 256 MiB", file_write(runs)? / 1e6, "MB/s"),
        ("wake of a parked thread and back", wake(runs).as_secs_f64() * 1e6, "us"),
    ];
    let rows = runs.rows(1_000_000);
    let file = tempfile::NamedTempFile::new()?;
    plain::write_departures(rows, file.as_file())?;
    let (split, bytes) = runs.median(|| plain::split_departures(File::open(file.path())?));
    bytes?;
    figures.push(("CSV split into fields, not parsed", per_s(rows, split) / 1e6, "M rows/s"));
    Ok(figures)
}

fn per_s(n: u64, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64()
}

fn memcpy(runs: Runs) -> f64 {
    let from = vec![1_u8; 64 << 20];
    let mut to = vec![0_u8; from.len()];
    let (time, _) = runs.median(|| {
        to.copy_from_slice(std::hint::black_box(&from));
        to.last().copied()
    });
    per_s(from.len() as u64, time) / 1e9
}

/// Follows a random cycle: each load's address is the value of the last one.
fn dependent_load_ns(runs: Runs) -> f64 {
    let len = 512 << 20 >> 3;
    let mut next: Vec<u64> = (0..len as u64).collect();
    // Sattolo's shuffle: one cycle through all.
    for i in (1..len).rev() {
        let j = (crate::events::splitmix(i as u64) % i as u64) as usize;
        next.swap(i, j);
    }
    let loads = 2_000_000;
    let (time, _) = runs.median(|| {
        (0..loads).fold(0_u64, |at, _| next.get(at as usize).copied().unwrap_or_default())
    });
    1e9 / per_s(loads, time)
}

fn file_write(runs: Runs) -> Result<f64> {
    let block = vec![7_u8; 1 << 20];
    let mut file = tempfile::tempfile()?;
    let (time, written) = runs.median(|| -> std::io::Result<u64> {
        file.rewind()?;
        for _ in 0..256 {
            file.write_all(&block)?;
        }
        file.sync_data()?;
        file.stream_position()
    });
    Ok(per_s(written?, time))
}

/// The median time of a message to a sleeping thread and its answer.
fn wake(runs: Runs) -> Duration {
    let (ask, asked) = mpsc::channel::<mpsc::Sender<()>>();
    let answerer = std::thread::spawn(move || {
        for answer in asked {
            // A closed channel means the asker is gone, and so will be `asked`.
            let _ = answer.send(());
        }
    });
    let (time, _) = runs.median(|| {
        let start = Instant::now();
        for _ in 0..1_000 {
            let (answer, answered) = mpsc::channel();
            if ask.send(answer).is_err() || answered.recv().is_err() {
                break;
            }
        }
        start.elapsed()
    });
    drop(ask);
    let _ = answerer.join();
    time / 1_000
}
