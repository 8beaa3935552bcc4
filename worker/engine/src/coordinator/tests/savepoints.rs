//! Scripts of savepoints.

use super::model::config;
use super::scripts::{Job, place};
use crate::coordinator::effect::{BarrierKind, FilesIn};
use crate::coordinator::*;
use crate::store::{DirectoryOpener, DirectoryStore, ObjectStore};
use millrace_protocol::ids::{Attempt, CheckpointId, JobUid};
use millrace_protocol::manifest::*;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_savepoint_is_pinned_exported_once_committed_and_restored_elsewhere() {
    let (place, elsewhere) = (place(), place());
    let target = tempfile::tempdir().unwrap();
    let mut job = place.running(config(1, 0));
    let ask = || Event::RequestSavepoint { id: "s1".into(), target: "t".into() };
    job.tell(ask());
    job.tell(ask());
    let (checkpoint, _, kind) = job.barrier();
    assert_eq!(kind, BarrierKind::Savepoint);
    job.acknowledge(checkpoint, "a");
    assert_eq!(job.head().pins.len(), 1);
    let export = |e: &Effect| match e {
        Effect::ExportSavepoint { manifest, .. } => Some(Arc::clone(manifest)),
        _ => None,
    };
    assert!(job.take(export).is_none(), "its output is not committed yet");
    job.commit();
    let manifest = job.take(export).unwrap();
    let to = DirectoryStore::open(target.path()).unwrap();
    let exported = export::export(job.store.as_ref(), &to, "s1", &manifest).unwrap();
    let again = export::export(job.store.as_ref(), &to, "s1", &manifest).unwrap();
    assert_eq!((exported, exported.at), (again, (job.attempt(), checkpoint)));
    job.tell(Event::SavepointExported { id: "s1".into(), result: Ok(exported) });
    let ended = job.take(|e| match e {
        Effect::SavepointEnded { result, .. } => Some(result.clone()),
        _ => None,
    });
    assert_eq!(ended, Some(Ok("t/s1".into())));
    assert!(job.head().pins.is_empty());
    let on_disk =
        |name: &str| std::fs::metadata(target.path().join("s1").join(name)).unwrap().len();
    let bytes = on_disk("_manifest") + 2 * "state".len() as u64;
    let shown = SavepointStatus {
        state: SavepointState::Complete("t/s1".into()),
        at: Some((job.attempt(), checkpoint)),
        bytes,
    };
    assert_eq!(job.coordinator.status().savepoints["s1"], shown);

    let path = target.path().join("s1");
    let savepoint = crate::coordinator::export::find(&DirectoryOpener, path.to_str().unwrap())
        .unwrap()
        .manifest;
    let root = crate::coordinator::export::target_of(path.to_str().unwrap()).unwrap();
    assert_eq!(Some(root.as_str()), target.path().to_str());
    let to = DirectoryStore::open_to_read(root.as_ref());
    assert!(savepoint.pending.is_empty() && savepoint.kind == ManifestKind::Savepoint);
    assert!(savepoint.files.iter().all(|file| to.size(&file.key).unwrap() == Some(file.len)));

    let found = || FoundManifest { manifest: Arc::clone(&savepoint), sha256: "x".into() };
    let from = RestoreChoice::Path("t/s1".into());
    let mut fork = elsewhere.job(Config { from, fresh_job: JobUid::from("fork"), ..config(2, 0) });
    fork.take(|e| matches!(e, Effect::ReadRestore { .. }).then_some(())).unwrap();
    fork.tell(Event::RestoreRead { path: String::new(), result: Ok(found()) });
    assert_eq!(fork.recover().unwrap().files, FilesIn::Savepoint("t/s1".into()));
    drop(fork);
    // The head remembers where it began until it has a checkpoint of its own.
    let mut fork = elsewhere.job(config(3, 0));
    fork.take(|e| matches!(e, Effect::ReadRestore { .. }).then_some(())).unwrap();
    fork.tell(Event::RestoreRead { path: String::new(), result: Ok(found()) });
    assert_eq!(fork.recover().unwrap().files, FilesIn::Savepoint("t/s1".into()));
    fork.later(1);
    assert_eq!(fork.barrier(), (CheckpointId(1), None, BarrierKind::Periodic));
}

#[test]
fn a_savepoint_that_is_there_is_not_taken_again() {
    let place = place();
    let mut job = place.running(config(1, 0));
    let ask = || Event::RequestSavepoint { id: "s1".into(), target: "/backup".into() };
    let sought = |e: &Effect| matches!(e, Effect::FindSavepoint { .. }).then_some(());
    job.tell(ask());
    job.tell(ask());
    assert!(job.take(sought).is_some() && job.take(sought).is_none());
    // Nothing is begun before that is known, and no end comes before.
    job.tell(Event::RequestStop { mode: StopMode::Suspend });
    let stop = job.barrier();
    assert_eq!(stop.2, BarrierKind::Stop(StopMode::Suspend));
    job.acknowledge(stop.0, "a");
    job.commit();
    assert_eq!((job.outcome(), job.head().pins.len()), (None, 0));
    let there = export::Exported { at: (Attempt(1), CheckpointId(9)), bytes: 7 };
    job.tell(Event::SavepointFound { id: "s1".into(), result: Ok(Some(there)) });
    let status = &job.coordinator.status().savepoints["s1"];
    let complete = SavepointState::Complete("/backup/s1".into());
    assert_eq!(*status, SavepointStatus { state: complete, at: Some(there.at), bytes: 7 });
    assert_eq!(job.outcome(), Some(Outcome::Suspended));
}

#[test]
fn a_savepoint_is_looked_for_once_it_is_known_whose_the_home_is() {
    let place = place();
    place.stopped(config(1, 0));
    let ask = Event::RequestSavepoint { id: "s1".into(), target: "/backup".into() };
    let sought = |e: &Effect| matches!(e, Effect::FindSavepoint { .. }).then_some(());
    let mut coordinator = Coordinator::new(config(2, 0));
    assert!(!coordinator.step(ask.clone(), Duration::ZERO).iter().any(|e| sought(e).is_some()));
    let mut job = place.asked(config(2, 0), [ask.clone()]);
    assert!(job.take(sought).is_some());
    // Where nothing runs and nothing was claimed, there is nothing to export.
    drop(job);
    let rests = Config { stays: true, desired: Desired::Suspended, ..config(3, 0) };
    let other = self::place();
    let job = other.asked(rests, [ask]);
    let state = job.coordinator.status().savepoints["s1"].state.clone();
    assert!(matches!(state, SavepointState::Failed(_)), "{state:?}");
}

#[test]
fn savepoints_that_are_no_longer_named_are_forgotten_unless_begun() {
    let place = place();
    let mut job = place.running(config(1, 0));
    let want = |ids: &[&str]| Event::WantSavepoints {
        wanted: ids.iter().map(|id| (id.to_string(), "t".to_owned())).collect(),
    };
    let shown = |job: &Job| job.coordinator.status().savepoints.into_keys().collect::<Vec<_>>();
    job.tell(want(&["s1", "s2", "s3"]));
    job.tell(Event::RequestSavepoint { id: "person".into(), target: "t".into() });
    let barrier = job.barrier();
    assert_eq!(barrier.2, BarrierKind::Savepoint);
    // The first is begun, and the last is not of the list.
    job.tell(want(&["s3"]));
    assert_eq!(shown(&job), ["person", "s1", "s3"]);
    job.tell(want(&["s3", "person"]));
    job.tell(want(&[]));
    assert_eq!(shown(&job), ["person", "s1"]);
    job.acknowledge(barrier.0, "a");
    job.commit();
    job.exported("s1");
    let barrier = job.barrier();
    job.acknowledge(barrier.0, "b");
    job.commit();
    job.exported("person");
    job.tell(want(&[]));
    assert_eq!(shown(&job), ["person", "s1"]);
    job.tell(Event::RequestCheckpoint);
    assert_eq!(job.barrier().2, BarrierKind::Periodic);
    // One that is looked for is not begun.
    let target = "/backup".to_owned();
    job.tell(Event::WantSavepoints { wanted: vec![("s4".into(), target)] });
    job.tell(want(&[]));
    job.tell(Event::SavepointFound { id: "s4".into(), result: Ok(None) });
    assert_eq!(shown(&job), ["person", "s1"]);
}

#[test]
fn an_id_that_is_another_jobs_is_refused() {
    let place = place();
    let target = tempfile::tempdir().unwrap();
    let to = DirectoryStore::open(target.path()).unwrap();
    let mut job = place.running(config(1, 0));
    job.later(1);
    let first = job.barrier().0;
    job.acknowledge(first, "");
    let key = job.head().latest.clone().unwrap().manifest;
    let bytes = job.store.get(&key).unwrap().unwrap();
    let own = Manifest::decode(key.as_str(), &bytes).unwrap();
    let theirs = Manifest { job: JobUid::from("other"), ..own.clone() };
    export::export(job.store.as_ref(), &to, "nightly", &theirs).unwrap();
    let why = export::export(job.store.as_ref(), &to, "nightly", &own).unwrap_err().to_string();
    assert!(why.contains("nightly") && why.contains("job other's"), "{why}");
    assert!(why.contains("choose another id"), "{why}");
    let looked = export::exported(&to, "nightly", &own.job).unwrap_err().to_string();
    assert_eq!(looked, why);
    assert!(export::exported(&to, "nightly", &theirs.job).unwrap().is_some());
    assert_eq!(export::exported(&to, "weekly", &own.job).unwrap(), None);
    // Whoever is told so does not try.
    job.tell(Event::RequestSavepoint { id: "nightly".into(), target: "/backup".into() });
    job.tell(Event::SavepointFound { id: "nightly".into(), result: Err(why.clone()) });
    let status = job.coordinator.status();
    assert_eq!(status.savepoints["nightly"].state, SavepointState::Failed(why));
}

#[test]
fn of_savepoints_that_ended_the_newest_are_shown() {
    let place = place();
    let mut job = place.running(config(1, 0));
    for n in 0..105 {
        let id = format!("s{n:03}");
        job.tell(Event::RequestSavepoint { id: id.clone(), target: "t".into() });
        // The first may be one of the clock's.
        while job.take(|e| matches!(e, Effect::ExportSavepoint { .. }).then_some(())).is_none() {
            let checkpoint = job.barrier().0;
            job.acknowledge(checkpoint, "a");
            job.commit();
        }
        job.exported(&id);
        job.later(1);
    }
    job.tell(Event::RequestSavepoint { id: "last".into(), target: "t".into() });
    let shown: Vec<_> = job.coordinator.status().savepoints.into_keys().collect();
    assert_eq!((shown.len(), shown[0].as_str()), (101, "last"));
    assert_eq!((shown[1].as_str(), shown[100].as_str()), ("s005", "s104"));
}
