//! Where the state is: how it is reached, and what a job says that does not find it.

use crate::jobs::{self, Job};
use anyhow::{Context, Result, ensure};
use millrace_e2e::{PATIENCE, Scenario, wait_for};
use serde_json::{Value, json};

/// Waits until the job stalls for this reason; the message.
fn stalls(s: &Scenario<'_>, reason: &str) -> Result<String> {
    let mut last = String::new();
    let found = wait_for(&format!("the job to stall for {reason}"), PATIENCE, || {
        let (is, message) = jobs::words(s, "Stalled")?;
        last = format!("{is}: {message}");
        Ok((is == reason).then_some(message))
    });
    found.with_context(|| format!("it last said {last:?}"))
}

pub fn an_object_store_with_a_certificate_of_ones_own_is_trusted_when_told(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::stage(s)?;
    let (address, authority) = s.s3()?.secure()?;
    let (host, port) = address.rsplit_once(':').context("an address without a port")?;
    let authority = std::fs::read_to_string(authority)?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own-ca"},
        "stringData": {"ca.crt": authority}});
    s.apply(&secret.to_string())?;
    s.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: s3-tls}}
spec: {{ports: [{{port: 9443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s3-tls, labels: {{kubernetes.io/service-name: s3-tls}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [{host}], conditions: {{ready: true}}}}]
"
    ))?;

    // A stranger's certificate is not believed, and the job says what it is about.
    let yaml = Job::default().yaml(s.namespace(), "1s");
    s.apply(&yaml.replace("http://s3:9000", "https://s3-tls:9443"))?;
    let told = stalls(s, "StorageUnusable")?;
    ensure!(told.contains("certificate") && told.contains("caSecretRef"), "it says {told}");

    // As the guide says it is given.
    let ca = r#"{"spec":{"storage":{"s3":{"caSecretRef":{"name":"own-ca"}}}}}"#;
    jobs::merge(s, ca)?;
    jobs::runs(s, 2)?;
    // Another process reads the same certificate, and the same state.
    let before = jobs::attempt(s)?;
    s.kubectl(&["delete", "pod", "counts-millrace-0", "--grace-period=0", "--force"])?;
    jobs::restarted_after(s, before)?;
    jobs::output_goes_on(s)?;
    jobs::ends_exactly_once(s)
}

pub fn a_job_whose_state_is_gone_says_so_and_does_not_begin_anew(
    s: &mut Scenario<'_>,
) -> Result<()> {
    jobs::counts(s, 2)?;
    jobs::suspend(s)?;
    jobs::output(s)?.exactly_once()?;
    // Somebody cleans up too much.
    let bucket = s.namespace().to_owned();
    let state = s.s3()?.bucket(&bucket).join("state");
    let kept = s.s3()?.bucket(&bucket).join("kept");
    std::fs::rename(&state, &kept)?;
    let rows = jobs::output(s)?.rows();
    jobs::resume(s)?;
    let told = stalls(s, "StateMissing")?;
    ensure!(told.contains("has run before") && told.contains("restoreFrom"), "it says {told}");
    ensure!(jobs::output(s)?.rows() == rows, "it began anew");

    // The first remedy that it names: what was lost is put back.
    let _ = std::fs::remove_dir_all(&state);
    std::fs::rename(&kept, &state)?;
    jobs::runs(s, 2)?;
    jobs::ends_exactly_once(s)?;

    // The second: an empty start, which is asked for by a number.
    std::fs::remove_dir_all(&state)?;
    jobs::resume(s)?;
    stalls(s, "StateMissing")?;
    let output = format!("s3://{bucket}/anew");
    let from = json!({"restoreFrom": {"empty": {}, "nonce": 1},
        "job": {"program": {"args": ["--output", output, "--rate", "2000"]}}});
    jobs::merge(s, &json!({"spec": from}).to_string())?;
    s.wait(jobs::JOB, "condition=Ready")?;
    wait_for("output of the empty start", PATIENCE, || {
        Ok((jobs::output_at(s, "anew")?.rows() > 0).then_some(()))
    })?;
    jobs::suspend(s)?;
    jobs::output_at(s, "anew")?.exactly_once()?;
    let stalled = s.field(jobs::JOB, "/status/conditions")?;
    let stalled = stalled.as_array().into_iter().flatten().find(|c| c["type"] == "Stalled");
    ensure!(stalled.is_none_or(Value::is_null), "it still stalls: {stalled:?}");
    Ok(())
}
