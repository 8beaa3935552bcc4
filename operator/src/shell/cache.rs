//! What the API server has told us: a cache of all that is watched, by kind and namespace.

use super::Shell;
use super::kinds::What;
use super::options::Options;
use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use millrace_crds::names;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::UnboundedSender;

/// Namespace and name of a StreamJob.
pub(crate) type JobKey = (String, String);

type Objects = BTreeMap<String, Arc<DynamicObject>>;

/// The cache.
#[derive(Default)]
pub(crate) struct Cache {
    objects: Mutex<BTreeMap<(What, String), Objects>>,
    expected: AtomicUsize,
    ready: AtomicUsize,
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(What, String), Objects>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, what: What, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        self.lock().get(&(what, namespace.to_owned()))?.get(name).cloned()
    }

    pub fn list(&self, what: What, namespace: &str) -> Vec<Arc<DynamicObject>> {
        let key = (what, namespace.to_owned());
        self.lock().get(&key).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// In all namespaces.
    pub fn all(&self, what: What) -> Vec<Arc<DynamicObject>> {
        let objects = self.lock();
        let of_kind = objects.iter().filter(|((kind, _), _)| *kind == what);
        of_kind.flat_map(|(_, all)| all.values().cloned()).collect()
    }

    /// What we wrote ourselves is known before the watch tells; unless that was faster, and
    /// told of what somebody wrote after us: nobody would tell of it again.
    pub fn wrote(&self, what: What, object: DynamicObject) {
        let (namespace, name) = place(&object);
        let mut objects = self.lock();
        let known = objects.entry((what, namespace)).or_default();
        if known.get(&name).and_then(|known| version(known)) <= version(&object) {
            known.insert(name, Arc::new(object));
        }
    }

    /// What the API server lists.
    fn put(&self, what: What, object: DynamicObject) {
        let (namespace, name) = place(&object);
        self.lock().entry((what, namespace)).or_default().insert(name, Arc::new(object));
    }

    /// What is known is newer than this.
    fn is_newer(&self, what: What, than: &DynamicObject) -> bool {
        let (namespace, name) = place(than);
        let known = self.get(what, &namespace, &name);
        known.and_then(|known| version(&known)) > version(than)
    }

    fn remove(&self, what: What, namespace: &str, name: &str) {
        if let Some(all) = self.lock().get_mut(&(what, namespace.to_owned())) {
            all.remove(name);
        }
    }

    fn keep(&self, what: What, scope: Option<&str>, seen: &BTreeSet<(String, String)>) {
        for ((kind, namespace), all) in self.lock().iter_mut() {
            if *kind == what && scope.is_none_or(|scope| scope == namespace) {
                all.retain(|name, _| seen.contains(&(namespace.clone(), name.clone())));
            }
        }
    }

    /// Every watch has delivered its first list.
    pub fn is_ready(&self) -> bool {
        let expected = self.expected.load(Ordering::Acquire);
        expected > 0 && self.ready.load(Ordering::Acquire) >= expected
    }
}

fn place(object: &DynamicObject) -> (String, String) {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn version(object: &DynamicObject) -> Option<u64> {
    object.metadata.resource_version.as_ref().and_then(|text| text.parse().ok())
}

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
    shell.cache.expected.store(kinds.len() * scopes.len() + nodes, Ordering::Release);
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
        _ => watcher::Config::default().labels("app.kubernetes.io/managed-by=millrace"),
    };
    match what {
        // Bodies of these are read once by who needs them.
        What::ConfigMap => {
            // Its successor wants a static type, and ours are dynamic.
            #[allow(deprecated)]
            let stream = watcher::metadata_watcher(api, config).default_backoff();
            let stream = stream.map(|event| event.map(bare));
            follow(&shell, what, scope.as_deref(), stream, &dirty).await;
        }
        _ => {
            let stream = watcher::watcher(api, config).default_backoff();
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
                    shell.cache.ready.fetch_add(1, Ordering::AcqRel);
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
    shell.cache.put(what, slim(what, object));
    // Last: a pass that looked before the object was there would find no job, and nothing
    // would make it look again.
    mark(job, dirty);
}

/// Who wrote which field is half of an object, and our business only where fields may go.
pub(crate) fn slim(what: What, mut object: DynamicObject) -> DynamicObject {
    if what != What::StatefulSet {
        object.metadata.managed_fields = None;
    }
    object
}

/// The job that an object belongs to.
fn job_of(what: What, object: &DynamicObject) -> Option<JobKey> {
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
    use serde_json::json;

    #[test]
    fn an_edit_that_the_watch_told_of_is_not_undone_by_our_own_write_before_it() {
        let cache = Cache::default();
        let job = |version: &str, workers: u32| -> DynamicObject {
            serde_json::from_value(json!({
                "metadata": {"name": "a", "namespace": "n", "resourceVersion": version},
                "spec": {"workers": workers}
            }))
            .unwrap()
        };
        let workers = || {
            let known = cache.get(What::StreamJob, "n", "a").unwrap();
            known.data["spec"]["workers"].as_u64().unwrap()
        };
        cache.put(What::StreamJob, job("9", 1));
        cache.wrote(What::StreamJob, job("10", 1));
        // The user's edit is version 12: the watch tells of it before the answer to our write.
        cache.put(What::StreamJob, job("12", 3));
        cache.wrote(What::StreamJob, job("11", 1));
        assert_eq!(workers(), 3);
        cache.wrote(What::StreamJob, job("13", 3));
        // After a backup of etcd was restored a list counts, whatever its version.
        cache.put(What::StreamJob, job("5", 2));
        assert_eq!(workers(), 2);
    }
}
