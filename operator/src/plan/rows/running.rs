//! Rows 29 to 36 and 40 to 42: rescaling, suspending, disruption.

use super::fixture::*;
use crate::observed::*;
use crate::plan::Action;
use millrace_crds::names;
use millrace_crds::revision::hash;
use millrace_protocol::control::{self, State};
use serde_json::json;

fn workers(n: i32) -> serde_json::Value {
    with(json!({ "workers": n }))
}

#[test]
fn row_29_more_workers_come_first_and_then_the_push() {
    let mut case = Case::running(spec());
    case.edit(workers(4));
    case.told().accepted_generation = 1;
    let plan = case.pass();
    assert_eq!(plan.applies_set(), Some((4, hash(&spec()))));
    plan.ready("False", "WaitingForWorkers").state("Rescaling");
    assert!(!plan.proposes(), "not before they have registered");
    case.o.set.as_mut().unwrap().replicas = 4;
    for ordinal in 2..4 {
        case.o.pods.push(pod(ordinal, &hash(&spec())));
        let worker = control::Worker { ordinal, connected: true, ..Default::default() };
        case.told().workers.push(worker);
    }
    let plan = case.pass();
    assert!(plan.proposes() && plan.applies("ConfigMap"));
    case.answer(State::Running);
    case.commit(&workers(4));
    case.plan().ready("True", "Running");
}

#[test]
fn row_30_a_job_runs_on_when_new_pods_cannot_be_had() {
    let mut case = Case::running(spec());
    case.edit(workers(3));
    case.told().accepted_generation = 1;
    case.o.set.as_mut().unwrap().replicas = 3;
    let mut new = pod(2, &hash(&spec()));
    (new.unschedulable, new.container) = (Some("no room".to_owned()), Container::Unknown);
    case.o.pods.push(new);
    case.told().workers_wanted = 2;
    let plan = case.plan();
    plan.ready("False", "PodsPending");
    assert_eq!(plan.condition("Available").unwrap().0, "True");
    assert!(!plan.proposes());
}

#[test]
fn row_31_fewer_workers_go_once_the_attempt_runs_below_the_cut() {
    let mut case = Case::running(workers(4));
    case.edit(workers(2));
    case.told().accepted_generation = 1;
    case.told().workers_wanted = 4;
    let plan = case.pass();
    assert!(plan.proposes() && plan.applies_set().is_none());
    let told = case.told();
    (told.accepted_generation, told.workers_wanted, told.parallelism) = (2, 2, 2);
    assert!(case.plan().applies_set().is_none(), "slots above are still in use");
    for worker in &mut case.told().workers[2..] {
        worker.slots_in_use.clear();
    }
    assert_eq!(case.plan().applies_set().unwrap().0, 2);
}

#[test]
fn row_32_replicas_cover_what_is_used_and_what_is_wanted() {
    let mut case = Case::running(workers(6));
    case.edit(workers(3));
    let told = case.told();
    (told.accepted_generation, told.workers_wanted, told.parallelism) = (2, 3, 3);
    for worker in &mut told.workers[5..] {
        worker.slots_in_use.clear();
    }
    assert_eq!(case.plan().applies_set().unwrap().0, 5);
}

#[test]
fn row_33_workers_and_revision_change_in_one_apply() {
    let mut case = Case::running(spec());
    let both = with(json!({"workers": 5, "image": "acme/orders:2"}));
    case.edit(both.clone());
    case.store(&both);
    assert!(case.plan().applies_set().is_none() && !case.plan().proposes());
    case.checked(0, "");
    case.answer(State::Held);
    assert_eq!(case.plan().applies_set(), Some((5, hash(&both))));
}

#[test]
fn a_newer_checkpoint_alone_is_shown_every_five_minutes_or_not_at_all() {
    let mut case = Case::running(spec());
    case.settle();
    let shown = |case: &mut Case, refreshes: bool, later: i64| {
        case.o.us.refreshes = refreshes;
        let last = case.told().last_checkpoint.as_mut().unwrap();
        (last.id, last.completed_at_ms) = (8, NOW - 1_000 + later);
        case.plan().status.last_checkpoint.unwrap().id == 8
    };
    assert!(!shown(&mut case, true, 299_000));
    assert!(!shown(&mut case, false, 600_000));
    assert!(shown(&mut case, true, 300_000));
}

fn suspended() -> serde_json::Value {
    with(json!({"desiredState": "Suspended"}))
}

#[test]
fn row_34_suspend_waits_for_the_end_record() {
    let mut case = Case::running(spec());
    case.edit(suspended());
    case.told().accepted_generation = 1;
    let plan = case.pass();
    plan.state("Suspending").ready("False", "Suspending");
    assert!(plan.proposes() && plan.applies_set().is_none());
    case.answer(State::Suspended);
    assert_eq!(case.pass().applies_set().unwrap().0, 0);
    case.o.set.as_mut().unwrap().replicas = 0;
    case.no_pods();
    let plan = case.pass();
    plan.state("Suspended").ready("True", "Suspended");
    assert_eq!(plan.condition("Available").unwrap().0, "False");
}

#[test]
fn row_35_resume_and_edits_while_suspended() {
    let mut case = Case::running(spec());
    case.edit(suspended());
    case.o.set.as_mut().unwrap().replicas = 0;
    case.no_pods();
    case.pass();
    let mut other = suspended();
    other["image"] = json!("acme/orders:2");
    case.edit(other.clone());
    case.store(&other);
    let plan = case.plan();
    assert!(plan.actions.iter().any(|a| matches!(a, Action::DryRun { .. })), "checked first");
    assert!(plan.applies_set().is_none());
    case.checked(0, "");
    assert_eq!(case.plan().applies_set(), Some((0, hash(&other))), "and stays at 0");
    case.no_pods();
    case.edit(spec());
    let plan = case.plan();
    assert_eq!(plan.applies_set(), Some((2, hash(&spec()))));
    plan.state("Starting");
}

#[test]
fn row_35_an_upgrade_of_a_suspended_job_has_its_time_from_the_resume_on() {
    let mut case = Case::running(spec());
    let other = |state: &str| with(json!({"image": "acme/orders:2", "desiredState": state}));
    case.edit(other("Suspended"));
    // Committed while it was suspended.
    case.commit(&other("Suspended"));
    case.o.set.as_mut().unwrap().replicas = 0;
    case.no_pods();
    case.settle();
    // The next day.
    case.now += 86_400_000;
    case.edit(other("Running"));
    let plan = case.pass();
    let applied = plan.actions.iter().find_map(|action| match action {
        Action::Apply { object, .. } if object["kind"] == "StatefulSet" => Some(object),
        _ => None,
    });
    let at = applied.unwrap()["metadata"]["annotations"][names::ANNOTATION_COMMITTED_AT].clone();
    assert_eq!(at, json!(case.now.to_string()));
    let set = case.o.set.as_mut().unwrap();
    (set.replicas, set.commit.at_ms) = (2, case.now);
    case.now += 1_000;
    let plan = case.pass();
    assert!(plan.applies_set().is_none(), "{:#?}", plan.actions);
    assert_eq!(plan.status.revision.as_ref().unwrap().failed, "");
    plan.state("Restarting");
    case.now += 600_000;
    assert_eq!(case.plan().status.revision.unwrap().failed, hash(&other("Running")));
}

#[test]
fn row_36_a_finished_job_runs_again_only_by_a_nonce() {
    let mut case = Case::running(spec());
    case.answer(State::Finished);
    let plan = case.pass();
    assert_eq!(plan.applies_set().unwrap().0, 0);
    plan.state("Finished").ready("True", "Finished");
    assert_eq!(plan.condition("Complete").unwrap().0, "True");
    case.o.set.as_mut().unwrap().replicas = 0;
    case.no_pods();
    assert!(case.pass().applies_set().is_none());
    case.edit(workers(3));
    assert!(case.pass().applies_set().is_none(), "an edit does not start it");
    let again = with(json!({"restartNonce": 1}));
    case.edit(again.clone());
    case.store(&again);
    assert_eq!(case.plan().applies_set(), Some((2, hash(&again))));
}

#[test]
fn row_40_an_evicted_pod_is_told() {
    let mut case = Case::running(spec());
    case.answer(State::Restarting);
    let pod = case.pod(1);
    (pod.failed, pod.container) = (Some("Evicted".to_owned()), Container::Unknown);
    let plan = case.plan();
    plan.state("Restarting");
    assert!(plan.event("PodEvicted") && plan.deletes_pods() == 0);
}

#[test]
fn row_41_a_stuck_pod_on_a_healthy_node_is_never_forced() {
    let mut case = Case::running(spec());
    case.answer(State::Restarting);
    case.o.nodes.insert("n1".to_owned(), Node { ready: true, since: 0, out_of_service: false });
    case.pod(1).deleting = Some((NOW - 10_000_000, 60_000));
    case.o.memory.worker_lost.insert(1, NOW - 10_000_000);
    let plan = case.plan();
    assert!(plan.event("PodStuck"));
    assert_eq!(plan.deletes_pods(), 0);
}

#[test]
fn row_42_a_pod_on_a_lost_node_is_freed_once_both_are_lost_for_long() {
    let lost = |worker_for: Option<Millis>, node: Option<Node>| {
        let mut case = Case::running(spec());
        case.answer(State::Restarting);
        if let Some(since) = worker_for {
            case.o.memory.worker_lost.insert(1, NOW - since);
        }
        case.o.nodes.extend(node.map(|node| ("n1".to_owned(), node)));
        let plan = case.plan();
        let forced = |a: &Action| matches!(a, Action::DeletePod { force: true, .. });
        assert_eq!(plan.actions.iter().any(forced), plan.event("FreedLostPod"));
        plan.deletes_pods()
    };
    let node = |ready, ago, out| Some(Node { ready, since: NOW - ago, out_of_service: out });
    assert_eq!(lost(Some(61_000), node(false, 61_000, false)), 1);
    assert_eq!(lost(Some(61_000), node(true, 61_000, true)), 1);
    assert_eq!(lost(Some(61_000), node(true, 61_000, false)), 0);
    assert_eq!(lost(Some(30_000), node(false, 61_000, false)), 0);
    assert_eq!(lost(Some(61_000), node(false, 30_000, false)), 0);
    assert_eq!(lost(None, node(false, 61_000, false)), 0);
    // Without permission to look at nodes.
    let mut case = Case::running(spec());
    case.answer(State::Restarting);
    case.o.memory.worker_lost.insert(1, NOW - 400_000);
    case.pod(1).deleting = Some((NOW - 361_000, 60_000));
    assert_eq!(case.plan().deletes_pods(), 1);
    case.pod(1).deleting = Some((NOW - 300_000, 60_000));
    assert_eq!(case.plan().deletes_pods(), 0);
}
