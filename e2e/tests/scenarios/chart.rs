//! The chart comes and goes; jobs stay.

use crate::jobs;
use anyhow::{Result, ensure};
use millrace_e2e::{Image, Scenario, checkout};

/// Everything that tells a restart: the attempt and the pods.
fn life(s: &Scenario<'_>) -> Result<(u64, [String; 2])> {
    let uids = [s.uid("pod/counts-millrace-0")?, s.uid("pod/counts-millrace-1")?];
    Ok((jobs::attempt(s)?, uids))
}

/// Uninstalls the chart, sees the job run on, installs it again as `release`; the same
/// pods and the same attempt answer to an edit.
fn reinstalled(s: &mut Scenario<'_>, release: &str, options: &[&str]) -> Result<()> {
    jobs::stage(s)?;
    jobs::Job { spec: "  deletionPolicy: Delete", ..jobs::Job::default() }.apply(s)?;
    jobs::runs(s, 2)?;
    let before = life(s)?;
    s.uninstall("millrace")?;
    let kept = s.field(jobs::JOB, "/metadata/finalizers")?;
    ensure!(kept.is_null(), "without a controller these wait for ever: {kept}");
    jobs::output_goes_on(s)?;
    let values = jobs::operator_values(Image::Operator)?;
    let values: Vec<&str> =
        values.iter().map(String::as_str).chain(options.iter().copied()).collect();
    s.install(release, jobs::SYSTEM, &checkout().join("charts/millrace"), &values)?;
    s.wait_field(jobs::JOB, "/status/controller", format!("{}/{release}", jobs::SYSTEM))?;
    s.wait(jobs::JOB, "condition=Ready")?;
    jobs::merge(s, r#"{"spec":{"checkpoint":{"interval":"2s"}}}"#)?;
    s.wait(jobs::JOB, "condition=Ready")?;
    jobs::output_goes_on(s)?;
    ensure!(life(s)? == before, "the job was restarted");
    s.cluster()?.helm(["test", release, "--namespace", jobs::SYSTEM])?;
    jobs::ends_exactly_once(s)
}

pub fn an_uninstall_leaves_jobs_running_and_the_next_install_takes_them_up(
    s: &mut Scenario<'_>,
) -> Result<()> {
    reinstalled(s, "millrace", &[])
}

pub fn a_release_of_another_name_takes_the_jobs_up(s: &mut Scenario<'_>) -> Result<()> {
    reinstalled(s, "streams", &["--take-ownership"])
}
