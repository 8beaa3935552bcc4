//! What the controller may do, compared with what it does.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{Image, PATIENCE, Scenario, wait_for};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Group, resource with its part, verb.
type Right = (String, String, String);

/// Rights that no request shows, and what they are for.
const SILENT: [(&str, &str, &str, &str); 7] = [
    (
        "millrace.dev",
        "streamjobs/finalizers",
        "update",
        "ownerReferences that block, where admission asks for it",
    ),
    ("", "configmaps", "get", "what an earlier process of the controller wrote"),
    ("", "nodes", "get", "a node that is gone"),
    ("coordination.k8s.io", "leases", "create", "the first start in a namespace"),
    ("millrace.dev", "streamjobs", "get", "a cluster's store that went back in time"),
    ("millrace.dev", "streamjobs/status", "patch", "the hook of an uninstall"),
    ("", "pods", "get", "a pod that has the name of one for the store"),
];

/// What the controller asked the API server for, and what of it was refused and never granted
/// afterwards: one that starts refuses everybody until it has read the roles.
fn asked(s: &Scenario<'_>) -> Result<(BTreeSet<Right>, Vec<String>)> {
    let log = std::fs::read_to_string(s.cluster()?.dir()?.join("audit.log"))?;
    let user = format!("system:serviceaccount:{}:millrace", jobs::SYSTEM);
    let (mut rights, mut refused) = (BTreeSet::new(), BTreeMap::new());
    for line in log.lines() {
        // The last one may be half written.
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        if event["user"]["username"] != user.as_str() || event["objectRef"].is_null() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let mut resource = text(&object["resource"]);
        if let Some(part) = object["subresource"].as_str() {
            resource = format!("{resource}/{part}");
        }
        let right = (text(&object["apiGroup"]), resource, text(&event["verb"]));
        let why = text(&event["responseStatus"]["message"]);
        if event["responseStatus"]["code"] != 403 {
            refused.remove(&right);
        } else if !why.contains("exceeded quota") {
            // The story's own quota is no matter of rights.
            refused.insert(right.clone(), format!("{} {}: {why}", right.2, right.1));
        }
        rights.insert(right);
    }
    Ok((rights, refused.into_values().collect()))
}

/// What the chart's roles grant to the controller.
fn granted(s: &Scenario<'_>) -> Result<BTreeSet<Right>> {
    let name = format!("{}-millrace", jobs::SYSTEM);
    let roles = [
        s.cluster()?.get(["clusterrole", &name])?,
        s.cluster()?.get(["role", "millrace-leader", "--namespace", jobs::SYSTEM])?,
    ];
    let mut rights = BTreeSet::new();
    for rule in roles.iter().filter_map(|role| role["rules"].as_array()).flatten() {
        let all = |key: &str| -> Vec<String> {
            let of = rule[key].as_array().into_iter().flatten();
            of.filter_map(|one| one.as_str().map(str::to_owned)).collect()
        };
        for group in all("apiGroups") {
            for resource in all("resources") {
                for verb in all("verbs") {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    Ok(rights)
}

/// Waits until an object that was touched is as it was.
fn put_back(s: &Scenario<'_>, object: &str, path: &str, was: &Value) -> Result<()> {
    wait_for(&format!("{path} of {object} to be put back"), PATIENCE, || {
        Ok((s.field(object, path)? == *was).then_some(()))
    })
}

/// Objects that are not ours, of names that jobs need: left alone, and told of.
fn strangers(s: &mut Scenario<'_>) -> Result<()> {
    let set = "spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: []}}, replicas: 0}";
    let set = set.replace("containers: []", "containers: [{name: a, image: b}]");
    for (version, kind, spec) in [
        ("v1", "Service", "spec: {ports: [{port: 1}]}"),
        ("v1", "ServiceAccount", ""),
        ("policy/v1", "PodDisruptionBudget", "spec: {selector: {matchLabels: {a: b}}}"),
        ("apps/v1", "StatefulSet", set.as_str()),
    ] {
        let name = format!("no-{}", kind.to_lowercase());
        s.apply(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}-millrace}}\n{spec}\n"
        ))?;
        Job { name: &name, workers: 1, output: &name, ..Job::default() }.apply(s)?;
        let job = format!("streamjob/{name}");
        s.wait(&job, "condition=Stalled")?;
        let stalled = s.field(&job, "/status/conditions")?.to_string();
        ensure!(stalled.contains("NameConflict"), "{kind} in the way: {stalled}");
        s.kubectl(&["delete", &job])?;
    }
    Ok(())
}

/// All that a controller has to do in the life of a job.
fn much(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::CountsNext)?;
    jobs::stage(s)?;
    let spec = "  deletionPolicy: Delete\n  savepoints: {interval: 10s, retained: 1}";
    Job { spec, ..Job::default() }.apply(s)?;
    jobs::runs(s, 2)?;
    let (first, next) = (jobs::attempt(s)?, Image::CountsNext.name());

    // Children that were edited or deleted by hand are put back.
    for (object, path, patch) in [
        (
            "service/counts-millrace",
            "/spec/publishNotReadyAddresses",
            r#"{"spec":{"publishNotReadyAddresses":false}}"#,
        ),
        (
            "poddisruptionbudget/counts-millrace",
            "/spec/maxUnavailable",
            r#"{"spec":{"maxUnavailable":0}}"#,
        ),
        (
            "serviceaccount/counts-millrace",
            "/automountServiceAccountToken",
            r#"{"automountServiceAccountToken":true}"#,
        ),
        (
            "statefulset/counts-millrace",
            "/spec/template/spec/terminationGracePeriodSeconds",
            r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}"#,
        ),
    ] {
        let was = s.field(object, path)?;
        s.kubectl(&["patch", object, "--type=merge", "--patch", patch])?;
        put_back(s, object, path, &was)?;
    }
    for object in [
        "service/counts-millrace",
        "poddisruptionbudget/counts-millrace",
        "configmap/counts-millrace-live",
    ] {
        let uid = s.uid(object)?;
        s.kubectl(&["delete", object])?;
        wait_for(&format!("another {object}"), PATIENCE, || {
            Ok((s.uid(object)? != uid).then_some(()))
        })?;
    }
    // Workers that lost the label by which they are watched are found by their names.
    for pod in ["pod/counts-millrace-0", "pod/counts-millrace-1"] {
        let label = "/metadata/labels/millrace.dev~1job";
        let was = s.field(pod, label)?;
        s.kubectl(&["label", pod, "millrace.dev/job-"])?;
        put_back(s, pod, label, &was)?;
    }
    ensure!(jobs::attempt(s)? == first, "the job was restarted");
    jobs::output_goes_on(s)?;

    // An upgrade replaces pods and, the third time, forgets a revision.
    for (nonce, image) in [next, Image::Counts.name(), next].into_iter().enumerate() {
        jobs::merge(s, &format!(r#"{{"spec":{{"image":"{image}","restartNonce":{nonce}}}}}"#))?;
        s.wait(jobs::JOB, "condition=Ready")?;
        s.wait_field(jobs::JOB, "/status/image", image)?;
    }
    // A savepoint that a user asks for; those by the clock come and go beside it.
    let savepoint = "{apiVersion: millrace.dev/v1alpha1, kind: Savepoint, metadata: {name: mine}, spec: {jobRef: {name: counts}, deletionPolicy: Delete}}";
    s.apply(savepoint)?;
    s.wait("savepoint/mine", "condition=Ready")?;
    s.kubectl(&["delete", "savepoint/mine"])?;
    let mut oldest = None;
    wait_for("the clock's oldest savepoint to go", PATIENCE, || {
        let made = s.get(&["savepoints"])?;
        let items = made["items"].as_array().context("no list of savepoints")?;
        let names: Vec<&str> =
            items.iter().filter_map(|one| one["metadata"]["name"].as_str()).collect();
        match &oldest {
            None => oldest = names.first().map(|name| (*name).to_owned()),
            Some(name) if !names.contains(&name.as_str()) => return Ok(Some(())),
            Some(_) => {}
        }
        Ok(None)
    })?;

    // Pods that the cluster refuses: the job says so with the API server's words.
    s.apply(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: few}, spec: {hard: {pods: '2'}}}",
    )?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    wait_for("the words of the quota", PATIENCE, || {
        let (reason, message) = jobs::words(s, "Ready")?;
        Ok((reason == "PodsForbidden" && message.contains("exceeded quota")).then_some(()))
    })?;
    s.kubectl(&["delete", "resourcequota/few"])?;
    jobs::runs_with(s, 3)?;
    jobs::suspend(s)?;
    jobs::output(s)?.exactly_once()?;
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    s.kubectl(&["delete", jobs::JOB, &timeout]).map(drop)
}

pub fn the_controller_may_do_what_it_does_and_nothing_else(s: &mut Scenario<'_>) -> Result<()> {
    much(s)?;
    strangers(s)?;
    let (asked, refused) = asked(s)?;
    ensure!(refused.is_empty(), "refused was\n{}", refused.join("\n"));
    let silent: BTreeSet<Right> = SILENT
        .iter()
        .map(|(group, resource, verb, _)| {
            ((*group).to_owned(), (*resource).to_owned(), (*verb).to_owned())
        })
        .collect();
    let granted = granted(s)?;
    let needless: Vec<_> =
        granted.iter().filter(|r| !asked.contains(r) && !silent.contains(r)).collect();
    ensure!(needless.is_empty(), "granted and never used: {needless:?}");
    let stale: Vec<_> = silent.iter().filter(|right| !granted.contains(right)).collect();
    ensure!(stale.is_empty(), "excused and not granted: {stale:?}");
    Ok(())
}
