//! Every rule of the definitions on a real API server, with a value it takes and one it
//! refuses. Wants a cluster, so that it is ignored unless asked for: `make e2e ARGS=rules`
//! has one, or `MILLRACE_E2E_KUBECONFIG=FILE cargo test -p millrace-crds --test cel --
//! --ignored`. Uses `kubectl` (`MILLRACE_KUBECTL` names another).
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

struct Cluster {
    config: String,
    kubectl: String,
    namespace: String,
}

impl Cluster {
    fn find(which: &str) -> Self {
        // Not KUBECONFIG: definitions are overwritten, and that may name any cluster.
        let Ok(config) = std::env::var("MILLRACE_E2E_KUBECONFIG") else {
            panic!("set MILLRACE_E2E_KUBECONFIG to the kubeconfig of a cluster");
        };
        let kubectl = std::env::var("MILLRACE_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let namespace = format!("cel-{which}-{}", std::process::id());
        let cluster = Self { config, kubectl, namespace };
        cluster.definitions();
        let (ok, text) = cluster.run(&["create", "namespace", &cluster.namespace], "");
        assert!(ok, "{text}");
        cluster
    }

    fn run(&self, args: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new(&self.kubectl)
            .args(["--kubeconfig", &self.config])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn definitions(&self) {
        for (stem, definition) in millrace_crds::crd::definitions().unwrap() {
            let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
            let (ok, text) = self.run(&args, &definition.to_string());
            assert!(ok, "{text}");
            let name = format!("crd/{stem}.millrace.dev");
            let args = ["wait", "--for=condition=Established", "--timeout=60s", &name];
            let (ok, text) = self.run(&args, "");
            assert!(ok, "{text}");
        }
    }

    /// Creates on the server, without keeping it.
    fn tries(&self, object: &Value) -> (bool, String) {
        let args = ["create", "--dry-run=server", "-n", &self.namespace, "-f", "-"];
        self.run(&args, &object.to_string())
    }

    #[track_caller]
    fn takes(&self, object: &Value) {
        let (ok, text) = self.tries(object);
        assert!(ok, "refused: {text}\n{object}");
    }

    #[track_caller]
    fn refuses(&self, object: &Value, with: &str) {
        let (ok, text) = self.tries(object);
        assert!(!ok && text.contains(with), "wanted {with:?}, got: {text}\n{object}");
    }

    #[track_caller]
    fn keeps(&self, object: &Value) {
        let (ok, text) =
            self.run(&["create", "-n", &self.namespace, "-f", "-"], &object.to_string());
        assert!(ok, "{text}");
    }

    fn patch(&self, what: &str, patch: &Value) -> (bool, String) {
        let patch = patch.to_string();
        let args = [
            "patch",
            "-n",
            &self.namespace,
            what,
            "--type=merge",
            "--dry-run=server",
            "-p",
            &patch,
        ];
        self.run(&args, "")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(&["delete", "namespace", &self.namespace, "--wait=false"], "");
    }
}

fn job(extra: Value) -> Value {
    let mut spec = json!({"image": "acme/orders:1", "job": {"program": {"args": ["a"]}},
        "storage": {"s3": {"bucket": "b"}}});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "StreamJob",
        "metadata": {"name": "orders"}, "spec": spec})
}

fn named(name: &str) -> Value {
    let mut job = job(json!({}));
    job["metadata"]["name"] = json!(name);
    job
}

fn savepoint(spec: Value) -> Value {
    json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Savepoint",
        "metadata": {"name": "mon"}, "spec": spec})
}

#[test]
#[ignore = "wants a cluster: make e2e ARGS=rules"]
fn every_rule_takes_what_is_right_and_refuses_what_is_not() {
    let cluster = Cluster::find("c");
    let t = |extra| cluster.takes(&job(extra));
    let r = |extra, with: &str| cluster.refuses(&job(extra), with);
    // 1: names.
    cluster.takes(&named(&"a".repeat(43)));
    for name in ["9orders", "or.ders", &"a".repeat(44)] {
        cluster.refuses(&named(name), "the name must have at most 43 characters");
    }
    // 2: workers.
    t(json!({"workers": 1}));
    r(json!({"workers": 0}), "set spec.desiredState to Suspended");
    r(json!({"workers": -1}), "greater than or equal to 0");
    // 4, 5: parallelism.
    t(json!({"workers": 4, "slotsPerWorker": 2, "parallelism": 8}));
    r(
        json!({"workers": 4, "slotsPerWorker": 2, "parallelism": 9}),
        "parallelism must not exceed workers",
    );
    t(json!({"workers": 4, "maxParallelism": 4}));
    r(json!({"workers": 5, "maxParallelism": 4}), "must not exceed maxParallelism");
    // 6: image.
    r(json!({"image": ""}), "image is required with job.program");
    r(json!({"job": {}}), "set job.program");
    // 7: storage.
    t(json!({"storage": {"volume": {"claimName": "c", "path": "a/b"}}}));
    r(json!({"storage": {}}), "exactly one of storage.s3 and storage.volume");
    r(json!({"storage": {"s3": {"bucket": "b"}, "volume": {"claimName": "c"}}}), "exactly one of");
    r(json!({"storage": {"volume": {"claimName": "c", "path": "a/../b"}}}), "relative path");
    t(json!({"storage": {"s3": {"bucket": "b", "endpoint": "https://minio.s3:9000"}}}));
    r(json!({"storage": {"s3": {"bucket": "b", "endpoint": "minio:9000"}}}), "http:// or https://");
    // 9: restoreFrom.
    for one in
        [json!({"path": "s3://x"}), json!({"empty": {}}), json!({"savepointRef": {"name": "s"}})]
    {
        t(json!({"restoreFrom": one}));
    }
    r(json!({"restoreFrom": {"nonce": 1}}), "exactly one of savepointRef, path and empty");
    r(json!({"restoreFrom": {"path": "s3://x", "empty": {}}}), "exactly one of");
    // 10: durations.
    for good in ["100ms", "10s", "1h30m", "24h", "1m1s1ms"] {
        t(json!({"checkpoint": {"interval": good}}));
    }
    for bad in ["10", "1d", "99ms", "25h", "s", "-1s", "1.5h", ""] {
        r(json!({"checkpoint": {"interval": bad}}), "must be a duration from 100ms to 24h");
    }
    t(json!({"checkpoint": {"minPause": "0s"}}));
    r(json!({"checkpoint": {"minPause": "0"}}), "must be a duration up to 24h");
    // 11: memory.
    t(json!({"resources": {"limits": {"memory": "128Mi", "cpu": 2}}}));
    r(json!({"resources": {"limits": {"memory": "127Mi"}}}), "at least 128Mi");
    t(json!({"resources": {"requests": {"memory": "128Mi"}}}));
    t(json!({"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "1Gi"}}}));
    t(json!({"resources": {"requests": {"cpu": 1}, "limits": {"cpu": 2}}}));
    for request in [
        json!({"requests": {"memory": "64Mi"}}),
        json!({"requests": {"memory": "64Mi"}, "limits": {"cpu": 2}}),
    ] {
        r(json!({ "resources": request }), "without one the request is the limit");
    }
    // What a worker bears is more than its silence.
    t(json!({"disruption": {"lostNodeTimeout": "15s"}}));
    for bad in ["14s", "100ms", "25h", "soon"] {
        r(json!({"disruption": {"lostNodeTimeout": bad}}), "must be a duration from 15s to 24h");
    }
    // 12: podTemplate.
    let pod = |container: Value| json!({"podTemplate": {"spec": {"containers": [container]}}});
    t(pod(json!({"name": "worker", "env": [{"name": "A", "value": "1"}]})));
    t(pod(json!({"name": "sidecar", "image": "s", "args": ["x"]})));
    for field in [
        json!({"image": "x"}),
        json!({"args": ["x"]}),
        json!({"command": ["x"]}),
        json!({"resources": {"limits": {"cpu": "1"}}}),
    ] {
        let mut container = json!({"name": "worker"});
        container.as_object_mut().unwrap().extend(field.as_object().unwrap().clone());
        r(pod(container), "container worker may not set");
    }
    // 13: TLS.
    t(json!({"tls": {"exchange": "Mutual", "secretRef": {"name": "t"}}}));
    r(json!({"tls": {"exchange": "Mutual"}}), "Mutual needs secretRef");
    // The arguments' size.
    t(json!({"job": {"program": {"args": vec!["x".repeat(4096); 32]}}}));
    r(json!({"job": {"program": {"args": vec!["x".repeat(4096); 33]}}}), "128 KiB");
    r(json!({"job": {"program": {"args": ["x".repeat(4097)]}}}), "4096");
    r(json!({"job": {"program": {"args": vec!["x"; 257]}}}), "256");
    // Enumerations: null is as good as nothing where nothing is, and no other word is.
    for with in [
        |value: Value| json!({"state": {"backend": value}}),
        |value: Value| json!({"tls": {"exchange": value}}),
        |value: Value| json!({"checkpoint": {"alignment": {"mode": value}}}),
        |value: Value| json!({"storage": {"s3": {"bucket": "b", "addressing": value}}}),
    ] {
        t(with(Value::Null));
        r(with(json!("Other")), "must be one of");
    }
    t(json!({"desiredState": null, "upgrade": {"mode": null, "onFailure": null}}));
    // A patch takes a field away with null; what is applied may say so too.
    t(json!({"tls": null, "restoreFrom": null, "parallelism": null}));
    // Unknown fields.
    r(json!({"desiredState": "Paused"}), "Suspended");
    r(json!({"paralelism": 3}), "unknown field");
    // 14: Savepoint.
    cluster.takes(&savepoint(json!({"jobRef": {"name": "orders"}, "timeout": "5m"})));
    cluster.takes(&savepoint(json!({"existing": {"path": "s3://x"}})));
    cluster.refuses(&savepoint(json!({})), "exactly one of jobRef");
    let both = json!({"jobRef": {"name": "o"}, "existing": {"path": "s3://x"}});
    cluster.refuses(&savepoint(both), "exactly one of jobRef");
}

#[test]
#[ignore = "wants a cluster: make e2e ARGS=rules"]
fn what_cannot_be_changed_is_not_and_the_rest_can_be() {
    let cluster = Cluster::find("u");
    cluster.keeps(&job(json!({"workers": 2})));
    cluster.keeps(&savepoint(json!({"jobRef": {"name": "orders"}})));
    let edit = |what: &str, spec: Value| cluster.patch(what, &json!({"spec": spec}));
    let takes = |what: &str, spec: Value| {
        let (ok, text) = edit(what, spec);
        assert!(ok, "{text}");
    };
    let refuses = |what: &str, spec: Value, with: &str| {
        let (ok, text) = edit(what, spec);
        assert!(!ok && text.contains(with), "wanted {with:?}, got: {text}");
    };
    let sj = "streamjob/orders";
    // 3 and 8.
    refuses(sj, json!({"maxParallelism": 512}), "maxParallelism cannot be changed");
    refuses(sj, json!({"storage": {"s3": {"bucket": "c"}}}), "the place of the job's state");
    refuses(sj, json!({"storage": {"s3": {"prefix": "c"}}}), "the place of the job's state");
    let volume = json!({"storage": {"s3": null, "volume": {"claimName": "c"}}});
    refuses(sj, volume, "the place of the job's state");
    takes(sj, json!({"storage": {"s3": {"endpoint": "https://s3:9000", "region": "r"}}}));
    takes(sj, json!({"storage": {"s3": {"credentials": {"secretRef": {"name": "k"}}}}}));
    takes(sj, json!({"workers": 9, "image": "acme/orders:2"}));
    // 14.
    let svp = "savepoint/mon";
    takes(svp, json!({"deletionPolicy": "Delete", "timeout": "2h"}));
    refuses(svp, json!({"jobRef": {"name": "other"}}), "only deletionPolicy and timeout");
    refuses(svp, json!({"path": "s3://x"}), "only deletionPolicy and timeout");
    // /scale goes through the same rules.
    let namespace = cluster.namespace.clone();
    let scale = |n: &str| {
        cluster.run(&["scale", "-n", &namespace, "sj/orders", &format!("--replicas={n}")], "")
    };
    let (ok, text) = scale("3");
    assert!(ok, "{text}");
    let (ok, text) = scale("0");
    assert!(!ok && text.contains("spec.desiredState"), "{text}");
    // What is stored is what was written and the frozen defaults.
    let (_, text) = cluster.run(&["get", "-n", &namespace, sj, "-o", "json"], "");
    let stored: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        stored["spec"],
        json!({"image": "acme/orders:1", "job": {"program": {"args": ["a"]}}, "workers": 3,
            "slotsPerWorker": 1, "maxParallelism": 1024, "desiredState": "Running",
            "onExistingState": "Refuse", "deletionPolicy": "Retain",
            "storage": {"s3": {"bucket": "b", "prefix": ""}}})
    );
    // podTemplate keeps what no schema knows.
    let mut kept = job(json!({"podTemplate": {"spec": {"fieldOfNextYear": {"a": [1, null]}}}}));
    kept["metadata"]["name"] = json!("kept");
    cluster.keeps(&kept);
    let (_, text) = cluster.run(&["get", "-n", &namespace, "streamjob/kept", "-o", "json"], "");
    let stored: Value = serde_json::from_str(&text).unwrap();
    assert!(stored["spec"]["podTemplate"]["spec"]["fieldOfNextYear"]["a"].is_array());
}
