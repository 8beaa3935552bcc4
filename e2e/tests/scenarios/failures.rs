//! Pods and processes that go: the job restarts as a whole, and its output is that of
//! a job that nothing happened to.

use crate::jobs;
use anyhow::{Context, Result, ensure};
use millrace_e2e::{PATIENCE, Scenario, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;

/// Lets the job run, disturbs it, and sees it run on from its latest checkpoint.
fn disturbed(
    s: &mut Scenario<'_>,
    disturb: impl FnOnce(&Scenario<'_>) -> Result<()>,
) -> Result<()> {
    jobs::counts(s, 2)?;
    let before = jobs::attempt(s)?;
    disturb(s)?;
    jobs::restarted_after(s, before)?;
    s.wait_ready(jobs::PODS, 2)?;
    jobs::output_goes_on(s)?;
    jobs::ends_exactly_once(s)
}

fn delete(s: &Scenario<'_>, pod: &str) -> Result<()> {
    s.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force"]).map(drop)
}

pub fn a_deleted_worker_restarts_the_job_and_nothing_is_lost_or_doubled(
    s: &mut Scenario<'_>,
) -> Result<()> {
    disturbed(s, |s| delete(s, "counts-millrace-1"))
}

pub fn the_job_survives_its_coordinator(s: &mut Scenario<'_>) -> Result<()> {
    disturbed(s, |s| delete(s, "counts-millrace-0"))
}

pub fn the_job_survives_the_loss_of_all_of_its_pods(s: &mut Scenario<'_>) -> Result<()> {
    disturbed(s, |s| {
        let all = ["--selector", jobs::PODS, "--grace-period=0", "--force"];
        s.kubectl(&[&["delete", "pod"][..], &all].concat()).map(drop)
    })
}

pub fn a_killed_process_restarts_the_job_in_the_pods_that_are_there(
    s: &mut Scenario<'_>,
) -> Result<()> {
    disturbed(s, |s| s.cluster()?.kill_container(s.namespace(), "counts-millrace-1", "worker"))
}

pub fn every_restart_tells_where_its_own_time_went(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    for _ in 0..3 {
        let before = jobs::attempt(s)?;
        delete(s, "counts-millrace-1")?;
        jobs::restarted_after(s, before)?;
        s.wait_ready(jobs::PODS, 2)?;
    }
    let told = wait_for("three events", PATIENCE, || {
        let events = s.get(&["events.events.k8s.io"])?;
        let all = events["items"].as_array().context("no list of events")?;
        let resumed: Vec<_> = all.iter().filter(|event| event["reason"] == "Resumed").collect();
        let times = |event: &&Value| event["series"]["count"].as_u64().unwrap_or(1);
        let notes: BTreeSet<_> =
            resumed.iter().filter_map(|event| event["note"].as_str().map(str::to_owned)).collect();
        Ok((resumed.iter().map(times).sum::<u64>() >= 3).then_some(notes))
    })?;
    // Two may have taken the same time to the millisecond, all of them hardly.
    ensure!(told.len() > 1, "they all say {told:?}");
    jobs::ends_exactly_once(s)
}
