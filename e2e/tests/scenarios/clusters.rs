//! The same storage from two clusters: one of them has it.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{Cluster, Image, Images, PATIENCE, Scenario, checkout, wait_for};
use serde_json::Value;

/// Another cluster that has the same object store and, in a namespace of the same name, all
/// that jobs need.
struct Other {
    cluster: Cluster,
    namespace: String,
}

impl Other {
    fn up(s: &mut Scenario<'_>) -> Result<Self> {
        let first = s.cluster()?.dir()?;
        let mut dir = first.as_os_str().to_owned();
        dir.push("-2");
        let cluster = Cluster::up(1, dir.into())?;
        s.s3()?.share(&cluster)?;
        let images = Images::default();
        for image in [Image::Operator, Image::Counts] {
            images.provide(&cluster, image)?;
        }
        let namespace = s.namespace().to_owned();
        for name in [namespace.as_str(), jobs::SYSTEM] {
            cluster.kubectl(["create", "namespace", name])?;
        }
        let chart = checkout().join("charts/millrace");
        let chart = chart.to_str().context("a path that is no text")?;
        let mut install = vec!["install", "millrace", chart, "--namespace", jobs::SYSTEM, "--wait"];
        let values = jobs::operator_values(Image::Operator)?;
        for value in &values {
            install.extend(["--set-string", value]);
        }
        cluster.helm(install)?;
        let other = Self { cluster, namespace };
        other.apply(&jobs::object_store_of(s.s3()?)?)?;
        Ok(other)
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let namespace = ["--namespace", &self.namespace];
        self.cluster.kubectl(namespace.into_iter().chain(args.iter().copied()))
    }

    fn apply(&self, yaml: &str) -> Result<()> {
        let apply = ["apply", "--namespace", &self.namespace, "--filename", "-"];
        self.cluster.kubectl_with(apply, yaml).map(drop)
    }

    /// Its job.
    fn job(&self) -> Result<Value> {
        self.cluster.get([jobs::JOB, "--namespace", &self.namespace])
    }

    fn suspend(&self) -> Result<()> {
        let suspended = r#"{"spec":{"desiredState":"Suspended"}}"#;
        self.kubectl(&["patch", jobs::JOB, "--type=merge", "--patch", suspended])?;
        wait_for("the job of the other cluster to be suspended", PATIENCE, || {
            Ok((self.job()?["status"]["state"] == "Suspended").then_some(()))
        })
    }

    /// What there is when a story ends badly: the stage knows nothing of this cluster.
    fn describe(&self) -> String {
        let log = ["logs", "deployment/millrace", "--namespace", jobs::SYSTEM, "--tail=200"];
        let told = [
            self.kubectl(&["get", "streamjobs,pods", "--output=yaml"]),
            self.kubectl(&["get", "events"]),
            self.kubectl(&["logs", "--selector", jobs::PODS, "--prefix", "--tail=100"]),
            self.cluster.kubectl(log),
        ];
        told.map(|told| told.unwrap_or_else(|error| format!("{error:#}"))).join("\n")
    }
}

/// Plays with another cluster.
fn with_other(
    s: &mut Scenario<'_>,
    story: impl FnOnce(&mut Scenario<'_>, &Other) -> Result<()>,
) -> Result<()> {
    jobs::stage(s)?;
    let other = Other::up(s)?;
    let played = story(s, &other);
    if played.is_err() {
        s.keep("other-cluster.txt", &other.describe())?;
    }
    played
}

fn condition<'a>(job: &'a Value, kind: &str) -> &'a Value {
    let all = job["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn is_ready(job: &Value) -> bool {
    condition(job, "Ready")["status"] == "True"
}

fn both(s: &Scenario<'_>, other: &Other) -> Result<[Value; 2]> {
    Ok([s.get(&[jobs::JOB])?, other.job()?])
}

/// By what a job and its cluster are known to others.
fn name_of(cluster: &Cluster, job: &Value) -> Result<[String; 2]> {
    let system = cluster.get(["namespace", "kube-system"])?;
    let uid = |object: &Value| object["metadata"]["uid"].as_str().map(str::to_owned);
    let both = [uid(job), uid(&system)].map(|uid| uid.context("an object without a uid"));
    let [job, cluster] = both;
    Ok([job?, cluster?])
}

/// Waits until the job stalls for this reason, with words that name these.
fn stalls(job: impl Fn() -> Result<Value>, why: &str, named: &[String]) -> Result<()> {
    wait_for(&format!("the job to stall with {why}"), PATIENCE, || {
        let job = job()?;
        let stalled = condition(&job, "Stalled");
        let message = stalled["message"].as_str().unwrap_or_default();
        ensure!(stalled["reason"] == why, "it says {}", condition(&job, "Ready"));
        ensure!(named.iter().all(|name| message.contains(name)), "{named:?} in {message}");
        Ok(Some(()))
    })
}

pub fn of_two_clusters_one_owns_the_storage(s: &mut Scenario<'_>) -> Result<()> {
    with_other(s, |s, other| {
        let yaml = Job { workers: 1, ..Job::default() }.yaml(s.namespace(), "1s");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| other.apply(&yaml));
            let first = s.apply(&yaml);
            second.join().map_err(|_| anyhow::anyhow!("panicked"))?.and(first)
        })?;
        let one = wait_for("one of the jobs to be Ready", PATIENCE, || {
            Ok(both(s, other)?.iter().position(is_ready))
        })?;
        let [first, second] = both(s, other)?;
        let (first, second) = (name_of(s.cluster()?, &first)?, name_of(&other.cluster, &second)?);
        match one {
            0 => stalls(|| other.job(), "EarlierStateFound", &first)?,
            _ => stalls(|| s.get(&[jobs::JOB]), "EarlierStateFound", &second)?,
        }
        jobs::output_goes_on(s)?;
        let ready = both(s, other)?.iter().filter(|job| is_ready(job)).count();
        ensure!(ready == 1, "{ready} of the jobs are Ready");
        match one {
            0 => jobs::suspend(s)?,
            _ => other.suspend()?,
        }
        jobs::output(s)?.exactly_once()
    })
}

pub fn a_job_goes_on_in_another_cluster_and_the_first_one_stays_away(
    s: &mut Scenario<'_>,
) -> Result<()> {
    with_other(s, |s, other| {
        jobs::apply_counts(s, 1)?;
        jobs::runs(s, 1)?;
        let spec = "  onExistingState: Resume";
        let yaml = Job { workers: 1, spec, ..Job::default() }.yaml(s.namespace(), "1s");
        other.apply(&yaml)?;
        wait_for("the job to go on in the other cluster", PATIENCE, || {
            Ok(is_ready(&other.job()?).then_some(()))
        })?;
        let winner = name_of(&other.cluster, &other.job()?)?;
        stalls(|| s.get(&[jobs::JOB]), "TakenOver", &winner)?;
        // And it does not come back: not by itself, and not by an edit.
        wait_for("its pods to be gone", PATIENCE, || {
            let pods = s.get(&["pods", "--selector", jobs::PODS])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
        jobs::merge(s, r#"{"spec":{"job":{"program":{"args":["--there-is-no-such-option"]}}}}"#)?;
        for _ in 0..3 {
            jobs::output_goes_on(s)?;
            let job = s.get(&[jobs::JOB])?;
            let ready = condition(&job, "Ready");
            ensure!(ready["reason"] == "TakenOver", "it says {ready}");
            let pods = s.get(&["pods", "--selector", jobs::PODS])?;
            ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "it has pods again");
        }
        other.suspend()?;
        jobs::output(s)?.exactly_once()
    })
}
