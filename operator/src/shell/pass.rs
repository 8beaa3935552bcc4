//! One look at one job: observe, plan, write the status, tell, act.

use super::Shell;
use super::cache::JobKey;
use super::coordinator::Control;
use super::kinds::What;
use super::{execute, observe};
use crate::observed::{Child, Forbidden, Kind, Memory, Millis, Observed};
use crate::plan::{self, Event, Plan};
use crate::traces::line;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, PostParams};
use millrace_protocol::control;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tracing::Instrument;

/// Uid and resource version.
pub(crate) type Version = (Option<String>, Option<String>);

/// What is kept of a job between two passes; may be lost at any time.
#[derive(Default)]
pub(crate) struct Remembered {
    pub uid: String,
    pub plan: Memory,
    /// Objects that were in the way of a POST, until they are gone.
    pub foreign: BTreeMap<(Kind, String), Child>,
    pub bodies: BTreeMap<String, (Version, Value)>,
    /// Uid and generation of the StatefulSet after our last write.
    pub set_generation: Option<(String, i64)>,
    pub forbidden: Option<Forbidden>,
    /// Workers that were missing when they were looked for, and when that was.
    pub sought: Option<(Millis, Vec<String>)>,
    /// What stands and was told: its reason, and of what it is so.
    pub told: BTreeSet<(&'static str, String)>,
    /// The job was looked at before by this process.
    pub seen: bool,
    pub coordinator: Option<(String, Box<dyn Control>)>,
    pub unreachable: Option<Millis>,
    pub quorum: bool,
    pub rest: Option<Rest>,
}

/// The job ran as it should, and nothing was to be done.
pub(crate) struct Rest {
    /// When all of it was looked at.
    since: Millis,
    /// What its coordinator said, but for what changes while all is well.
    said: control::Status,
}

/// All of a job at rest is looked at this often, whatever its coordinator says.
const REST: Millis = 300_000;
/// A connection to a coordinator that is not asked for so long is not kept.
const A_WHILE: u64 = 10_000;
/// What a plan wishes that waits for nothing.
const AT_LEISURE: u64 = 30_000;

/// Milliseconds since 1970.
pub(crate) fn now() -> Millis {
    Timestamp::now().as_millisecond()
}

/// When to look again; `None`: the job is gone, and nothing waits for it. `told`: something
/// of it has changed, as far as the API server knows.
pub(crate) async fn pass(
    shell: &Shell,
    key: &JobKey,
    memory: &mut Remembered,
    told: bool,
) -> anyhow::Result<Option<u64>> {
    if !told && still_at_rest(memory, (shell.now)()).await {
        hang_up(memory);
        return Ok(Some(leisure(shell.cache.count(What::StreamJob))));
    }
    memory.rest = None;
    let (namespace, name) = key;
    let quorum = std::mem::take(&mut memory.quorum);
    let object = if quorum {
        What::StreamJob.api(&shell.client, namespace).get_opt(name).await?
    } else {
        shell.cache.get(What::StreamJob, namespace, name)
    };
    tracing::debug!(namespace = %namespace, job = %name, there = object.is_some(), "looks");
    let Some(object) = object else {
        return orphans(shell, key).await;
    };
    let job = observe::job(shell, &object, quorum)?;
    let id = job.id.clone();
    if memory.uid != id.uid {
        // Another job of the same name: what is known of the earlier one is not true of it.
        *memory = Remembered { uid: id.uid.clone(), ..Remembered::default() };
    }
    let observed = observe::observe(shell, job, memory, (shell.now)())
        .instrument(tracing::info_span!("observe"))
        .await?;
    let plan = plan::plan(&observed, (shell.now)());
    anyhow::ensure!(shell.leader.leads(), "the lead is lost");
    if plan.status != observed.job.status {
        let written = write_status(shell, What::StreamJob, &object, json!(plan.status)).await;
        // Whatever the cache has missed, the next look does not.
        memory.quorum = written.is_err();
        shell.cache.wrote(What::StreamJob, written?);
    }
    for (name, status) in &plan.savepoints {
        if let Some(stored) = shell.cache.get(What::Savepoint, namespace, name)
            && stored.data["status"] != json!(status)
        {
            let written = write_status(shell, What::Savepoint, &stored, json!(status)).await?;
            shell.cache.wrote(What::Savepoint, written);
        }
    }
    for event in news(&plan.events, &mut memory.told) {
        tell(shell, What::StreamJob, &object, event).await;
    }
    let rest = rest(&observed, &plan, (shell.now)());
    for action in plan.actions {
        let span = tracing::info_span!("action", what = execute::summary(&action));
        execute::execute(shell, &id, &observed, memory, action).instrument(span).await?;
    }
    memory.rest = rest;
    if plan.requeue_ms >= A_WHILE {
        hang_up(memory);
    }
    Ok(Some(match memory.rest {
        Some(_) => leisure(shell.cache.count(What::StreamJob)),
        None => plan.requeue_ms,
    }))
}

/// Of a thousand jobs nearly all are asked again after minutes.
fn hang_up(memory: &mut Remembered) {
    if let Some((_, coordinator)) = &mut memory.coordinator {
        coordinator.rest();
    }
}

/// When a job at rest is asked again, of so many: with more than 200 not more than 7 of them a
/// second, for each question is a connection with its keys, until all wait for as long as a
/// whole look does. What happens to pods is news that does not wait for it.
fn leisure(jobs: usize) -> u64 {
    (150 * jobs as u64).clamp(AT_LEISURE, REST.unsigned_abs())
}

/// What of a plan's events is to be told: what stands only when it begins.
fn news<'a>(events: &'a [Event], told: &mut BTreeSet<(&'static str, String)>) -> Vec<&'a Event> {
    let before = std::mem::take(told);
    let new = |event: &&Event| match &event.standing {
        None => true,
        Some(of) => {
            let of = (event.reason, of.clone());
            let new = !before.contains(&of);
            told.insert(of);
            new
        }
    };
    events.iter().filter(new).collect()
}

/// Nothing will be different until somebody does something.
fn rest(observed: &Observed, plan: &Plan, now: Millis) -> Option<Rest> {
    let said = observed.answer().filter(|said| said.state() == control::State::Running)?;
    let steady = plan.actions.is_empty()
        && plan.events.iter().all(|event| event.standing.is_some())
        && plan.requeue_ms == AT_LEISURE
        && plan.status == observed.job.status
        && observed.job.deleting.is_none()
        // Made by the clock.
        && observed.job.spec.savepoints.is_none();
    steady.then(|| Rest { since: now, said: essence(said.clone()) })
}

/// One question instead of a look at everything: of a thousand jobs nearly all are at rest
/// nearly always.
async fn still_at_rest(memory: &mut Remembered, now: Millis) -> bool {
    let (Some(rest), Some((_, coordinator))) = (&memory.rest, &mut memory.coordinator) else {
        return false;
    };
    if memory.quorum || now - rest.since >= REST {
        return false;
    }
    let Ok(said) = coordinator.status().await else { return false };
    if said.head_version < memory.plan.head_version {
        return false;
    }
    memory.plan.head_version = said.head_version;
    essence(said) == rest.said
}

/// What a coordinator says, but for what changes while all is well: a status is refreshed
/// with its newest checkpoint when all is looked at.
fn essence(mut said: control::Status) -> control::Status {
    said.head_version = 0;
    (said.records_in, said.records_out, said.watermark_ms) = (0, 0, 0);
    said.state_bytes = 0;
    said.restore_points.clear();
    if let Some(last) = &mut said.last_checkpoint {
        *last = control::CheckpointStatus::default();
    }
    said
}

/// Savepoints whose job is not there; answers when to look again.
async fn orphans(shell: &Shell, (namespace, name): &JobKey) -> anyhow::Result<Option<u64>> {
    let mut again = None;
    for object in shell.cache.of_job(What::Savepoint, namespace, name) {
        let plan = plan::orphan(&observe::savepoint(&object)?, (shell.now)());
        anyhow::ensure!(shell.leader.leads(), "the lead is lost");
        if object.data["status"] != json!(plan.status) {
            let written = write_status(shell, What::Savepoint, &object, json!(plan.status)).await?;
            shell.cache.wrote(What::Savepoint, written);
        }
        if let Some(event) = &plan.event {
            tell(shell, What::Savepoint, &object, event).await;
        }
        if let Some(on) = plan.finalizer {
            let name = object.metadata.name.clone().unwrap_or_default();
            execute::finalizer(shell, What::Savepoint, namespace, &name, on).await?;
        }
        again = [again, plan.requeue_ms].into_iter().flatten().min();
    }
    Ok(again)
}

/// PUT with the version that was seen: a status decided on old facts is refused.
async fn write_status(
    shell: &Shell,
    what: What,
    object: &DynamicObject,
    status: Value,
) -> anyhow::Result<DynamicObject> {
    let mut object = object.clone();
    object.data["status"] = status;
    let resource = what.resource();
    object.types =
        Some(kube::api::TypeMeta { api_version: resource.api_version, kind: resource.kind });
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    shell.metrics.status_writes.inc();
    let api = what.api(&shell.client, &namespace);
    Ok(api.replace_status(&name, &PostParams::default(), &object).await?)
}

/// An event that cannot be written is lost: the conditions say the same.
async fn tell(shell: &Shell, what: What, object: &DynamicObject, event: &Event) {
    let label = vec![("reason".to_owned(), event.reason.to_owned())];
    shell.metrics.events.get_or_create(&label).inc();
    let of = format!(
        "{}/{}",
        object.metadata.namespace.as_deref().unwrap_or_default(),
        object.metadata.name.as_deref().unwrap_or_default()
    );
    // A program's last words are among it, and the API server's of a user's text.
    let message = line(&event.message);
    match event.warning {
        true => tracing::warn!(of, reason = event.reason, "{message}"),
        false => tracing::info!(of, reason = event.reason, "{message}"),
    }
    let reference = ObjectReference {
        api_version: Some(what.resource().api_version),
        kind: Some(what.resource().kind),
        name: object.metadata.name.clone(),
        namespace: object.metadata.namespace.clone(),
        uid: object.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    if let Err(error) = shell.recorder.publish(event, reference).await {
        tracing::debug!(%error, reason = event.reason, "event not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_jobs_at_rest_are_asked_no_more_often_than_a_few() {
        assert_eq!([0, 200, 1_000, 4_000].map(leisure), [30_000, 30_000, 150_000, 300_000]);
    }

    #[test]
    fn what_stands_is_told_when_it_begins() {
        let event = |reason, of: Option<&str>| Event {
            warning: true,
            reason,
            message: String::new(),
            standing: of.map(str::to_owned),
        };
        let evicted = |pod| event("PodEvicted", Some(pod));
        let mut told = BTreeSet::new();
        let mut tells = |events: &[Event]| news(events, &mut told).len();
        assert_eq!(tells(&[evicted("a"), event("Resumed", None)]), 2);
        assert_eq!(tells(&[evicted("a"), event("Resumed", None)]), 1);
        assert_eq!(tells(&[evicted("a"), evicted("b"), event("PodStuck", Some("a"))]), 2);
        assert_eq!(tells(&[]), 0);
        assert_eq!(tells(&[evicted("a")]), 1, "it was over");
    }
}
