//! The life of a job's state: suspended and resumed, taken along as a savepoint, found
//! by a job that comes later.

use crate::jobs::{self, Job};
use anyhow::{Result, ensure};
use millrace_e2e::{Numbers, PATIENCE, Scenario, wait_for};

pub fn a_suspended_job_goes_on_where_it_stopped(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    jobs::suspend(s)?;
    s.wait_ready(jobs::PODS, 0)?;
    let stopped = jobs::output(s)?;
    stopped.exactly_once()?;
    jobs::resume(s)?;
    jobs::runs(s, 2)?;

    // What is edited while it is suspended is in effect when it goes on.
    jobs::suspend(s)?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    s.wait(jobs::JOB, "condition=Ready")?;
    s.wait_field(jobs::JOB, "/status/state", "Suspended")?;
    s.wait_ready(jobs::PODS, 0)?;
    jobs::resume(s)?;
    jobs::runs_with(s, 3)?;
    jobs::runs(s, 3)?;
    jobs::ends_exactly_once(s)
}

/// Applies a Savepoint of `counts` and waits until it is complete.
fn savepoint(s: &Scenario<'_>, name: &str) -> Result<()> {
    jobs::savepoint(s, name, "")?;
    s.wait(&format!("savepoint/{name}"), "condition=Ready")
}

/// Deletes `counts` and waits until its pods are gone too.
fn delete_counts(s: &Scenario<'_>) -> Result<()> {
    s.kubectl(&["delete", jobs::JOB])?;
    wait_for("the pods of the deleted job to go", PATIENCE, || {
        let pods = s.get(&["pods", "--selector", "millrace.dev/job=counts"])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
}

/// A job that starts from the savepoint `monday`, with more workers and slots than the
/// first one had.
fn second(output: &str) -> Job<'_> {
    let spec = "  slotsPerWorker: 2\n  restoreFrom: {savepointRef: {name: monday}}";
    Job { name: "second", workers: 3, output, spec, ..Job::default() }
}

fn second_runs(s: &mut Scenario<'_>, output: &str) -> Result<Numbers> {
    s.wait("streamjob/second", "condition=Ready")?;
    s.wait_field("streamjob/second", "/status/parallelism", 6)?;
    let before = jobs::output_at(s, output)?.rows();
    wait_for("output of the second job", PATIENCE, || {
        Ok((jobs::output_at(s, output)?.rows() > before).then_some(()))
    })?;
    let suspended = r#"{"spec":{"desiredState":"Suspended"}}"#;
    s.kubectl(&["patch", "streamjob/second", "--type=merge", "--patch", suspended])?;
    s.wait_field("streamjob/second", "/status/state", "Suspended")?;
    jobs::output_at(s, output)
}

pub fn another_job_starts_from_the_savepoint_of_a_deleted_one(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    savepoint(s, "monday")?;
    jobs::output_goes_on(s)?;
    delete_counts(s)?;
    let first = jobs::output(s)?;
    first.exactly_once()?;
    second("out-of-second").apply(s)?;
    // It repeats what the first one wrote after its savepoint, and leaves no gap.
    second_runs(s, "out-of-second")?.continues(&first)
}

pub fn a_savepoint_of_a_suspended_job_outlives_its_data(s: &mut Scenario<'_>) -> Result<()> {
    jobs::stage(s)?;
    Job { spec: "  deletionPolicy: Delete", ..Job::default() }.apply(s)?;
    jobs::runs(s, 2)?;
    jobs::suspend(s)?;
    savepoint(s, "monday")?;
    delete_counts(s)?;
    second("out").apply(s)?;
    second_runs(s, "out")?.exactly_once()
}

pub fn a_new_job_of_an_old_name_asks_before_it_goes_on_from_what_it_finds(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::counts(s, 2)?;
    delete_counts(s)?;
    let before = jobs::output(s)?;
    before.exactly_once()?;
    jobs::apply_counts(s, 1)?;
    s.wait(jobs::JOB, "condition=Stalled")?;
    let (reason, message) = jobs::words(s, "Ready")?;
    ensure!(reason == "EarlierStateFound", "it says {reason}: {message}");
    ensure!(message.contains("onExistingState"), "it says {message}");
    ensure!(jobs::output(s)?.rows() == before.rows(), "it wrote before it was told to");
    jobs::merge(s, r#"{"spec":{"onExistingState":"Resume"}}"#)?;
    jobs::runs(s, 1)?;
    jobs::ends_exactly_once(s)
}

pub fn jobs_that_share_a_bucket_do_not_meet(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 1)?;
    Job { name: "second", workers: 1, output: "out-of-second", ..Job::default() }.apply(s)?;
    s.wait("streamjob/second", "condition=Ready")?;
    s.kubectl(&["delete", "streamjob/second"])?;
    jobs::output_goes_on(s)?;
    jobs::ends_exactly_once(s)?;
    jobs::output_at(s, "out-of-second")?.exactly_once()
}
