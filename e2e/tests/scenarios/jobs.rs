//! What stories about jobs share: the operator, the object store, the job `counts`.

use anyhow::{Context, Result, ensure};
use millrace_e2e::{Image, Numbers, PATIENCE, S3, Scenario, checkout, wait_for};
use serde_json::Value;

/// The name of the job.
pub const JOB: &str = "streamjob/counts";
/// The pods of the job.
pub const PODS: &str = "app.kubernetes.io/component=worker";
/// Where the operator runs.
const SYSTEM: &str = "millrace-system";

/// Installs the operator from the chart.
pub fn operator(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::Operator)?;
    s.add_namespace(SYSTEM)?;
    let image = Image::Operator.name();
    let (repository, tag) = image.rsplit_once(':').context("an image without a tag")?;
    let values = [format!("image.repository={repository}"), format!("image.tag={tag}")];
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    s.install("millrace", SYSTEM, &checkout().join("charts/millrace"), &values)
}

/// Makes the object store known in the story's namespace as `http://s3:9000`, with the
/// Secret `s3-key`, and makes a bucket.
pub fn object_store(s: &mut Scenario<'_>, bucket: &str) -> Result<()> {
    let s3 = s.s3()?;
    s3.make_bucket(bucket)?;
    let address = s3.endpoint().trim_start_matches("http://");
    let (host, port) = address.rsplit_once(':').context("an endpoint without a port")?;
    let (id, secret) = (S3::ACCESS_KEY, S3::SECRET_KEY);
    let yaml = format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: s3-key}}
stringData: {{accessKeyId: {id}, secretAccessKey: {secret}}}
---
apiVersion: v1
kind: Service
metadata: {{name: s3}}
spec: {{ports: [{{port: 9000}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s3, labels: {{kubernetes.io/service-name: s3}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [{host}], conditions: {{ready: true}}}}]
"
    );
    s.apply(&yaml)
}

/// The operator, an object store, and the job `counts` running on `workers` pods.
pub fn counts(s: &mut Scenario<'_>, workers: u32) -> Result<()> {
    s.provide(Image::Counts)?;
    operator(s)?;
    let bucket = s.namespace().to_owned();
    object_store(s, &bucket)?;
    apply_counts(s, workers)?;
    s.wait(JOB, "condition=Ready")?;
    s.wait_ready(PODS, workers as usize)?;
    output_goes_on(s)
}

/// Applies the job `counts`.
pub fn apply_counts(s: &Scenario<'_>, workers: u32) -> Result<()> {
    let (image, bucket) = (Image::Counts.name(), s.namespace());
    let yaml = format!(
        "
apiVersion: millrace.dev/v1alpha1
kind: StreamJob
metadata: {{name: counts}}
spec:
  image: {image}
  job: {{program: {{args: [--rate, '2000', --output, 's3://{bucket}/out']}}}}
  workers: {workers}
  checkpoint: {{interval: 1s}}
  restart: {{initialDelay: 100ms}}
  storage:
    s3:
      bucket: {bucket}
      prefix: state
      region: us-east-1
      endpoint: http://s3:9000
      credentials: {{secretRef: {{name: s3-key}}}}
"
    );
    s.apply(&yaml)
}

/// What the job has committed.
pub fn output(s: &mut Scenario<'_>) -> Result<Numbers> {
    let bucket = s.namespace().to_owned();
    Numbers::read(&s.s3()?.bucket(&bucket).join("out"))
}

/// Waits until the job has committed more than it had.
pub fn output_goes_on(s: &mut Scenario<'_>) -> Result<()> {
    let before = output(s)?.rows();
    wait_for("more output", PATIENCE, || Ok((output(s)?.rows() > before).then_some(())))
}

/// Suspends the job and compares: every row counted exactly once, whatever there was.
pub fn ends_exactly_once(s: &mut Scenario<'_>) -> Result<()> {
    merge(s, r#"{"spec":{"desiredState":"Suspended"}}"#)?;
    s.wait_field(JOB, "/status/state", "Suspended")?;
    let numbers = output(s)?;
    ensure!(numbers.rows() > 0, "the job wrote nothing");
    numbers.exactly_once()
}

/// `kubectl patch --type merge` of the job.
pub fn merge(s: &Scenario<'_>, patch: &str) -> Result<()> {
    s.kubectl(&["patch", JOB, "--type", "merge", "--patch", patch]).map(drop)
}

/// The number of the running attempt.
pub fn attempt(s: &Scenario<'_>) -> Result<u64> {
    let attempt = s.field(JOB, "/status/attempt")?;
    attempt.as_u64().with_context(|| format!("status.attempt is {attempt}"))
}

/// Waits until a later attempt runs and the job is Ready.
pub fn restarted_after(s: &Scenario<'_>, before: u64) -> Result<()> {
    wait_for("a later attempt", PATIENCE, || Ok((attempt(s)? > before).then_some(())))?;
    s.wait(JOB, "condition=Ready")
}

/// A condition of the job: its status, and the generation it speaks of.
pub fn condition(s: &Scenario<'_>, kind: &str) -> Result<(String, u64)> {
    let conditions = s.field(JOB, "/status/conditions")?;
    let all = conditions.as_array().context("no conditions")?;
    let found = all.iter().find(|c| c["type"] == kind);
    let found = found.with_context(|| format!("no condition {kind}"))?;
    let status = found["status"].as_str().unwrap_or_default().to_owned();
    Ok((status, found["observedGeneration"].as_u64().unwrap_or(0)))
}

/// Waits until the attempt that runs has this parallelism, and speaks of the newest spec.
pub fn runs_with(s: &Scenario<'_>, parallelism: u64) -> Result<()> {
    let generation = s.field(JOB, "/metadata/generation")?;
    s.wait_field(JOB, "/status/observedGeneration", generation)?;
    s.wait_field(JOB, "/status/parallelism", Value::from(parallelism))?;
    s.wait(JOB, "condition=Ready")
}
