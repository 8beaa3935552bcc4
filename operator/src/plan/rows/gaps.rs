//! How long a job stood still, as events and its status tell it.

use super::fixture::*;
use crate::observed::Coordinator;
use crate::plan::Plan;
use millrace_crds::streamjob::LastGap;
use millrace_protocol::control::{Gap, State};

const T: u64 = NOW as u64;

fn words(plan: &Plan, reason: &str) -> Option<String> {
    let mut of = plan.events.iter().filter(|event| event.reason == reason);
    let first = of.next().map(|event| event.message.clone());
    assert!(of.next().is_none(), "told twice: {:?}", plan.events);
    first
}

fn resumed(case: &mut Case, gap: Gap) -> (String, LastGap) {
    case.answer(State::Restarting).attempt = 2;
    case.pass();
    let answer = case.answer(State::Running);
    (answer.attempt, answer.last_gap) = (2, Some(gap));
    let plan = case.pass();
    (words(&plan, "Resumed").unwrap(), plan.status.last_gap.unwrap())
}

fn at(of: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> Option<u64> {
    of.map(|time| u64::try_from(time.0.as_millisecond()).unwrap())
}

#[test]
fn row_15_a_restart_says_what_is_read_again_and_then_when_output_went_on() {
    let mut case = Case::running(spec());
    let mut gap = Gap {
        cause: "Restart".to_owned(),
        total_ms: 800,
        stop_ms: 100,
        workers_ms: 500,
        restore_ms: 200,
        began_at_ms: T,
        checkpoint_at_ms: T - 3_000,
        first_checkpoint_at_ms: 0,
        replayed_ms: Some(3_100),
    };
    let (told, status) = resumed(&mut case, gap.clone());
    assert!(
        told.contains("Gap 800 ms = stop 100 + pods 500 (Kubernetes) + restore 200."),
        "{told}"
    );
    assert!(told.contains("read in the 3100 ms before"), "{told}");
    assert_eq!((status.attempt, status.cause.as_deref()), (Some(2), Some("Restart")));
    assert_eq!((at(status.checkpoint_at), at(status.running_at)), (Some(T - 3_000), Some(T + 800)));
    assert_eq!((status.first_checkpoint_at, status.duration), (None, None));
    // One unanswered question makes it no news.
    let heard = case.o.coordinator.clone();
    let why = "timed out".to_owned();
    case.o.coordinator = Coordinator::Unreachable { since: case.now - 60_000, why };
    case.pass();
    case.o.coordinator = heard;
    assert_eq!(words(&case.pass(), "Resumed"), None);
    // The first checkpoint since.
    gap.first_checkpoint_at_ms = T + 4_000;
    case.told().last_gap = Some(gap);
    let plan = case.pass();
    assert_eq!(words(&plan, "Resumed"), None);
    let told = words(&plan, "OutputResumed").unwrap();
    assert!(told.contains("nothing was committed for 7000 ms."), "{told}");
    let status = plan.status.last_gap.unwrap();
    assert_eq!(at(status.first_checkpoint_at), Some(T + 4_000));
    assert_eq!(status.duration.as_deref(), Some("7000ms"));
    assert_eq!(words(&case.pass(), "OutputResumed"), None, "once");
}

#[test]
fn a_coordinator_of_another_process_tells_since_when_nothing_was_complete() {
    let gap = Gap {
        cause: "Takeover".to_owned(),
        total_ms: 700,
        workers_ms: 300,
        restore_ms: 400,
        began_at_ms: T + 2_000,
        checkpoint_at_ms: T,
        first_checkpoint_at_ms: T + 5_500,
        ..Gap::default()
    };
    let mut case = Case::running(spec());
    let (told, status) = resumed(&mut case, gap.clone());
    assert!(told.contains("Gap 2700 ms since the last checkpoint"), "{told}");
    assert!(told.contains("= 2000 until this one claimed the job"), "{told}");
    assert!(told.contains("after the checkpoint of 2023-11-14T22:13:20Z, if anything"), "{told}");
    // Nobody looked in between: both are told.
    assert_eq!(status.duration.as_deref(), Some("5500ms"));
    let clocks = "nothing was committed for 5500 ms, by the clocks of two processes.";
    let mut case = Case::running(spec());
    case.answer(State::Restarting).attempt = 2;
    case.pass();
    let answer = case.answer(State::Running);
    (answer.attempt, answer.last_gap) = (2, Some(gap.clone()));
    let told = words(&case.pass(), "OutputResumed").unwrap();
    assert!(told.contains(clocks), "{told}");
    // A clock that is behind makes no nonsense.
    let behind = Gap { began_at_ms: T - 9_000, first_checkpoint_at_ms: T - 1, ..gap.clone() };
    let (told, status) = resumed(&mut Case::running(spec()), behind);
    assert!(told.contains("Gap 700 ms since another process claimed the job"), "{told}");
    assert_eq!(status.duration.as_deref(), Some("0ms"));
    // Without a checkpoint there is none to begin from.
    let empty = Gap { checkpoint_at_ms: 0, ..gap };
    let (told, status) = resumed(&mut Case::running(spec()), empty);
    assert!(told.contains("begins without a checkpoint"), "{told}");
    assert_eq!((at(status.first_checkpoint_at), status.duration), (Some(T + 5_500), None));
}

#[test]
fn how_long_a_job_was_suspended_is_no_gap_in_its_output() {
    let gap = Gap {
        cause: "Resume".to_owned(),
        total_ms: 700,
        began_at_ms: T,
        checkpoint_at_ms: T - 86_400_000,
        first_checkpoint_at_ms: T + 1_000,
        ..Gap::default()
    };
    let mut case = Case::running(spec());
    case.answer(State::Restarting).attempt = 2;
    case.pass();
    let answer = case.answer(State::Running);
    (answer.attempt, answer.last_gap) = (2, Some(gap));
    let plan = case.pass();
    assert!(words(&plan, "Resumed").unwrap().starts_with("Gap 700 ms = "));
    assert_eq!(words(&plan, "OutputResumed"), None);
}

#[test]
fn of_a_gap_that_was_before_our_time_nothing_is_told() {
    let mut case = Case::running(spec());
    let gap = Gap { cause: "Restart".to_owned(), first_checkpoint_at_ms: T, ..Gap::default() };
    case.told().last_gap = Some(gap);
    let plan = case.pass();
    assert_eq!((words(&plan, "Resumed"), words(&plan, "OutputResumed")), (None, None));
    assert_eq!(plan.status.last_gap, None);
}
