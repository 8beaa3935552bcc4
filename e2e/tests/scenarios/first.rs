//! The first minutes with Millrace: install, apply, look.

use crate::jobs;
use anyhow::{Result, ensure};
use millrace_e2e::{Image, Scenario, checkout, csv_rows, lines};
use std::process::Command;

/// The bucket in the example's YAML.
const BUCKET: &str = "flights";

pub fn the_example_is_applied_and_its_output_is_that_of_a_local_run(
    s: &mut Scenario<'_>,
) -> Result<()> {
    s.provide(Image::FlightDelays)?;
    jobs::operator(s)?;
    jobs::object_store(s, BUCKET)?;
    let example = checkout().join("examples/flight-delays");
    let data = example.join("data");
    s.s3()?.put(BUCKET, "in/flights-2013-01.csv.gz", &data.join("flights-2013-01.csv.gz"))?;
    s.s3()?.put(BUCKET, "names/airlines.csv", &data.join("airlines.csv"))?;
    s.apply(&std::fs::read_to_string(example.join("k8s/streamjob.yaml"))?)?;
    s.wait("streamjob/flight-delays", "condition=Complete")?;
    s.wait_field("streamjob/flight-delays", "/status/state", "Finished")?;
    s.wait_ready("app.kubernetes.io/component=worker", 0)?;

    let local = std::env::temp_dir().join(s.namespace());
    let run = Command::new(Image::FlightDelays.executable()?)
        .args(["run", "--output"])
        .arg(&local)
        .env("CARGO_MANIFEST_DIR", &example)
        .output()?;
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let compared = compare(s, &local);
    std::fs::remove_dir_all(&local)?;
    compared
}

fn compare(s: &mut Scenario<'_>, local: &std::path::Path) -> Result<()> {
    for output in ["delays", "sessions", "late"] {
        let found = csv_rows(&s.s3()?.bucket(BUCKET).join("out").join(output))?;
        let expected = csv_rows(&local.join(output))?;
        ensure!(!expected.is_empty(), "a local run writes no {output}");
        let (n, m) = (found.len(), expected.len());
        ensure!(found == expected, "{output}: {n} rows in the cluster, {m} of a local run differ");
    }
    Ok(())
}

/// The second example, as its README tells: a program becomes an image and a job, and the
/// job is scaled while it runs.
pub fn a_program_of_ones_own_becomes_an_image_and_a_job(s: &mut Scenario<'_>) -> Result<()> {
    const ALERTS: &str = "streamjob/card-alerts";
    s.provide(Image::CardAlerts)?;
    jobs::operator(s)?;
    jobs::object_store(s, "alerts")?;
    let mut yaml =
        std::fs::read_to_string(checkout().join("examples/card-alerts/k8s/streamjob.yaml"))?;
    // A store of our own, and an end, to compare at.
    for (theirs, ours) in [
        ("region: eu-central-1", "region: us-east-1\n      endpoint: http://s3:9000"),
        ("--rate=10000", "--rate=10000, --payments=900000"),
    ] {
        ensure!(yaml.contains(theirs), "the example does not say {theirs}");
        yaml = yaml.replace(theirs, ours);
    }
    s.apply(&yaml)?;
    s.wait(ALERTS, "condition=Ready")?;
    // The lab's nodes have no room for a fourth.
    s.kubectl(&["scale", ALERTS, "--replicas=3"])?;
    s.wait_ready("app.kubernetes.io/component=worker", 3)?;
    s.wait(ALERTS, "condition=Complete")?;

    let local = std::env::temp_dir().join(s.namespace());
    let run = Command::new(Image::CardAlerts.executable()?)
        .args(["run", "--payments", "900000", "--rate", "10000000", "--output"])
        .arg(&local)
        .output()?;
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let (found, expected) = (lines(&s.s3()?.bucket("alerts").join("out"))?, lines(&local)?);
    std::fs::remove_dir_all(&local)?;
    ensure!(!expected.is_empty(), "a local run raises no alert");
    let (n, m) = (found.len(), expected.len());
    ensure!(found == expected, "{n} alerts in the cluster, {m} of a local run differ");
    Ok(())
}

pub fn what_kubectl_says_of_a_job_is_true_at_every_stage(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    let generation = s.field(jobs::JOB, "/metadata/generation")?.as_u64().unwrap_or(0);
    for kind in ["Ready", "Available"] {
        let (status, of) = jobs::condition(s, kind)?;
        ensure!(status == "True" && of == generation, "{kind} is {status} of generation {of}");
    }
    let line = s.kubectl(&["get", "sj", "counts", "--no-headers"])?;
    let columns: Vec<&str> = line.split_whitespace().collect();
    ensure!(columns.starts_with(&["counts", "Running", "True", "2"]), "kubectl get says: {line}");
    let text = s.kubectl(&["describe", "sj", "counts"])?;
    ensure!(text.contains("Normal"), "kubectl describe shows no event:\n{text}");

    // What the cluster cannot give is said, and the job that runs is left in peace.
    let broken = "lab.millrace.dev/there-is-no-such:1";
    jobs::merge(s, &format!(r#"{{"spec":{{"image":"{broken}","upgrade":{{"timeout":"10s"}}}}}}"#))?;
    s.wait(jobs::JOB, "condition=Ready=False")?;
    s.wait(jobs::JOB, "condition=Stalled")?;
    ensure!(jobs::condition(s, "Available")?.0 == "True", "the old image does not run any more");
    jobs::output_goes_on(s)?;
    let good = Image::Counts.name();
    jobs::merge(s, &format!(r#"{{"spec":{{"image":"{good}"}}}}"#))?;
    s.wait(jobs::JOB, "condition=Ready")?;

    jobs::ends_exactly_once(s)?;
    let (ready, _) = jobs::condition(s, "Ready")?;
    let (available, _) = jobs::condition(s, "Available")?;
    ensure!(ready == "True" && available == "False", "suspended: {ready}, {available}");
    s.wait_ready(jobs::PODS, 0)?;
    s.kubectl(&["delete", "sj", "counts"]).map(drop)
}
