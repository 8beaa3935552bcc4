//! `check`: whether this program can take a job over, tried before anything is stopped.
//! Builds the dataflow, probes the store, compares with the newest checkpoint; starts
//! nothing, and changes nothing of the job.

use crate::cli::cluster::last_words;
use crate::cli::cluster::worker::{
    read_live, read_revision, refuse_unsupported, security, unclaimed,
};
use crate::cli::home::{Stored, is_storage};
use crate::cli::place::Place;
use crate::cli::trouble::Trouble;
use clap::Args;
use millrace_engine::api::env::Env;
use millrace_engine::coordinator::preflight::Refusal;
use millrace_engine::data::Res;
use millrace_engine::job::{Comparison, compare};
use millrace_engine::store::{Access, probe_patiently};
use millrace_protocol::config::Revision;
use millrace_protocol::keygroup::MaxParallelism;
use serde_json::{Map, json};
use std::path::PathBuf;

/// What is tried.
#[derive(Args, Clone)]
#[command(next_help_heading = "Options of check")]
pub struct CheckOptions {
    /// The configuration: a revision, JSON
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What of it may change while the job runs, JSON
    #[arg(long, value_name = "FILE")]
    pub live: PathBuf,
}

/// The revision that is tried.
pub fn revision(options: &CheckOptions) -> Result<Revision, Trouble> {
    read_revision(&options.config)
}

/// Tries it, and answers what would happen.
pub fn check(
    options: &CheckOptions,
    revision: &Revision,
    build: impl FnOnce(&Env) -> Res,
) -> Result<String, Trouble> {
    refuse_unsupported(revision)?;
    security(revision)?;
    let live = read_live(&options.live)?;
    let place = Place::of_storage(&revision.storage);
    let env = Env::new();
    build(&env).map_err(Trouble::user)?;
    let graph = env.into_graph();
    let max = MaxParallelism::new(revision.max_parallelism).map_err(Trouble::user)?;
    graph.check(live.parallelism, max).map_err(Trouble::User)?;
    let store = place.open(Access::Write).map_err(|e| Trouble::Storage(e.to_string()))?;
    probe_patiently(store.as_ref(), || format!("{:016x}", fastrand::u64(..)))
        .map_err(|e| Trouble::Storage(e.to_string()))?;
    let stored = if is_storage(&place)? { Some(Stored::read(&place)?) } else { None };
    if live.begun && stored.as_ref().is_none_or(|stored| stored.head.is_none()) {
        return Err(Trouble::StateMissing(Refusal::Missing.to_string()));
    }
    let latest = stored.as_ref().and_then(|stored| {
        let latest = stored.head.as_ref()?.latest.as_ref()?;
        Some(stored.manifest(latest))
    });
    let base = latest.transpose()?;
    let dropped = unclaimed(revision);
    let compared = base.as_ref().map(|base| compare(&graph, live.parallelism, max, base, &dropped));
    let Comparison { keeps, drops } =
        compared.transpose().map_err(Trouble::User)?.unwrap_or_default();
    let from = match &base {
        None => "there is no checkpoint yet".to_owned(),
        Some(base) => format!(
            "keeps state of {keeps} operators, drops {drops}, of checkpoint {}",
            base.checkpoint
        ),
    };
    let message = format!("{} operators; {from}", graph.nodes().len());
    let more: Map<_, _> = [("keeps".to_owned(), json!(keeps)), ("drops".to_owned(), json!(drops))]
        .into_iter()
        .collect();
    last_words::say("Passed", &message, "", more);
    Ok(message)
}
