//! Names, paths and arguments of users who mean harm, or of tools that do not care.

use super::fixture::*;
use super::savepoints::savepoint;
use crate::observed::*;
use crate::plan::Action;
use crate::shell::summary;
use millrace_crds::render;
use millrace_crds::revision;
use millrace_protocol::control::State;
use serde_json::{Value, json};

/// What a shell, a kubelet, a log or a command line might take for something else.
const HOSTILE: [&str; 7] = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    "line\nlevel=error message=\"all is lost\"",
    "$(MILLRACE_TOKEN_FILE) $$(A) ${HOME}",
    "--config=/etc/passwd",
    "\u{1b}[2J\u{7}\u{202e}",
];

fn containers(object: &Value) -> Vec<Value> {
    let spec =
        if object["kind"] == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    spec["containers"].as_array().cloned().unwrap_or_default()
}

/// What a container is started with, as the kubelet would: `$(A)` is the variable A, `$$` is `$`.
fn expanded(arg: &str) -> String {
    let (mut left, mut out) = (arg, String::new());
    while let Some(at) = left.find('$') {
        out.push_str(&left[..at]);
        left = &left[at + 1..];
        if let Some(rest) = left.strip_prefix('$') {
            left = rest;
            out.push('$');
        } else if let Some((_, rest)) = left.strip_prefix('(').and_then(|name| name.split_once(')'))
        {
            left = rest;
            out.push_str("EXPANDED");
        } else {
            out.push('$');
        }
    }
    out + left
}

#[test]
fn arguments_of_a_program_are_no_arguments_of_its_container() {
    let hostile = with(json!({"job": {"program": {"args": HOSTILE}}}));
    let plan = Case::new(hostile.clone()).plan();
    let made: Vec<&Value> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Create(object) => Some(object),
            _ => None,
        })
        .collect();
    let set = made.iter().find(|object| object["kind"] == "StatefulSet").unwrap();
    for container in containers(set) {
        assert!(container["command"].is_null(), "no shell is between: {container}");
        let text = container["args"].to_string();
        assert!(HOSTILE.iter().all(|arg| !text.contains(&json!(arg).to_string())), "{text}");
    }
    // They are data of a file, to the last byte.
    let name = millrace_crds::names::revision("orders", &revision::hash(&hostile));
    let map = made.iter().find(|object| object["metadata"]["name"] == name.as_str()).unwrap();
    let read: Value = serde_json::from_str(map["data"]["revision.json"].as_str().unwrap()).unwrap();
    assert_eq!(read["args"], json!(HOSTILE));
}

#[test]
fn paths_reach_a_store_pod_as_they_are_and_as_nothing_else() {
    for path in HOSTILE {
        for existing in [true, false] {
            let mut case = Case::running(with(json!({"desiredState": "Suspended"})));
            case.o.set.as_mut().unwrap().replicas = 0;
            case.no_pods();
            let mut object = savepoint();
            if existing {
                object.deleting = Some(NOW);
                object.finalizer = true;
                object.spec.deletion_policy = millrace_crds::streamjob::DeletionPolicy::Delete;
                object.status.path = Some(path.to_owned());
                object.status.completed_at = Some(crate::plan::status::time(NOW));
            } else {
                object.spec.path = Some(path.to_owned());
            }
            case.o.savepoints.push(object);
            let plan = case.plan();
            let made = plan.actions.iter().find_map(|action| match action {
                Action::Create(object) if object["kind"] == "Pod" => Some(object),
                _ => None,
            });
            let container = containers(made.unwrap()).remove(0);
            assert!(container["command"].is_null());
            let args = container["args"].as_array().unwrap();
            let args: Vec<String> =
                args.iter().map(|arg| expanded(arg.as_str().unwrap())).collect();
            let ends = args.iter().position(|arg| arg == "--").unwrap();
            let at = args.iter().position(|arg| arg == path);
            assert!(at.is_some_and(|at| at > ends), "{path:?} in {args:?}");
        }
    }
}

#[test]
fn nothing_of_a_body_is_in_what_is_logged_of_an_action() {
    let secret = "hunter2";
    let env = json!([{"name": "PASSWORD", "value": secret}]);
    let template = json!({"spec": {"containers": [{"name": "worker", "env": env}]}});
    let extra = json!({"job": {"program": {"args": [secret]}}, "podTemplate": template});
    let mut case = Case::new(with(extra));
    let first = case.pass();
    assert!(format!("{:?}", first.actions).contains(secret), "it is in what is made");
    case.commit(&case.o.job.stored.clone());
    case.answer(State::Running);
    case.o.set.as_mut().unwrap().drifted = true;
    let second = case.pass();
    assert!(second.applies("StatefulSet"));
    for plan in [first, second] {
        let told = format!("{:?} {:?}", plan.events, plan.status);
        assert!(!told.contains(secret), "{told}");
        for action in &plan.actions {
            assert!(!summary(action).contains(secret), "{}", summary(action));
        }
    }
}

#[test]
fn a_job_of_the_longest_name_has_children_that_the_api_server_takes() {
    // As long as the rule of the definition allows.
    let name = "o".repeat(43);
    let mut case = Case::new(spec());
    case.o.job.id.name.clone_from(&name);
    case.o.job.id.uid = "12345678-90ab-cdef-1234-567890abcdef".to_owned();
    let plan = case.plan();
    for action in &plan.actions {
        let Action::Create(object) = action else { continue };
        let (kind, made) = (&object["kind"], object["metadata"]["name"].as_str().unwrap());
        // A StatefulSet's name with a hash of ten characters is a label of its pods.
        let most = if kind == "StatefulSet" { 63 - 11 } else { 63 };
        assert!(made.len() <= most, "{kind} {made}");
        let labels = &object["metadata"]["labels"];
        let mut labels: Vec<&Value> = labels.as_object().unwrap().values().collect();
        let template = object["spec"]["template"]["metadata"]["labels"].as_object();
        labels.extend(template.into_iter().flat_map(|all| all.values()));
        assert!(labels.iter().all(|value| value.as_str().unwrap().len() <= 63), "{labels:?}");
    }
}

#[test]
fn labels_of_a_pod_template_do_not_take_the_place_of_ours() {
    let odd = json!({
        "millrace.dev/job": "another", "millrace.dev/job-uid": "stolen",
        "app.kubernetes.io/component": "store", "team/a": "\n'$(x)", "": "nothing",
    });
    let odd = with(json!({"podTemplate": {"metadata": {"labels": odd}}}));
    let plan = Case::new(odd).plan();
    let set = plan.actions.iter().find_map(|action| match action {
        Action::Create(object) if object["kind"] == "StatefulSet" => Some(object),
        _ => None,
    });
    let labels = &set.unwrap()["spec"]["template"]["metadata"]["labels"];
    let ours = render::labels(&id(), "worker");
    for (key, value) in ours.as_object().unwrap() {
        assert_eq!(&labels[key], value, "{key}");
    }
    // The API server says what is wrong with the others, and its words are told.
    let mut case = Case::new(spec());
    let why = "a lowercase RFC 1123 label must consist of\n...".to_owned();
    case.o.memory.dry_run = Some((revision::hash(&spec()), Err(why)));
    case.plan().stalled("InvalidSpec");
}

#[test]
fn what_a_process_says_is_cut_and_shown_as_it_is() {
    let words = format!("{}{}", HOSTILE.join(" "), "x".repeat(100_000));
    let mut case = Case::running(spec());
    case.o.coordinator = Coordinator::Absent;
    let pod = case.pod(0);
    (pod.container, pod.ready) = (ended(1, "Error", &words), false);
    let plan = case.plan();
    let told = plan.status.last_failure.as_ref().unwrap().message.clone().unwrap();
    assert!(told.starts_with(HOSTILE[0]) && told.chars().count() <= 1_024, "{}", told.len());
    for condition in &plan.status.conditions {
        assert!(condition.message.chars().count() <= 4_096);
    }
}
