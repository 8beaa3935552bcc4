//! Jobs with several times as much state as their tables may hold, one for each kind of
//! state that leaves memory in its own way, in processes with a hard limit where the machine
//! lets a test set one: none is killed, the memory of its own stays within its budget, and
//! its results are right.

use millrace_connectors::{Blackhole, Generator};
use millrace_engine::api::env::Env;
use millrace_engine::api::window::assign::{SessionWindows, TumblingWindows};
use millrace_engine::coordinator::{CheckpointPolicy, Outcome};
use millrace_engine::graph::SpillTo;
use millrace_engine::job::{self, Handle, JobOptions};
use millrace_engine::runtime::memory;
use millrace_engine::state::budget::{Budget, Shares};
use millrace_engine::time::Watermarks;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const TOTAL: u64 = 128 << 20;
const PAYLOAD: usize = 200;
/// Rows a second: what they change between two checkpoints has to fit into memory.
const RATE: u64 = 60_000;
/// Every key comes this often.
const ROUNDS: u64 = 2;

/// Keys that have seen all their rows: how many, and their sum.
static COMPLETE: AtomicU64 = AtomicU64::new(0);
static KEYS: AtomicU64 = AtomicU64::new(0);
static ROWS: AtomicU64 = AtomicU64::new(0);

/// With so many keys, tables hold five times what they may.
fn keys() -> u64 {
    5 * Shares::of(TOTAL).tables / (PAYLOAD as u64 + 60)
}

/// Key, count, event time, and what makes it large.
type Row = (u64, u64, i64, Vec<u8>);

fn sum(sum: &mut Row, row: Row) {
    sum.1 += row.1;
}

/// The kinds of state: what the job is told by, its keys, its rows in all.
fn kinds() -> [(&'static str, u64, u64); 3] {
    let keys = keys();
    // A session has a timer, and timers do not leave: two and a half times.
    let sessions = keys / 2;
    [
        ("reduce", keys, keys * ROUNDS),
        // A window fires while the next one fills.
        ("tumbling", keys, keys * ROUNDS + keys / 2),
        // They end one after the other.
        ("sessions", sessions, sessions * ROUNDS + sessions * 9 / 8),
    ]
}

/// What the process does; by itself, without the variable, nothing.
#[test]
fn the_job() {
    let Ok(kind) = std::env::var("MILLRACE_LARGE_JOB") else { return };
    let (_, keys, count) = kinds().into_iter().find(|(name, ..)| *name == kind).unwrap();
    // Its limit is set before it takes memory.
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let shares = Shares::of(TOTAL);
    let tiers = super::tiers(shares.tier);
    let env = Env::new();
    let sessions = kind == "sessions";
    let rows = Generator::new(move |i| {
        // Of one more key, which lets time go on.
        let key = if sessions && i >= keys * ROUNDS { keys } else { i % keys };
        (key, 1, i as i64, vec![i as u8; PAYLOAD])
    });
    let watermarks = Watermarks::bounded(Duration::from_secs(2), |row: &Row| row.2);
    let rows = env.source("rows", rows.count(count).rate(RATE).splits(2), watermarks);
    let rows = rows.key_by(|row: &Row| row.0);
    // A row's event time is its number, in milliseconds.
    let sums = match kind.as_str() {
        "reduce" => rows.reduce("sums", sum),
        "tumbling" => {
            let size = Duration::from_millis(keys * ROUNDS);
            rows.window(TumblingWindows::of(size)).reduce("sums", sum)
        }
        _ => {
            let gap = Duration::from_millis(keys * 17 / 16);
            rows.window(SessionWindows::with_gap(gap)).reduce("sums", sum)
        }
    };
    sums.map(|row| {
        ROWS.fetch_add(1, Ordering::Relaxed);
        if row.1 == ROUNDS {
            COMPLETE.fetch_add(1, Ordering::Relaxed);
            KEYS.fetch_add(row.0, Ordering::Relaxed);
        }
    })
    .sink("none", Blackhole);
    let storage = tempfile::tempdir().unwrap();
    let mut options = JobOptions::new("large", storage.path());
    options.parallelism = 2;
    let interval = Some(Duration::from_millis(300));
    options.checkpoints = CheckpointPolicy { interval, ..CheckpointPolicy::default() };
    let spill = SpillTo { tiers, budget: Budget::new(shares.tables) };
    memory::hold(&spill.budget, TOTAL).unwrap();
    options.spill = Some(spill.clone());
    std::thread::spawn(move || tell(&spill));
    let outcome = job::run(&Handle::new(env.into_graph()), options).unwrap();
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
    // Nothing failed, so nothing was counted twice.
    assert_eq!(COMPLETE.load(Ordering::Relaxed), keys, "every key has all its rows");
    assert_eq!(KEYS.load(Ordering::Relaxed), keys * (keys - 1) / 2);
}

/// Says every second where the memory is.
fn tell(spill: &SpillTo) {
    for second in 0.. {
        let (tables, limit) = (spill.budget.used() >> 20, spill.budget.limit() >> 20);
        let tier = spill.tiers.stats();
        let (memory, disk) = (tier.memory >> 20, tier.disk >> 20);
        let resident = |name| status(std::process::id(), name).unwrap_or(0) >> 20;
        let (anonymous, files) = (resident("RssAnon:"), resident("RssFile:"));
        println!(
            "{second} s: MiB of tables {tables} of {limit}, tier {memory} (disk {disk}); resident \
             {anonymous}, of files {files}; rows {}{}",
            ROWS.load(Ordering::Relaxed),
            if spill.budget.pressed() { ", sources held back" } else { "" }
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A memory cgroup of version 1 or 2 below this process's own.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            let (mount, file) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let name = format!("millrace-test-{}", std::process::id());
            let group = PathBuf::from(mount).join(path).join(name);
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            fs::write(group.0.join(file), TOTAL.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn status(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn jobs_with_more_state_than_their_budget_stay_within_it() {
    let only = std::env::var("MILLRACE_LARGE_ONLY").ok();
    for (kind, ..) in kinds().into_iter().filter(|k| only.as_ref().is_none_or(|only| only == k.0)) {
        println!("{kind}");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "large::the_job", "--nocapture"])
            .env("MILLRACE_LARGE_JOB", kind)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let group = Group::new();
        match &group {
            Some(group) => {
                fs::write(group.0.join("cgroup.procs"), child.id().to_string()).unwrap();
                println!("limited by {}", group.0.display());
            }
            None => println!("no memory cgroup can be made here: its size is only looked at"),
        }
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        // Pages of files, as of the program, are given back when memory is short.
        let (mut most, mut most_with_files) = (0, 0);
        let status = loop {
            let resident = |name| status(child.id(), name).unwrap_or(0);
            most = most.max(resident("RssAnon:") + resident("RssShmem:"));
            most_with_files = most_with_files.max(resident("VmRSS:"));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        println!(
            "{kind}: at most {} of {} MiB resident, with pages of files {}",
            most >> 20,
            TOTAL >> 20,
            most_with_files >> 20
        );
        assert!(status.success(), "{kind}: {status}: 9 is the kernel's for want of memory");
        assert!(most <= TOTAL, "{kind}: {most} resident of {TOTAL}");
    }
}
