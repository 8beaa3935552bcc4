//! Many jobs: the controller, the API server, the StatefulSets, the scheduler are real;
//! nodes, kubelets and coordinators are played by one program (`e2e/crowd`).
//!
//! `MILLRACE_E2E_CROWD` says how many; a thousand take a quarter of an hour on two cores.

use crate::jobs;
use anyhow::{Context, Result, ensure};
use millrace_e2e::{Background, PATIENCE, Scenario, executable, wait_for};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

const JOBS: usize = 200;
const NODES: &str = "4";
/// Of pods that are played; within that of all pods.
const NETWORK: &str = "10.88.128.0/17";
/// What runs in the cluster's control network is behind this address.
const CONTROL: &str = "10.89.0.1";
const LABEL: &str = "lab.millrace.dev/crowd";
/// For so long nothing may be written before a crowd counts as at rest.
const QUIET: Duration = Duration::from_secs(60);
/// For so long it is watched then.
const REST: Duration = Duration::from_secs(180);
/// What the controller may take without any job, and for each; in bytes. A thousand fit into
/// the target of 100 MiB.
const ROOM: [u64; 2] = [40 << 20, 60 << 10];

/// Requests of the controller, by verb and resource.
type Calls = BTreeMap<(String, String), u64>;

/// The audit log from where it ended when this was made.
struct Audit {
    path: std::path::PathBuf,
    at: u64,
}

impl Audit {
    fn begin(s: &Scenario<'_>) -> Result<Self> {
        let path = s.cluster()?.dir()?.join("audit.log");
        let at = std::fs::metadata(&path)?.len();
        Ok(Self { path, at })
    }

    /// What the controller asked for since the last look.
    fn calls(&mut self) -> Result<Calls> {
        let mut file = std::fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // The last line may be half written: it is for the next look.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.at += whole as u64;
        let user = format!("system:serviceaccount:{}:millrace", jobs::SYSTEM);
        let mut calls = Calls::new();
        for line in text[..whole].lines() {
            let event: Value = serde_json::from_str(line)?;
            let ours = event["user"]["username"] == user.as_str();
            if !ours || event["stage"] != "ResponseComplete" {
                continue;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &event["objectRef"];
            let mut resource = text(&object["resource"]);
            if let Some(part) = object["subresource"].as_str() {
                resource = format!("{resource}/{part}");
            }
            *calls.entry((text(&event["verb"]), resource)).or_default() += 1;
        }
        Ok(calls)
    }
}

fn add(to: &mut Calls, more: Calls) {
    for (call, times) in more {
        *to.entry(call).or_default() += times;
    }
}

/// Writes, but for the lease that says who leads.
fn writes(calls: &Calls) -> u64 {
    let reads = ["get", "list", "watch"];
    let writes = calls
        .iter()
        .filter(|((verb, resource), _)| !reads.contains(&verb.as_str()) && resource != "leases");
    writes.map(|(_, times)| times).sum()
}

fn table(calls: &Calls) -> String {
    let mut verbs = BTreeMap::<&str, Vec<String>>::new();
    for ((verb, resource), times) in calls {
        verbs.entry(verb).or_default().push(format!("{resource} {times}"));
    }
    verbs.iter().map(|(verb, of)| format!("\n  {verb}: {}", of.join(", "))).collect()
}

/// The nodes of a crowd, which go with this.
struct Crowd<'a> {
    cluster: &'a millrace_e2e::Cluster,
    played: Option<Background>,
}

impl<'a> Crowd<'a> {
    fn begin(s: &'a Scenario<'_>) -> Result<Self> {
        let cluster = s.cluster()?;
        let program = executable("crowd", &[])?;
        let program = program.to_str().context("a path that is no text")?;
        for node in ["n1", "n2"] {
            cluster.on_node(node, &["ip", "route", "replace", NETWORK, "via", CONTROL])?;
        }
        let log = cluster.dir()?.join("crowd.log");
        let played = Background::start(cluster, &log, &[program, NODES, NETWORK])?;
        Ok(Self { cluster, played: Some(played) })
    }
}

impl Drop for Crowd<'_> {
    fn drop(&mut self) {
        self.played = None;
        // Pods of nodes that are not there are forgotten by the cluster itself.
        let gone = ["delete", "nodes", "--selector", LABEL, "--wait=false"];
        if let Err(error) = self.cluster.kubectl(gone) {
            eprintln!("{error:#}");
        }
    }
}

fn yaml(number: usize) -> String {
    format!(
        "---
apiVersion: millrace.dev/v1alpha1
kind: StreamJob
metadata: {{name: job-{number}}}
spec:
  image: lab.millrace.dev/played:1
  job: {{program: {{args: [--output, 's3://played/{number}', --rate, '2000']}}}}
  checkpoint: {{interval: 1s}}
  resources: {{requests: {{cpu: 50m}}, limits: {{memory: 256Mi}}}}
  storage: {{s3: {{bucket: played, region: us-east-1, credentials: {{secretRef: {{name: key}}}}}}}}
  podTemplate:
    spec:
      nodeSelector: {{{LABEL}: 'yes'}}
      tolerations: [{{key: {LABEL}, operator: Exists}}]
"
    )
}

/// The controller's pod, its node, its address.
fn controller(s: &Scenario<'_>) -> Result<[String; 3]> {
    let all = [
        "pods",
        "--namespace",
        jobs::SYSTEM,
        "--selector",
        "app.kubernetes.io/name=millrace-operator",
    ];
    let pods = s.cluster()?.get(all)?;
    let pod = pods["items"].as_array().and_then(|all| all.first()).context("no controller")?;
    let text =
        |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok([text("/metadata/name"), text("/spec/nodeName"), text("/status/podIP")])
}

/// What the kubelet says of the controller: bytes of memory (all, and its own), seconds of
/// processor.
fn usage(s: &Scenario<'_>) -> Result<(u64, u64, f64)> {
    let [name, node, _] = controller(s)?;
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let summary: Value = serde_json::from_str(&s.cluster()?.kubectl(["get", "--raw", &path])?)?;
    let pods = summary["pods"].as_array().context("no pods")?;
    let pod = pods.iter().find(|pod| pod["podRef"]["name"] == name.as_str());
    let container = pod.and_then(|pod| pod["containers"].get(0)).context("no figures yet")?;
    let number = |path: &str| container.pointer(path).and_then(Value::as_u64).context("no figure");
    let seconds = number("/cpu/usageCoreNanoSeconds")? as f64 / 1e9;
    Ok((number("/memory/workingSetBytes")?, number("/memory/rssBytes")?, seconds))
}

/// A sum of the controller's own metrics.
fn metric(s: &Scenario<'_>, begins: &str) -> Result<u64> {
    let [_, _, ip] = controller(s)?;
    let url = format!("http://{ip}:8080/metrics");
    let text = s.cluster()?.inside(&["curl", "--silent", "--max-time", "10", &url])?;
    let found = text.lines().filter(|line| line.starts_with(begins));
    Ok(found.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub fn many_jobs_run_and_at_rest_nothing_is_written(s: &mut Scenario<'_>) -> Result<()> {
    let wished = std::env::var("MILLRACE_E2E_CROWD").ok();
    let count = match wished {
        Some(text) => text.parse().with_context(|| format!("MILLRACE_E2E_CROWD={text}"))?,
        None => JOBS,
    };
    jobs::operator(s)?;
    let patience = PATIENCE + Duration::from_millis(1_500) * u32::try_from(count)?;
    let mut audit = Audit::begin(s)?;
    let crowd = Crowd::begin(s)?;
    let (before, own, _) = wait_for("the controller's figures", PATIENCE, || usage(s).map(Some))?;
    eprintln!("crowd: the controller takes {} ({} its own) before", mib(before), mib(own));

    let begun = Instant::now();
    let names: Vec<usize> = (0..count).collect();
    for some in names.chunks(100) {
        let yaml: String = some.iter().map(|number| yaml(*number)).collect();
        let create = ["create", "--namespace", s.namespace(), "--filename", "-"];
        s.cluster()?.kubectl_with(create, &yaml)?;
    }
    eprintln!("crowd: {count} jobs are created after {:.0} s", begun.elapsed().as_secs_f64());
    let running = "millrace_controller_jobs{state=\"Running\"";
    let mut told = 0;
    wait_for("all jobs to run", patience, || {
        let runs = metric(s, running)?;
        if runs >= told + 100 {
            told = runs;
            eprintln!("crowd: {runs} run after {:.0} s", begun.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_secs(1));
        Ok((runs == count as u64).then_some(()))
    })?;
    eprintln!("crowd: all {count} run after {:.0} s", begun.elapsed().as_secs_f64());
    let mut calls = audit.calls()?;
    eprintln!("crowd: calls until then, {} writes:{}", writes(&calls), table(&calls));

    // At rest: nothing was written for a while.
    let mut since = Instant::now();
    wait_for("the controller to come to rest", patience, || {
        let more = audit.calls()?;
        if writes(&more) > 0 {
            since = Instant::now();
        }
        add(&mut calls, more);
        std::thread::sleep(Duration::from_secs(1));
        Ok((since.elapsed() > QUIET).then_some(()))
    })?;
    let (_, _, cpu) = usage(s)?;
    let (passes, rest) = (metric(s, "millrace_controller_passes_total")?, Instant::now());
    std::thread::sleep(REST);
    let calls = audit.calls()?;
    let (memory, own, after) = usage(s)?;
    let passes = metric(s, "millrace_controller_passes_total")? - passes;
    // The kubelet's figures are some seconds old.
    let seconds = rest.elapsed().as_secs_f64();
    eprintln!(
        "crowd: at rest for {seconds:.0} s: {} writes, {passes} passes, {:.1} % of a core, {} ({} its own); calls:{}",
        writes(&calls),
        (after - cpu) / seconds * 100.0,
        mib(memory),
        mib(own),
        table(&calls)
    );
    ensure!(writes(&calls) == 0, "it writes at rest:{}", table(&calls));
    let room = ROOM[0] + ROOM[1] * count as u64;
    ensure!(memory < room, "it takes {}, more than {}", mib(memory), mib(room));

    // What users see.
    let all = s.get(&["streamjobs"])?;
    let all = all["items"].as_array().context("a list without items")?;
    ensure!(all.len() == count, "{} jobs of {count}", all.len());
    let states: BTreeSet<&str> =
        all.iter().map(|job| job["status"]["state"].as_str().unwrap_or("none")).collect();
    ensure!(states == BTreeSet::from(["Running"]), "not all run: {states:?}");
    let restarted = all.iter().find(|job| job["status"]["attempt"] != 1);
    ensure!(restarted.is_none(), "restarted was {restarted:?}");
    let ready = |job: &&Value| {
        let of_now = &job["metadata"]["generation"];
        let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.filter(|c| c["type"] == "Ready" && c["status"] == "True");
        ready.any(|c| c["observedGeneration"] == *of_now)
    };
    ensure!(all.iter().filter(ready).count() == count, "not all are Ready");

    // All of it goes; the nodes last.
    s.kubectl(&["delete", "streamjobs", "--all", "--wait=false"])?;
    wait_for("all pods to go", patience, || {
        let left = s.kubectl(&["get", "pods", "--output=name"])?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(left.trim().is_empty().then_some(()))
    })?;
    drop(crowd);
    Ok(())
}
