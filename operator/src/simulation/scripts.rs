//! Schedules that are written down: one thing happens, and all else is well.

use super::run::Run;
use super::user::SPACE;
use crate::shell::kinds::What;
use millrace_crds::names;
use serde_json::{Value, json};

fn create(run: &Run, what: What, name: &str, spec: Value) {
    let object = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": what.resource().kind,
        "metadata": {"name": name, "namespace": SPACE}, "spec": spec});
    run.world.lock().unwrap().server.create(what, object).unwrap();
}

fn job(extra: Value) -> Value {
    let mut spec = json!({"image": "orders:1", "job": {"program": {"args": ["a"]}}, "workers": 2,
        "slotsPerWorker": 1, "maxParallelism": 1024, "desiredState": "Running",
        "onExistingState": "Refuse", "deletionPolicy": "Retain",
        "storage": {"s3": {"bucket": "b", "prefix": ""}}});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

fn get(run: &Run, what: What, name: &str) -> Option<Value> {
    run.world.lock().unwrap().server.get(what, SPACE, name).cloned()
}

fn edit(run: &Run, what: What, name: &str, change: impl FnOnce(&mut Value)) {
    let of = (what, SPACE.to_owned(), name.to_owned());
    run.world.lock().unwrap().server.edit(&of, change);
}

fn delete(run: &Run, what: What, name: &str) {
    let of = (what, SPACE.to_owned(), name.to_owned());
    run.world.lock().unwrap().server.delete(&of, None, None).unwrap();
}

/// So many seconds go by.
fn wait(run: &mut Run, seconds: u32) {
    for _ in 0..seconds {
        run.step(1_000, false);
    }
}

#[track_caller]
fn well(run: &Run) {
    let world = run.world.lock().unwrap();
    assert!(world.broken.is_empty(), "{:#?}", world.broken);
}

#[test]
fn a_child_that_lost_its_labels_gets_them_back() {
    let main = names::main("a");
    let hash = millrace_crds::revision::hash(&job(json!({})));
    for (what, name) in [
        (What::Service, main.clone()),
        (What::ServiceAccount, main.clone()),
        (What::DisruptionBudget, main.clone()),
        (What::StatefulSet, main.clone()),
        (What::ConfigMap, names::live("a")),
        (What::ConfigMap, names::revision("a", &hash)),
    ] {
        for labels in [json!({}), json!({"app.kubernetes.io/managed-by": "Helm"})] {
            let mut run = Run::new(1, false);
            create(&run, What::StreamJob, "a", job(json!({})));
            run.rest("start");
            let before = get(&run, what, &name).unwrap();
            edit(&run, what, &name, |child| child["metadata"]["labels"] = labels);
            wait(&mut run, 60);
            let after = get(&run, what, &name).unwrap();
            let labels = &after["metadata"]["labels"];
            for (label, value) in before["metadata"]["labels"].as_object().unwrap() {
                // Of a set's own revision label nobody reads.
                let free = what == What::StatefulSet && label == names::LABEL_REVISION;
                assert!(free || labels[label] == *value, "{what:?} {label}: {labels}");
            }
            let same = ["spec", "data"].iter().all(|part| before[part] == after[part]);
            assert!(same, "{what:?}: {after}");
            // And later wishes are obeyed.
            edit(&run, What::StreamJob, "a", |job| job["spec"]["workers"] = json!(3));
            run.rest("edit");
            run.check_rest();
            well(&run);
            let set = get(&run, What::StatefulSet, &main).unwrap();
            assert_eq!(set["spec"]["replicas"], 3, "{what:?}");
        }
    }
}

#[test]
fn row_49_another_controller_is_told_of_once() {
    let mut run = Run::new(1, false);
    create(&run, What::StreamJob, "a", job(json!({})));
    edit(&run, What::StreamJob, "a", |job| job["status"]["controller"] = json!("other/millrace"));
    wait(&mut run, 1_800);
    assert_eq!(run.world.lock().unwrap().events, 1);
    well(&run);
}

/// A job that runs, and a savepoint of it that is complete and takes its files with it.
fn saved() -> (Run, String) {
    let mut run = Run::new(1, false);
    create(&run, What::StreamJob, "a", job(json!({})));
    wait(&mut run, 60);
    let spec = json!({"jobRef": {"name": "a"}, "deletionPolicy": "Delete", "timeout": "100s"});
    create(&run, What::Savepoint, "mon", spec);
    wait(&mut run, 60);
    let object = get(&run, What::Savepoint, "mon").unwrap();
    let path = object["status"]["path"].as_str().unwrap().to_owned();
    assert!(run.world.lock().unwrap().store.manifests.contains_key(&path));
    (run, path)
}

#[test]
fn a_savepoint_that_another_job_starts_from_waits_for_it() {
    for by_name in [true, false] {
        let (mut run, path) = saved();
        let mut from = json!({"nonce": 1});
        match by_name {
            true => from["savepointRef"] = json!({"name": "mon"}),
            false => from["path"] = json!(path),
        }
        // It has not begun when the savepoint is deleted.
        create(
            &run,
            What::StreamJob,
            "b",
            job(json!({"restoreFrom": from, "desiredState": "Suspended"})),
        );
        wait(&mut run, 20);
        delete(&run, What::Savepoint, "mon");
        wait(&mut run, 120);
        let there = |run: &Run| run.world.lock().unwrap().store.manifests.contains_key(&path);
        assert!(there(&run) && get(&run, What::Savepoint, "mon").is_some(), "{by_name}");
        edit(&run, What::StreamJob, "b", |job| job["spec"]["desiredState"] = json!("Running"));
        wait(&mut run, 400);
        assert!(!there(&run) && get(&run, What::Savepoint, "mon").is_none(), "{by_name}");
        well(&run);
    }
}

#[test]
fn a_savepoint_without_a_job_times_out_and_its_data_is_told_of() {
    let (mut run, path) = saved();
    delete(&run, What::StreamJob, "a");
    wait(&mut run, 200);
    create(&run, What::Savepoint, "late", json!({"jobRef": {"name": "a"}, "timeout": "100s"}));
    wait(&mut run, 140);
    let late = get(&run, What::Savepoint, "late").unwrap();
    assert!(late["status"].to_string().contains("TimedOut"), "{late}");
    let told = run.world.lock().unwrap().events;
    delete(&run, What::Savepoint, "mon");
    wait(&mut run, 60);
    assert!(get(&run, What::Savepoint, "mon").is_none());
    assert!(run.world.lock().unwrap().store.manifests.contains_key(&path));
    assert_eq!(run.world.lock().unwrap().events, told + 1);
}

#[test]
fn a_worker_that_lost_its_labels_is_found_before_anything_is_decided() {
    for (label, value) in [
        (names::LABEL_JOB, Value::Null),
        (names::LABEL_JOB, json!("another")),
        (names::LABEL_JOB_UID, Value::Null),
        (names::LABEL_COMPONENT, json!("check")),
    ] {
        for pod in ["a-millrace-0", "a-millrace-1"] {
            for edits in [false, true] {
                let mut run = Run::new(1, false);
                create(&run, What::StreamJob, "a", job(json!({})));
                run.rest("start");
                let before = get(&run, What::Pod, pod).unwrap();
                edit(&run, What::Pod, pod, |pod| {
                    let labels = pod["metadata"]["labels"].as_object_mut().unwrap();
                    match &value {
                        Value::Null => drop(labels.remove(label)),
                        value => drop(labels.insert(label.to_owned(), value.clone())),
                    }
                });
                // Committed beside a process that runs it would break what the world promises.
                if edits {
                    edit(&run, What::StreamJob, "a", |job| {
                        job["spec"]["image"] = json!("orders:2")
                    });
                }
                let place = format!("{pod} {label} {value} {edits}");
                wait(&mut run, 5);
                let after = get(&run, What::Pod, pod).unwrap();
                assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"], "{place}");
                assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "{place}");
                run.rest("mended");
                run.check_rest();
                well(&run);
            }
        }
    }
}

#[test]
fn a_pod_of_a_worker_s_name_that_is_not_ours_is_left_alone() {
    let mut run = Run::new(1, false);
    create(&run, What::StreamJob, "a", job(json!({})));
    run.rest("start");
    let stranger = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-millrace-2",
        "namespace": SPACE, "labels": {"app": "theirs"}}, "spec": {"serviceAccountName": names::main("a"), "containers": []}});
    run.world.lock().unwrap().server.create(What::Pod, stranger).unwrap();
    edit(&run, What::StreamJob, "a", |job| job["spec"]["workers"] = json!(3));
    wait(&mut run, 60);
    let pod = get(&run, What::Pod, "a-millrace-2").unwrap();
    assert_eq!(pod["metadata"]["labels"], json!({"app": "theirs"}));
    well(&run);
}

/// A job's savepoint, and its path registered under another name, of which nothing is known.
fn registered(path: &str, run: &Run) {
    create(run, What::Savepoint, "found", json!({"existing": {"path": path}}));
}

fn ready(run: &Run, what: What, name: &str) -> (String, String, String) {
    let object = get(run, what, name).unwrap();
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|condition| condition["type"] == "Ready").cloned().unwrap();
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn a_job_starts_from_a_registered_savepoint_once_that_was_read() {
    let (mut run, path) = saved();
    registered(&path, &run);
    wait(&mut run, 30);
    assert_eq!(ready(&run, What::Savepoint, "found").1, "Registered");
    let from = json!({"restoreFrom": {"savepointRef": {"name": "found"}, "nonce": 1}});
    create(&run, What::StreamJob, "b", job(from));
    run.rest("start");
    let (status, reason, message) = ready(&run, What::Savepoint, "found");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Completed"));
    assert!(message.contains("a savepoint of job"), "{message}");
    assert_eq!(ready(&run, What::StreamJob, "b").0, "True");
    run.check_rest();
    well(&run);
}

#[test]
fn a_job_does_not_start_from_a_registered_savepoint_that_is_not_there() {
    let mut run = Run::new(1, false);
    registered("s3://b/nowhere", &run);
    let from = json!({"restoreFrom": {"savepointRef": {"name": "found"}, "nonce": 1}});
    create(&run, What::StreamJob, "b", job(from));
    wait(&mut run, 120);
    let (status, reason, message) = ready(&run, What::Savepoint, "found");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SavepointUnreadable"));
    assert!(message.contains("there is no savepoint s3://b/nowhere"), "{message}");
    let (_, reason, message) = ready(&run, What::StreamJob, "b");
    assert_eq!(reason, "SavepointNotReady");
    assert!(message.contains("Savepoint found: there is no savepoint"), "{message}");
    assert!(get(&run, What::StatefulSet, &names::main("b")).is_none());
    // It is put there after all.
    let of = "s3://b/nowhere".to_owned();
    run.world.lock().unwrap().store.manifests.insert(of, "another".to_owned());
    wait(&mut run, 600);
    assert_eq!(ready(&run, What::Savepoint, "found").0, "True");
    assert_eq!(ready(&run, What::StreamJob, "b").0, "True");
    assert!(!get(&run, What::Savepoint, "found").unwrap().to_string().contains("Stalled"));
    well(&run);
}
