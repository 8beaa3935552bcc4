//! Every reason of the table is set by something, with its remedy in the message.

use super::fixture::*;
use super::savepoints::savepoint;
use super::upgrading::{b, checked, committed, edited};
use crate::observed::*;
use crate::plan::{Action, Plan, orphan};
use crate::reasons::{Reason, TABLE};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use millrace_crds::names;
use millrace_crds::revision::hash;
use millrace_crds::savepoint::SavepointStatus;
use millrace_crds::streamjob::DeletionPolicy;
use millrace_protocol::control::{self, Gap, State};
use serde_json::json;

/// A reason that was told, and in which words.
type Told = (String, String);

fn conditions(list: &[Condition]) -> impl Iterator<Item = Told> + '_ {
    list.iter().map(|condition| (condition.reason.clone(), condition.message.clone()))
}

fn of(plan: &Plan) -> Vec<Told> {
    let events = plan.events.iter().map(|e| (e.reason.to_owned(), e.message.clone()));
    let savepoints = plan.savepoints.iter().flat_map(|(_, of)| conditions(&of.conditions));
    conditions(&plan.status.conditions).chain(events).chain(savepoints).collect()
}

/// What a job says that runs, but for this.
fn but(change: impl FnOnce(&mut Case)) -> Vec<Told> {
    let mut case = Case::running(spec());
    change(&mut case);
    of(&case.plan())
}

fn answers(state: State, reason: &str) -> Vec<Told> {
    but(|case| {
        let told = case.answer(state);
        (told.reason, told.message) = (reason.to_owned(), "in its words".to_owned());
    })
}

fn taken(owner: Ownership) -> Vec<Told> {
    but(|case| {
        let key = (Kind::Service, names::main("orders"));
        case.o.children.get_mut(&key).unwrap().owner = owner;
    })
}

/// Pods of a job that does not run.
fn pods(change: impl Fn(&mut Pod)) -> Vec<Told> {
    but(|case| {
        case.o.coordinator = Coordinator::Absent;
        case.o.pods.iter_mut().for_each(change);
    })
}

fn saved(change: impl FnOnce(&mut Case, &mut SavepointObject)) -> Vec<Told> {
    but(|case| {
        let mut object = savepoint();
        change(case, &mut object);
        case.o.savepoints.push(object);
    })
}

fn alone(change: impl FnOnce(&mut SavepointObject), now: Millis) -> Vec<Told> {
    let mut object = savepoint();
    change(&mut object);
    let plan = orphan(&object, now);
    let events = plan.event.iter().map(|e| (e.reason.to_owned(), e.message.clone()));
    conditions(&plan.status.conditions).chain(events).collect()
}

/// A savepoint that was registered, and that a job is to start from.
fn registered(container: Option<Container>) -> Vec<Told> {
    let from = with(json!({"restoreFrom": {"savepointRef": {"name": "mon"}, "nonce": 1}}));
    let mut case = Case::new(from.clone());
    let mut object = savepoint();
    object.spec = serde_json::from_value(json!({"existing": {"path": "s3://b/x"}})).unwrap();
    case.o.savepoints.push(object);
    if let Some(container) = container {
        let mut probe = pod(0, &hash(&from));
        (probe.name, probe.component, probe.ordinal, probe.container) = (
            "orders-millrace-store-probe-sp1".to_owned(),
            names::STORE.to_owned(),
            None,
            container,
        );
        case.o.pods.push(probe);
    }
    of(&case.plan())
}

fn resumed(gap: Gap) -> Vec<Told> {
    but(|case| {
        case.answer(State::Restarting).attempt = 2;
        case.pass();
        let answer = case.answer(State::Running);
        (answer.attempt, answer.last_gap) = (2, Some(gap));
    })
}

fn rescaled(there: u32) -> Vec<Told> {
    but(|case| {
        let more = with(json!({"workers": 3}));
        case.edit(more);
        let hash = hash(&spec());
        (2..there).for_each(|ordinal| case.o.pods.push(pod(ordinal, &hash)));
        case.o.set.as_mut().unwrap().replicas = 3;
        let told = case.answer(State::Running);
        (told.accepted_generation, told.workers_wanted, told.parallelism) = (1, 2, 2);
    })
}

fn suspends(change: impl FnOnce(&mut Case)) -> Vec<Told> {
    but(|case| {
        case.edit(with(json!({"desiredState": "Suspended"})));
        change(case);
    })
}

/// Something that a plan sees, and what it then tells.
fn told(reason: Reason) -> Vec<Told> {
    let words = |code: &str| json!({"code": code, "message": "in its words"}).to_string();
    let ends = |code: &str| pods(|pod| pod.container = ended(2, "Error", &words(code)));
    match reason {
        Reason::Running => but(|_| {}),
        Reason::Starting => of(&Case::new(spec()).plan()),
        Reason::PodsPending => pods(|pod| pod.unschedulable = Some("no room".to_owned())),
        Reason::PodsForbidden => but(|case| {
            case.no_pods();
            case.o.memory.lack = Some(Lack { since: NOW, before: false });
            case.o.forbidden = Some(Forbidden { why: "exceeded quota".to_owned(), at: NOW });
        }),
        Reason::ImagePullFailed => pods(|pod| pod.container = waiting("ErrImagePull")),
        Reason::InvalidProgram => ends("InvalidProgram"),
        Reason::StorageUnusable => ends("StorageUnusable"),
        Reason::InvalidSpec => {
            let mut case = Case::new(spec());
            case.o.memory.dry_run = Some((hash(&spec()), Err("no such field".to_owned())));
            of(&case.plan())
        }
        Reason::NameConflict => taken(Ownership::Stranger),
        Reason::WaitingForOldChildren => taken(Ownership::Earlier),
        Reason::EarlierStateFound => answers(State::Refused, "EarlierStateFound"),
        Reason::StateMissing => answers(State::Refused, "StateMissing"),
        Reason::TakenOver => answers(State::Superseded, ""),
        Reason::CoordinatorUnreachable => but(|case| {
            let why = "timed out".to_owned();
            case.o.coordinator = Coordinator::Unreachable { since: NOW - 60_000, why };
        }),
        Reason::Restarting | Reason::NotRunning => answers(State::Restarting, ""),
        Reason::RestartsExhausted => answers(State::Failed, ""),
        Reason::CheckingUpgrade => of(&edited().plan()),
        Reason::CheckPassed => {
            let mut case = checked();
            case.o.job.check_only = true;
            of(&case.plan())
        }
        Reason::CheckFailed => {
            let mut case = checked();
            case.checked(2, "no such operator");
            of(&case.plan())
        }
        Reason::StoppingWithSavepoint | Reason::UpgradePlanned => of(&checked().plan()),
        Reason::StoppingPods | Reason::UsedCheckpoint => {
            let mut case = checked();
            case.pass();
            case.now += 601_000;
            of(&case.plan())
        }
        Reason::ReplacingPods => {
            let mut case = checked();
            case.answer(State::Held);
            of(&case.plan())
        }
        Reason::UpgradeCancelled => {
            let mut case = checked();
            case.pass();
            case.answer(State::Held);
            case.edit(spec());
            of(&case.plan())
        }
        Reason::Upgraded => {
            let mut case = committed();
            case.answer(State::Running).last_checkpoint.as_mut().unwrap().id = 8;
            of(&case.plan())
        }
        Reason::RolledBack | Reason::UpgradeFailed => {
            let mut case = committed();
            case.o.coordinator = Coordinator::Absent;
            if reason == Reason::UpgradeFailed {
                let mut kept = b();
                kept["upgrade"] = json!({"onFailure": "Keep"});
                case.o.job.spec = serde_json::from_value(kept).unwrap();
            }
            case.o.pods.iter_mut().for_each(|pod| pod.container = waiting("CrashLoopBackOff"));
            case.now += 601_000;
            of(&case.plan())
        }
        Reason::WaitingForWorkers => rescaled(2),
        Reason::Rescaling => rescaled(3),
        Reason::Applying => but(|case| {
            case.edit(with(json!({"checkpoint": {"interval": "5s"}})));
        }),
        Reason::Suspending => suspends(|_| {}),
        Reason::Suspended => suspends(|case| {
            case.o.set.as_mut().unwrap().replicas = 0;
            case.no_pods();
        }),
        Reason::Finished => answers(State::Finished, ""),
        Reason::PodEvicted => pods(|pod| pod.failed = Some("Evicted".to_owned())),
        Reason::PodStuck => but(|case| {
            case.o
                .nodes
                .insert("n1".to_owned(), Node { ready: true, since: 0, out_of_service: false });
            case.pod(1).deleting = Some((NOW - 10_000_000, 60_000));
        }),
        Reason::FreedLostPod => but(|case| {
            case.o
                .nodes
                .insert("n1".to_owned(), Node { ready: false, since: 0, out_of_service: false });
            case.o.memory.worker_lost.insert(1, 0);
        }),
        Reason::FreedCrashedPod => pods(|pod| {
            pod.container = waiting("CrashLoopBackOff");
            pod.last_end = Some(end(137, "OOMKilled", ""));
        }),
        Reason::Deleting => but(|case| case.o.job.deleting = Some(NOW)),
        Reason::DataLeftBehind => alone(
            |object| {
                object.spec.deletion_policy = DeletionPolicy::Delete;
                (object.deleting, object.finalizer) = (Some(NOW), true);
                let complete = json!({"path": "s3://b/x", "completedAt": "2023-11-14T22:13:20Z"});
                object.status = serde_json::from_value(complete).unwrap();
            },
            NOW,
        ),
        Reason::OperatedBy => {
            but(|case| case.o.job.status.controller = Some("other/millrace".to_owned()))
        }
        Reason::GenerationReset => but(|case| {
            case.o.job.quorum = true;
            case.told().accepted_generation = 40;
        }),
        Reason::SavepointNotReady => {
            let from = json!({"restoreFrom": {"savepointRef": {"name": "nowhere"}}});
            of(&Case::new(with(from)).plan())
        }
        Reason::WaitingForJob => saved(|case, _| {
            case.answer(State::Restarting);
        }),
        Reason::Taking => saved(|_, _| {}),
        Reason::Completed => saved(|case, object| {
            case.told().savepoints.push(control::Savepoint {
                id: object.uid.clone(),
                state: control::SavepointState::Complete.into(),
                ..Default::default()
            });
        }),
        Reason::SavepointFailed => saved(|case, object| {
            case.told().savepoints.push(control::Savepoint {
                id: object.uid.clone(),
                state: control::SavepointState::SavepointFailed.into(),
                message: "no space".to_owned(),
                ..Default::default()
            });
        }),
        Reason::Adopted => saved(|_, object| object.annotated_path = Some("s3://b/x".to_owned())),
        Reason::TimedOut => alone(|_| {}, NOW + 3_700_000),
        Reason::JobNotFound => alone(|_| {}, NOW),
        Reason::Registered => alone(
            |object| {
                let spec = json!({"existing": {"path": "s3://b/x"}});
                object.spec = serde_json::from_value(spec).unwrap();
            },
            NOW,
        ),
        Reason::Probing => registered(None),
        Reason::SavepointUnreadable => {
            registered(Some(ended(2, "Error", &words("InvalidProgram"))))
        }
        Reason::CheckpointsComplete => but(|_| {}),
        Reason::CheckpointsFail => but(|case| case.told().failed_checkpoints = 2),
        Reason::NoCheckpointYet => but(|case| {
            case.o.job.status.conditions.clear();
            case.told().last_checkpoint = None;
        }),
        Reason::Resumed => resumed(Gap { cause: "Restart".to_owned(), ..Gap::default() }),
        Reason::OutputResumed => resumed(Gap {
            cause: "Restart".to_owned(),
            checkpoint_at_ms: 1,
            first_checkpoint_at_ms: 2,
            ..Gap::default()
        }),
    }
}

#[test]
fn every_reason_is_told_by_something_and_says_what_to_do() {
    let mut wrong = Vec::new();
    for entry in TABLE {
        let all = told(Reason::parse(entry.reason).unwrap());
        let of_it: Vec<_> = all.iter().filter(|(reason, _)| reason == entry.reason).collect();
        if !of_it.iter().any(|(_, message)| message.contains(entry.remedy)) {
            wrong.push(format!("{}: {of_it:?} of {all:#?}", entry.reason));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_registered_savepoint_is_read_before_anything_else_is_made() {
    let from = with(json!({"restoreFrom": {"savepointRef": {"name": "mon"}, "nonce": 1}}));
    let mut case = Case::new(from.clone());
    let mut object = savepoint();
    object.spec = serde_json::from_value(json!({"existing": {"path": "s3://b/x"}})).unwrap();
    case.o.savepoints.push(object);
    let plan = case.plan();
    plan.ready("False", "SavepointNotReady");
    let revision = format!("ConfigMap/{}", names::revision("orders", &hash(&from)));
    let made = [
        revision.as_str(),
        "ServiceAccount/orders-millrace",
        "Pod/orders-millrace-store-probe-sp1",
    ];
    assert_eq!(plan.creates(), made);
    // Once the wish was obeyed nobody asks any more.
    case.o.job.status.restore_nonce = Some(1);
    let plan = case.plan();
    assert!(plan.savepoints.is_empty() && !plan.creates().iter().any(|c| c.starts_with("Pod/")));
    case.o.job.status.restore_nonce = None;
    // One that was read, also by an earlier version that did not look.
    let complete = json!({"path": "s3://b/x", "completedAt": "2023-11-14T22:13:20Z"});
    case.o.savepoints[0].status = serde_json::from_value::<SavepointStatus>(complete).unwrap();
    let plan = case.plan();
    plan.ready("False", "Starting");
    let live = plan.actions.iter().find_map(|action| match action {
        Action::Create(object) => object["data"]["live.json"].as_str(),
        _ => None,
    });
    assert!(live.unwrap().contains("s3://b/x"), "{live:?}");
}
