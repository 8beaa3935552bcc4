//! What stories about jobs share: the operator, the object store, the job `counts`.

use anyhow::{Context, Result, ensure};
use millrace_e2e::{Image, Numbers, PATIENCE, S3, Scenario, checkout, wait_for};
use serde_json::Value;

/// The name of the job.
pub const JOB: &str = "streamjob/counts";
/// The pods of the job.
pub const PODS: &str = "app.kubernetes.io/component=worker,millrace.dev/job=counts";
/// Where the operator runs.
pub const SYSTEM: &str = "millrace-system";

/// Installs the operator from the chart.
pub fn operator(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::Operator)?;
    s.add_namespace(SYSTEM)?;
    let values = operator_values(Image::Operator)?;
    // The definitions stay when a story's release goes, and the last one may have had
    // another name.
    let values = values.iter().map(String::as_str).chain(["--take-ownership"]);
    let values: Vec<&str> = values.collect();
    s.install("millrace", SYSTEM, &checkout().join("charts/millrace"), &values)
}

/// What the chart is told of the operator's image.
pub fn operator_values(image: Image) -> Result<Vec<String>> {
    let (repository, tag) = image.name().rsplit_once(':').context("an image without a tag")?;
    Ok(vec![format!("image.repository={repository}"), format!("image.tag={tag}")])
}

/// Makes the object store known in the story's namespace as `http://s3:9000`, with the
/// Secret `s3-key`, and makes a bucket.
pub fn object_store(s: &mut Scenario<'_>, bucket: &str) -> Result<()> {
    let s3 = s.s3()?;
    s3.make_bucket(bucket)?;
    let yaml = object_store_of(s3)?;
    s.apply(&yaml)
}

/// What a namespace needs to know the object store.
pub fn object_store_of(s3: &S3) -> Result<String> {
    let address = s3.endpoint().trim_start_matches("http://");
    let (host, port) = address.rsplit_once(':').context("an endpoint without a port")?;
    let (id, secret) = (S3::ACCESS_KEY, S3::SECRET_KEY);
    Ok(format!(
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
    ))
}

/// The operator, an object store, and the job `counts` running on `workers` pods.
pub fn counts(s: &mut Scenario<'_>, workers: u32) -> Result<()> {
    stage(s)?;
    apply_counts(s, workers)?;
    runs(s, workers)
}

/// All that jobs need: the operator, their image, an object store with a bucket of the
/// namespace's name.
pub fn stage(s: &mut Scenario<'_>) -> Result<()> {
    s.provide(Image::Counts)?;
    operator(s)?;
    let bucket = s.namespace().to_owned();
    object_store(s, &bucket)
}

/// Waits until the job `counts` runs on `workers` pods and writes.
pub fn runs(s: &mut Scenario<'_>, workers: u32) -> Result<()> {
    s.wait(JOB, "condition=Ready")?;
    s.wait_ready(PODS, workers as usize)?;
    output_goes_on(s)
}

/// A job as its user writes it: the program of `counts`, and what a story wants of it.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub name: &'a str,
    pub workers: u32,
    pub image: &'a str,
    /// Where in the story's bucket its output goes.
    pub output: &'a str,
    /// Further arguments, as in YAML.
    pub args: &'a str,
    /// More of its spec, as in YAML, indented by two.
    pub spec: &'a str,
}

impl Default for Job<'_> {
    fn default() -> Self {
        let image = Image::Counts.name();
        Self { name: "counts", workers: 2, image, output: "out", args: "--rate, '2000'", spec: "" }
    }
}

impl Job<'_> {
    /// Applies it.
    pub fn apply(&self, s: &Scenario<'_>) -> Result<()> {
        self.apply_with_interval(s, "1s")
    }

    /// Applies it with another time between checkpoints, and so between outputs.
    pub fn apply_with_interval(&self, s: &Scenario<'_>, interval: &str) -> Result<()> {
        s.apply(&self.yaml(s.namespace(), interval))
    }

    /// It, with its output and its state in that bucket.
    pub fn yaml(&self, bucket: &str, interval: &str) -> String {
        let Self { name, workers, image, output, args, spec } = self;
        // Many fit into the lab: none of them does much.
        format!(
            "
apiVersion: millrace.dev/v1alpha1
kind: StreamJob
metadata: {{name: {name}}}
spec:
  image: {image}
  job: {{program: {{args: [--output, 's3://{bucket}/{output}', {args}]}}}}
  workers: {workers}
  checkpoint: {{interval: {interval}}}
  restart: {{initialDelay: 100ms}}
  resources: {{requests: {{cpu: 50m}}, limits: {{memory: 256Mi}}}}
  storage:
    s3:
      bucket: {bucket}
      prefix: state
      region: us-east-1
      endpoint: http://s3:9000
      credentials: {{secretRef: {{name: s3-key}}}}
{spec}
"
        )
    }
}

/// Applies the job `counts`.
pub fn apply_counts(s: &Scenario<'_>, workers: u32) -> Result<()> {
    Job { workers, ..Job::default() }.apply(s)
}

/// What the job has committed.
pub fn output(s: &mut Scenario<'_>) -> Result<Numbers> {
    output_at(s, "out")
}

/// What a job has committed there.
pub fn output_at(s: &mut Scenario<'_>, output: &str) -> Result<Numbers> {
    let bucket = s.namespace().to_owned();
    Numbers::read(&s.s3()?.bucket(&bucket).join(output))
}

/// Waits until the job has committed more than it had.
pub fn output_goes_on(s: &mut Scenario<'_>) -> Result<()> {
    let before = output(s)?.rows();
    wait_for("more output", PATIENCE, || Ok((output(s)?.rows() > before).then_some(())))
}

/// Suspends the job and compares: every row counted exactly once, whatever there was.
pub fn ends_exactly_once(s: &mut Scenario<'_>) -> Result<()> {
    suspend(s)?;
    let numbers = output(s)?;
    ensure!(numbers.rows() > 0, "the job wrote nothing");
    numbers.exactly_once()
}

/// Stops the job with its state kept.
pub fn suspend(s: &Scenario<'_>) -> Result<()> {
    merge(s, r#"{"spec":{"desiredState":"Suspended"}}"#)?;
    s.wait_field(JOB, "/status/state", "Suspended")
}

/// Lets a suspended job go on.
pub fn resume(s: &Scenario<'_>) -> Result<()> {
    merge(s, r#"{"spec":{"desiredState":"Running"}}"#)
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

/// Applies a Savepoint of the job `counts`, with more of its spec, as in YAML.
pub fn savepoint(s: &Scenario<'_>, name: &str, more: &str) -> Result<()> {
    s.apply(&format!(
        "
apiVersion: millrace.dev/v1alpha1
kind: Savepoint
metadata: {{name: {name}}}
spec: {{jobRef: {{name: counts}}{more}}}
"
    ))
}

/// Waits until a later attempt runs and the job is Ready.
pub fn restarted_after(s: &Scenario<'_>, before: u64) -> Result<()> {
    wait_for("a later attempt", PATIENCE, || Ok((attempt(s)? > before).then_some(())))?;
    s.wait(JOB, "condition=Ready")
}

/// A condition of the job: its status, and the generation it speaks of.
pub fn condition(s: &Scenario<'_>, kind: &str) -> Result<(String, u64)> {
    let found = condition_of(s, JOB, kind)?;
    let status = found["status"].as_str().unwrap_or_default().to_owned();
    Ok((status, found["observedGeneration"].as_u64().unwrap_or(0)))
}

/// Reason and message of a condition of the job.
pub fn words(s: &Scenario<'_>, kind: &str) -> Result<(String, String)> {
    let found = condition_of(s, JOB, kind)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("reason"), text("message")))
}

fn condition_of(s: &Scenario<'_>, object: &str, kind: &str) -> Result<Value> {
    let conditions = s.field(object, "/status/conditions")?;
    let all = conditions.as_array().context("no conditions")?;
    let found = all.iter().find(|c| c["type"] == kind);
    found.cloned().with_context(|| format!("{object} has no condition {kind}"))
}

/// Waits until the attempt that runs has this parallelism, and speaks of the newest spec.
pub fn runs_with(s: &Scenario<'_>, parallelism: u64) -> Result<()> {
    let generation = s.field(JOB, "/metadata/generation")?;
    s.wait_field(JOB, "/status/observedGeneration", generation)?;
    s.wait_field(JOB, "/status/parallelism", Value::from(parallelism))?;
    s.wait(JOB, "condition=Ready")
}
