//! User functions that panic or fail, and what the restart policies make of it.

use crate::common::{Counts, assert_same, multiset, options, run_watched, seed};
use millrace::connectors::Collected;
use millrace::engine::coordinator::{Outcome, RestartPolicy};
use millrace::engine::job::{Handle, JobError};
use millrace::prelude::Res;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const DELAY: Duration = Duration::from_millis(10);

/// Fails at rows that `is_bad`, as often as `left` says, over all attempts.
fn poison(
    left: &Arc<AtomicU32>,
    panics: bool,
    is_bad: impl Fn(u64) -> bool + Clone + Send + 'static,
) -> impl Fn(u64) -> Res<u64> + Clone + Send + 'static {
    let left = Arc::clone(left);
    move |row| {
        let take = |n: u32| n.checked_sub(1);
        if is_bad(row) && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            assert!(!panics, "row {row} is poison");
            return Err(format!("row {row} is poison").into());
        }
        Ok(row)
    }
}

const JOB: Counts = Counts { rows: 3_000, keys: 13, rate: 20_000 };

fn check_failures(handle: &Handle, panics: bool) {
    let failures = handle.status().failures;
    assert!(!failures.is_empty());
    for failure in &failures {
        assert!(failure.message.contains("rows"), "no operator in {failure:?}");
        assert!(failure.message.contains("subtask"), "no subtask in {failure:?}");
        assert!(failure.message.contains("is poison"), "no cause in {failure:?}");
        assert_eq!(failure.message.contains("panicked"), panics, "{failure:?}");
    }
}

/// Under each policy, several failures at random rows: the output is the same.
#[test]
fn a_failing_function_restarts_the_job_and_its_output_is_exactly_once() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let times = 4;
    let policies = [
        RestartPolicy::FixedDelay { attempts: times, delay: DELAY },
        RestartPolicy::ExponentialBackoff {
            initial: Duration::from_millis(2),
            max: 4 * DELAY,
            multiplier: 2.0,
            jitter: 0.5,
            reset_after: Duration::from_secs(60),
            limit: None,
        },
        RestartPolicy::FailureRate {
            failures: times,
            interval: Duration::from_secs(60),
            delay: DELAY,
        },
    ];
    for (policy, panics) in policies.into_iter().zip([false, true, false]) {
        let dir = tempfile::tempdir().unwrap();
        let (out, left) = (Collected::new(), Arc::new(AtomicU32::new(times)));
        let (m, r) = (rng.u64(50..400), rng.u64(0..50));
        let handle = JOB.build(out.sink(), poison(&left, panics, move |row| row % m == r));
        let mut options = options(dir.path(), rng.u16(1..=3));
        options.restart = policy.clone();
        assert_eq!(run_watched(&handle, options).unwrap(), Outcome::Finished, "{policy:?}");
        assert_eq!(left.load(Ordering::SeqCst), 0);
        // Two subtasks that fail at once are one failure of the attempt.
        assert!((1..=u64::from(times)).contains(&handle.status().restarts));
        check_failures(&handle, panics);
        assert_same(&multiset(out.rows()), &JOB.expected(), &format!("{policy:?}"));
    }
}

/// When patience is at its end the job fails, naming operator, subtask and cause; mended,
/// it goes on from there.
#[test]
fn a_job_out_of_patience_fails_and_can_be_taken_up_again() {
    let policies = [
        (RestartPolicy::None, 1),
        (RestartPolicy::FixedDelay { attempts: 2, delay: DELAY }, 3),
        (
            RestartPolicy::FailureRate {
                failures: 2,
                interval: Duration::from_secs(60),
                delay: DELAY,
            },
            3,
        ),
    ];
    for (policy, failures) in policies {
        let dir = tempfile::tempdir().unwrap();
        let (out, left) = (Collected::new(), Arc::new(AtomicU32::new(u32::MAX)));
        let handle = JOB.build(out.sink(), poison(&left, true, |row| row == 1700));
        let mut first = options(dir.path(), 2);
        first.restart = policy.clone();
        let begun = Instant::now();
        let error = run_watched(&handle, first).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, JobError::Failed(_)), "{text}");
        assert!(text.contains("rows") && text.contains("row 1700 is poison"), "{text}");
        assert!(begun.elapsed() >= DELAY * (failures - 1));
        assert_eq!(u32::MAX - left.load(Ordering::SeqCst), failures, "{policy:?}");
        check_failures(&handle, true);
        let mended = run_watched(&JOB.job(&out), options(dir.path(), 3)).unwrap();
        assert_eq!(mended, Outcome::Finished);
        assert_same(&multiset(out.rows()), &JOB.expected(), &format!("{policy:?}"));
    }
}
