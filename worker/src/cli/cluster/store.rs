//! `store`: work on the storage of a job that no process runs, done by a short pod with the
//! job's image and credentials.

use crate::cli::cluster::last_words;
use crate::cli::cluster::worker::read_revision;
use crate::cli::place::Place;
use crate::cli::savepoint::export_latest;
use crate::cli::trouble::Trouble;
use clap::{Args, Subcommand};
use millrace_engine::api::env::Env;
use millrace_engine::coordinator::export::find;
use millrace_engine::coordinator::{Desired, Existing, Outcome, Unclaimed};
use millrace_engine::data::Res;
use millrace_engine::job::{Handle, JobOptions, Lead, lead};
use millrace_engine::store::Access;
use millrace_engine::store::opener::{join, split};
use millrace_protocol::config::Revision;
use millrace_protocol::head::Owner;
use millrace_protocol::manifest::Manifest;
use millrace_protocol::objects::{self, ObjectKey};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// What is done.
#[derive(Args, Clone)]
pub struct StoreOptions {
    #[command(subcommand)]
    work: Work,
    /// The job's configuration: a revision, JSON
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand, Clone)]
enum Work {
    /// Delete all data of the job but its tombstone
    Delete,
    /// Make the newest checkpoint a savepoint TARGET/ID
    Savepoint {
        /// Its name
        id: String,
        /// The place it is made in
        target: String,
    },
    /// Delete the files that a savepoint's own manifest lists, and the manifest
    DeleteSavepoint {
        /// Where it is
        path: String,
    },
    /// Say what a savepoint is
    ProbeSavepoint {
        /// Where it is
        path: String,
    },
}

/// The revision of the job.
pub fn revision(options: &StoreOptions) -> Result<Revision, Trouble> {
    read_revision(options.config.as_ref().ok_or_else(|| Trouble::user("give --config"))?)
}

/// Does it; answers what was done.
pub fn store(
    options: &StoreOptions,
    revision: &Revision,
    build: impl FnOnce(&Env) -> Res,
) -> Result<String, Trouble> {
    let place = Place::of_storage(&revision.storage);
    let done = match &options.work {
        Work::Delete => delete(revision, &place, build)?,
        Work::Savepoint { id, target } => {
            let target = Place { location: target.clone(), opener: place.opener.clone() };
            let path = export_latest(&place, id, &target)?;
            probe_savepoint(&place, &path)?
        }
        Work::DeleteSavepoint { path } => delete_savepoint(&place, path)?,
        Work::ProbeSavepoint { path } => probe_savepoint(&place, path)?,
    };
    let message = done.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
    last_words::say("Done", &message, "", done);
    Ok(message)
}

fn told(message: String, more: &[(&str, Value)]) -> Map<String, Value> {
    let mut map: Map<_, _> =
        more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    map.insert("message".to_owned(), json!(message));
    map
}

/// Ends the job for good: commits what its last checkpoint holds, removes its data, leaves
/// its tombstone. Of the program only the committers of its sinks are used.
fn delete(
    revision: &Revision,
    place: &Place,
    build: impl FnOnce(&Env) -> Res,
) -> Result<Map<String, Value>, Trouble> {
    let env = Env::new();
    build(&env).map_err(Trouble::user)?;
    let store = place.open(Access::Write).map_err(|e| Trouble::Storage(e.to_string()))?;
    let mut options = JobOptions::new(&revision.name, &place.location);
    options.opener = place.opener.clone();
    options.unclaimed = Unclaimed::Dropped;
    let owner = Owner {
        pod: std::env::var("MILLRACE_POD_UID").unwrap_or_default(),
        process: std::process::id(),
        address: String::new(),
    };
    let lead_spec = Lead {
        desired: Desired::Deleted,
        job: Some(revision.job.clone()),
        existing: Existing::Refuse,
        ..Lead::local(owner)
    };
    match lead(&Handle::new(env.into_graph()), options, store, lead_spec) {
        Ok(Outcome::Deleted) => Ok(told(format!("the data in {} is deleted", place.location), &[])),
        Ok(Outcome::Superseded(by)) => {
            Ok(told(format!("another job has taken the place over: {by}; nothing is deleted"), &[]))
        }
        Ok(other) => Err(Trouble::failed(format!("the data is not deleted: {other:?}"))),
        Err(error) => Err(error.into()),
    }
}

fn read(place: &Place, path: &str) -> Result<Manifest, Trouble> {
    let found = find(place.opener.as_ref(), path).map_err(Trouble::User)?;
    Ok(Manifest::clone(&found.manifest))
}

fn probe_savepoint(place: &Place, path: &str) -> Result<Map<String, Value>, Trouble> {
    let manifest = read(place, path)?;
    let bytes: u64 = manifest.files.iter().map(|file| file.len).sum();
    Ok(told(
        format!("{path} is a savepoint of job {}", manifest.job),
        &[
            ("path", json!(path)),
            ("sizeBytes", json!(bytes)),
            ("formatVersion", json!(millrace_protocol::manifest::MANIFEST_FORMAT)),
            ("job", json!(manifest.job.0)),
            ("attempt", json!(manifest.attempt.0)),
            ("maxParallelism", json!(manifest.max_parallelism.get())),
        ],
    ))
}

fn delete_savepoint(place: &Place, path: &str) -> Result<Map<String, Value>, Trouble> {
    let (target, id) = split(path)
        .ok_or_else(|| Trouble::user(format!("{path} is no savepoint: it has no parent")))?;
    let store = place.opener.open(&target, Access::Write);
    let store = store.map_err(|e| Trouble::Storage(e.to_string()))?;
    let name = objects::savepoint_manifest(&id).map_err(Trouble::user)?;
    if store.size(&name).map_err(Trouble::failed)?.is_none() {
        return Ok(told(format!("there is no savepoint {path}"), &[]));
    }
    let manifest = read(place, &join(&target, &id))?;
    let files: std::collections::BTreeSet<&ObjectKey> =
        manifest.files.iter().map(|file| &file.key).collect();
    for key in files {
        store.delete(key).map_err(Trouble::failed)?;
    }
    // Last: until then it can be found again.
    store.delete(&name).map_err(Trouble::failed)?;
    Ok(told(format!("savepoint {path} is deleted"), &[]))
}
