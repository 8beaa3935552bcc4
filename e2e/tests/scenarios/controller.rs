//! The controller goes, comes, is many, and its API server goes: jobs do not need it to
//! stay alive.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{Image, PATIENCE, Part, Scenario, wait_for};
use std::time::{Duration, Instant};

/// The pods of the operator.
fn operators(s: &Scenario<'_>) -> Result<Vec<String>> {
    let label = "app.kubernetes.io/name=millrace-operator";
    let of = ["pods", "--selector", label, "--namespace", jobs::SYSTEM];
    let pods = s.cluster()?.get(of)?;
    let items = pods["items"].as_array().context("a list without items")?;
    let names = items.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Sets the number of the operator's processes, and waits until there are so many.
fn operate(s: &Scenario<'_>, replicas: u32) -> Result<()> {
    let in_system = ["--namespace", jobs::SYSTEM];
    let replicas = format!("--replicas={replicas}");
    let scale = ["scale", "deployment/millrace", &replicas];
    s.cluster()?.kubectl(scale.into_iter().chain(in_system))?;
    let status = ["rollout", "status", "deployment/millrace", "--timeout=180s"];
    s.cluster()?.kubectl(status.into_iter().chain(in_system)).map(drop)
}

/// The process that leads, by the Lease.
fn leader(s: &Scenario<'_>) -> Result<String> {
    let lease = s.cluster()?.get(["lease", "millrace", "--namespace", jobs::SYSTEM])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

pub fn a_job_lives_without_its_controller(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    operate(s, 0)?;
    wait_for("the operator to be gone", PATIENCE, || Ok(operators(s)?.is_empty().then_some(())))?;
    // It takes checkpoints, for output appears with them, and recovers.
    jobs::output_goes_on(s)?;
    for pod in ["counts-millrace-1", "counts-millrace-0"] {
        let uid = s.uid(&format!("pod/{pod}"))?;
        s.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force"])?;
        s.wait_replaced(pod, &uid)?;
        jobs::output_goes_on(s)?;
    }
    // What was asked for meanwhile is done when it is back.
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    operate(s, 1)?;
    jobs::runs_with(s, 3)?;
    jobs::runs(s, 3)?;
    jobs::ends_exactly_once(s)
}

pub fn a_controller_that_is_killed_again_and_again_completes_every_edit(
    s: &mut Scenario<'_>,
) -> Result<()> {
    s.provide(Image::CountsNext)?;
    jobs::counts(s, 2)?;
    let images = [Image::CountsNext.name(), Image::Counts.name()];
    for round in 0..6_u64 {
        let (workers, image) = (2 + round % 2, images[usize::try_from(round % 2)?]);
        // Scale, upgrade, or both at once.
        let patch = match round % 3 {
            0 => format!(r#"{{"spec":{{"workers":{workers}}}}}"#),
            1 => format!(r#"{{"spec":{{"image":"{image}"}}}}"#),
            _ => format!(r#"{{"spec":{{"image":"{image}","workers":{workers}}}}}"#),
        };
        jobs::merge(s, &patch)?;
        let wait = Duration::from_millis(fastrand::u64(0..6_000));
        eprintln!("round {round}: {patch}, killed after {} ms", wait.as_millis());
        std::thread::sleep(wait);
        let victims = operators(s)?;
        for pod in &victims {
            let of = ["--namespace", jobs::SYSTEM, "--grace-period=0", "--force"];
            s.cluster()?.kubectl(["delete", "pod", pod].into_iter().chain(of))?;
        }
        let workers = s.field(jobs::JOB, "/spec/workers")?.as_u64().context("no workers")?;
        jobs::runs_with(s, workers)?;
        jobs::runs(s, u32::try_from(workers)?)?;
        let wanted = s.field(jobs::JOB, "/spec/image")?;
        s.wait_field(jobs::JOB, "/status/image", wanted)?;
    }
    jobs::ends_exactly_once(s)
}

pub fn a_controller_that_is_removed_at_each_step_of_an_upgrade_holds_up_no_job(
    s: &mut Scenario<'_>,
) -> Result<()> {
    s.provide(Image::CountsNext)?;
    jobs::counts(s, 2)?;
    let images = [Image::CountsNext.name(), Image::Counts.name()];
    for (round, after) in [200, 900, 1_800, 2_700, 3_600, 5_000].into_iter().enumerate() {
        let image = images[round % 2];
        jobs::merge(s, &format!(r#"{{"spec":{{"image":"{image}"}}}}"#))?;
        std::thread::sleep(Duration::from_millis(after));
        operate(s, 0)?;
        // A stop that nobody takes further is held for a minute at most.
        let begun = Instant::now();
        let before = jobs::output(s)?.rows();
        wait_for("output without a controller", Duration::from_secs(90), || {
            Ok((jobs::output(s)?.rows() > before).then_some(()))
        })?;
        let waited = begun.elapsed();
        eprintln!("removed {after} ms after the edit: output after {:.1} s", waited.as_secs_f64());
        // Minutes without it, once.
        while round == 2 && begun.elapsed() < Duration::from_secs(150) {
            std::thread::sleep(Duration::from_secs(5));
            jobs::output_goes_on(s)?;
        }
        operate(s, 1)?;
        s.wait_field(jobs::JOB, "/status/image", image)?;
        jobs::runs(s, 2)?;
    }
    jobs::ends_exactly_once(s)
}

/// Kills the controller a while after something was asked for.
fn killed_after(s: &Scenario<'_>, what: &str, ask: &[&str]) -> Result<()> {
    s.kubectl(ask)?;
    let wait = Duration::from_millis(fastrand::u64(0..3_000));
    eprintln!("{what}, killed after {} ms", wait.as_millis());
    std::thread::sleep(wait);
    for pod in operators(s)? {
        let of = ["--namespace", jobs::SYSTEM, "--grace-period=0", "--force"];
        s.cluster()?.kubectl(["delete", "pod", &pod].into_iter().chain(of))?;
    }
    Ok(())
}

pub fn a_controller_that_is_killed_again_and_again_suspends_saves_and_deletes(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::stage(s)?;
    Job { spec: "  deletionPolicy: Delete", ..Job::default() }.apply(s)?;
    jobs::runs(s, 2)?;
    let desire = |state: &str| format!(r#"{{"spec":{{"desiredState":"{state}"}}}}"#);
    for round in 0..3 {
        let suspended = desire("Suspended");
        let patch = ["patch", jobs::JOB, "--type=merge", "--patch", suspended.as_str()];
        killed_after(s, "suspended", &patch)?;
        s.wait_field(jobs::JOB, "/status/state", "Suspended")?;
        s.wait_ready(jobs::PODS, 0)?;
        jobs::output(s)?.exactly_once()?;
        let running = desire("Running");
        let patch = ["patch", jobs::JOB, "--type=merge", "--patch", running.as_str()];
        killed_after(s, "resumed", &patch)?;
        jobs::runs(s, 2)?;
        let name = format!("savepoint-{round}");
        jobs::savepoint(s, &name, "")?;
        let object = format!("savepoint/{name}");
        killed_after(s, "saved", &["get", &object])?;
        s.wait(&object, "condition=Ready")?;
    }
    let rows = jobs::output(s)?;
    killed_after(s, "deleted", &["delete", jobs::JOB, "--wait=false"])?;
    let label = "millrace.dev/job=counts";
    wait_for("the job and its pods to be gone", PATIENCE, || {
        let left = s.get(&["streamjobs,pods", "--selector", label])?;
        let jobs = s.get(&["streamjobs"])?;
        let none = |list: &serde_json::Value| list["items"].as_array().is_some_and(Vec::is_empty);
        Ok((none(&left) && none(&jobs)).then_some(()))
    })?;
    let last = jobs::output(s)?;
    last.exactly_once()?;
    ensure!(last.rows() >= rows.rows(), "output went with the job");
    Ok(())
}

pub fn of_two_controllers_one_leads_and_the_other_takes_over(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    operate(s, 2)?;
    let first = leader(s)?;
    ensure!(operators(s)?.contains(&first), "the leader {first} is none of the pods");
    // Paused past its lease: it does not know that it leads no more.
    s.tolerate("the lease ran out before it could be renewed");
    s.tolerate("another process leads now");
    s.cluster()?.signal_container("SIGSTOP", jobs::SYSTEM, &first, "operator")?;
    wait_for("another leader", PATIENCE, || {
        let now = leader(s)?;
        Ok((now != first && !now.is_empty()).then_some(()))
    })?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    s.cluster()?.signal_container("SIGCONT", jobs::SYSTEM, &first, "operator")?;
    jobs::runs_with(s, 3)?;
    jobs::runs(s, 3)?;
    // And once more, by a kill: the one that was paused leads, or its successor.
    let second = leader(s)?;
    s.cluster()?.kill_container(jobs::SYSTEM, &second, "operator")?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=1"])?;
    jobs::runs_with(s, 1)?;
    jobs::runs(s, 1)?;
    jobs::ends_exactly_once(s)
}

pub fn a_job_and_its_controller_outlive_a_restart_of_the_api_server(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::counts(s, 2)?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    s.cluster()?.kill(Part::ApiServer)?;
    let written = jobs::output_goes_on(s);
    // Longer than a lease.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let written = written.and_then(|()| jobs::output_goes_on(s));
    s.cluster()?.start(Part::ApiServer)?;
    written?;
    wait_for("the API server", PATIENCE, || s.kubectl(&["get", "pods"]).map(Some))?;
    jobs::runs_with(s, 3)?;
    jobs::runs(s, 3)?;
    jobs::ends_exactly_once(s)
}

pub fn a_slow_store_of_the_cluster_harms_no_job(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    Job { name: "second", workers: 1, output: "second", ..Job::default() }.apply(s)?;
    // Stop and go: no answer for longer than a renewal of the lease may take.
    for _ in 0..4 {
        s.cluster()?.pause(Part::Etcd)?;
        std::thread::sleep(Duration::from_secs(4));
        s.cluster()?.resume(Part::Etcd)?;
        std::thread::sleep(Duration::from_secs(2));
    }
    wait_for("the second job", PATIENCE, || {
        s.wait("streamjob/second", "condition=Ready").map(Some)
    })?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=1"])?;
    jobs::runs_with(s, 1)?;
    jobs::runs(s, 1)?;
    jobs::ends_exactly_once(s)
}
