//! What the API server tells: watches that fill the cache, and say which job is to be looked at.

use super::Shell;
use super::kinds::What;
use super::options::Options;
use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use millrace_crds::names;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Namespace and name of a StreamJob.
pub(crate) type JobKey = (String, String);

/// A watch is asked for anew after so many seconds, from where it was: one that has died
/// without a sign keeps nothing from us for longer.
pub(super) const RENEWED: u32 = 30;
/// Objects of a list that are in memory as a whole at a time.
const PAGE: u32 = 100;

/// Kinds that are watched in each namespace; nodes are watched besides.
pub(crate) const WATCHED: [What; 8] = [
    What::StreamJob,
    What::Savepoint,
    What::ConfigMap,
    What::ServiceAccount,
    What::Service,
    What::DisruptionBudget,
    What::StatefulSet,
    What::Pod,
];

/// Starts a watch for each kind and namespace.
pub(crate) fn watch_all(shell: &Arc<Shell>, options: &Options, dirty: UnboundedSender<JobKey>) {
    let scopes: Vec<Option<String>> = match options.namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    let mut kinds = WATCHED.to_vec();
    let nodes = usize::from(options.watch_nodes);
    shell.cache.expect(kinds.len() * scopes.len() + nodes);
    for scope in scopes {
        for what in kinds.clone() {
            tokio::spawn(watch(shell.clone(), what, scope.clone(), dirty.clone()));
        }
    }
    if options.watch_nodes {
        kinds.clear();
        tokio::spawn(watch(shell.clone(), What::Node, None, dirty));
    }
}

async fn watch(
    shell: Arc<Shell>,
    what: What,
    scope: Option<String>,
    dirty: UnboundedSender<JobKey>,
) {
    let api: Api<DynamicObject> = what.scope(&shell.client, scope.as_deref());
    let config = match what {
        What::StreamJob | What::Savepoint | What::Node => watcher::Config::default(),
        // Not by who manages it: other tools write that label on whatever they touch.
        _ => watcher::Config::default().labels(names::LABEL_JOB),
    };
    let config = config.page_size(PAGE).timeout(RENEWED);
    match what {
        // Bodies of these are read once by who needs them.
        What::ConfigMap => {
            // Its successor wants a static type, and ours are dynamic.
            #[allow(deprecated)]
            let stream = watcher::metadata_watcher(api, config).backoff(Patience::default());
            let stream = stream.map(|event| event.map(bare));
            follow(&shell, what, scope.as_deref(), stream, &dirty).await;
        }
        _ => {
            let stream = watcher::watcher(api, config).backoff(Patience::default());
            follow(&shell, what, scope.as_deref(), stream, &dirty).await;
        }
    }
}

fn bare(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<DynamicObject> {
    let full = |meta: PartialObjectMeta<DynamicObject>| DynamicObject {
        types: None,
        metadata: meta.metadata,
        data: serde_json::Value::Null,
    };
    match event {
        Event::Apply(object) => Event::Apply(full(object)),
        Event::Delete(object) => Event::Delete(full(object)),
        Event::InitApply(object) => Event::InitApply(full(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// How long a watch that broke waits until it is tried again: longer and longer, up to a
/// few seconds. What nobody tells us meanwhile is not done; and the usual half a minute and
/// more is out of proportion to what nine requests cost an API server that is in trouble.
#[derive(Default)]
struct Patience {
    tries: u32,
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(16)).min(LONGEST_WAIT);
        self.tries = self.tries.saturating_add(1);
        // Jitter, so that watches that broke together do not come back together.
        Some(wait.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.tries = 0;
    }
}

async fn follow(
    shell: &Shell,
    what: What,
    scope: Option<&str>,
    stream: impl futures::Stream<Item = watcher::Result<Event<DynamicObject>>>,
    dirty: &UnboundedSender<JobKey>,
) {
    let mut stream = std::pin::pin!(stream);
    let mut seen = BTreeSet::new();
    let mut first = true;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                let done = matches!(event, Event::InitDone);
                take(shell, what, scope, event, &mut seen, dirty);
                if done && std::mem::take(&mut first) {
                    shell.cache.one_is_ready();
                }
            }
            Err(error) => {
                shell.metrics.watch_errors.inc();
                tracing::warn!(kind = ?what, %error, "watch broken, tried again");
            }
        }
    }
}

/// One event of a watch; `seen`: what a list that is under way has named so far.
pub(crate) fn take(
    shell: &Shell,
    what: What,
    scope: Option<&str>,
    event: Event<DynamicObject>,
    seen: &mut BTreeSet<(String, String)>,
    dirty: &UnboundedSender<JobKey>,
) {
    match event {
        Event::Init => seen.clear(),
        Event::InitApply(object) => {
            let meta = &object.metadata;
            let namespace = meta.namespace.clone().unwrap_or_default();
            seen.insert((namespace, meta.name.clone().unwrap_or_default()));
            store(shell, what, object, dirty);
        }
        Event::InitDone => shell.cache.keep(what, scope, seen),
        // A watch that lags must not take back what we wrote or a newer list has told. A
        // list itself is believed: after a restored backup versions begin lower.
        Event::Apply(object) if shell.cache.is_newer(what, &object) => {}
        Event::Apply(object) => store(shell, what, object, dirty),
        Event::Delete(object) if shell.cache.is_newer(what, &object) => {}
        Event::Delete(object) => {
            let job = job_of(what, &object);
            let meta = object.metadata;
            let namespace = meta.namespace.unwrap_or_default();
            shell.cache.remove(what, &namespace, &meta.name.unwrap_or_default());
            mark(job, dirty);
        }
    }
}

fn store(shell: &Shell, what: What, object: DynamicObject, dirty: &UnboundedSender<JobKey>) {
    let job = job_of(what, &object);
    // A label that names another job has taken it from this one.
    let before = shell.cache.job_of(what, &object).filter(|_| what != What::StreamJob);
    shell.cache.put(what, object);
    mark(before.filter(|before| Some(before) != job.as_ref()), dirty);
    // Last: a pass that looked before the object was there would find no job, and nothing
    // would make it look again.
    mark(job, dirty);
}

/// The job that an object belongs to.
pub(super) fn job_of(what: What, object: &DynamicObject) -> Option<JobKey> {
    let meta = &object.metadata;
    let job = match what {
        What::StreamJob => meta.name.clone(),
        What::Savepoint => Some(savepoint_key(object)),
        _ => meta.labels.as_ref().and_then(|labels| labels.get(names::LABEL_JOB)).cloned(),
    };
    Some((meta.namespace.clone().unwrap_or_default(), job?))
}

fn mark(job: Option<JobKey>, dirty: &UnboundedSender<JobKey>) {
    if let Some(job) = job {
        // Nobody listens only while we end.
        let _ = dirty.send(job);
    }
}

/// A savepoint is seen to with its job; a registered one has none.
pub(crate) fn savepoint_key(object: &DynamicObject) -> String {
    object.data["spec"]["jobRef"]["name"].as_str().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_breaks_again_and_again_is_tried_every_few_seconds() {
        let mut patience = Patience::default();
        assert!(patience.next().unwrap() <= FIRST_WAIT);
        let waits: Vec<Duration> = patience.by_ref().take(60).collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT));
        assert!(waits[59] >= LONGEST_WAIT / 2);
        patience.reset();
        assert!(patience.next().unwrap() <= FIRST_WAIT);
    }
}
