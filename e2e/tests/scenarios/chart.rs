//! The chart comes and goes; jobs stay.

use crate::jobs;
use anyhow::{Context, Result, ensure};
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

/// What the chart makes of some values: rendered twice, the same both times.
fn rendered(s: &Scenario<'_>, values: &[&str]) -> Result<String> {
    let chart = checkout().join("charts/millrace");
    let chart = chart.to_str().context("a path that is no text")?;
    let mut args = vec!["template", "streams", chart, "--kube-version", "1.34.0"];
    // The pod of `helm test` wants a service account that is really there.
    args.extend(["--skip-tests", "--namespace", s.namespace()]);
    for value in values {
        args.extend(["--set", value]);
    }
    let text = s.cluster()?.helm(args.iter().copied())?;
    let again = s.cluster()?.helm(args)?;
    ensure!(text == again, "{values:?} are rendered differently each time");
    Ok(text)
}

pub fn every_set_of_values_renders_what_the_api_server_takes(s: &mut Scenario<'_>) -> Result<()> {
    let watched = format!("watchNamespaces={{{}}}", s.namespace());
    let watched = watched.as_str();
    const DEFINITION: &str = "kind: CustomResourceDefinition";
    const MAKES_KEY: &str = "MILLRACE_MASTER_KEY_SECRET";
    // Values, what is there with them, and what is not.
    let sets: [(&[&str], &[&str], &[&str]); 9] = [
        (&[], &[DEFINITION, MAKES_KEY, "kind: ClusterRole\n"], &["kind: Secret\n"]),
        (&[watched], &["MILLRACE_NAMESPACES", "kind: RoleBinding"], &[]),
        (&["refreshStatus=false"], &["MILLRACE_REFRESH_STATUS"], &[]),
        (&["crds.install=false"], &["kind: Deployment"], &[DEFINITION]),
        (&["masterKey.existingSecret=mine"], &["secretName: mine"], &[MAKES_KEY, "optional: true"]),
        (&["podDisruptionBudget.enabled=true"], &["kind: PodDisruptionBudget"], &[]),
        (&["networkPolicy.enabled=true"], &["kind: NetworkPolicy"], &[]),
        (&["serviceMonitor.enabled=true"], &["kind: ServiceMonitor", "name: streams-metrics"], &[]),
        (
            &["rbac.create=false", "serviceAccount.create=false", "releaseHook.enabled=false"],
            &["kind: Deployment"],
            &["kind: Role", "kind: ServiceAccount\n", "kind: Job\n"],
        ),
    ];
    for (values, with, without) in sets {
        let text = rendered(s, values)?;
        for part in with {
            ensure!(text.contains(part), "{values:?} render no {part}");
        }
        for part in without {
            ensure!(!text.contains(part), "{values:?} render {part}");
        }
        // Of its kind the API server knows only where Prometheus' operator is.
        if !text.contains("kind: ServiceMonitor") {
            let args = ["apply", "--dry-run=server", "--server-side", "--force-conflicts"];
            let args = args.into_iter().chain(["--namespace", s.namespace(), "-f", "-"]);
            s.cluster()?.kubectl_with(args, &text).with_context(|| format!("{values:?}"))?;
        }
    }
    let wrong = rendered(s, &["masterkey.existingSecret=mine"]);
    ensure!(wrong.is_err(), "a value that nobody knows is taken");
    Ok(())
}
