//! A store that fails, loses answers, tears files and lists what is old.

use crate::common::{
    Counts, How, assert_same, multiset, options, run_and_stop, run_until, run_watched, seed,
};
use millrace::connectors::Collected;
use millrace::engine::coordinator::Outcome;
use millrace::engine::job::{JobOptions, WrapStore};
use millrace::engine::store::ObjectStore;
use millrace::engine::store::faulty::{Faults, FaultyStore};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Wraps a job's store; `made` gets the stores, to calm them.
fn faulty(seed: u64, faults: Faults, made: &Arc<Mutex<Vec<Arc<FaultyStore>>>>) -> WrapStore {
    let made = Arc::clone(made);
    Arc::new(move |inner: Arc<dyn ObjectStore>| {
        let store = Arc::new(FaultyStore::new(inner, seed, faults));
        made.lock().unwrap().push(Arc::clone(&store));
        store
    })
}

fn calm_later(made: &Arc<Mutex<Vec<Arc<FaultyStore>>>>, after: Duration) {
    let made = Arc::clone(made);
    std::thread::spawn(move || {
        std::thread::sleep(after);
        made.lock().unwrap().iter().for_each(|store| store.calm_down());
    });
}

/// One job under a kind of fault; stopped and rescaled several times. Answers how many
/// faults it met.
fn survive(rng: &mut fastrand::Rng, faults: Faults) -> u64 {
    let job = Counts { rows: 3_000, keys: 13, rate: 10_000 };
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    let mut injected = 0;
    for round in 0.. {
        assert!(round < 20, "the job never ends");
        let made = Arc::default();
        let mut options: JobOptions = options(dir.path(), rng.u16(1..=3));
        options.checkpoints.tolerated_failures = if rng.bool() { 1000 } else { 0 };
        options.wrap_store = Some(faulty(rng.u64(..), faults, &made));
        let after = Duration::from_millis(rng.u64(20..150));
        let how = if rng.bool() { How::Suspend } else { How::Cancel };
        calm_later(&made, after + Duration::from_millis(300));
        let outcome = if round < 3 {
            run_and_stop(&job.job(&out), options, after, how)
        } else {
            run_watched(&job.job(&out), options)
        };
        injected += made.lock().unwrap().iter().map(|store| store.injected()).sum::<u64>();
        match outcome.unwrap() {
            Outcome::Finished | Outcome::FinishedBefore => break,
            Outcome::Suspended => {}
            other => panic!("round {round} ended with {other:?}"),
        }
    }
    assert_same(&multiset(out.rows()), &job.expected(), "after faults of the store");
    injected
}

/// Each kind of fault alone, often; then all of them.
#[test]
fn output_is_exactly_once_whatever_the_store_does() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let none = Faults::default();
    let kinds = [
        Faults { put_fails: 0.2, ..none },
        Faults { put_vanishes: 0.2, ..none },
        Faults { answer_lost: 0.3, ..none },
        Faults { writer_breaks: 0.3, ..none },
        Faults { stale_list: 0.5, ..none },
        Faults { read_fails: 0.2, delete_fails: 0.5, ..none },
        Faults { slow: 0.5, delay: Duration::from_millis(15), ..none },
        Faults::survivable(0.05),
        Faults::survivable(0.2),
    ];
    let mut injected = 0;
    for faults in kinds {
        println!("{faults:?}");
        injected += survive(&mut rng, faults);
    }
    assert!(injected > 30, "only {injected} faults");
}

/// A file that was torn without an error: the job that would read it says so, and goes
/// no further.
#[test]
fn a_torn_state_file_is_noticed() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let job = Counts { rows: 1_000_000, keys: 13, rate: 20_000 };
    let dir = tempfile::tempdir().unwrap();
    let out = Collected::new();
    let mut first = options(dir.path(), 2);
    let faults = Faults { truncated: 1.0, ..Faults::default() };
    first.wrap_store = Some(faulty(rng.u64(..), faults, &Arc::default()));
    run_until(&job.job(&out), first, "running", 1_000);
    let error = run_watched(&job.job(&out), options(dir.path(), 2)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, millrace::engine::job::JobError::User(_)), "{text}");
    assert!(text.contains("/data/") && text.contains("is damaged"), "{text}");
    assert!(text.contains("start from another checkpoint or savepoint"), "{text}");
}
