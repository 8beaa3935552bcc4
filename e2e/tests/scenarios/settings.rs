//! What a user may choose besides: where state lives, how rows travel, where savepoints go.
//! And what can be wrong with a choice that only run time knows of.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{Numbers, PATIENCE, Scenario, wait_for};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A pod of the job goes, then it gets another one.
fn survives(s: &mut Scenario<'_>) -> Result<()> {
    for pod in ["counts-millrace-1", "counts-millrace-0"] {
        let before = jobs::attempt(s)?;
        s.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force"])?;
        jobs::restarted_after(s, before)?;
        s.wait_ready(jobs::PODS, 2)?;
        jobs::output_goes_on(s)?;
    }
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    jobs::runs_with(s, 3)?;
    jobs::runs(s, 3)?;
    jobs::ends_exactly_once(s)
}

pub fn state_is_kept_on_disk_and_rows_go_by_mutual_tls(s: &mut Scenario<'_>) -> Result<()> {
    jobs::stage(s)?;
    let name = format!("counts-millrace.{}.svc", s.namespace());
    let folder = s.cluster()?.certificate(&name)?;
    let read = |file: &str| fs::read_to_string(folder.join(file));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "exchange"},
        "stringData": {"tls.crt": read("tls.crt")?, "tls.key": read("tls.key")?,
            "ca.crt": read("ca.crt")?}});
    s.apply(&secret.to_string())?;
    let spec = "  state: {backend: Disk}\n  tls: {exchange: Mutual, secretRef: {name: exchange}}";
    // More state than a worker of this size keeps in memory.
    let args = "--rate, '40000', --keys, '1500000'";
    Job { spec, args, ..Job::default() }.apply(s)?;
    jobs::runs(s, 2)?;
    survives(s)
}

pub fn checkpoints_go_to_a_volume_that_all_pods_share(s: &mut Scenario<'_>) -> Result<()> {
    jobs::stage(s)?;
    // Nodes of the lab see the same folder, as those of a cluster with a file server do.
    let name = s.namespace().to_owned();
    let folder = s.cluster()?.dir()?.join("volumes").join(&name);
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"],
            "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": folder}}});
    s.apply(&volume.to_string())?;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "shared"},
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name,
            "resources": {"requests": {"storage": "1Gi"}}}});
    s.apply(&claim.to_string())?;
    let played = on_volume(s, &folder.join("out"));
    s.cluster()?.kubectl(["delete", "persistentvolume", name.as_str(), "--wait=false"])?;
    played
}

/// Without an object store: output goes to the volume too.
fn on_volume(s: &mut Scenario<'_>, out: &Path) -> Result<()> {
    let yaml = Job::default().yaml(s.namespace(), "1s");
    let yaml =
        yaml.replace(&format!("s3://{}/out", s.namespace()), "/var/lib/millrace-storage/out");
    let (before, _) = yaml.split_once("  storage:").context("a job without storage")?;
    s.apply(&format!("{before}  storage: {{volume: {{claimName: shared, path: state}}}}\n"))?;
    s.wait(jobs::JOB, "condition=Ready")?;
    let goes_on =
        || {
            let before = Numbers::read(out)?.rows();
            wait_for("more output", PATIENCE, || {
                Ok((Numbers::read(out)?.rows() > before).then_some(()))
            })
        };
    goes_on()?;
    for pod in ["counts-millrace-1", "counts-millrace-0"] {
        let before = jobs::attempt(s)?;
        s.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force"])?;
        jobs::restarted_after(s, before)?;
        s.wait_ready(jobs::PODS, 2)?;
        goes_on()?;
    }
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    jobs::runs_with(s, 3)?;
    s.wait_ready(jobs::PODS, 3)?;
    goes_on()?;
    jobs::suspend(s)?;
    Numbers::read(out)?.exactly_once()
}

pub fn a_savepoint_at_a_path_of_ones_own_starts_another_job(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    let elsewhere = format!("{}-kept", s.namespace());
    s.s3()?.make_bucket(&elsewhere)?;
    let path = format!("s3://{elsewhere}/of/monday");
    jobs::savepoint(s, "monday", &format!(", path: '{path}'"))?;
    s.wait("savepoint/monday", "condition=Ready")?;
    // Below it, so that several may have the same.
    let told = s.field("savepoint/monday", "/status/path")?;
    let told = told.as_str().context("it is nowhere")?.to_owned();
    ensure!(told.strip_prefix(&path).is_some_and(|id| id.len() > 1), "it is at {told}");
    let path = told;
    jobs::suspend(s)?;
    let first = jobs::output(s)?;
    first.exactly_once()?;
    // Registered under another name, it is the same.
    s.apply(&format!(
        "
apiVersion: millrace.dev/v1alpha1
kind: Savepoint
metadata: {{name: found}}
spec: {{existing: {{path: '{path}'}}}}
"
    ))?;
    for (name, from) in [
        ("by-path", format!("{{path: '{path}'}}")),
        ("by-name", "{savepointRef: {name: found}}".to_owned()),
    ] {
        let spec = format!("  restoreFrom: {from}");
        Job { name, output: name, spec: &spec, ..Job::default() }.apply(s)?;
        let object = format!("streamjob/{name}");
        s.wait(&object, "condition=Ready")?;
        if name == "by-name" {
            s.wait("savepoint/found", "condition=Ready")?;
        }
        wait_for("output of a job from a savepoint", PATIENCE, || {
            Ok((jobs::output_at(s, name)?.rows() > 0).then_some(()))
        })?;
        let suspended = r#"{"spec":{"desiredState":"Suspended"}}"#;
        s.kubectl(&["patch", &object, "--type=merge", "--patch", suspended])?;
        s.wait_field(&object, "/status/state", "Suspended")?;
        jobs::output_at(s, name)?.continues(&first)?;
    }
    Ok(())
}

/// Waits until a job says why it is not ready, in a message that holds a text; the message.
fn says(s: &Scenario<'_>, job: &str, what: &str, text: &str) -> Result<String> {
    let mut last = String::new();
    let told = wait_for(&format!("a word about {what}"), PATIENCE, || {
        let conditions = s.field(job, "/status/conditions")?;
        let ready = conditions.as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
        let Some(ready) = ready.filter(|c| c["status"] == "False") else { return Ok(None) };
        let (reason, message) = (&ready["reason"], &ready["message"]);
        last = format!("{reason}: {message}");
        Ok(last.contains(text).then(|| last.clone()))
    });
    let told = told.with_context(|| format!("it last said {last:?}"))?;
    eprintln!("{what}: {told}");
    Ok(told)
}

pub fn what_is_wrong_with_the_storage_is_told_and_healed_by_an_edit(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::stage(s)?;
    s.tolerate("s3-key-of-another");
    s.tolerate("no-such-bucket");
    let yaml = Job::default().yaml(s.namespace(), "1s");

    // A Secret that is not there.
    s.apply(&yaml.replace("s3-key", "s3-key-of-another"))?;
    says(s, jobs::JOB, "a Secret that is missing", "s3-key-of-another")?;

    // One whose key is wrong: what the object store says is told, the key is not.
    let secret = "never-to-be-seen-in-a-log";
    let wrong = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "s3-key-of-another"},
        "stringData": {"accessKeyId": "nobody", "secretAccessKey": secret}});
    s.apply(&wrong.to_string())?;
    let told = says(s, jobs::JOB, "a wrong key", "StorageUnusable")?;
    ensure!(!told.contains(secret), "it tells the key");
    let pods = s.kubectl(&["logs", "--selector", jobs::PODS, "--tail=-1"]).unwrap_or_default();
    ensure!(!pods.contains(secret), "a log tells the key");

    // The edit that heals it; that is not an edit of the place.
    s.apply(&yaml)?;
    jobs::runs(s, 2)?;
    jobs::ends_exactly_once(s)?;

    // A bucket that is not there; the remedy is to make it.
    let bucket = format!("{}-no-such-bucket", s.namespace());
    let other = Job { name: "second", output: "second", ..Job::default() };
    let other = other.yaml(s.namespace(), "1s");
    s.apply(&other.replace(&format!("bucket: {}", s.namespace()), &format!("bucket: {bucket}")))?;
    says(s, "streamjob/second", "a bucket that is missing", &bucket)?;
    s.s3()?.make_bucket(&bucket)?;
    s.wait("streamjob/second", "condition=Ready")?;
    wait_for("output of the second job", PATIENCE, || {
        Ok((jobs::output_at(s, "second")?.rows() > 0).then_some(()))
    })
}
