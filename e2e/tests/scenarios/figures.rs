//! What a user waits for, measured: printed, never judged. Output is what readers see, so
//! that a gap holds the time to the next checkpoint too, here 100 ms.

use crate::jobs::{self, Job};
use anyhow::{Context, Result};
use millrace_e2e::{Image, PATIENCE, Scenario, wait_for};
use std::path::Path;
use std::time::{Duration, SystemTime};

const ROUNDS: usize = 3;
const SPEC: &str = "  slotsPerWorker: 2";
const ARGS: &str = "--rate, '2000', --part-ms, '0'";

/// When each file of the output appeared.
fn times(s: &mut Scenario<'_>) -> Result<Vec<SystemTime>> {
    let bucket = s.namespace().to_owned();
    let mut found = Vec::new();
    collect(&s.s3()?.bucket(&bucket).join("out"), &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<SystemTime>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), found)?;
        } else {
            found.push(entry.metadata()?.modified()?);
        }
    }
    Ok(())
}

/// The longest time without output since then.
fn gap(s: &mut Scenario<'_>, since: SystemTime) -> Result<Duration> {
    jobs::output_goes_on(s)?;
    let times = times(s)?;
    let before = times.iter().rfind(|time| **time <= since).copied();
    let mut last = before.context("no output before")?;
    let mut longest = Duration::ZERO;
    for time in times.into_iter().filter(|time| *time > since) {
        longest = longest.max(time.duration_since(last)?);
        last = time;
    }
    Ok(longest)
}

/// What the operator told of the newest restart: how much of it was Kubernetes'.
fn told(s: &Scenario<'_>) -> Result<String> {
    let events = s.get(&["events.events.k8s.io"])?;
    let items = events["items"].as_array().context("no list of events")?;
    let resumed = items.iter().filter(|event| event["reason"] == "Resumed");
    let newest = resumed.max_by_key(|e| e["eventTime"].as_str().unwrap_or_default().to_owned());
    Ok(newest.and_then(|e| e["note"].as_str()).unwrap_or("nothing").to_owned())
}

fn median(mut of: Vec<Duration>) -> String {
    of.sort();
    let all: Vec<String> = of.iter().map(|d| format!("{:.2}", d.as_secs_f64())).collect();
    let middle = of.get(of.len() / 2).copied().unwrap_or_default();
    format!("{:.2} s (of {})", middle.as_secs_f64(), all.join(", "))
}

/// Does something to the job `ROUNDS` times, and tells the gap in its output.
fn measured(
    s: &mut Scenario<'_>,
    what: &str,
    mut act: impl FnMut(&mut Scenario<'_>, usize) -> Result<()>,
) -> Result<()> {
    let (mut gaps, mut words) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let since = SystemTime::now();
        act(s, round)?;
        gaps.push(gap(s, since)?);
        words.push(told(s)?);
    }
    eprintln!("figure: {what}: {}", median(gaps));
    for words in words {
        eprintln!("figure:   {words}");
    }
    Ok(())
}

pub fn what_a_user_waits_for(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::CountsNext)?;
    jobs::stage(s)?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    eprintln!("figure: load of the machine before: {}", load.trim());
    let mut first = Vec::new();
    for round in 0..ROUNDS {
        let since = SystemTime::now();
        let (name, output) = (format!("first-{round}"), format!("first-{round}"));
        let job = Job { name: &name, output: &output, args: ARGS, spec: SPEC, ..Job::default() };
        job.apply_with_interval(s, "100ms")?;
        wait_for("the first output", PATIENCE, || {
            Ok((jobs::output_at(s, &output)?.rows() > 0).then_some(()))
        })?;
        first.push(since.elapsed()?);
        s.kubectl(&["delete", "streamjob", &name])?;
    }
    eprintln!("figure: kubectl apply to first output, 2 workers: {}", median(first));

    Job { args: ARGS, spec: SPEC, ..Job::default() }.apply_with_interval(s, "100ms")?;
    jobs::runs(s, 2)?;
    let kill = |s: &mut Scenario<'_>, pod: &str| {
        let before = jobs::attempt(s)?;
        s.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force"])?;
        jobs::restarted_after(s, before)
    };
    measured(s, "worker's pod killed", |s, _| kill(s, "counts-millrace-1"))?;
    measured(s, "coordinator's pod killed", |s, _| kill(s, "counts-millrace-0"))?;
    measured(s, "worker's process killed", |s, _| {
        let before = jobs::attempt(s)?;
        s.cluster()?.kill_container(s.namespace(), "counts-millrace-1", "worker")?;
        jobs::restarted_after(s, before)
    })?;
    measured(s, "parallelism edited", |s, round| {
        let parallelism = 2 + round as u64 % 2;
        jobs::merge(s, &format!(r#"{{"spec":{{"parallelism":{parallelism}}}}}"#))?;
        jobs::runs_with(s, parallelism)
    })?;
    // Of itself it follows the workers.
    jobs::merge(s, r#"{"spec":{"parallelism":null}}"#)?;
    jobs::runs_with(s, 4)?;
    measured(s, "a worker more", |s, round| {
        let workers = u32::try_from(3 + round)?;
        s.kubectl(&["scale", jobs::JOB, &format!("--replicas={workers}")])?;
        s.wait(jobs::JOB, "condition=Ready")?;
        s.wait_ready(jobs::PODS, workers as usize).map(drop)
    })?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=2"])?;
    s.wait(jobs::JOB, "condition=Ready")?;
    s.wait_ready(jobs::PODS, 2)?;
    measured(s, "image upgraded", |s, round| {
        let images = [Image::CountsNext.name(), Image::Counts.name()];
        let image = images[round % 2];
        jobs::merge(s, &format!(r#"{{"spec":{{"image":"{image}"}}}}"#))?;
        s.wait(jobs::JOB, "condition=Ready")?;
        s.wait_field(jobs::JOB, "/status/image", image)
    })?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    eprintln!("figure: load of the machine after: {}", load.trim());
    jobs::ends_exactly_once(s)
}
