//! Nodes that lose power, with all that runs on them.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{PATIENCE, Scenario, wait_for};
use std::time::Duration;

/// Time for a dead node to be noticed, freed, and for the controller's own pod to move.
const LONG: Duration = Duration::from_secs(400);

fn node_of(s: &Scenario<'_>, pod: &str, namespace: &str) -> Result<String> {
    let pod = s.cluster()?.get(["pod", pod, "--namespace", namespace])?;
    Ok(pod["spec"]["nodeName"].as_str().context("the pod is on no node")?.to_owned())
}

fn leader_node(s: &Scenario<'_>) -> Result<String> {
    let lease = s.cluster()?.get(["lease", "millrace", "--namespace", jobs::SYSTEM])?;
    let holder = lease["spec"]["holderIdentity"].as_str().context("nobody leads")?;
    node_of(s, holder, jobs::SYSTEM)
}

/// A job with its pods on both nodes that waits less long for a lost one than usual, and
/// two controllers.
fn spread(s: &mut Scenario<'_>) -> Result<()> {
    jobs::stage(s)?;
    let spec = "  disruption: {lostNodeTimeout: 20s}
  podTemplate:
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {millrace.dev/job: counts}}";
    Job { workers: 2, spec, ..Job::default() }.apply(s)?;
    jobs::runs(s, 2)?;
    let nodes = [0, 1].map(|n| node_of(s, &format!("counts-millrace-{n}"), s.namespace()));
    let [Ok(first), Ok(second)] = nodes else { anyhow::bail!("pods are on no node") };
    ensure!(first != second, "both pods are on {first}");
    Ok(())
}

/// Takes the power from a node, waits until the job runs without it, gives it back.
fn without(s: &mut Scenario<'_>, node: &str) -> Result<()> {
    let before = jobs::attempt(s)?;
    s.cluster()?.kill_node(node)?;
    let went_on = (|| {
        wait_for("a later attempt", LONG, || Ok((jobs::attempt(s)? > before).then_some(())))?;
        wait_for("the job to be Ready", LONG, || {
            Ok((jobs::condition(s, "Ready")?.0 == "True").then_some(()))
        })?;
        jobs::output_goes_on(s)?;
        for n in [0, 1] {
            let now = node_of(s, &format!("counts-millrace-{n}"), s.namespace())?;
            ensure!(now != node, "pod {n} is on the dead node");
        }
        Ok(())
    })();
    s.cluster()?.start_node(node)?;
    went_on?;
    wait_for("the pods to be Ready", PATIENCE, || s.wait_ready(jobs::PODS, 2).map(Some))?;
    jobs::output_goes_on(s)
}

pub fn the_pods_of_a_dead_node_are_freed_and_the_job_goes_on_elsewhere(
    s: &mut Scenario<'_>,
) -> Result<()> {
    spread(s)?;
    let with_controller = leader_node(s)?;
    let pods = [0, 1].map(|n| node_of(s, &format!("counts-millrace-{n}"), s.namespace()));
    let other = pods.into_iter().flatten().find(|node| *node != with_controller);
    without(s, &other.context("all is on one node")?)?;
    jobs::ends_exactly_once(s)
}

pub fn a_job_survives_the_node_of_its_coordinator_and_of_its_controller(
    s: &mut Scenario<'_>,
) -> Result<()> {
    spread(s)?;
    let node = node_of(s, "counts-millrace-0", s.namespace())?;
    // One controller on each node, of which one leads.
    let system = ["--namespace", jobs::SYSTEM];
    let spread = r#"{"spec":{"replicas":2,"template":{"spec":{"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"kubernetes.io/hostname","whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"app.kubernetes.io/name":"millrace-operator"}}}]}}}}"#;
    let patch = ["patch", "deployment/millrace", "--type=merge", "--patch", spread];
    s.cluster()?.kubectl(patch.into_iter().chain(system))?;
    let status = ["rollout", "status", "deployment/millrace", "--timeout=180s"];
    s.cluster()?.kubectl(status.into_iter().chain(system))?;
    without(s, &node)?;
    jobs::ends_exactly_once(s)
}
