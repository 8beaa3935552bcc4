//! Another image, other arguments: what is good replaces what runs, and what is not
//! leaves it in peace and says why.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{Image, PATIENCE, Scenario, checkout, wait_for};

/// The arguments of `counts` with others in front.
fn arguments(s: &Scenario<'_>, output: &str, more: &str) -> String {
    let bucket = s.namespace();
    format!(
        r#"{{"spec":{{"job":{{"program":{{"args":["--output","s3://{bucket}/{output}","--rate","2000"{more}]}}}}}}}}"#
    )
}

/// The edit was refused for this reason; the program from before runs on, untouched, as
/// attempt `before`.
fn refused(s: &mut Scenario<'_>, reason: &str, before: u64) -> Result<String> {
    s.wait(jobs::JOB, "condition=Stalled")?;
    let (told, message) = jobs::words(s, "Ready")?;
    ensure!(told == reason, "it says {told}: {message}");
    ensure!(jobs::condition(s, "Available")?.0 == "True", "nothing runs any more");
    ensure!(jobs::attempt(s)? == before, "what ran was restarted");
    jobs::output_goes_on(s)?;
    Ok(message)
}

pub fn image_and_arguments_are_upgraded_under_load(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::CountsNext)?;
    jobs::counts(s, 2)?;
    let uids = [s.uid("pod/counts-millrace-0")?, s.uid("pod/counts-millrace-1")?];
    let next = Image::CountsNext.name();
    jobs::merge(s, &format!(r#"{{"spec":{{"image":"{next}"}}}}"#))?;
    jobs::runs(s, 2)?;
    s.wait_field(jobs::JOB, "/status/image", next)?;
    for (pod, uid) in ["counts-millrace-0", "counts-millrace-1"].into_iter().zip(&uids) {
        s.wait_replaced(pod, uid)?;
    }
    let upgraded = jobs::condition(s, "UpgradeSucceeded")?;
    ensure!(upgraded.0 == "True", "UpgradeSucceeded is {}", upgraded.0);

    // Arguments, and the number of workers in the same edit.
    let mut both: serde_json::Value =
        serde_json::from_str(&arguments(s, "out", r#","--keys","50""#))?;
    both["spec"]["workers"] = 3.into();
    jobs::merge(s, &both.to_string())?;
    jobs::runs_with(s, 3)?;
    jobs::runs(s, 3)?;
    jobs::ends_exactly_once(s)
}

pub fn a_program_that_panics_at_its_start_does_not_replace_the_one_that_runs(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::counts(s, 2)?;
    s.tolerate("e2e/counts/src/main.rs");
    let before = jobs::attempt(s)?;
    jobs::merge(s, &arguments(s, "out", r#","--broken""#))?;
    let message = refused(s, "CheckFailed", before)?;
    ensure!(message.contains("told to be broken"), "it says {message}");
    // The remedy it names: the edit is undone.
    jobs::merge(s, &arguments(s, "out", ""))?;
    s.wait(jobs::JOB, "condition=Ready")?;
    ensure!(jobs::attempt(s)? == before, "undoing the edit restarted the job");
    jobs::ends_exactly_once(s)
}

pub fn a_program_without_a_place_for_the_state_is_refused_until_it_may_be_dropped(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::counts(s, 2)?;
    let before = jobs::attempt(s)?;
    jobs::merge(s, &arguments(s, "out-of-other", r#","--uid","other""#))?;
    let message = refused(s, "CheckFailed", before)?;
    ensure!(message.contains("counts") && message.contains("dropState"), "it says {message}");
    jobs::merge(s, r#"{"spec":{"upgrade":{"dropState":["counts"]}}}"#)?;
    s.wait(jobs::JOB, "condition=Ready")?;
    wait_for("output of the other program", PATIENCE, || {
        Ok((jobs::output_at(s, "out-of-other")?.rows() > 0).then_some(()))
    })?;
    // Each counted from 1, and the second goes on where the first stopped reading.
    jobs::ends_exactly_once(s)?;
    jobs::output_at(s, "out-of-other")?.exactly_once()
}

pub fn a_program_that_fails_when_it_runs_is_rolled_back(s: &mut Scenario<'_>) -> Result<()> {
    jobs::stage(s)?;
    Job { spec: "  upgrade: {timeout: 20s}", ..Job::default() }.apply(s)?;
    jobs::runs(s, 2)?;
    jobs::merge(s, &arguments(s, "out", r#","--fails""#))?;
    wait_for("the way back", PATIENCE, || {
        let (reason, _) = jobs::words(s, "Ready")?;
        Ok((reason == "RolledBack").then_some(()))
    })?;
    wait_for("the old program to run", PATIENCE, || {
        Ok((jobs::condition(s, "Available")?.0 == "True").then_some(()))
    })?;
    jobs::output_goes_on(s)?;
    let (_, message) = jobs::words(s, "Ready")?;
    ensure!(message.contains("told to fail"), "it says {message}");
    // The message holds the line that makes the way back the spec.
    let line = message.split("kubectl get configmap").nth(1).context("no line to paste")?;
    let line = line.split(" makes that the spec").next().context("no end of the line")?;
    s.cluster()?.inside(&["sh", "-c", &format!("kubectl get configmap{line}")])?;
    s.wait(jobs::JOB, "condition=Ready")?;
    jobs::ends_exactly_once(s)
}

pub fn a_check_alone_says_what_would_become_of_an_upgrade(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::CountsNext)?;
    jobs::counts(s, 2)?;
    let before = jobs::attempt(s)?;
    let next = Image::CountsNext.name();
    s.kubectl(&["annotate", jobs::JOB, "millrace.dev/check-only=true"])?;
    jobs::merge(s, &format!(r#"{{"spec":{{"image":"{next}"}}}}"#))?;
    let mut last = String::new();
    let passed = wait_for("the check to pass", PATIENCE, || {
        let (reason, message) = jobs::words(s, "Ready")?;
        last = format!("{reason}: {message}");
        Ok((reason == "CheckPassed").then_some(()))
    });
    passed.with_context(|| format!("it last said {last}"))?;
    ensure!(jobs::attempt(s)? == before, "the check restarted the job");
    ensure!(s.field(jobs::JOB, "/status/image")? == Image::Counts.name(), "it was upgraded");
    jobs::output_goes_on(s)?;
    // Only then it is let go.
    s.kubectl(&["annotate", jobs::JOB, "millrace.dev/check-only-"])?;
    s.wait_field(jobs::JOB, "/status/image", next)?;
    jobs::runs(s, 2)?;
    jobs::ends_exactly_once(s)
}

pub fn an_upgrade_may_go_on_from_the_newest_checkpoint(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::CountsNext)?;
    jobs::counts(s, 2)?;
    let next = Image::CountsNext.name();
    let edit = r#"{"spec":{"image":"IMAGE","upgrade":{"mode":"LastCheckpoint"}}}"#;
    jobs::merge(s, &edit.replace("IMAGE", next))?;
    s.wait_field(jobs::JOB, "/status/image", next)?;
    jobs::runs(s, 2)?;
    jobs::ends_exactly_once(s)?;

    // What fails and is to be kept waits for an edit, with the state that there was.
    jobs::merge(s, r#"{"spec":{"upgrade":{"onFailure":"Keep","timeout":"20s"}}}"#)?;
    jobs::resume(s)?;
    jobs::runs(s, 2)?;
    jobs::merge(s, &arguments(s, "out", r#","--fails""#))?;
    let mut last = String::new();
    let stalled = wait_for("the job to stall", PATIENCE, || {
        let (reason, message) = jobs::words(s, "Stalled")?;
        last = format!("{reason}: {message}");
        Ok((!reason.is_empty()).then_some(()))
    });
    stalled.with_context(|| format!("it last said {last:?}"))?;
    eprintln!("kept: {last}");
    jobs::merge(s, &arguments(s, "out", ""))?;
    jobs::runs(s, 2)?;
    jobs::ends_exactly_once(s)
}

pub fn an_upgrade_of_the_controller_restarts_nothing(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    s.provide(Image::OperatorNext)?;
    let before = jobs::attempt(s)?;
    let pods = [s.uid("pod/counts-millrace-0")?, s.uid("pod/counts-millrace-1")?];
    let values = jobs::operator_values(Image::OperatorNext)?;
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    s.helm("upgrade", "millrace", jobs::SYSTEM, &checkout().join("charts/millrace"), &values)?;
    jobs::output_goes_on(s)?;
    // It is the new one that answers to an edit.
    jobs::merge(s, r#"{"spec":{"checkpoint":{"interval":"2s"}}}"#)?;
    s.wait(jobs::JOB, "condition=Ready")?;
    ensure!(jobs::attempt(s)? == before, "the job was restarted");
    let now = [s.uid("pod/counts-millrace-0")?, s.uid("pod/counts-millrace-1")?];
    ensure!(now == pods, "pods were replaced");
    jobs::ends_exactly_once(s)
}
