//! Rows 43 to 50: deletion, and controllers that come and go.

use super::fixture::*;
use crate::observed::*;
use crate::plan::Action;
use millrace_crds::names;
use millrace_crds::revision::hash;
use millrace_protocol::control::State;
use serde_json::json;

fn deleting() -> Case {
    let mut case = Case::running(with(json!({"deletionPolicy": "Delete"})));
    case.o.job.deleting = Some(NOW);
    case.o.job.finalizer = true;
    case
}

#[test]
fn row_43_retain_has_no_finalizer() {
    let mut case = Case::running(spec());
    assert!(!case.plan().actions.contains(&Action::Finalizer(true)));
    case.o.job.deleting = Some(NOW);
    let plan = case.plan();
    plan.state("Deleting");
    assert_eq!(plan.actions, []);
    case.o.job.finalizer = true;
    assert_eq!(case.plan().actions, [Action::Finalizer(false)]);
}

#[test]
fn row_44_delete_stops_then_deletes_then_lets_go() {
    let case = Case::running(with(json!({"deletionPolicy": "Delete"})));
    assert!(case.plan().actions.contains(&Action::Finalizer(true)));
    let mut case = deleting();
    let plan = case.plan();
    plan.state("Deleting");
    assert!(matches!(plan.actions[..], [Action::Delete { kind: "apps/v1/StatefulSet", .. }]));
    case.o.set = None;
    assert_eq!(case.plan().actions, [], "pods are still there");
    case.no_pods();
    assert_eq!(case.plan().creates(), ["Pod/orders-millrace-store-delete"]);
    let mut store = pod(0, &hash(&spec()));
    (store.name, store.component, store.ordinal) =
        (names::store_pod("orders", "delete"), names::STORE.to_owned(), None);
    store.container = ended(1, "Error", "no route");
    case.o.pods.push(store);
    assert!(matches!(case.plan().actions[..], [Action::Delete { kind: "v1/Pod", .. }]));
    case.o.pods[0].container = ended(0, "", "");
    assert_eq!(case.plan().actions, [Action::Finalizer(false)]);
}

#[test]
fn row_45_an_unreachable_store_holds_an_object_for_ten_minutes() {
    let mut case = deleting();
    case.o.set = None;
    case.no_pods();
    case.now += 599_000;
    assert!(!case.plan().actions.contains(&Action::Finalizer(false)));
    case.now += 2_000;
    let plan = case.plan();
    assert!(plan.actions.contains(&Action::Finalizer(false)));
    let event = plan.events.iter().find(|event| event.reason == "DataLeftBehind").unwrap();
    assert!(event.warning && event.message.contains("s3://b/shop/orders"));
}

#[test]
fn row_45_a_program_that_never_ran_holds_nothing() {
    let mut case = deleting();
    case.o.job.status.revision = None;
    case.o.job.status.last_checkpoint = None;
    case.o.set = None;
    case.no_pods();
    let mut store = pod(0, &hash(&spec()));
    (store.name, store.component, store.ordinal) =
        (names::store_pod("orders", "delete"), names::STORE.to_owned(), None);
    case.o.pods.push(store);
    let unusable = r#"{"code": "StorageUnusable", "message": "no route"}"#;
    let pull = Container::Waiting { reason: "ErrImagePull".to_owned(), message: String::new() };
    for (container, held) in [
        (ended(101, "Error", "panicked"), false),
        (pull, false),
        (ended(2, "Error", unusable), true),
    ] {
        case.o.pods[0].container = container;
        let plan = case.plan();
        assert_eq!(!plan.actions.contains(&Action::Finalizer(false)), held);
        assert_eq!(!plan.events.iter().any(|event| event.reason == "DataLeftBehind"), held);
    }
}

#[test]
fn row_45_a_program_that_was_seen_to_run_only_when_it_was_deleted_holds_its_data() {
    let mut case = deleting();
    case.o.job.status.revision = None;
    case.o.job.status.last_checkpoint = None;
    case.pass();
    let seen = case.o.job.status.clone();
    assert!(seen.revision.as_ref().is_some_and(|known| !known.current.is_empty()));
    // Or only what it left, when it ran no longer.
    case.o.job.status.revision = None;
    assert!(seen.last_checkpoint.is_some());
    case.o.set = None;
    case.no_pods();
    let mut store = pod(0, &hash(&spec()));
    (store.name, store.component, store.ordinal) =
        (names::store_pod("orders", "delete"), names::STORE.to_owned(), None);
    store.container = ended(1, "Error", "the store is away");
    case.o.pods.push(store);
    assert!(!case.plan().actions.contains(&Action::Finalizer(false)));
}

#[test]
fn row_46_a_terminating_namespace_is_not_held() {
    let mut case = deleting();
    case.o.namespace_terminating = true;
    let plan = case.plan();
    assert_eq!(plan.actions, [Action::Finalizer(false)]);
    assert!(plan.event("DataLeftBehind"), "the log and the metric have it: {:?}", plan.events);
}

#[test]
fn row_47_a_new_controller_puts_the_finalizer_back() {
    // The hook of an uninstall took the finalizer and the controller's name.
    let mut case = Case::running(with(json!({"deletionPolicy": "Delete"})));
    case.o.job.status.controller = None;
    let plan = case.plan();
    assert!(plan.actions.contains(&Action::Finalizer(true)));
    assert_eq!(plan.status.controller.as_deref(), Some("sys/millrace"));
    plan.ready("True", "Running");
}

#[test]
fn row_48_another_version_restarts_nothing() {
    let mut case = Case::running(spec());
    case.o.us.version = "9.9.9".to_owned();
    // What it would render is another text: the stored one is what counts.
    let stored = case.o.revisions.values_mut().next().unwrap();
    stored.set = stored.set.replace("\"revisionHistoryLimit\":2", "\"revisionHistoryLimit\":5");
    let plan = case.plan();
    assert_eq!(plan.actions, []);
    plan.ready("True", "Running");
    case.o.set.as_mut().unwrap().drifted = true;
    let plan = case.plan();
    let [Action::Apply { object, .. }] = &plan.actions[..] else { panic!("{plan:#?}") };
    assert_eq!(object["spec"]["revisionHistoryLimit"], 5);
    assert_eq!(plan.status.revision.as_ref().unwrap().rendered_by, "0.1.0");
}

#[test]
fn row_49_another_controller_s_job_is_left_alone() {
    let mut case = Case::new(spec());
    case.o.job.status.controller = Some("other/millrace".to_owned());
    let plan = case.plan();
    assert_eq!(plan.actions, []);
    assert_eq!(plan.status, case.o.job.status);
    assert!(plan.event("OperatedBy"));
}

#[test]
fn row_50_a_generation_that_went_back_is_overruled_after_a_quorum_read() {
    let mut case = Case::running(spec());
    case.told().accepted_generation = 40;
    let plan = case.plan();
    assert!(plan.actions.contains(&Action::QuorumGet) && !plan.proposes());
    case.o.job.quorum = true;
    let plan = case.plan();
    assert!(plan.event("GenerationReset"));
    assert!(plan.actions.iter().any(|a| matches!(a, Action::Propose { force: true, .. })));
    assert_ne!(plan.condition("Ready").unwrap().0, "True");
}

#[test]
fn a_live_part_that_cannot_be_read_is_put_back_while_the_job_runs() {
    let live = (Kind::ConfigMap, names::live("orders"));
    for text in [json!("{\"workers\": "), json!(null)] {
        let mut case = Case::running(spec());
        case.o.children.get_mut(&live).unwrap().body["data"]["live.json"] = text;
        let plan = case.plan();
        assert!(plan.applies("ConfigMap"), "{:#?}", plan.actions);
    }
    assert_eq!(Case::running(spec()).plan().actions, []);
}

#[test]
fn edited_and_deleted_children_are_put_back() {
    let mut case = Case::running(spec());
    let service = (Kind::Service, names::main("orders"));
    case.o.children.get_mut(&service).unwrap().body["spec"]["ports"] = json!([]);
    assert!(case.plan().applies("Service"));
    let account = (Kind::ServiceAccount, names::main("orders"));
    case.o.children.get_mut(&account).unwrap().body["automountServiceAccountToken"] = json!(true);
    assert!(case.plan().applies("ServiceAccount"));
    let wanted = Case::running(spec()).o.children.remove(&account).unwrap();
    case.o.children.insert(account, wanted);
    case.o.children.remove(&service);
    assert_eq!(case.plan().creates(), ["Service/orders-millrace"]);
    case.answer(State::Running);
}
