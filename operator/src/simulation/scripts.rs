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
