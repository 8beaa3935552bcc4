//! Pods and processes that go: the job restarts as a whole, and its output is that of
//! a job that nothing happened to.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{PATIENCE, Scenario, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

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

pub fn pods_that_are_asked_to_leave_take_a_checkpoint_first(s: &mut Scenario<'_>) -> Result<()> {
    jobs::stage(s)?;
    // By itself the job takes a checkpoint every ten minutes: whatever output there is comes
    // of those that are taken because a pod leaves.
    let job = Job { args: "--rate, '2000', --part-ms, '0'", ..Job::default() };
    job.apply_with_interval(s, "10m")?;
    let leaves = |s: &mut Scenario<'_>, pod: &str, ask: &[&str]| -> Result<()> {
        s.wait(jobs::JOB, "condition=Ready")?;
        s.wait_ready(jobs::PODS, 2)?;
        let (uid, rows) = (s.uid(&format!("pod/{pod}"))?, jobs::output(s)?.rows());
        // Rows are read meanwhile.
        std::thread::sleep(Duration::from_secs(2));
        s.kubectl(ask)?;
        s.wait_replaced(pod, &uid)?;
        wait_for("output of the checkpoint of a pod that leaves", PATIENCE, || {
            Ok((jobs::output(s)?.rows() > rows).then_some(()))
        })
    };
    for pod in ["counts-millrace-1", "counts-millrace-0"] {
        leaves(s, pod, &["delete", "pod", pod, "--wait=false"])?;
    }
    // As a drained node is emptied: by evictions, which the job's disruption budget rules.
    let pod = "counts-millrace-1";
    let node = s.field(&format!("pod/{pod}"), "/spec/nodeName")?;
    let node = node.as_str().context("the pod is on no node")?.to_owned();
    let mine = "--pod-selector=millrace.dev/job=counts";
    leaves(s, pod, &["drain", &node, mine, "--delete-emptydir-data", "--timeout=170s"])?;
    s.kubectl(&["uncordon", &node])?;
    s.wait(jobs::JOB, "condition=Ready")?;
    jobs::ends_exactly_once(s)
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
