//! Rows 37 to 39: savepoints, whose job runs, does not run, or is not there.

use super::fixture::*;
use crate::observed::*;
use crate::plan::{Action, orphan, reads};
use millrace_crds::names;
use millrace_crds::revision::hash;
use millrace_crds::savepoint::SavepointStatus;
use millrace_crds::streamjob::{DeletionPolicy, LastCheckpoint};
use millrace_protocol::control::{self, SavepointState, State};
use serde_json::json;

pub fn savepoint() -> SavepointObject {
    SavepointObject {
        name: "mon".to_owned(),
        uid: "sp-1".to_owned(),
        generation: 1,
        created: NOW,
        deleting: None,
        finalizer: false,
        annotated_path: None,
        scheduled: false,
        readers: Vec::new(),
        spec: serde_json::from_value(json!({"jobRef": {"name": "orders"}})).unwrap(),
        status: SavepointStatus::default(),
    }
}

fn reason(status: &SavepointStatus) -> (&str, &str) {
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    (ready.status.as_str(), ready.reason.as_str())
}

#[test]
fn row_37_a_savepoint_is_wanted_until_it_is_complete_and_never_again() {
    let mut case = Case::running(spec());
    case.o.savepoints.push(savepoint());
    let plan = case.plan();
    let wanted = vec![("sp-1".to_owned(), "s3://b/shop/orders/savepoints".to_owned())];
    assert!(plan.actions.contains(&Action::WantSavepoints(wanted)));
    assert_eq!(reason(&plan.savepoints[0].1), ("False", "Taking"));
    case.told().savepoints.push(control::Savepoint {
        id: "sp-1".to_owned(),
        path: "s3://b/x/sp-1".to_owned(),
        state: SavepointState::Complete.into(),
        bytes: 5,
        ..Default::default()
    });
    let plan = case.pass();
    let status = plan.savepoints[0].1.clone();
    assert_eq!(reason(&status), ("True", "Completed"));
    assert_eq!(plan.status.last_savepoint.as_ref().unwrap().path, "s3://b/x/sp-1");
    case.o.savepoints[0].status = status;
    let wants = |plan: &crate::plan::Plan| {
        plan.actions.iter().any(|action| matches!(action, Action::WantSavepoints(_)))
    };
    assert!(!wants(&case.plan()));
    // A backup was restored: the status is gone, the annotation is there.
    case.o.savepoints[0].status = SavepointStatus::default();
    case.o.savepoints[0].annotated_path = Some("s3://b/x/sp-1".to_owned());
    case.told().savepoints.clear();
    let plan = case.plan();
    assert!(!wants(&plan));
    assert_eq!(reason(&plan.savepoints[0].1), ("True", "Adopted"));
}

#[test]
fn savepoints_are_made_by_the_clock_and_only_so_many_kept() {
    let spec = with(json!({"savepoints": {"interval": "1h", "retained": 1}}));
    let mut case = Case::running(spec);
    let name = format!("Savepoint/orders-{}", NOW / 3_600_000 * 3_600);
    assert_eq!(case.plan().creates(), [name]);
    for (n, ago) in [("a", 4_000_000), ("b", 100_000)] {
        let mut object = savepoint();
        (object.name, object.scheduled, object.created) = (n.to_owned(), true, NOW - ago);
        object.finalizer = true;
        object.status.completed_at = Some(crate::plan::status::time(NOW - ago));
        case.o.savepoints.push(object);
    }
    let plan = case.plan();
    assert!(plan.creates().is_empty());
    let deleted = |action: &&Action| matches!(action, Action::Delete { name, .. } if name == "a");
    assert_eq!(plan.actions.iter().filter(deleted).count(), 1);
}

#[test]
fn scheduled_savepoints_that_failed_are_pruned_too() {
    let spec = with(json!({"savepoints": {"interval": "1h", "retained": 2}}));
    let mut case = Case::running(spec);
    for (name, ago, failed) in [
        ("f1", 9_000_000, true),
        ("c1", 8_000_000, false),
        ("f2", 7_000_000, true),
        ("f3", 6_000_000, true),
        ("c2", 5_000_000, false),
        ("waits", 100_000, false),
    ] {
        let mut object = savepoint();
        (object.name, object.scheduled, object.created) = (name.to_owned(), true, NOW - ago);
        object.finalizer = true;
        object.spec.deletion_policy = DeletionPolicy::Delete;
        if failed {
            let stalled = json!({"conditions": [{"type": "Stalled", "status": "True",
                "reason": "TimedOut", "message": "", "lastTransitionTime": "2023-11-14T22:13:20Z"}]});
            object.status = serde_json::from_value(stalled).unwrap();
        } else if name != "waits" {
            object.status.completed_at = Some(crate::plan::status::time(NOW - ago));
        }
        case.o.savepoints.push(object);
    }
    let plan = case.plan();
    let deleted: Vec<&str> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Delete { kind: "millrace.dev/v1alpha1/Savepoint", name, .. } => Some(&**name),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, ["f1"], "two complete ones and two that failed stay");
}

#[test]
fn row_38_a_savepoint_waits_for_its_job_and_gives_up_in_the_end() {
    let mut case = Case::running(spec());
    case.o.savepoints.push(savepoint());
    case.answer(State::Restarting);
    let plan = case.plan();
    assert_eq!(reason(&plan.savepoints[0].1), ("False", "WaitingForJob"));
    assert!(plan.actions.iter().any(|action| matches!(action, Action::WantSavepoints(_))));
    // Also while nothing can be done for its job, which would else be at rest.
    let mut taken = Case::running(spec());
    taken.o.savepoints.push(savepoint());
    let live = (Kind::ConfigMap, names::live("orders"));
    taken.o.children.get_mut(&live).unwrap().owner = Ownership::Stranger;
    assert!(taken.plan().requeue_ms <= 10_000);
    case.now += 3_700_000;
    assert_eq!(reason(&case.plan().savepoints[0].1), ("False", "TimedOut"));
    let alone = orphan(&savepoint(), NOW + 1);
    assert_eq!((reason(&alone.status), alone.finalizer), (("False", "JobNotFound"), None));
    let again = i64::try_from(alone.requeue_ms.unwrap()).unwrap();
    let over = orphan(&savepoint(), NOW + 1 + again);
    assert_eq!((reason(&over.status), over.requeue_ms), (("False", "TimedOut"), None));
}

#[test]
fn data_that_nobody_is_left_to_delete_is_told_of() {
    let mut object = savepoint();
    object.spec.deletion_policy = DeletionPolicy::Delete;
    let complete = json!({"path": "s3://b/x/sp-1", "completedAt": "2023-11-14T22:13:20Z"});
    object.status = serde_json::from_value(complete).unwrap();
    let mut registered = savepoint();
    let spec = json!({"existing": {"path": "s3://b/x/sp-1"}, "deletionPolicy": "Delete"});
    registered.spec = serde_json::from_value(spec).unwrap();
    for mut object in [object, registered] {
        let plan = orphan(&object, NOW);
        assert_eq!((plan.finalizer, plan.event), (Some(true), None));
        object.finalizer = true;
        assert_eq!(orphan(&object, NOW).finalizer, None);
        object.deleting = Some(NOW);
        let plan = orphan(&object, NOW);
        assert_eq!(plan.finalizer, Some(false));
        let event = plan.event.unwrap();
        assert!(event.warning && event.reason == "DataLeftBehind");
        assert!(event.message.contains("s3://b/x/sp-1"), "{}", event.message);
        object.finalizer = false;
        assert_eq!(orphan(&object, NOW).finalizer, None, "it goes");
        // Nothing was to be deleted.
        (object.spec.deletion_policy, object.finalizer) = (DeletionPolicy::Retain, true);
        let plan = orphan(&object, NOW);
        assert_eq!((plan.finalizer, plan.event), (Some(false), None));
    }
}

#[test]
fn a_savepoint_that_a_job_starts_from_keeps_its_files() {
    let mut case = Case::running(spec());
    let mut going = savepoint();
    (going.deleting, going.finalizer) = (Some(NOW), true);
    going.spec.deletion_policy = DeletionPolicy::Delete;
    let complete = json!({"path": "s3://b/x/sp-1", "completedAt": "2023-11-14T22:13:20Z"});
    going.status = serde_json::from_value(complete).unwrap();
    going.readers = vec!["shop/copy".to_owned()];
    case.o.savepoints.push(going);
    assert!(case.plan().creates().is_empty());
    case.now += 601_000;
    let plan = case.plan();
    let event = plan.events.iter().find(|event| event.reason == "DataLeftBehind").unwrap();
    assert!(event.message.contains("shop/copy"), "{}", event.message);
    case.now = NOW;
    case.o.savepoints[0].readers.clear();
    assert_eq!(case.plan().creates(), ["Pod/orders-millrace-store-del-sp1"]);
}

#[test]
fn a_job_reads_what_it_starts_from_until_its_own_first_checkpoint() {
    let mut object = savepoint();
    object.status.path = Some("s3://b/x/sp-1".to_owned());
    let from = |from| Case::new(with(json!({"restoreFrom": from}))).o.job;
    let at = crate::plan::status::time;
    for mut job in [
        from(json!({"savepointRef": {"name": "mon"}, "nonce": 2})),
        from(json!({"path": "s3://b/x/sp-1/", "nonce": 2})),
    ] {
        assert!(reads(&job, "shop", &object, NOW), "it was not even told to");
        let by_name = job.spec.restore_from.as_ref().unwrap().savepoint_ref.is_some();
        assert_eq!(reads(&job, "other", &object, NOW), !by_name);
        job.status.restore_nonce = Some(2);
        assert!(reads(&job, "shop", &object, NOW), "it does not run yet");
        let available = json!([{"type": "Available", "status": "True", "reason": "Running",
            "message": "", "lastTransitionTime": at(NOW).0.to_string()}]);
        job.status.conditions = serde_json::from_value(available).unwrap();
        let last = |at| Some(LastCheckpoint { completed_at: Some(at), ..Default::default() });
        job.status.last_checkpoint = last(at(NOW - 5_000));
        assert!(reads(&job, "shop", &object, NOW + 5_000), "that one was of before");
        assert!(!reads(&job, "shop", &object, NOW + 601_000));
        job.status.last_checkpoint = last(at(NOW + 1_000));
        assert!(!reads(&job, "shop", &object, NOW + 5_000));
        (job.status.restore_nonce, job.deleting) = (None, Some(NOW));
        assert!(!reads(&job, "shop", &object, NOW));
    }
    assert!(!reads(&from(json!({"empty": {}})), "shop", &object, NOW));
}

#[test]
fn row_39_a_stopped_job_s_savepoint_is_made_by_a_store_pod() {
    let suspended = with(json!({"desiredState": "Suspended"}));
    let mut case = Case::running(suspended.clone());
    case.o.set.as_mut().unwrap().replicas = 0;
    case.no_pods();
    case.o.savepoints.push(savepoint());
    let plan = case.plan();
    assert_eq!(plan.creates(), ["Pod/orders-millrace-store-svp-sp1"]);
    let mut store = pod(0, &hash(&suspended));
    (store.name, store.component, store.ordinal) =
        ("orders-millrace-store-svp-sp1".to_owned(), names::STORE.to_owned(), None);
    store.container = ended(0, "", "");
    case.o.pods.push(store);
    let plan = case.plan();
    assert_eq!(reason(&plan.savepoints[0].1), ("True", "Completed"));
    let path = plan.savepoints[0].1.path.as_deref();
    assert_eq!(path, Some("s3://b/shop/orders/savepoints/sp-1"));
}

#[test]
fn a_store_pod_comes_last_for_it_may_be_refused() {
    let mut case = Case::running(spec());
    let mut going = savepoint();
    (going.deleting, going.finalizer) = (Some(NOW), true);
    going.spec.deletion_policy = DeletionPolicy::Delete;
    let complete = json!({"path": "s3://b/x/sp-1", "completedAt": "2023-11-14T22:13:20Z"});
    going.status = serde_json::from_value(complete).unwrap();
    case.o.savepoints.push(going);
    case.edit(with(json!({"workers": 3})));
    let plan = case.plan();
    let at = |wanted: &dyn Fn(&Action) -> bool| plan.actions.iter().position(wanted);
    let pod = at(&|action| matches!(action, Action::Create(object) if object["kind"] == "Pod"));
    let set = at(&|action| matches!(action, Action::Apply { .. }));
    assert!(set.is_some() && pod > set, "{:#?}", plan.actions);
}
