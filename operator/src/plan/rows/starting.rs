//! Rows 1 to 16: starting, and what keeps a job from running.

use super::fixture::*;
use crate::observed::*;
use crate::plan::Action;
use millrace_crds::names;
use millrace_protocol::control::{self, State};
use serde_json::json;

#[test]
fn row_01_a_new_job_gets_its_children() {
    let plan = Case::new(spec()).plan();
    plan.state("Pending").ready("False", "Starting");
    let kinds: Vec<_> =
        plan.creates().iter().map(|c| c.split('/').next().unwrap().to_owned()).collect();
    assert_eq!(
        kinds,
        [
            "ConfigMap",
            "ConfigMap",
            "ServiceAccount",
            "Service",
            "PodDisruptionBudget",
            "StatefulSet"
        ]
    );
    assert!(plan.actions.contains(&Action::CreateToken));
    assert_eq!(plan.applies_set().unwrap().0, 2);
    assert_eq!(plan.status.controller.as_deref(), Some("sys/millrace"));
}

#[test]
fn row_02_a_strangers_object_is_not_touched() {
    let mut case = Case::new(spec());
    let child = Child { uid: "x".to_owned(), owner: Ownership::Stranger, body: json!({}) };
    case.o.children.insert((Kind::Service, names::main("orders")), child);
    let plan = case.plan();
    plan.ready("False", "NameConflict").stalled("NameConflict");
    assert_eq!(plan.actions, []);
    assert!(plan.status.conditions[0].message.contains("Service orders-millrace"));
}

#[test]
fn row_03_children_of_an_earlier_job_are_waited_for() {
    let mut case = Case::new(spec());
    let child = Child { uid: "x".to_owned(), owner: Ownership::Earlier, body: json!({}) };
    case.o.children.insert((Kind::StatefulSet, names::main("orders")), child);
    let plan = case.plan();
    plan.ready("False", "WaitingForOldChildren");
    assert_eq!(plan.actions, []);
    assert!(plan.condition("Stalled").is_none() && plan.requeue_ms <= 5_000);
}

fn started() -> Case {
    let mut case = Case::new(spec());
    case.commit(&spec());
    case
}

#[test]
fn row_04_pods_that_cannot_be_scheduled_are_waited_for() {
    let mut case = started();
    let pod = case.pod(1);
    (pod.unschedulable, pod.container, pod.ready) =
        (Some("0/1 nodes: Insufficient cpu".to_owned()), Container::Unknown, false);
    let plan = case.plan();
    plan.ready("False", "PodsPending");
    assert!(plan.status.conditions[0].message.contains("Insufficient cpu"));
    assert_eq!(plan.deletes_pods(), 0);
}

#[test]
fn row_05_forbidden_pods_are_explained_by_the_set_s_events() {
    let mut case = started();
    case.no_pods();
    let looks = |case: &Case| case.plan().actions.contains(&Action::LookAtSetEvents);
    case.o.memory.lack = Some(Lack { since: case.now, before: false });
    case.now += 9_000;
    assert!(!looks(&case));
    case.now += 2_000;
    assert!(looks(&case));
    let why = "exceeded quota: cpu".to_owned();
    case.o.forbidden = Some(Forbidden { why, at: case.now });
    case.o.memory.looked_at_events = Some(case.now);
    let plan = case.pass();
    plan.ready("False", "PodsForbidden");
    assert!(plan.condition("Stalled").is_none());
    case.now += 601_000;
    case.plan().stalled("PodsForbidden");
    // Another process goes on where this one was.
    case.o.memory = Memory::default();
    case.o.memory.lack = Some(Lack { since: case.now, before: true });
    case.o.forbidden = None;
    let plan = case.pass();
    plan.stalled("PodsForbidden");
    assert!(plan.status.conditions[0].message.contains("exceeded quota: cpu"));
}

#[test]
fn row_05_pods_that_went_a_moment_ago_are_not_said_to_be_forbidden() {
    // It has run for a day, and a pod is replaced.
    let mut case = Case::running(spec());
    case.now += 86_400_000;
    case.no_pods();
    case.o.memory.lack = Some(Lack { since: case.now, before: false });
    let plan = case.plan();
    assert!(!plan.actions.contains(&Action::LookAtSetEvents), "it was not missing for 10 s");
    // An hour ago pods were refused.
    let refused = |at| Some(Forbidden { why: "exceeded quota".to_owned(), at });
    case.o.forbidden = refused(case.now - 3_600_000);
    assert_eq!(case.plan().condition("Ready").unwrap().1, "Restarting");
    case.o.forbidden = refused(case.now + 1_000);
    let plan = case.plan();
    plan.ready("False", "PodsForbidden");
    assert!(plan.condition("Stalled").is_none(), "it is news, however old the commit");
    // Who has just begun to look does not know since when.
    case.o.memory.lack = Some(Lack { since: case.now, before: true });
    case.o.forbidden = refused(case.now - 600_000);
    case.plan().ready("False", "PodsForbidden");
}

#[test]
fn row_06_an_image_that_cannot_be_pulled_is_healed_by_the_next_edit() {
    let mut case = started();
    for ordinal in 0..2 {
        let pod = case.pod(ordinal);
        (pod.container, pod.ready) = (waiting("ImagePullBackOff"), false);
        pod.created = NOW;
    }
    let plan = case.pass();
    plan.ready("False", "ImagePullFailed");
    assert!(plan.condition("Stalled").is_none());
    case.now += 121_000;
    case.pass().stalled("ImagePullFailed");
    let next = with(json!({"image": "acme/orders:2"}));
    case.edit(next.clone());
    case.store(&next);
    let plan = case.plan();
    let (replicas, revision) = plan.applies_set().unwrap();
    assert_eq!((replicas, revision), (2, millrace_crds::revision::hash(&next)));
    assert_eq!(plan.deletes_pods(), 2);
}

#[test]
fn row_07_a_program_that_refuses_to_start_waits_for_an_edit() {
    for (code, reason) in [
        ("BadArgs", "InvalidProgram"),
        ("StorageUnusable", "StorageUnusable"),
        ("EarlierStateFound", "EarlierStateFound"),
        // Nothing that a program could decide.
        ("ReplacingPods", "InvalidProgram"),
    ] {
        let mut case = started();
        let words = json!({"code": code, "message": "no bucket", "remedy": "make it"}).to_string();
        let pod = case.pod(0);
        (pod.container, pod.ready) = (ended(2, "Error", &words), false);
        let plan = case.plan();
        plan.stalled(reason);
        assert!(plan.status.conditions[0].message.contains("no bucket make it"));
        assert_eq!(plan.deletes_pods(), 0);
        assert!(plan.applies_set().is_none());
    }
}

#[test]
fn row_07_what_is_tried_again_is_no_news_until_it_runs() {
    let mut case = started();
    let words = json!({"code": "StorageUnusable", "message": "no bucket"}).to_string();
    let pod = case.pod(0);
    (pod.container, pod.ready) = (ended(2, "Error", &words), false);
    case.pass().stalled("StorageUnusable");
    let pod = case.pod(0);
    (pod.container, pod.last_end) = (Container::Running, Some(end(2, "Error", &words)));
    case.pass().stalled("StorageUnusable");
    case.answer(State::Starting);
    let plan = case.pass();
    plan.stalled("StorageUnusable");
    assert!(plan.events.is_empty());
    // The bucket is there now, and what was is over.
    case.answer(State::Running);
    case.pass().ready("True", "Running");
    case.answer(State::Restarting);
    let plan = case.pass();
    plan.ready("False", "Restarting");
    assert!(plan.condition("Stalled").is_none());
}

#[test]
fn row_08_a_crash_is_left_to_the_kubelet_unless_it_backs_off_after_a_signal() {
    let mut case = Case::running(spec());
    case.o.coordinator = Coordinator::Absent;
    let pod = case.pod(0);
    (pod.container, pod.ready) = (waiting("CrashLoopBackOff"), false);
    pod.last_end = Some(end(1, "Error", "it broke"));
    let plan = case.plan();
    plan.state("Restarting").ready("False", "Restarting");
    assert_eq!(plan.deletes_pods(), 0);
    assert_eq!(plan.status.last_failure.as_ref().unwrap().message.as_deref(), Some("it broke"));
    assert_eq!(plan.condition("Available").unwrap().0, "False");
    case.pod(0).last_end = Some(end(137, "OOMKilled", ""));
    let plan = case.plan();
    assert_eq!(plan.deletes_pods(), 1);
    let told = plan.status.last_failure.as_ref().unwrap().message.clone().unwrap();
    assert!(told.contains("limit of 1Gi") && told.contains("limits.memory"), "{told}");
    case.o.memory.crash_deletes.insert(0, (case.now - 90_000, 1));
    assert_eq!(case.plan().deletes_pods(), 0);
    case.o.memory.crash_deletes.insert(0, (case.now - 130_000, 1));
    assert_eq!(case.plan().deletes_pods(), 1);
}

fn refused(reason: &str) -> crate::plan::Plan {
    let mut case = started();
    let told = case.answer(State::Refused);
    told.reason = reason.to_owned();
    told.message = "of uid-0, 3 days old".to_owned();
    case.plan()
}

#[test]
fn row_09_state_of_an_earlier_job_is_not_taken_unasked() {
    let plan = refused("EarlierStateFound");
    plan.stalled("EarlierStateFound");
    let message = &plan.status.conditions[0].message;
    assert!(message.contains("uid-0") && message.contains("onExistingState"), "{message}");
    assert!(plan.applies_set().is_none() && plan.deletes_pods() == 0);
}

#[test]
fn row_10_missing_state_is_not_an_empty_start() {
    let plan = refused("StateMissing");
    plan.stalled("StateMissing");
    let message = &plan.status.conditions[0].message;
    assert!(message.contains("restoreFrom") && message.contains("Restore the bucket"), "{message}");
}

/// What workers are told of it, now that it is edited.
fn told_begun(mut case: Case, spec: serde_json::Value) -> bool {
    case.edit(spec);
    let plan = case.plan();
    let live = plan.actions.iter().find_map(|action| match action {
        Action::Apply { object, .. } => object["data"]["live.json"].as_str(),
        _ => None,
    });
    serde_json::from_str::<serde_json::Value>(live.unwrap()).unwrap()["begun"] == json!(true)
}

#[test]
fn row_10_a_job_that_ran_must_find_its_state_unless_it_is_told_to_begin_elsewhere() {
    let other = |extra| with(json!({"checkpoint": {"interval": "9s"}, "restoreFrom": extra}));
    // One that never ran has nothing to find.
    assert!(!told_begun(started(), other(json!(null))));
    let ran = || Case::running(spec());
    assert!(told_begun(ran(), other(json!(null))));
    let empty = |nonce: u32| json!({"empty": {}, "nonce": nonce});
    assert!(!told_begun(ran(), other(empty(1))));
    // The wish was obeyed: from now on there is something again.
    let mut obeyed = ran();
    obeyed.o.job.status.restore_nonce = Some(1);
    obeyed.told().restore_nonce = 1;
    assert!(told_begun(obeyed, other(empty(1))));
}

#[test]
fn row_11_a_superseded_job_goes_to_zero() {
    let mut case = Case::running(spec());
    case.answer(State::Superseded).message = "taken by uid-9 in cluster d".to_owned();
    let plan = case.pass();
    plan.stalled("TakenOver");
    assert_eq!(plan.applies_set().unwrap().0, 0);
    let told = |case: &Case| {
        let conditions = &case.o.job.status.conditions;
        conditions.iter().find(|c| c.type_ == "Stalled").map(|c| c.message.clone())
    };
    let first = told(&case);
    assert!(first.as_ref().unwrap().contains("uid-9"));
    // It stays there when nobody is left to say so.
    case.o.set.as_mut().unwrap().replicas = 0;
    case.o.pods.clear();
    case.o.coordinator = Coordinator::Absent;
    let plan = case.pass();
    plan.stalled("TakenOver");
    assert!(plan.applies_set().is_none());
    assert_eq!(told(&case), first);
}

#[test]
fn row_11_a_superseded_job_stays_at_zero_whatever_is_edited() {
    let mut case = Case::running(spec());
    case.o.coordinator = Coordinator::Absent;
    let words = json!({"code": "TakenOver", "message": "uid-9 goes on"}).to_string();
    let pod = case.pod(0);
    (pod.container, pod.ready) = (ended(2, "Error", &words), false);
    let plan = case.pass();
    plan.stalled("TakenOver");
    assert_eq!(plan.applies_set().unwrap().0, 0);
    // Its pods are gone, and with them who said so.
    case.no_pods();
    case.edit(with(json!({"image": "acme/orders:2"})));
    for _ in 0..2 {
        let plan = case.pass();
        plan.stalled("TakenOver");
        let told = &plan.condition("Stalled").unwrap().1;
        assert!(plan.applies_set().is_none_or(|(replicas, _)| replicas == 0), "{told}");
        let message = &plan.status.conditions[0].message;
        assert_eq!(message.matches("uid-9").count(), 1, "{message}");
        assert_eq!(message.matches("Delete this job").count(), 1, "{message}");
    }
}

#[test]
fn row_15_a_job_that_runs_again_tells_its_gap_once() {
    let mut case = Case::running(spec());
    case.answer(State::Restarting).attempt = 2;
    assert!(!case.pass().event("Resumed"));
    let answer = case.answer(State::Running);
    answer.attempt = 2;
    answer.last_gap = Some(control::Gap { total_ms: 800, ..control::Gap::default() });
    let plan = case.pass();
    assert!(plan.event("Resumed") && plan.events.iter().any(|e| e.message.contains("800 ms")));
    assert!(!case.pass().event("Resumed"));
}

#[test]
fn row_12_a_job_that_runs_is_ready_and_at_rest_nothing_is_done() {
    let mut case = Case::running(spec());
    let plan = case.pass();
    plan.state("Running").ready("True", "Running");
    assert_eq!(plan.condition("Available"), Some(("True", "Running")));
    case.now += 120_000;
    case.told().last_checkpoint.as_mut().unwrap().id = 19;
    let later = case.plan();
    assert_eq!(later.actions, []);
    assert_eq!(later.events, []);
    assert_eq!(later.status, plan.status, "nothing is written at rest");
}

#[test]
fn row_13_a_ready_pod_0_that_does_not_answer_is_unknown_after_a_while() {
    let mut case = Case::running(spec());
    case.o.coordinator = Coordinator::Unreachable { since: NOW, why: "timed out".to_owned() };
    case.now += 20_000;
    case.plan().ready("True", "Running");
    case.now += 20_000;
    let plan = case.plan();
    plan.state("Unknown").ready("False", "CoordinatorUnreachable");
    assert!(plan.status.conditions[0].message.contains("NetworkPolicy"));
    assert_eq!(plan.condition("Available").unwrap().0, "Unknown");
    assert!(plan.applies_set().is_none() && plan.deletes_pods() == 0);
}

#[test]
fn row_14_an_unready_pod_0_that_does_not_answer_restarts() {
    let mut case = Case::running(spec());
    case.o.coordinator = Coordinator::Unreachable { since: NOW, why: "refused".to_owned() };
    case.pod(0).ready = false;
    case.plan().state("Restarting").ready("False", "Restarting");
}

#[test]
fn row_15_failures_within_the_budget_are_told_once() {
    let mut case = Case::running(spec());
    case.answer(State::Restarting).message = "worker 1 is lost".to_owned();
    let plan = case.pass();
    plan.state("Restarting").ready("False", "Restarting");
    assert!(plan.event("Restarting") && plan.deletes_pods() == 0);
    assert!(!case.plan().event("Restarting"), "once");
}

#[test]
fn row_16_an_exhausted_budget_stalls_and_keeps_the_pods() {
    let mut case = Case::running(spec());
    case.answer(State::Failed);
    let plan = case.pass();
    plan.state("Failed").stalled("RestartsExhausted");
    assert!(plan.applies_set().is_none() && plan.deletes_pods() == 0);
    let next = with(json!({"restartNonce": 1}));
    case.edit(next.clone());
    case.store(&next);
    assert!(case.plan().applies_set().is_some(), "left by a nonce");
}
