//! Rows 17 to 28: another revision.

use super::fixture::*;
use crate::observed::*;
use crate::plan::Action;
use millrace_crds::revision::hash;
use millrace_crds::streamjob::{LastFailure, LastSavepoint};
use millrace_protocol::control::{self, State};
use serde_json::{Value, json};

pub fn b() -> Value {
    with(json!({"image": "acme/orders:2"}))
}

/// A runs, the user wants B.
pub fn edited() -> Case {
    let mut case = Case::running(spec());
    case.edit(b());
    case
}

/// The same, and B's check passed.
pub fn checked() -> Case {
    let mut case = edited();
    case.store(&b());
    case.pass();
    case.checked(0, "");
    case
}

/// B is committed, and its pods run.
pub fn committed() -> Case {
    let mut case = checked();
    case.answer(State::Held);
    case.pass();
    let status = case.o.job.status.clone();
    case.commit(&b());
    case.o.set.as_mut().unwrap().commit.after_checkpoint = 7;
    case.o.job.status = status;
    case
}

#[test]
fn row_17_check_before_anything_stops() {
    let mut case = edited();
    let plan = case.pass();
    plan.state("Upgrading").ready("False", "CheckingUpgrade");
    assert_eq!(plan.creates(), [format!("ConfigMap/orders-millrace-{}", hash(&b()))]);
    assert!(plan.actions.iter().any(|action| matches!(action, Action::DryRun { .. })));
    assert_eq!(plan.condition("Available").unwrap().0, "True");
    case.store(&b());
    case.o.memory.dry_run = Some((hash(&b()), Ok(())));
    let plan = case.pass();
    assert_eq!(plan.creates(), [format!("Pod/orders-millrace-check-{}", hash(&b()))]);
    assert!(plan.applies_set().is_none() && !plan.actions.contains(&Action::HoldStop));
}

#[test]
fn row_18_a_failed_check_leaves_the_job_alone() {
    let mut case = checked();
    case.checked(2, &json!({"message": "operator window lost", "remedy": "dropState"}).to_string());
    let plan = case.pass();
    plan.ready("False", "CheckFailed").stalled("CheckFailed");
    assert_eq!(plan.condition("Available").unwrap().0, "True");
    assert!(plan.applies_set().is_none() && plan.deletes_pods() == 0);
    case.pass();
    let plan = case.plan();
    plan.ready("False", "CheckFailed").state("Running");
    assert!(plan.status.conditions[0].message.contains("operator window lost dropState"));
    // What can be taken over live still is.
    case.edit({
        let mut next = b();
        next["workers"] = json!(3);
        next
    });
    assert_eq!(case.plan().applies_set(), Some((3, hash(&spec()))));
    // The API server's refusal is a failed check too.
    let mut case = edited();
    case.store(&b());
    case.o.memory.dry_run = Some((hash(&b()), Err("unknown field".to_owned())));
    case.plan().ready("False", "CheckFailed");
    // And so is a check that cannot start in time.
    let mut case = checked();
    case.o.pods.last_mut().unwrap().container = waiting("ImagePullBackOff");
    assert!(case.plan().condition("Stalled").is_none());
    case.now += 601_000;
    case.plan().ready("False", "CheckFailed");
}

#[test]
fn row_19_a_passed_check_asks_for_a_held_stop() {
    let mut case = checked();
    let plan = case.pass();
    plan.ready("False", "StoppingWithSavepoint");
    assert!(plan.actions.contains(&Action::HoldStop));
    assert!(plan.event("UpgradePlanned") && plan.applies_set().is_none());
    assert!(plan.requeue_ms <= 1_000, "the hold is repeated");
    case.o.job.check_only = true;
    let plan = case.plan();
    plan.ready("False", "CheckPassed");
    assert!(!plan.actions.contains(&Action::HoldStop));
}

#[test]
fn row_19_check_only_tells_the_plan_and_stops_there() {
    let mut case = checked();
    case.o.job.check_only = true;
    let told = r#"{"code": "Done", "message": "keeps state of 5 operators"}"#;
    case.checked(0, told);
    let plan = case.pass();
    plan.ready("False", "CheckPassed");
    let planned = plan.events.iter().find(|event| event.reason == "UpgradePlanned").unwrap();
    assert!(planned.message.contains("keeps state of 5 operators"), "{}", planned.message);
    let plan = case.pass();
    assert!(!plan.event("UpgradePlanned"), "once");
    let ready = plan.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert!(ready.message.starts_with("keeps state of 5 operators."), "{}", ready.message);
    assert!(!plan.actions.contains(&Action::HoldStop));
}

#[test]
fn row_18_a_store_that_cannot_be_reached_is_asked_again_and_later_and_later() {
    let mut case = checked();
    let words = json!({"code": "StorageUnusable", "message": "no route to minio"}).to_string();
    case.checked(2, &words);
    let plan = case.pass();
    plan.ready("False", "CheckingUpgrade").state("Upgrading");
    assert!(plan.condition("Stalled").is_none());
    assert!(plan.status.conditions[0].message.contains("no route to minio"));
    let again = |case: &Case| {
        let plan = case.plan();
        plan.actions.iter().any(|a| matches!(a, Action::Delete { kind: "v1/Pod", .. }))
    };
    assert!(!again(&case), "not at once");
    case.now += 16_000;
    assert!(again(&case));
    // An hour later it is asked every few minutes, and someone is told.
    case.now += 3_600_000;
    case.checked(2, &words);
    case.now += 60_000;
    let plan = case.pass();
    plan.ready("False", "CheckingUpgrade").stalled("CheckingUpgrade");
    assert_eq!(plan.status.revision.as_ref().unwrap().failed, "");
    assert!(!again(&case));
    case.now += 250_000;
    assert!(again(&case));
    case.checked(0, "");
    assert!(case.plan().actions.contains(&Action::HoldStop), "as soon as it answers");
}

#[test]
fn row_20_without_a_savepoint_the_newest_checkpoint_must_do() {
    let mut case = checked();
    case.pass();
    case.now += 601_000;
    let plan = case.pass();
    assert!(plan.event("UsedCheckpoint"));
    assert_eq!(plan.applies_set(), Some((0, hash(&spec()))), "the template stays");
    case.o.set.as_mut().unwrap().replicas = 0;
    case.plan().ready("False", "StoppingPods");
    assert!(case.plan().applies_set().is_none());
    case.no_pods();
    assert_eq!(case.plan().applies_set(), Some((2, hash(&b()))));
    let mut case = checked();
    let mut at_once = b();
    at_once["upgrade"] = json!({"mode": "LastCheckpoint"});
    case.o.job.spec = serde_json::from_value(at_once).unwrap();
    let plan = case.plan();
    assert!(plan.event("UsedCheckpoint") && !plan.actions.contains(&Action::HoldStop));
}

#[test]
fn row_21_a_stopped_job_is_committed_in_one_apply() {
    let mut case = checked();
    case.answer(State::Held);
    let plan = case.plan();
    plan.ready("False", "ReplacingPods");
    assert_eq!(plan.applies_set(), Some((2, hash(&b()))));
    let at = |kind: &str| {
        plan.actions.iter().position(
            |action| matches!(action, Action::Apply { object, .. } if object["kind"] == kind),
        )
    };
    assert!(at("ConfigMap") < at("StatefulSet"), "the new pods read the new live part");
}

#[test]
fn row_22_outdated_pods_go_at_once_also_after_a_crash() {
    let mut case = committed();
    let old = hash(&spec());
    case.o.pods = vec![pod(0, &old), pod(1, &old)];
    case.o.coordinator = Coordinator::Absent;
    let plan = case.plan();
    assert_eq!(plan.deletes_pods(), 2);
    let mut leaving = pod(0, &old);
    leaving.deleting = Some((NOW, 60_000));
    case.o.pods = vec![leaving, pod(1, &hash(&b()))];
    assert_eq!(case.plan().deletes_pods(), 0);
}

#[test]
fn row_22_what_outdated_pods_say_does_not_count_against_the_new_revision() {
    for state in [State::Failed, State::Refused, State::Finished, State::Superseded] {
        let mut case = committed();
        let before = case.o.revisions[&hash(&spec())].config_hash.clone();
        case.answer(state).accepted_revision = before;
        let mut old = pod(0, &hash(&spec()));
        old.deleting = Some((NOW, 60_000));
        case.o.pods = vec![old];
        let plan = case.plan();
        assert!(plan.condition("Stalled").is_none() && plan.condition("Complete").is_none());
        assert!(plan.applies_set().is_none(), "{state:?}: {:?}", plan.actions);
    }
}

#[test]
fn row_23_a_third_edit_keeps_a_held_stop_held() {
    let mut case = checked();
    case.pass();
    case.answer(State::Held);
    let c = with(json!({"image": "acme/orders:3"}));
    case.edit(c.clone());
    let plan = case.pass();
    assert_eq!(plan.creates(), [format!("ConfigMap/orders-millrace-{}", hash(&c))]);
    assert!(plan.applies_set().is_none(), "not before its own check");
    assert!(!plan.actions.contains(&Action::ReleaseStop));
    assert!(plan.actions.iter().any(|a| matches!(a, Action::Delete { kind: "v1/Pod", .. })));
    case.store(&c);
    case.checked(0, "");
    assert_eq!(case.plan().applies_set(), Some((2, hash(&c))));
}

#[test]
fn row_24_an_edit_that_is_undone_releases_the_stop() {
    let mut case = checked();
    case.pass();
    case.answer(State::Held);
    case.edit(spec());
    let plan = case.plan();
    assert!(plan.actions.contains(&Action::ReleaseStop) && plan.event("UpgradeCancelled"));
    assert!(plan.applies_set().is_none() && plan.deletes_pods() == 0);
}

#[test]
fn row_25_an_edit_after_the_commit_replaces_what_does_not_run() {
    let mut case = committed();
    case.o.coordinator = Coordinator::Absent;
    for ordinal in 0..2 {
        case.pod(ordinal).container = waiting("CrashLoopBackOff");
    }
    let c = with(json!({"image": "acme/orders:3"}));
    case.edit(c.clone());
    case.store(&c);
    let plan = case.plan();
    assert_eq!(plan.applies_set(), Some((2, hash(&c))));
    assert_eq!(plan.deletes_pods(), 2);
}

#[test]
fn row_26_the_first_revision_is_one_to_go_back_to_also_where_an_edit_follows_at_once() {
    let mut case = Case::new(spec());
    case.commit(&spec());
    // It runs, and is edited, before anyone has looked.
    case.answer(State::Running);
    case.edit(b());
    let plan = case.pass();
    plan.ready("False", "CheckingUpgrade");
    assert_eq!(plan.status.revision.as_ref().unwrap().current, hash(&spec()));
    case.store(&b());
    let status = case.o.job.status.clone();
    case.commit(&b());
    case.o.job.status = status;
    case.o.coordinator = Coordinator::Absent;
    for ordinal in 0..2 {
        case.pod(ordinal).container = waiting("CrashLoopBackOff");
    }
    case.now += 601_000;
    assert_eq!(case.plan().applies_set(), Some((2, hash(&spec()))));
}

#[test]
fn row_26_an_unhealthy_revision_is_rolled_back_or_kept() {
    let mut case = committed();
    case.o.coordinator = Coordinator::Absent;
    for ordinal in 0..2 {
        case.pod(ordinal).container = waiting("CrashLoopBackOff");
    }
    assert!(case.plan().applies_set().is_none(), "it has its time");
    let mut kept = case.o.clone();
    case.now += 601_000;
    case.o.job.status.last_failure = Some(LastFailure {
        time: Some(crate::plan::status::time(case.now)),
        message: Some("a row it cannot bear".to_owned()),
        ..LastFailure::default()
    });
    let plan = case.pass();
    assert_eq!(plan.applies_set(), Some((2, hash(&spec()))));
    assert_eq!(plan.status.revision.as_ref().unwrap().failed, hash(&b()));
    // A runs again.
    let status = case.o.job.status.clone();
    case.commit(&spec());
    case.o.job.status = status;
    case.answer(State::Running);
    let plan = case.pass();
    plan.ready("False", "RolledBack").stalled("RolledBack").state("Running");
    assert_eq!(plan.condition("Available").unwrap().0, "True");
    let message = &plan.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().message;
    assert!(message.contains("kubectl get configmap"), "{message}");
    assert!(message.contains("a row it cannot bear"), "{message}");
    // Keep waits.
    let mut spec = kept.job.stored.clone();
    spec["upgrade"] = json!({"onFailure": "Keep"});
    kept.job.spec = serde_json::from_value(spec).unwrap();
    let plan = crate::plan::plan(&kept, NOW + 601_000);
    plan.stalled("UpgradeFailed");
    assert!(plan.applies_set().is_none());
}

#[test]
fn row_27_a_revision_with_a_checkpoint_is_not_rolled_back() {
    let mut case = committed();
    case.answer(State::Running).last_checkpoint.as_mut().unwrap().id = 8;
    let plan = case.pass();
    let known = plan.status.revision.clone().unwrap();
    assert_eq!((known.current, known.previous), (hash(&b()), hash(&spec())));
    assert_eq!(plan.condition("UpgradeSucceeded"), Some(("True", "Upgraded")));
    case.answer(State::Failed);
    case.now += 10_000_000;
    let plan = case.plan();
    assert!(plan.applies_set().is_none());
    plan.stalled("RestartsExhausted");
    let told = |plan: &crate::plan::Plan| {
        let stalled = plan.status.conditions.iter().find(|c| c.type_ == "Stalled");
        stalled.map(|c| c.message.clone()).unwrap()
    };
    assert!(!told(&plan).contains("savepoint"));
    let path = "s3://b/x/sp-1".to_owned();
    case.o.job.status.restore_nonce = Some(4);
    case.o.job.status.last_savepoint = Some(LastSavepoint { path, ..LastSavepoint::default() });
    let told = told(&case.plan());
    assert!(told.contains(r#""path":"s3://b/x/sp-1""#) && told.contains(r#""nonce":5"#), "{told}");
}

/// B is the current revision, and A the one before.
fn upgraded() -> Case {
    let mut case = committed();
    case.answer(State::Running).last_checkpoint.as_mut().unwrap().id = 8;
    case.pass();
    let path = "s3://b/x/sp-1".to_owned();
    case.o.job.status.last_savepoint = Some(LastSavepoint { path, ..LastSavepoint::default() });
    case
}

fn point(checkpoint: u64) -> control::RestorePoint {
    control::RestorePoint { checkpoint, manifest: format!("uid-1/data/1/m-{checkpoint}") }
}

#[test]
fn row_27_the_way_back_is_through_the_checkpoint_of_the_upgrade_while_that_is_kept() {
    let mut case = upgraded();
    case.answer(State::Failed).restore_points = vec![point(9), point(8), point(7)];
    let plan = case.plan();
    let told = &plan.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap().message;
    assert!(told.contains("went through checkpoint 7"), "{told}");
    assert!(told.contains(r#""path":"s3://b/shop/orders/uid-1/data/1/m-7""#), "{told}");
    assert!(told.contains(r#""image":"acme/orders:1""#), "{told}");
    // It is not kept any more: then the savepoint, whose image nobody knows.
    case.told().restore_points = vec![point(11), point(10), point(9)];
    let plan = case.plan();
    let told = &plan.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap().message;
    assert!(told.contains(r#""path":"s3://b/x/sp-1""#) && !told.contains("image\":"), "{told}");
}

#[test]
fn row_27_a_revision_that_fails_for_ever_tells_the_way_back_too() {
    let mut case = upgraded();
    let answer = case.answer(State::Restarting);
    (answer.restore_points, answer.restarts) = (vec![point(8), point(7)], 2);
    let told = |case: &Case| {
        let plan = case.plan();
        plan.ready("False", "Restarting");
        plan.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().message.clone()
    };
    assert!(!told(&case).contains("kubectl patch"), "{}", told(&case));
    case.told().restarts = 3;
    assert!(told(&case).contains("m-7"), "{}", told(&case));
    // A job that was never upgraded has none.
    case.o.job.status.revision.as_mut().unwrap().previous.clear();
    assert!(!told(&case).contains("kubectl patch"), "{}", told(&case));
}

#[test]
fn row_20_what_is_replayed_is_told_in_seconds() {
    let mut case = checked();
    case.pass();
    case.now += 601_000;
    let last = case.told().last_checkpoint.as_mut().unwrap();
    last.completed_at_ms = NOW + 601_000 - 8_400;
    let plan = case.plan();
    let used = plan.events.iter().find(|event| event.reason == "UsedCheckpoint").unwrap();
    assert!(used.message.contains("checkpoint 7, which was complete 8 s ago"), "{}", used.message);
    // Of whose checkpoints nothing is heard nothing is said.
    case.o.coordinator = Coordinator::Absent;
    case.o.job.status.last_checkpoint = None;
    let plan = case.plan();
    assert!(plan.events.iter().all(|event| !event.message.contains("s ago")));
}

#[test]
fn row_27_what_is_to_be_pasted_is_one_argument_whatever_the_path_holds() {
    let path = "s3://b/x';touch pwned;'";
    let mut case = Case::running(spec());
    case.answer(State::Failed);
    case.o.job.status.last_savepoint =
        Some(LastSavepoint { path: path.to_owned(), ..LastSavepoint::default() });
    let plan = case.plan();
    let stalled = plan.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    let (_, line) = stalled.message.split_once("--type merge -p ").unwrap();
    let (line, _) = line.split_once(" starts it from there").unwrap();
    let words = std::process::Command::new("sh")
        .args(["-c", &format!("printf '%s\\n' {line}")])
        .output()
        .unwrap();
    let patch: serde_json::Value = serde_json::from_slice(&words.stdout).unwrap();
    assert_eq!(patch["spec"]["restoreFrom"]["path"], path);
}

#[test]
fn row_28_without_an_attempt_an_edit_is_committed_at_once() {
    let mut case = Case::running(spec());
    case.answer(State::Failed);
    case.edit(b());
    case.store(&b());
    let plan = case.plan();
    assert_eq!(plan.applies_set(), Some((2, hash(&b()))));
    assert!(!plan.actions.iter().any(|action| matches!(action, Action::DryRun { .. })));
}
