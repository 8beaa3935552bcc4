//! Jobs are deleted, whatever they are doing, and what becomes of their data is what they
//! said.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{Image, PATIENCE, Scenario, wait_for};
use std::path::Path;
use std::time::Duration;

/// Jobs in every state that a job can be in, each under the name of its state.
const JOBS: [&str; 10] = [
    "pending",
    "crashing",
    "refused",
    "running",
    "restarting",
    "failed",
    "suspended",
    "finished",
    "rescaling",
    "upgrading",
];

/// A job with this name and deletion policy, on its way to the state of its name.
fn apply(s: &Scenario<'_>, name: &str, policy: &str) -> Result<()> {
    let args = match name {
        "refused" => "--there-is-no-such-option",
        "crashing" => "--broken",
        "failed" | "restarting" => "--fails",
        "finished" => "--rows, '1000'",
        _ => "--rate, '500'",
    };
    let spec = match name {
        "failed" => format!(
            "  deletionPolicy: {policy}\n  restart: {{initialDelay: 100ms, maxDelay: 100ms, maxRestarts: 2}}"
        ),
        _ => format!("  deletionPolicy: {policy}"),
    };
    let image = match name {
        "pending" => "lab.millrace.dev/there-is-no-such:1",
        _ => Image::Counts.name(),
    };
    Job { name, workers: 1, image, output: name, args, spec: &spec }.apply(s)
}

/// The job is in the state of its name, and for two of them was a moment ago.
fn brought_there(s: &Scenario<'_>, name: &str) -> Result<()> {
    let job = format!("streamjob/{name}");
    let patch = |patch: &str| s.kubectl(&["patch", &job, "--type=merge", "--patch", patch]);
    match name {
        "pending" => s.wait_field(&job, "/status/state", "Pending"),
        "refused" => s.wait(&job, "condition=Stalled"),
        "restarting" | "crashing" => {
            let failure = || s.field(&job, "/status/lastFailure/message");
            wait_for("a failure", PATIENCE, || Ok((!failure()?.is_null()).then_some(())))
        }
        "failed" => s.wait_field(&job, "/status/state", "Failed"),
        "finished" => s.wait(&job, "condition=Complete"),
        "suspended" => {
            s.wait(&job, "condition=Ready")?;
            patch(r#"{"spec":{"desiredState":"Suspended"}}"#)?;
            s.wait_field(&job, "/status/state", "Suspended")
        }
        _ => s.wait(&job, "condition=Ready"),
    }
}

/// Applies jobs in all states and deletes them.
fn deleted_in_every_state(s: &mut Scenario<'_>, policy: &str) -> Result<()> {
    jobs::stage(s)?;
    s.provide(Image::CountsNext)?;
    s.tolerate("e2e/counts/src/main.rs");
    s.tolerate("this program was told to fail");
    for name in JOBS {
        apply(s, name, policy)?;
    }
    for name in JOBS {
        brought_there(s, name)?;
    }
    s.kubectl(&["scale", "streamjob/rescaling", "--replicas=3"])?;
    let next = format!(r#"{{"spec":{{"image":"{}"}}}}"#, Image::CountsNext.name());
    s.kubectl(&["patch", "streamjob/upgrading", "--type=merge", "--patch", &next])?;
    s.kubectl(&["delete", "streamjobs", "--all", "--wait=false"])?;
    for name in JOBS {
        let job = format!("streamjob/{name}");
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        s.kubectl(&["wait", &job, "--for=delete", &timeout])?;
    }
    wait_for("all that belonged to the jobs to go", PATIENCE, || {
        let kinds =
            "pods,statefulsets,services,poddisruptionbudgets,configmaps,secrets,serviceaccounts";
        let left = s.kubectl(&["get", kinds, "--selector=millrace.dev/job", "--output=name"])?;
        ensure!(left.trim().is_empty(), "there are {left}");
        Ok(Some(()))
    })
}

/// The data of a job, as files of the object store: their paths below its place.
fn data(s: &mut Scenario<'_>, name: &str) -> Result<Vec<String>> {
    let namespace = s.namespace().to_owned();
    let place = s.s3()?.bucket(&namespace).join("state").join(&namespace).join(name);
    let mut found = Vec::new();
    files(&place, &place, &mut found)?;
    Ok(found)
}

fn files(dir: &Path, root: &Path, found: &mut Vec<String>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            files(&entry.path(), root, found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// What a deletion takes along. The list of the place's lives stays, and of each its chain,
/// whose last entry says that it is over: whoever still holds on to it is fenced.
fn goes(paths: &[String]) -> Vec<&String> {
    paths.iter().filter(|path| path.contains("/data/")).collect()
}

pub fn jobs_are_deleted_in_every_state_and_their_data_stays(s: &mut Scenario<'_>) -> Result<()> {
    deleted_in_every_state(s, "Retain")?;
    for name in ["running", "suspended", "finished", "rescaling", "upgrading"] {
        let left = data(s, name)?;
        ensure!(!goes(&left).is_empty(), "the data of {name} is gone: {left:?}");
        jobs::output_at(s, name)?.exactly_once()?;
    }
    Ok(())
}

pub fn jobs_are_deleted_in_every_state_and_their_data_goes(s: &mut Scenario<'_>) -> Result<()> {
    deleted_in_every_state(s, "Delete")?;
    for name in JOBS {
        let left = data(s, name)?;
        ensure!(goes(&left).is_empty(), "of {name} there is left {left:?}");
        jobs::output_at(s, name)?.exactly_once()?;
    }
    Ok(())
}

pub fn jobs_go_with_their_namespace(s: &mut Scenario<'_>) -> Result<()> {
    jobs::stage(s)?;
    apply(s, "running", "Delete")?;
    apply(s, "suspended", "Retain")?;
    for name in ["running", "suspended"] {
        brought_there(s, name)?;
    }
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    s.cluster()?.kubectl(["delete", "namespace", s.namespace(), &timeout])?;
    for name in ["running", "suspended"] {
        jobs::output_at(s, name)?.exactly_once()?;
    }
    Ok(())
}

/// The ten minutes that an object store may be away, and time for the rest.
const LONG: Duration = Duration::from_secs(900);

pub fn an_object_store_that_stays_away_does_not_keep_a_job_for_ever(
    s: &mut Scenario<'_>,
) -> Result<()> {
    const NAMES: [&str; 2] = ["running", "suspended"];
    jobs::stage(s)?;
    for name in NAMES {
        apply(s, name, "Delete")?;
    }
    for name in NAMES {
        brought_there(s, name)?;
    }
    s.s3()?.kill()?;
    s.kubectl(&["delete", "streamjobs", "--all", "--wait=false"])?;
    for name in NAMES {
        s.wait_field(&format!("streamjob/{name}"), "/status/state", "Deleting")?;
    }
    for name in NAMES {
        let (job, timeout) =
            (format!("streamjob/{name}"), format!("--timeout={}s", LONG.as_secs()));
        s.kubectl(&["wait", &job, "--for=delete", &timeout])?;
        let place = format!("s3://{0}/state/{0}/{name}", s.namespace());
        let told = notes(s, "DataLeftBehind")?;
        ensure!(told.iter().any(|note| note.contains(&place)), "{place} is not in {told:?}");
    }
    wait_for("the pods to go", PATIENCE, || {
        let left = s.kubectl(&["get", "pods", "--selector=millrace.dev/job", "--output=name"])?;
        ensure!(left.trim().is_empty(), "there are {left}");
        Ok(Some(()))
    })?;
    s.s3()?.start()?;
    for name in NAMES {
        ensure!(!goes(&data(s, name)?).is_empty(), "of {name} there is nothing left");
    }
    Ok(())
}

/// What events with this reason say.
fn notes(s: &Scenario<'_>, reason: &str) -> Result<Vec<String>> {
    let events = s.get(&["events.events.k8s.io"])?;
    let items = events["items"].as_array().context("no list of events")?;
    let of = items.iter().filter(|event| event["reason"] == reason);
    Ok(of.filter_map(|event| Some(event["note"].as_str()?.to_owned())).collect())
}
