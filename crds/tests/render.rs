//! What is rendered for a job: the contract with the programs in the pods.

#![allow(clippy::unwrap_used)] // helpers of tests, too, may fail loudly

use millrace_crds::StreamJobSpec;
use millrace_crds::config::Identity;
use millrace_crds::render::{self, Commit, Owner, StoreWork};
use millrace_protocol::config::Revision;
use serde_json::{Value, json};

fn id() -> Identity {
    let own = str::to_owned;
    Identity { namespace: own("shop"), name: own("orders"), uid: own("1-2-3"), cluster: own("c") }
}

fn stored() -> Value {
    json!({
        "image": "example.org/acme/orders:1.4",
        "job": {"program": {"args": ["--topic", "orders"]}},
        "workers": 3, "slotsPerWorker": 2,
        "storage": {"s3": {"bucket": "b", "credentials": {"secretRef": {"name": "key"}},
                           "caSecretRef": {"name": "ca"}}},
        "podTemplate": {
            "metadata": {"labels": {"team": "a", "millrace.dev/job-uid": "stolen"}},
            "spec": {
                "nodeSelector": {"disk": "fast"},
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                                 "effect": "NoExecute", "tolerationSeconds": 5}],
                "containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}]},
                               {"name": "sidecar", "image": "s:1"}],
            },
        },
    })
}

fn revision() -> Value {
    let spec: StreamJobSpec = serde_json::from_value(stored()).unwrap();
    let id = id();
    let owner = Owner { id: &id, version: "0.1.0" };
    render::revision_config(&owner, &spec, &stored(), "abcd1234").unwrap()
}

#[test]
fn a_revision_holds_all_that_a_later_version_needs() {
    let map = revision();
    assert_eq!(map["immutable"], true);
    let bytes = map["data"]["revision.json"].as_str().unwrap().as_bytes();
    let read = Revision::decode("r", bytes).unwrap();
    assert_eq!(read.args, ["--topic", "orders"]);
    assert_eq!(map["data"]["revision-hash"], read.hash().unwrap());
    assert!(map["data"]["spec.yaml"].as_str().unwrap().contains("kind: StreamJob"));
    let id = id();
    let owner = Owner { id: &id, version: "9" };
    let text = map["data"]["statefulset.json"].as_str().unwrap();
    let set = render::stateful_set(&owner, text, "abcd1234", 3, Commit::default()).unwrap();
    assert_eq!(set["spec"]["replicas"], 3);
    assert_eq!(set["spec"]["updateStrategy"]["type"], "OnDelete");
    assert_eq!(set["spec"]["podManagementPolicy"], "Parallel");
    assert!(set["spec"]["volumeClaimTemplates"].is_null());
    let template = &set["spec"]["template"];
    // The selector must match, whatever the user's overlay says.
    for (key, value) in set["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&template["metadata"]["labels"][key], value);
    }
    assert_eq!(template["metadata"]["labels"]["team"], "a");
    let pod = &template["spec"];
    assert_eq!(pod["nodeSelector"]["disk"], "fast");
    assert_eq!(pod["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(pod["containers"].as_array().unwrap().len(), 2);
    let worker = &pod["containers"][0];
    assert_eq!(worker["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(worker["resources"]["requests"], json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(worker["securityContext"]["capabilities"]["drop"][0], "ALL");
    assert!(worker["env"].as_array().unwrap().iter().any(|env| env["name"] == "A"));
    for volume in ["millrace-credentials", "millrace-ca"] {
        let found = pod["volumes"].as_array().unwrap().iter().find(|v| v["name"] == volume);
        assert_eq!(found.unwrap()["secret"]["optional"], true);
    }
}

#[test]
fn check_and_store_pods_enter_no_service_and_end() {
    let map = revision();
    let set: Value =
        serde_json::from_str(map["data"]["statefulset.json"].as_str().unwrap()).unwrap();
    let id = id();
    let owner = Owner { id: &id, version: "0.1.0" };
    let check = render::check_pod(&owner, &set["template"], "abcd1234");
    let work = StoreWork::Savepoint { id: "u".to_owned(), target: "s3://t".to_owned() };
    let store = render::store_pod(&owner, &set["template"], "abcd1234", "sp-u", &work);
    for pod in [&check, &store] {
        assert_ne!(pod["metadata"]["labels"]["app.kubernetes.io/component"], "worker");
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
        let containers = pod["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        assert!(containers[0]["readinessProbe"].is_null());
        assert!(!containers[0]["env"].to_string().contains("pod-index"));
    }
    assert_eq!(check["spec"]["containers"][0]["args"][0], "check");
    assert_eq!(
        store["spec"]["containers"][0]["args"],
        json!([
            "store",
            "savepoint",
            "--config",
            "/etc/millrace/revision/revision.json",
            "--",
            "u",
            "s3://t"
        ])
    );
    // A user's own text is neither an option nor a variable of the container.
    let path = "--live=$(TOKEN)".to_owned();
    let work = StoreWork::ProbeSavepoint { path };
    let probe = render::store_pod(&owner, &set["template"], "abcd1234", "probe", &work);
    let args = &probe["spec"]["containers"][0]["args"];
    assert_eq!((&args[4], &args[5]), (&json!("--"), &json!("--live=$$(TOKEN)")));
}

fn definition(which: &str) -> Value {
    let all = millrace_crds::crd::definitions().unwrap();
    all.into_iter().find(|(stem, _)| *stem == which).unwrap().1
}

fn rules_of(schema: &Value) -> String {
    schema["x-kubernetes-validations"].to_string()
}

#[test]
fn a_memory_request_that_becomes_the_limit_is_bound_like_one() {
    let job = definition("streamjobs");
    let spec = &job["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let rules = rules_of(&spec["properties"]["resources"]);
    assert!(rules.contains("self.requests['memory']"), "{rules}");
}

#[test]
fn a_node_is_not_given_up_sooner_than_its_worker() {
    let job = definition("streamjobs");
    let spec = &job["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let rules = rules_of(&spec["properties"]["disruption"]["properties"]["lostNodeTimeout"]);
    assert!(rules.contains("duration('15s')"), "{rules}");
    // What an older definition let through.
    let mut stored = stored();
    stored["disruption"] = json!({"lostNodeTimeout": "100ms"});
    let spec: StreamJobSpec = serde_json::from_value(stored).unwrap();
    assert_eq!(spec.lost_node_timeout_ms(), 15_000);
}
