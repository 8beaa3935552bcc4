//! Who has spent how much of the machine's cores, from `/proc`.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;

/// Of a second: what `/proc` counts in, on every Linux.
const TICKS: f64 = 100.0;

/// Seconds of a core that a process and all below it have spent, those that have ended left
/// out.
pub fn spent_below(root: u32) -> Result<f64> {
    let mut all: HashMap<u32, (u32, u64)> = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has just ended has no file.
        if let Ok(line) = fs::read_to_string(entry.path().join("stat")) {
            all.insert(pid, read(&line).context("/proc/PID/stat is not what it was")?);
        }
    }
    let is_below = |mut pid: u32| {
        while pid != root {
            match all.get(&pid) {
                Some((parent, _)) if *parent != pid => pid = *parent,
                _ => return false,
            }
        }
        true
    };
    let ticks: u64 = all.iter().filter(|(pid, _)| is_below(**pid)).map(|(_, (_, t))| t).sum();
    Ok(ticks as f64 / TICKS)
}

/// Parent and ticks of `PID (NAME) STATE PARENT ... UTIME STIME ...`.
fn read(line: &str) -> Option<(u32, u64)> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, ticks(11)? + ticks(12)?))
}
