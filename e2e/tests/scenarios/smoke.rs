//! The cluster itself: what every other story takes for granted.

use anyhow::{Result, ensure};
use millrace_e2e::{PATIENCE, Part, Scenario, wait_for};

/// Two pods that serve their own name.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: lab.millrace.dev/busybox:1
        command: [sh, -c, 'hostname > /tmp/index.html && exec httpd -f -p 8080 -h /tmp']
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
";

fn web(s: &Scenario<'_>) -> Result<()> {
    s.apply(WEB)?;
    s.wait_ready("app=web", 2)?;
    Ok(())
}

pub fn a_deleted_pod_comes_back_under_its_name(s: &mut Scenario<'_>) -> Result<()> {
    web(s)?;
    let uid = s.uid("pod/web-1")?;
    s.kubectl(&["delete", "pod", "web-1"])?;
    s.wait_replaced("web-1", &uid)
}

pub fn a_killed_container_is_started_again(s: &mut Scenario<'_>) -> Result<()> {
    web(s)?;
    let uid = s.uid("pod/web-0")?;
    s.cluster()?.kill_container(s.namespace(), "web-0", "web")?;
    s.wait_field("pod/web-0", "/status/containerStatuses/0/restartCount", 1)?;
    s.wait_ready("app=web", 2)?;
    let last = "/status/containerStatuses/0/lastState/terminated/exitCode";
    ensure!(s.field("pod/web-0", last)? == 137, "it did not die of SIGKILL");
    ensure!(s.uid("pod/web-0")? == uid, "it is another pod");
    Ok(())
}

pub fn pods_reach_each_other_by_name(s: &mut Scenario<'_>) -> Result<()> {
    web(s)?;
    let host = format!("http://web-0.web.{}.svc.cluster.local:8080/", s.namespace());
    let inside = wait_for("a name to resolve", PATIENCE, || {
        s.cluster()?.inside(&["curl", "--silent", "--fail", "--max-time", "5", &host]).map(Some)
    })?;
    ensure!(inside.trim() == "web-0", "from the lab: {inside}");
    let short = ["exec", "web-1", "--", "wget", "-qO-", "http://web-0.web:8080/"];
    let pod = wait_for("a pod to reach another", PATIENCE, || s.kubectl(&short).map(Some))?;
    ensure!(pod.trim() == "web-0", "from a pod: {pod}");
    Ok(())
}

pub fn a_pod_reaches_the_object_store(s: &mut Scenario<'_>) -> Result<()> {
    web(s)?;
    let file = std::env::temp_dir().join(s.namespace());
    std::fs::write(&file, "an object")?;
    let s3 = s.s3()?;
    s3.make_bucket("smoke")?;
    let put = s3.put("smoke", "some/key", &file);
    std::fs::remove_file(&file)?;
    put?;
    let stored = std::fs::read_to_string(s3.bucket("smoke").join("some/key"))?;
    ensure!(stored == "an object", "the file of the object holds {stored}");
    // Without a signature: that it is refused shows that it is reached.
    let url = format!("{}/smoke/some/key", s3.endpoint());
    let script = format!("wget -qO- {url} 2>&1 || true");
    let answer = s.kubectl(&["exec", "web-0", "--", "sh", "-c", &script])?;
    ensure!(answer.contains("403"), "the object store answered a pod {answer}");
    s.s3()?.kill()?;
    s.s3()?.start()?;
    wait_for("the object store to be back", PATIENCE, || s.s3()?.make_bucket("again").map(Some))
}

pub fn pods_live_on_while_the_api_server_is_away(s: &mut Scenario<'_>) -> Result<()> {
    web(s)?;
    let host = format!("http://web-1.web.{}.svc.cluster.local:8080/", s.namespace());
    let get = ["curl", "--silent", "--fail", "--max-time", "5", &host];
    wait_for("a name to resolve", PATIENCE, || s.cluster()?.inside(&get).map(Some))?;
    let uid = s.uid("pod/web-1")?;
    s.cluster()?.kill(Part::ApiServer)?;
    ensure!(s.kubectl(&["get", "pods"]).is_err(), "a killed API server answers");
    let answered = s.cluster()?.inside(&get);
    s.cluster()?.start(Part::ApiServer)?;
    wait_for("the API server", PATIENCE, || s.kubectl(&["get", "pods"]).map(Some))?;
    answered?;
    ensure!(s.uid("pod/web-1")? == uid, "its pod was replaced meanwhile");
    s.wait_ready("app=web", 2)?;
    Ok(())
}

pub fn the_pod_of_a_dead_node_is_freed_by_force_and_comes_back_elsewhere(
    s: &mut Scenario<'_>,
) -> Result<()> {
    web(s)?;
    let node = s.field("pod/web-1", "/spec/nodeName")?.as_str().unwrap_or_default().to_owned();
    let uid = s.uid("pod/web-1")?;
    s.cluster()?.kill_node(&node)?;
    let freed = freed(s, &node, &uid);
    s.cluster()?.start_node(&node)?;
    freed?;
    s.wait_ready("app=web", 2)?;
    Ok(())
}

fn freed(s: &Scenario<'_>, node: &str, uid: &str) -> Result<()> {
    // Nobody but the dead node could say that the pod has stopped: it stays Terminating.
    wait_for("the pod of the dead node to be Terminating", PATIENCE, || {
        let deletion = s.field("pod/web-1", "/metadata/deletionTimestamp")?;
        Ok((!deletion.is_null()).then_some(()))
    })?;
    s.kubectl(&["delete", "pod", "web-1", "--force", "--grace-period=0"])?;
    s.wait_replaced("web-1", uid)?;
    let now = s.field("pod/web-1", "/spec/nodeName")?;
    ensure!(now != node, "the pod is on the dead node again");
    Ok(())
}
